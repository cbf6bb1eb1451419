"""What a job asks for and what comes of it, packed for both wires and for the disk.

The load balancer moves these bodies without opening them: only the origin and the executor look inside.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import msgpack

from protocol.errors import ProtocolError
from protocol.fields import is_digest, is_inside, is_name
from protocol.limits import (
    AFTER_LIMIT,
    ARRAY_LEAST,
    ARRAY_LIMIT,
    FILES_LIMIT,
    MEMORY_LIMIT,
    OUTPUT_LIMIT,
    PRIORITY_LIMIT,
    RESULT_FILES_LIMIT,
    RETRIES_LIMIT,
    SLEEP_LIMIT_MS,
    SLOTS_LIMIT,
    TICKET_LENGTH,
    TIME_LIMIT,
    TIMESTAMP_LIMIT,
    VALUE_LIMIT,
)

TICKET_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_TICKET_CHARACTERS = frozenset(TICKET_ALPHABET)


def is_ticket(value: object) -> bool:
    """Whether `value` has the form of a ticket: 16 capital letters and digits."""
    return isinstance(value, str) and len(value) == TICKET_LENGTH and _TICKET_CHARACTERS.issuperset(value)


class Outcome(enum.StrEnum):
    """How a done job ended. A job has exactly one, recorded once."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"
    LOST = "lost"


class JobState(enum.StrEnum):
    """Where a job is, in the words that clients read."""

    QUEUED = "queued"
    ASSIGNED = "assigned"
    RUNNING = "running"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Sleep:
    """A job that takes `ms` milliseconds and no process. `key`: as that of `Extras`."""

    ms: int
    key: str = ""

    def pack(self) -> bytes:
        return bytes(msgpack.packb(("sleep", self.ms, self.key) if self.key else ("sleep", self.ms)))


@dataclass(frozen=True, slots=True)
class Extras:
    """What few commands ask for. `env`: variables beside the executor's own; `cwd`: an absolute path, empty
    for a directory of its own; `stdin`: what it reads; a higher `priority` goes first."""

    priority: int = 0
    name: str = ""
    tag: str = ""
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = ""
    stdin: str = ""
    #: Tickets of the same origin: handed in when they have succeeded.
    after: tuple[str, ...] = ()
    #: So many jobs with one ticket, 0 for a single job: its origin makes single ones of it.
    array: int = 0
    #: Slots that it takes, 0 for one.
    cpus: int = 0
    #: Bytes that all its processes may have together, 0 for as many as they get.
    memory: int = 0
    #: (path in its working directory, SHA-256) of files that its origin has.
    files: tuple[tuple[str, str], ...] = ()
    #: Where what it writes into EVENLY_RESULT_DIR is kept at its origin.
    result_dir: str = ""
    #: The whole of its output is kept, as files.
    keep_output: bool = False
    #: A later attempt finds what it put into EVENLY_CHECKPOINT_DIR.
    checkpoint: bool = False
    #: Whom to tell when it is done, by HTTP.
    notify: str = ""
    #: What makes a second submission of the same job known as that.
    key: str = ""

    @property
    def for_running(self) -> Extras | None:
        """Itself, where it changes how the job is run."""
        is_wished = self.env or self.cwd or self.stdin or self.cpus or self.memory or self.has_files
        return self if is_wished else None

    @property
    def has_files(self) -> bool:
        """Whether files come with it or of it."""
        return bool(self.files or self.result_dir or self.keep_output or self.checkpoint)

    @property
    def leaves_files(self) -> bool:
        """Whether files of it come home before its result does."""
        return bool(self.result_dir or self.keep_output)

    @property
    def suits_a_task(self) -> bool:
        """A task runs in a process that was there before it."""
        return not (self.env or self.cwd or self.stdin or self.array or self.keep_output)

    def given(self) -> dict[str, Any]:
        """Those that are not the default, by name."""
        return {name: value for name, default in _DEFAULTS if (value := getattr(self, name)) != default}


NO_EXTRAS = Extras()
_DEFAULTS = tuple((each.name, each.default) for each in fields(Extras))


