"""What a client's line means. The table of commands is in docs/client-protocol.md and in `help`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from protocol.fields import is_digest, is_inside, is_name
from protocol.job import JobSpec, Sleep, is_ticket
from protocol.limits import (
    ARRAY_LIMIT,
    ARRAY_PATH_LIMIT,
    LINE_LIMIT,
    SLEEP_LIMIT_MS,
    TICKET_LENGTH,
    UPLOAD_LIMIT,
    WAIT_LIMIT,
)
from protocol.listing import LIST_OPTIONS, ListJobs, parse_list
from protocol.options import NAMED, OPTIONS, TASK_OPTIONS, BadOption, Option, command, key, split, task


@dataclass(frozen=True, slots=True)
class Submit:
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class GetResult:
    """`first`: of an array, the first of its jobs that are listed."""

    ticket: str
    first: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    ticket: str


@dataclass(frozen=True, slots=True)
class WaitForAll:
    """Two tickets or more: a reply each, as if each had a `wait` of its own."""

    tickets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    ticket: str


@dataclass(frozen=True, slots=True)
class Explain:
    """Why it waits, where it ran, and what came of each attempt."""

    ticket: str


@dataclass(frozen=True, slots=True)
class CancelJob:
    ticket: str


@dataclass(frozen=True, slots=True)
class Upload:
    """So many bytes follow the line, no part of any: a file with this SHA-256."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Has:
    """Is a file with this SHA-256 here?"""

    digest: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """`path`: of the file that is sent; where it is empty, they are listed."""

    ticket: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Tail:
    """Its output as it comes; of this attempt after so many bytes of stdout and stderr."""

    ticket: str
    attempt: int = 0
    stdout: int = 0
    stderr: int = 0


@dataclass(frozen=True, slots=True)
class Partial:
    """What a task has handed out so far."""

    ticket: str


@dataclass(frozen=True, slots=True)
class TakeCheckpoint:
    """Asked by a job of the node that runs it."""

    ticket: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A line for each job with this tag that ends from here on; for each job where it is ALL."""

    tag: str


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    pass


@dataclass(frozen=True, slots=True)
class GetAll:
    pass


@dataclass(frozen=True, slots=True)
class Nodes:
    pass


@dataclass(frozen=True, slots=True)
class Stats:
    pass


@dataclass(frozen=True, slots=True)
class Help:
    pass


@dataclass(frozen=True, slots=True)
class Json:
    """From here on replies are JSON."""


@dataclass(frozen=True, slots=True)
class Exit:
    pass


@dataclass(frozen=True, slots=True)
class Invalid:
    """A line that is no command: `reason` is the one line that answers it."""

    reason: str


Request = (
    Submit
    | GetResult
    | Wait
    | WaitForAll
    | Status
    | Explain
    | CancelJob
    | Upload
    | Has
    | Fetch
    | Tail
    | Partial
    | TakeCheckpoint
    | Subscribe
    | Unsubscribe
    | GetAll
    | ListJobs
    | Nodes
    | Stats
    | Help
    | Json
    | Exit
    | Invalid
)


def _table(options: Iterable[Option]) -> str:
    return "\n".join(f"{'':26}{option.form:<20}{option.help}" for option in options)


HELP = f"""\
<ms>                    submit a job that sleeps so many milliseconds
run <command line>      submit a command for /bin/sh -c; options before it, then --:
{_table(OPTIONS.values())}
{{"run": "...", ...}}     the same as one JSON object, options by their names: {{"run": "make", "time": 60}}
task <name> <json>      submit a Python function that nodes know by name, its arguments as a JSON object;
                        options before the name: {", ".join("--" + name for name in TASK_OPTIONS)}
{{"task": "...", ...}}    the same as one JSON object: {{"task": "checksum", "payload": {{"path": "/x"}}}}
result <ticket>         its result, once done; r<ticket> does the same; of an array
                        JSON lists the jobs, behind `result <ticket> N` from job N on
