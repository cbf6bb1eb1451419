"""What a client reads about files, and of output as it comes; part of `replies`."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.job import ResultFile


@dataclass(frozen=True, slots=True)
class Uploaded:
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class HereOrNot:
    digest: str
    is_here: bool


@dataclass(frozen=True, slots=True)
class FilesOf:
    """What a job left; `result_dir` is empty where it has none of its own."""

    ticket: str
    result_dir: str
    files: Sequence[ResultFile]


@dataclass(frozen=True, slots=True)
class CheckpointTaken:
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class PartialOf:
    """(attempt, value) of what a task has handed out, in order."""

    ticket: str
    values: Sequence[tuple[int, Any]]


FileReply = Uploaded | HereOrNot | FilesOf | CheckpointTaken | PartialOf


def files_fields(files: Sequence[ResultFile]) -> list[dict[str, Any]]:
    return [{"path": each.path, "bytes": each.size, "sha256": each.digest} for each in files]


def _files_text(reply: FilesOf) -> bytes:
    total = sum(each.size for each in reply.files)
    rows = "".join(f"{each.size} {each.digest} {each.path}\n" for each in reply.files)
    return f"Files: {len(reply.files)}, {total} bytes\n{rows}.\n".encode()


def _partial_text(reply: PartialOf) -> bytes:
    # None begins with a dot: JSON has no such value.
    rows = "".join(json.dumps(value) + "\n" for _, value in reply.values)
    return f"Partial: {len(reply.values)}\n{rows}.\n".encode()


TEXT: dict[type, Callable[[Any], bytes]] = {
    Uploaded: lambda reply: f"Uploaded: {reply.digest}\n".encode(),
    HereOrNot: lambda reply: f"{'Here' if reply.is_here else 'Not here'}: {reply.digest}\n".encode(),
    FilesOf: _files_text,
    PartialOf: _partial_text,
    CheckpointTaken: lambda reply: f"Checkpoint: {reply.files} files, {reply.size} bytes\n".encode(),
}

JSON: dict[type, Callable[[Any], dict[str, Any]]] = {
    Uploaded: lambda reply: {"uploaded": reply.digest, "bytes": reply.size},
    HereOrNot: lambda reply: {"has": reply.digest, "here": reply.is_here},
    FilesOf: lambda reply: {
        "ticket": reply.ticket,
        "result_dir": reply.result_dir or None,
        "files": files_fields(reply.files),
    },
    PartialOf: lambda reply: {
        "ticket": reply.ticket,
        "partial": [{"attempt": attempt, "value": value} for attempt, value in reply.values],
    },
    CheckpointTaken: lambda reply: {"checkpoint": {"files": reply.files, "bytes": reply.size}},
}


def file_head(file: ResultFile, as_json: bool) -> bytes:
    """The line before the bytes of a file."""
    if as_json:
        return json.dumps({"file": file.path, "bytes": file.size, "sha256": file.digest}).encode() + b"\n"
    return f"File: {file.size} {file.digest} {file.path}\n".encode()


def compact_json(value: Any) -> bytes:
    """As programs read it. A half of a surrogate pair is no text, and replaced."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def json_line(value: dict[str, Any]) -> bytes:
    return compact_json(value) + b"\n"


class TailText:
    """Output for a person: both streams as they come, dots stuffed as in a block."""

    def __init__(self, ticket: str) -> None:
        self._ticket = ticket
        self._begins_line = True

    def start(self) -> bytes:
        return f"Tail: {self._ticket}\n".encode()

    def piece(self, attempt: int, stream: int, at: int, data: bytes) -> bytes:
        first = b"." if self._begins_line and data.startswith(b".") else b""
        self._begins_line = data.endswith(b"\n")
        return first + data.replace(b"\n.", b"\n..")

    def end(self, status: dict[str, Any]) -> bytes:
        return b".\n" if self._begins_line else b"\n.\n"


class TailJson:
    """The same for a program: an object for each piece."""

    def __init__(self, ticket: str) -> None:
        self._ticket = ticket

    def start(self) -> bytes:
        return b""

    def piece(self, attempt: int, stream: int, at: int, data: bytes) -> bytes:
        value: dict[str, Any] = {"tail": self._ticket, "attempt": attempt}
        value |= {"stream": "stdout" if stream == 1 else "stderr", "at": at}
        try:
            value["text"] = data.decode()
        except UnicodeDecodeError:
            value["base64"] = base64.b64encode(data).decode()
        return json_line(value)

    def end(self, status: dict[str, Any]) -> bytes:
        return json_line(status | {"tail": self._ticket})