@dataclass(frozen=True, slots=True)
class Command:
    """A UNIX command line for `/bin/sh -c`.

    `time_limit` in seconds, None for none. `retries`: how often it is tried again after it failed or was
    timed out. `at_most_once`: it is never started twice, and ends as lost where that cannot be known.
    """

    line: str
    time_limit: float | None = None
    retries: int = 0
    at_most_once: bool = False
    extras: Extras = NO_EXTRAS

    def pack(self) -> bytes:
        row: tuple[Any, ...] = ("run", self.line, self.time_limit, self.retries, self.at_most_once)
        if self.extras is not NO_EXTRAS:
            row = (*row, self.extras.given())
        return bytes(msgpack.packb(row))


@dataclass(frozen=True, slots=True)
class Task:
    """A Python function that nodes know by `name`; `payload`: its arguments, the text of a JSON object.

    The rest is as for a command; of the extras only those that a process takes that was there before it.
    """

    name: str
    payload: str = "{}"
    time_limit: float | None = None
    retries: int = 0
    at_most_once: bool = False
    extras: Extras = NO_EXTRAS

    def pack(self) -> bytes:
        how = (self.time_limit, self.retries, self.at_most_once)
        more = () if self.extras is NO_EXTRAS else (self.extras.given(),)
        return bytes(msgpack.packb(("task", self.name, self.payload, *how, *more)))


JobSpec = Sleep | Command | Task


def key_of(spec: JobSpec) -> str:
    """What makes a second submission of the same job known as that; empty where it has none."""
    return spec.key if isinstance(spec, Sleep) else spec.extras.key


def unpack_spec(body: bytes) -> JobSpec:
    """The job packed in `body`.

    Raises:
        ProtocolError: if it is no job of this version.
    """
    match _unpack(body, "a job"):
        case ["sleep", int(ms), *key] if not isinstance(ms, bool) and 0 <= ms <= SLEEP_LIMIT_MS:
            if not key or (len(key) == 1 and type(key[0]) is str and is_name(key[0])):
                return Sleep(ms, *key)
        case ["run", str(line), *how] if line and "\0" not in line:
            return Command(line, *_how(how))
        case ["task", str(name), str(payload), *how] if is_name(name):
            limit, retries, once, extras = _how(how)
            if extras.suits_a_task:
                return Task(name, payload, limit, retries, once, extras)
    raise ProtocolError("a job that is neither a sleep, nor a command, nor a task")


def _how(fields: list[Any]) -> tuple[float | None, int, bool, Extras]:
    """Of a command or a task: time limit, retries, at most once, and extras where it has any."""
    match fields:
        case [limit, int(retries), bool(once), *more] if (
            (limit is None or (type(limit) in (int, float) and 0 < limit <= TIME_LIMIT))
            and type(retries) is int
            and 0 <= retries <= RETRIES_LIMIT
            and len(more) < 2
        ):
            return limit, retries, once, _extras(more[0]) if more else NO_EXTRAS
    raise ProtocolError("a job whose options are not those of this version")


def _extras(given: Any) -> Extras:
    if type(given) is dict and given.keys() <= _EXTRAS.keys():
        values: dict[str, Any] = {
            name: tuple(map(_row, value)) if type(value) is list else value for name, value in given.items()
        }
        if all(_EXTRAS[name](value) for name, value in values.items()):
            return Extras(**values)
    raise ProtocolError("a command whose options are not those of this version")


def _row(value: Any) -> Any:
    return tuple(value) if type(value) is list else value


