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
from protocol.job import is_ticket
from protocol.limits import LINE_LIMIT, TICKET_LENGTH, TIME_LIMIT
from protocol.options import is_text

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


#: What a job may be, with what it then has to be.
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "run": ((str, os.PathLike), 'a command line in one text, as "ls -l" (shlex.join makes one of words)'),
    "task": (str, 'the name of a task, as "checksum"'),
    "sleep": (int, "whole milliseconds, as 1500"),
}


def check(item: Any) -> None:
    """Whether it is a job, so far as the types of what it is made of tell; options are for the node to judge.

    Raises:
        Refused: with what is wrong and what would be right.
    """
    if not isinstance(item, str | Mapping):
        raise Refused(f'a job is a command line, or an object as {{"run": "make"}}, not {_shown(item)}')
    given = {"run": item} if isinstance(item, str) else item
    kinds = [kind for kind in _KINDS if kind in given]
    if len(kinds) != 1:
        raise Refused(f"a job has one of run, task and sleep, not {' and '.join(kinds) or 'none of them'}")
    (kind,) = kinds
    value, (types, right) = given[kind], _KINDS[kind]
    if not isinstance(value, types) or isinstance(value, bool):
        raise Refused(f"{kind} is {right}: not {_shown(value)}")
    if isinstance(value, str) and not is_text(value):
        raise Refused(f"{kind} cannot hold a NUL byte or half of a surrogate pair: {_shown(value)}")
    if not isinstance(given.get("payload", {}), Mapping):
        raise Refused(f'payload is an object, as {{"path": "/x"}}: not {_shown(given["payload"])}')


def _shown(value: object) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else text[:60] + "…"
    return text if isinstance(value, str) else f"{type(value).__name__} {text}"


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
    """Raises Refused for what is no ticket: on a line it could be a command."""
    given: Any = job.ticket if isinstance(job, Job) else job
    ticket = given.strip().upper() if isinstance(given, str) else given
    if not is_ticket(ticket):
        raise Refused(f"a ticket is {TICKET_LENGTH} letters and digits, not {_shown(given)}")
    return str(ticket)


def job_of(reply: bytes, node: Address) -> Job:
    """What answers a submission."""
    if len(reply) == _TICKET_LENGTH and reply.startswith(_TICKET_HEAD):  # the hot path
        return Job(reply[len(_TICKET_HEAD) : -2].decode(), node)
    said = object_of(reply, node)
    # With a key it may be a ticket of a node that we know by its name only.
    name = str(said.get("node") or "")
    return Job(str(said["ticket"]), "" if name else node, name)


def result_line(ticket: str) -> bytes:
    return f"result {ticket}".encode()


def result_from(reply: bytes, node: Address) -> Result:
    return result_of(object_of(reply, node))


def result_if_done(reply: bytes, node: Address) -> Result | None:
    said = object_of(reply, node)
    return result_of(said) if said["state"] == "done" else None


def status_from(reply: bytes, node: Address) -> Status:
    return status_of(object_of(reply, node))


def seconds(since: object) -> float:
    """The value of `--since`. Raises Refused."""
    if isinstance(since, int | float) and not isinstance(since, bool) and 0 < since <= TIME_LIMIT:
        return float(since)
    raise Refused(f"since is seconds, more than 0, at most {TIME_LIMIT:.0f}: not {_shown(since)}")


def quoted(value: object) -> str:
    """The value of an option on a line. Raises Refused for what no line can say."""
    text = f"{value:.15g}" if isinstance(value, float) else str(value)
    if not is_text(text) or "\n" in text or "\r" in text:
        raise Refused(f"{_shown(text)} has a line end, a NUL byte or half of a surrogate pair")
    if not any(c.isspace() for c in text) and text[:1] not in ("'", '"') and text:
        return text
    quote = "'" if "'" not in text else '"'
    if quote in text:
        raise Refused(f"{_shown(text)} has both kinds of quotes: no line can say it")
    return f"{quote}{text}{quote}"
