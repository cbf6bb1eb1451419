"""What a client's line means. The table of commands is in docs/client-protocol.md and in `help`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocol.job import JobSpec, Sleep, is_ticket
from protocol.limits import LINE_LIMIT, SLEEP_LIMIT_MS, TICKET_LENGTH
from protocol.options import OPTIONS, TASK_OPTIONS, BadOption, command, split, task


@dataclass(frozen=True, slots=True)
class Submit:
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class GetResult:
    ticket: str


@dataclass(frozen=True, slots=True)
class Wait:
    ticket: str


@dataclass(frozen=True, slots=True)
class Status:
    ticket: str


@dataclass(frozen=True, slots=True)
class CancelJob:
    ticket: str


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
    Submit | GetResult | Wait | Status | CancelJob | GetAll | Nodes | Stats | Help | Json | Exit | Invalid
)

_OPTIONS = "\n".join(f"{'':26}{option.form:<17}{option.help}" for option in OPTIONS.values())
HELP = f"""\
<ms>                    submit a job that sleeps so many milliseconds
run <command line>      submit a command for /bin/sh -c; options before it, then --:
{_OPTIONS}
{{"run": "...", ...}}     the same as one JSON object, options by their names: {{"run": "make", "time": 60}}
task <name> <json>      submit a Python function that nodes know by name, its arguments as a JSON object;
                        options before the name: {", ".join("--" + name for name in TASK_OPTIONS)}
{{"task": "...", ...}}    the same as one JSON object: {{"task": "checksum", "payload": {{"path": "/x"}}}}
result <ticket>         its result, once done; r<ticket> does the same
wait <ticket>           the same, when it is done
status <ticket>         where it is
cancel <ticket>         stop it
getall                  every ticket of this node with its result, then an empty line
nodes                   the cluster as it is
stats                   counters of this node and of the load balancer
json                    from here on every reply is one JSON object on one line
help                    this table
exit                    end; end of input does the same"""

BAD_NUMBER = f"Please enter a valid number: whole milliseconds from 0 to {SLEEP_LIMIT_MS}."
TOO_LONG = Invalid(f"That line is over {LINE_LIMIT} bytes, the most a line may have; it was skipped.")
JSON_FORM = 'as in {"run": "make test", "time": 60} or {"sleep": 250}.'
NOT_YET = "is not there yet: it comes with a later version. A command does most of it: run <command line>"


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
        case {"sleep": int(ms), **others} if not isinstance(ms, bool) and not others:
            return Submit(Sleep(ms)) if 0 <= ms <= SLEEP_LIMIT_MS else Invalid(BAD_NUMBER)
    return Invalid(f"That object is no job; {JSON_FORM}")


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


def _alone(name: str, request: Request) -> Callable[[str], Request]:
    def parse(rest: str) -> Request:
        return Invalid(f"{name} stands alone on its line, without {rest[:40]!r}.") if rest else request

    return parse


_COMMANDS: dict[str, Callable[[str], Request]] = {
    "run": _run,
    "task": _task,
    "tail": lambda rest: Invalid(f"tail {NOT_YET}"),
    "result": _of_ticket("result", GetResult),
    "wait": _of_ticket("wait", Wait),
    "status": _of_ticket("status", Status),
    "cancel": _of_ticket("cancel", CancelJob),
    "getall": _alone("getall", GetAll()),
    "nodes": _alone("nodes", Nodes()),
    "stats": _alone("stats", Stats()),
    "help": _alone("help", Help()),
    "json": _alone("json", Json()),
    "exit": _alone("exit", Exit()),
}
