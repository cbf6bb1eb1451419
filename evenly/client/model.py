"""What the client gives back, and what a submission may say, as typed values."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

from evenly.client.errors import JobFailed

#: `host:port` of a node's client port.
Address: TypeAlias = str
Stream: TypeAlias = Literal["stdout", "stderr"]
SUCCEEDED = "succeeded"


@dataclass(frozen=True, slots=True)
class Job:
    """A job that was submitted: its ticket, and the node (`host:port`) that answered.

    `node` is empty where another node is its origin, as can be with a key; the client then looks for it.
    `node_name`: the name of that other node.
    """

    ticket: str
    node: Address = ""
    node_name: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.ticket


#: What names a job: a `Job`, or its ticket alone, for which the nodes are asked in turn.
JobOrTicket: TypeAlias = "Job | str"


class Options(TypedDict, total=False):
    """Options of a submission, as docs/client-protocol.md has them; sizes in bytes or as "500M".

    `file`: by the name that the job finds it under, the SHA-256 of what was uploaded, or a Path that is
    uploaded first. `after`: jobs that have to succeed before; it is then submitted to their node. `key`:
    the same key gives the same ticket.
    """

    time: float
    retries: int
    at_most_once: bool
    priority: int
    env: Mapping[str, str]
    cwd: str
    stdin: str
    name: str
    tag: str
    after: Job | str | Sequence[Job | str]
    array: int
    cpus: int
    memory: int | str
    file: Mapping[str, str | Path]
    result_dir: str
    keep_output: bool
    checkpoint: bool
    notify: str
    key: str


@dataclass(frozen=True, slots=True)
class File:
    """A file that a job left: a relative path, its size, its SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a job's output. `at`: its place in the stream of that attempt, in bytes.

    A gap between two is output that came faster than it could be passed on; what of it is in the first MiB,
    the result has.
    """

    stream: Stream
    data: bytes
    attempt: int
    at: int


@dataclass(frozen=True, slots=True)
class Status:
    """Where a job is. `state`: queued, assigned, running or done; `outcome` is None before it is done.

    Times are seconds since the epoch. `progress`: what a task says, a part of 1 and words. `raw`: the object
    as the node sent it.
    """

    ticket: str
    state: str
    outcome: str | None
    attempt: int | None
    node: str | None
    submitted_at: float | None
    started_at: float | None
    finished_at: float | None
    waits_for: tuple[str, ...] = ()
    progress: tuple[float, str] | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_done(self) -> bool:
        return self.state == "done"


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended: succeeded, failed, timed-out, cancelled or lost.

    `exit_code` is None for a sleep and where nothing ran. `stdout`, `stderr`: the first MiB of each, as text.
    `value`: what a task returned. `node`: the name of the one that ran it. Times are seconds since the epoch.
    `files`: what it left, for `fetch`. `raw`: the object as the node sent it, with `job`, and of an array
    `array` and `jobs`.
    """

    ticket: str
    outcome: str
    exit_code: int | None
    stdout: str
    stderr: str
    value: Any
    reason: str | None
    attempt: int | None
    node: str | None
    submitted_at: float | None
    started_at: float | None
    finished_at: float | None
    truncated: bool = False
    files: tuple[File, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.outcome == SUCCEEDED

    def output(self, stream: Stream = "stdout") -> bytes:
        """The first MiB of it, byte for byte; `stdout` and `stderr` have it as text."""
        encoded = self.raw.get(f"{stream}_base64")
        if encoded is not None:
            return b64decode(encoded)
        return (self.stdout if stream == "stdout" else self.stderr).encode("utf-8", "replace")

    def check(self) -> Result:
        """Itself, so that calls can be chained.

        Raises:
            JobFailed: if the job did not succeed.
        """
        if not self.ok:
            raise JobFailed(f"{self.ticket} {self.ending}", self)
        return self

    @property
    def ending(self) -> str:
        """In words: `failed, exit code 2`."""
        parts = [self.outcome]
        if self.exit_code is not None:
            parts.append(f"exit code {self.exit_code}")
        if self.reason:
            parts.append(self.reason)
        return " ".join(", ".join(parts).split())


def status_of(raw: Mapping[str, Any]) -> Status:
    progress = raw.get("progress")
    return Status(
        ticket=raw["ticket"],
        state=raw["state"],
        outcome=raw.get("outcome"),
        attempt=raw.get("attempt"),
        node=raw.get("node"),
        submitted_at=raw.get("submitted_at"),
        started_at=raw.get("started_at"),
        finished_at=raw.get("finished_at"),
        waits_for=tuple(raw.get("waits_for") or ()),
        progress=(progress["part"], progress["text"]) if progress else None,
        raw=raw,
    )


def result_of(raw: Mapping[str, Any]) -> Result:
    return Result(
        ticket=raw["ticket"],
        outcome=raw["outcome"],
        exit_code=raw.get("exit_code"),
        stdout=raw.get("stdout") or "",
        stderr=raw.get("stderr") or "",
        value=raw.get("value"),
        reason=raw.get("reason"),
        attempt=raw.get("attempt"),
        node=raw.get("node"),
        submitted_at=raw.get("submitted_at"),
        started_at=raw.get("started_at"),
        finished_at=raw.get("finished_at"),
        truncated=bool(raw.get("truncated")),
        files=files_of(raw),
        raw=raw,
    )


def files_of(raw: Mapping[str, Any]) -> tuple[File, ...]:
    return tuple(File(each["path"], each["bytes"], each["sha256"]) for each in raw.get("files") or ())
