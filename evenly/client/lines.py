"""The lines that the client sends, and what their replies mean."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as _text
from typing import Any

from evenly.client.errors import EvenlyError, Refused
from evenly.client.lane import object_of
from evenly.client.model import Address, Job, Result, Status, result_of, status_of
from protocol.limits import LINE_LIMIT

#: `{"ticket":"…"}`, of a ticket of the node that answers.
_TICKET_HEAD, _TICKET_LENGTH = b'{"ticket":"', len(b'{"ticket":""}') + 16


def submission(
    run: str | None,
    task: str | None,
    payload: Mapping[str, Any] | None,
    sleep: int | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The object of one job. Raises EvenlyError where it is not exactly one."""
    kinds = {"run": run, "task": task, "sleep": sleep}
    given: dict[str, Any] = {kind: value for kind, value in kinds.items() if value is not None}
    if len(given) != 1:
        raise EvenlyError("a job is a command line, a task or a sleep: one of run, task and sleep is given")
    if payload is not None and task is None:
        raise EvenlyError("only a task has a payload")
    if task is not None:
        given["payload"] = {} if payload is None else payload
    return {**given, **{name: value for name, value in options.items() if value is not None}}


def line_of(item: Mapping[str, Any]) -> bytes:
    """A submission as a line.

    Raises:
        Refused: if it is longer than a node takes.
        EvenlyError: if JSON cannot say it.
    """
    match item:
        case {"run": str(run), "key": str(key), **others} if not others:  # the hot path
            line = f'{{"run":{_text(run)},"key":{_text(key)}}}'.encode()
        case _:
            line = _any_line(item)
    if len(line) > LINE_LIMIT:
        raise Refused(
            f"this job is a line of {len(line)} bytes, a node takes {LINE_LIMIT}: files are for more"
        )
    return line


def _any_line(item: Mapping[str, Any]) -> bytes:
    try:
        return _encoder.encode(item).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EvenlyError(f"this job cannot be sent as JSON: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Job):
        return value.ticket
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} {str(value)[:40]!r}")


_encoder = json.JSONEncoder(default=_plain, allow_nan=False, separators=(",", ":"))


def ticket_of(job: Job | str) -> str:
    return job.ticket if isinstance(job, Job) else job.strip().upper()


def job_of(reply: bytes, node: Address) -> Job:
    """What answers a submission."""
    if len(reply) == _TICKET_LENGTH and reply.startswith(_TICKET_HEAD):  # the hot path
        return Job(reply[len(_TICKET_HEAD) : -2].decode(), node)
    said = object_of(reply, node)
    # With a key it may be a ticket of a node that we know by its name only.
    return Job(str(said["ticket"]), "" if said.get("node") else node)


def result_line(ticket: str) -> bytes:
    return f"result {ticket}".encode()


def result_from(reply: bytes, node: Address) -> Result:
    return result_of(object_of(reply, node))


def result_if_done(reply: bytes, node: Address) -> Result | None:
    said = object_of(reply, node)
    return result_of(said) if said["state"] == "done" else None


def status_from(reply: bytes, node: Address) -> Status:
    return status_of(object_of(reply, node))


def quoted(value: object) -> str:
    """The value of an option on a line."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if not any(c.isspace() for c in text) and text[:1] not in ("'", '"') and text:
        return text
    quote = "'" if "'" not in text else '"'
    if quote in text or "\n" in text:
        raise EvenlyError(f"{text[:40]!r} has both kinds of quotes or a line end: no line can say it")
    return f"{quote}{text}{quote}"