def _is_int(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_str(value: Any) -> bool:
    return type(value) is str


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _are_pairs(value: Any) -> bool:
    return type(value) is tuple and all(
        type(pair) is tuple and len(pair) == 2 and type(pair[0]) is type(pair[1]) is str for pair in value
    )


def _are_files(value: Any) -> bool:
    return (
        _are_pairs(value)
        and len(value) <= FILES_LIMIT
        and all(is_inside(path) and is_digest(digest) for path, digest in value)
    )


def _are_tickets(value: Any) -> bool:
    return type(value) is tuple and len(value) <= AFTER_LIMIT and all(map(is_ticket, value))


_EXTRAS: dict[str, Callable[[Any], bool]] = {
    "priority": _is_int(-PRIORITY_LIMIT, PRIORITY_LIMIT),
    "name": _is_str,
    "tag": _is_str,
    "env": _are_pairs,
    "cwd": _is_str,
    "stdin": _is_str,
    "after": _are_tickets,
    "array": lambda value: value == 0 or _is_int(ARRAY_LEAST, ARRAY_LIMIT)(value),
    "cpus": _is_int(0, SLOTS_LIMIT),
    "memory": _is_int(0, MEMORY_LIMIT),
    "files": _are_files,
    "result_dir": lambda value: value == "" or is_inside(value),
    "keep_output": _is_bool,
    "checkpoint": _is_bool,
    "notify": _is_str,
    "key": _is_str,
}


class ResultFile(NamedTuple):
    """A file that a job left: its path in the result directory, its size in bytes, its SHA-256 in hex."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Report:
    """What the executor reports of an attempt that ended, beside its outcome.

    Times are seconds since the epoch; `started_at` is None for a job that never started. `stdout` and
    `stderr` are the first OUTPUT_LIMIT bytes, the totals what was written in all. `exit_code` is
    128 + N for a job ended by signal N, as shells have it, and None where there was no process.
    `reason` says in words what the outcome alone does not. `value`: what a task returned, as JSON text, else
    empty. `files`: what it left in its result directory, all of it at its origin.
    """

    node: str = ""
    started_at: float | None = None
    finished_at: float = 0.0
    exit_code: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_total: int = 0
    stderr_total: int = 0
    reason: str = ""
    value: str = ""
    files: tuple[ResultFile, ...] = ()

    def pack(self) -> bytes:
        fields: tuple[Any, ...] = (
            self.node,
            self.started_at,
            self.finished_at,
            self.exit_code,
            self.stdout,
            self.stderr,
            self.stdout_total,
            self.stderr_total,
            self.reason,
        )
        # Only where there are any: all other reports are what earlier versions read and wrote.
        more = (self.value, self.files) if self.files else (self.value,) if self.value else ()
        return bytes(msgpack.packb((*fields, *more)))

    @property
    def truncated(self) -> bool:
        return self.stdout_total > len(self.stdout) or self.stderr_total > len(self.stderr)


def unpack_report(body: bytes) -> Report:
    """The report packed in `body`.

    Raises:
        ProtocolError: if it is no report of this version.
    """
    match _unpack(body, "a report"):
        case [
            str(node),
            started_at,
            finished_at,
            exit_code,
            bytes(stdout),
            bytes(stderr),
            stdout_total,
            stderr_total,
            str(reason),
            *more,
        ] if (
            (started_at is None or _is_time(started_at))
            and _is_time(finished_at)
            and (exit_code is None or type(exit_code) is int)
            and len(stdout) <= OUTPUT_LIMIT
            and len(stderr) <= OUTPUT_LIMIT
            and all(type(total) is int and total >= 0 for total in (stdout_total, stderr_total))
            and len(more) <= 2
            and all(type(value) is str and len(value) <= VALUE_LIMIT for value in more[:1])
        ):
            times_and_code = (started_at, finished_at, exit_code)
            value = more[0] if more else ""
            files = unpack_files(more[1]) if len(more) == 2 else ()
            totals = (stdout_total, stderr_total)
            return Report(node, *times_and_code, stdout, stderr, *totals, reason, value, files)
        case _:
            raise ProtocolError("a report with fields missing or of the wrong type")


def unpack_files(rows: Any) -> tuple[ResultFile, ...]:
    """Raises ProtocolError if these are no files of a result directory."""
    if isinstance(rows, list | tuple) and len(rows) <= RESULT_FILES_LIMIT:
        files = tuple(ResultFile(*row) for row in rows if isinstance(row, list | tuple) and len(row) == 3)
        are_good = all(
            is_inside(each.path) and type(each.size) is int and each.size >= 0 and is_digest(each.digest)
            for each in files
        )
        if are_good and len(files) == len(rows):
            return files
    raise ProtocolError("result files that are not (path, size, digest)")


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= TIMESTAMP_LIMIT  # and not NaN


class Ended(NamedTuple):
    """An attempt that ended: the unit of RESULT messages and of both stores."""

    ticket: str
    attempt: int
    outcome: str
    #: A packed `Report`.
    body: bytes


def _unpack(body: bytes, what: str) -> Any:
    try:
        return msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"{what} that is no MessagePack: {error}") from None