wait <ticket> ...       the same, when it is done; of more tickets one after the other
status <ticket>         where it is
explain <ticket>        why it waits, where it ran, what came of each attempt
cancel <ticket>         stop it
tail <ticket>           its output as it comes, until it is done
fetch <ticket>          the files that it left; with the path of one, that file
upload <bytes> <sha256> so many bytes that follow the line, for run --file NAME=<sha256>
has <sha256>            whether such a file is here
partial <ticket>        the partial results of a task, before its end as well
checkpoint <ticket>     from within a job: take its checkpoint now
subscribe <tag>         from here on a line for each job with that tag that ends; * for all
unsubscribe             no more of them
getall                  every ticket of this node with its result, then an empty line
list                    tickets of this node, newest first; options:
{_table(LIST_OPTIONS.values())}
nodes                   the cluster as it is
stats                   counters of this node and of the load balancer
json                    from here on every reply is one JSON object on one line
help                    this table
exit                    end; end of input does the same"""

BAD_NUMBER = f"Please enter a valid number: whole milliseconds from 0 to {SLEEP_LIMIT_MS}."
TOO_LONG = Invalid(f"That line is over {LINE_LIMIT} bytes, the most a line may have; it was skipped.")
#: What stands for every tag, and for none.
ALL = "*"
JSON_FORM = 'as in {"run": "make test", "time": 60} or {"sleep": 250}.'


def parse_line(line: bytes) -> Request | None:
    """The request of one line without its end; None for an empty line, which gets no reply.

    Commands and their spelling: design, and the forerunner's (`r<ticket>`, `getall`, digits); upper and
    lower case are the same in commands.
    """
    if line.isdigit() and len(line) <= 10:  # the hot path
        ms = int(line)
        return Submit(Sleep(ms)) if ms <= SLEEP_LIMIT_MS else Invalid(BAD_NUMBER)
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        return Invalid(f"That line is not UTF-8 text: byte {error.start + 1} is 0x{line[error.start]:02x}.")
    if not text:
        return None
    if text[0] == "{":
        return _object(text)
    word, _, rest = text.partition(" ")
    command = _COMMANDS.get(word.lower())
    if command is not None:
        return command(rest.strip())
    return _number_or_ticket(text)


def _number_or_ticket(text: str) -> Request:
    digits = text[1:] if text[0] in "+-" else text
    if digits.replace(".", "", 1).isdecimal():
        is_whole = digits.isascii() and digits.isdecimal() and text[0] != "-"
        # The length first: Python refuses int() of 4300 digits or more, leading zeros among them.
        digits = digits.lstrip("0") or "0"
        if is_whole and len(digits) <= 10 and int(digits) <= SLEEP_LIMIT_MS:
            return Submit(Sleep(int(digits)))
        return Invalid(BAD_NUMBER)
    if text[0] in "rR" and len(text) == 1 + TICKET_LENGTH and is_ticket(text[1:].upper()):
        return GetResult(text[1:].upper())
    shown = text if len(text) <= 40 else text[:40] + "…"
    return Invalid(f"Please enter a valid number or a command (help lists them): {shown!r} is neither.")


def _run(rest: str) -> Request:
    try:
        options, line = split(rest)
        return Submit(command(line, options))
    except BadOption as error:
        return Invalid(str(error))


def _task(rest: str) -> Request:
    try:
        options, rest = split(rest, "task", TASK_OPTIONS)
        name, _, payload = rest.partition(" ")
        return Submit(task(name, payload.strip() or "{}", options))
    except BadOption as error:
        return Invalid(str(error))


def _object(text: str) -> Request:
    """A submission as one JSON object: `{"run": "make", "time": 60}`, `{"task": …}` or `{"sleep": 250}`."""
    try:
        return _job(json.loads(text))
    except BadOption as error:
        return Invalid(str(error))
    except (ValueError, RecursionError) as error:
        where = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        return Invalid(f"That line begins as JSON and is none{where}; {JSON_FORM}")


def _job(given: dict[str, Any]) -> Request:
    match given:
        case {"run": str(line), **options}:
            return Submit(command(line.strip(), _as_options(options)))
        case {"task": str(name), **options}:
            # All in ASCII: half a surrogate pair, which JSON can say, is no text to the wire.
            payload = json.dumps(options.pop("payload", {}))
            return Submit(task(name, payload, _as_options(options)))
        case {"sleep": int(ms), **others} if not isinstance(ms, bool) and others.keys() <= SLEEP_OPTIONS:
            if not 0 <= ms <= SLEEP_LIMIT_MS:
                return Invalid(BAD_NUMBER)
            return Submit(Sleep(ms, key(others["key"]) if others else ""))
    return Invalid(_no_job(given))


def _no_job(given: dict[str, Any]) -> str:
    for kind, form in KINDS.items():
        if kind in given:
            if kind == "sleep" and isinstance(given[kind], int) and (others := given.keys() - {kind}):
                return f"A sleep has no option but key, and not {', '.join(sorted(others))[:80]!r}."
            return f"{kind} takes {form}, not {json.dumps(given[kind])[:80]}; {JSON_FORM}"
    return f"That object is no job: it has none of run, task and sleep; {JSON_FORM}"


#: A sleep has nothing else to be told.
SLEEP_OPTIONS = {"key"}
#: What a job of each kind is given.
KINDS = {"run": "a command line", "task": "the name of a task", "sleep": "whole milliseconds"}


def _as_options(given: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name.replace("_", "-"), value) for name, value in given.items()]


def _of_ticket(name: str, request: Callable[[str], Request]) -> Callable[[str], Request]:
    def parse(rest: str) -> Request:
        ticket = rest.upper()
        if is_ticket(ticket):
            return request(ticket)
        said = f"not {rest[:40]!r}" if rest else "and none was given"
        return Invalid(f"{name} takes a ticket, {TICKET_LENGTH} letters and digits, {said}.")

    return parse


def _result(rest: str) -> Request:
    ticket, _, first = rest.partition(" ")
    first = first.strip()
    if not first or not is_ticket(ticket.upper()):
        return _result_of_job(rest)
    if not (first.isascii() and first.isdecimal() and len(first) <= 9 and int(first) < ARRAY_LIMIT):
        said = f"from 0 to {ARRAY_LIMIT - 1}: not {first[:40]!r}."
        return Invalid(f"result <ticket> N lists an array from its job N on, {said}")
    return GetResult(ticket.upper(), int(first))


def _wait(rest: str) -> Request:
    tickets = tuple(rest.upper().split())
    if len(tickets) < 2:
        return _wait_for_one(rest)
    if len(tickets) > WAIT_LIMIT:
        return Invalid(f"wait takes {WAIT_LIMIT} tickets at most, not {len(tickets)}: give it a line more.")
    wrong = next((ticket for ticket in tickets if not is_ticket(ticket)), None)
    if wrong is not None:
        return Invalid(f"wait takes tickets, {TICKET_LENGTH} letters and digits each, not {wrong[:40]!r}.")
    return WaitForAll(tickets)


def _upload(rest: str) -> Request:
    size, _, digest = rest.partition(" ")
    digest = digest.strip().lower()
    is_size = size.isascii() and size.isdecimal() and len(size) <= 18 and int(size) <= UPLOAD_LIMIT
    if is_size and is_digest(digest):
        return Upload(int(size), digest)
    said = f"upload takes bytes, at most {UPLOAD_LIMIT}, and a SHA-256 in hexadecimal"
    return Invalid(f"{said}, not {rest[:80]!r}; the connection ends, as what follows it cannot be told.")


def _has(rest: str) -> Request:
    if is_digest(rest.lower()):
        return Has(rest.lower())
    return Invalid(f"has takes the SHA-256 of a file in hexadecimal, not {rest[:80]!r}.")


def _fetch(rest: str) -> Request:
    ticket, _, path = rest.partition(" ")
    path = path.strip()
    if not path or not is_ticket(ticket.upper()):
        return _fetch_all(rest)
    if not is_inside(path, ARRAY_PATH_LIMIT):
        return Invalid(
            f"fetch takes the path of a result file, as fetch <ticket> lists it, not {path[:80]!r}."
        )
    return Fetch(ticket.upper(), path)


def _tail(rest: str) -> Request:
    ticket, *numbers = rest.split()[:5] or [""]
    if not numbers or not is_ticket(ticket.upper()):
        return _tail_from_start(rest)
    if len(numbers) != 3 or not all(n.isascii() and n.isdecimal() and len(n) <= 15 for n in numbers):
        return Invalid("tail <ticket> <attempt> <bytes of stdout> <bytes of stderr> goes on from there.")
    return Tail(ticket.upper(), *map(int, numbers))


def _subscribe(rest: str) -> Request:
    if is_name(rest):
        return Subscribe(rest)
    said = f"not {rest[:40]!r}" if rest else "and none was given"
    return Invalid(f"subscribe takes a tag, {NAMED}, or * for all jobs, {said}.")


def _list(rest: str) -> Request:
    try:
        return parse_list(rest)
    except BadOption as error:
        return Invalid(str(error))


def _alone(name: str, request: Request) -> Callable[[str], Request]:
    def parse(rest: str) -> Request:
        return Invalid(f"{name} stands alone on its line, without {rest[:40]!r}.") if rest else request

    return parse


_result_of_job = _of_ticket("result", GetResult)
_wait_for_one = _of_ticket("wait", Wait)
_fetch_all = _of_ticket("fetch", Fetch)
_tail_from_start = _of_ticket("tail", Tail)

_COMMANDS: dict[str, Callable[[str], Request]] = {
    "run": _run,
    "task": _task,
    "result": _result,
    "wait": _wait,
    "status": _of_ticket("status", Status),
    "explain": _of_ticket("explain", Explain),
    "cancel": _of_ticket("cancel", CancelJob),
    "upload": _upload,
    "has": _has,
    "fetch": _fetch,
    "tail": _tail,
    "partial": _of_ticket("partial", Partial),
    "checkpoint": _of_ticket("checkpoint", TakeCheckpoint),
    "subscribe": _subscribe,
    "unsubscribe": _alone("unsubscribe", Unsubscribe()),
    "getall": _alone("getall", GetAll()),
    "list": _list,
    "nodes": _alone("nodes", Nodes()),
    "stats": _alone("stats", Stats()),
    "help": _alone("help", Help()),
    "json": _alone("json", Json()),
    "exit": _alone("exit", Exit()),
}
