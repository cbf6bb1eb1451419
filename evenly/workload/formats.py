"""What one line of a workload file means, in each of its formats.

A parser makes of a line what is submitted for it. What is right is decided by `protocol`, as on a node.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from protocol.dialogue import Invalid, parse_line
from protocol.limits import LINE_LIMIT, NAME_LIMIT, SLEEP_LIMIT_MS
from protocol.options import BadOption, command

#: Bytes that `with_key` adds at most: a job with its key must fit into a line of the client port.
KEY_ROOM = len('"key":"",') + NAME_LIMIT
JOB_LIMIT = LINE_LIMIT - KEY_ROOM
SWF_FIELDS = 18
#: Characters of a line in a message.
SHOWN = 40


class BadLine(ValueError):
    """What is wrong with a line and what would be right."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """`job`: one JSON object as text, without a key. `at`: seconds from the start of the workload at which it
    is submitted."""

    job: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Omitted:
    """A line that is right and asks for nothing that could be run."""

    why: str


#: Of a line without its end: None where it says nothing. Raises BadLine.
Parser = Callable[[bytes], Parsed | Omitted | None]


def with_key(job: str, key: str, is_new: bool = False) -> str:
    """The job with this key, unless it has one of its own and is not `is_new`: of two of a name, JSON's last
    one counts."""
    said = f'"key":{json.dumps(key)}'
    return f"{job[:-1]},{said}}}" if is_new else f"{{{said},{job[1:]}"


def sleeps() -> Parser:
    """The forerunner's tasks: `sleep 1000`, or the number alone, in milliseconds."""
    form = re.compile(r"(?:sleep\s+)?\+?(\d{1,10})", re.IGNORECASE | re.ASCII)

    def parse(line: bytes) -> Parsed | None:
        text = _text(line)
        if _says_nothing(text):
            return None
        match = form.fullmatch(text)
        if match is None or (ms := int(match[1])) > SLEEP_LIMIT_MS:
            raise BadLine(
                f"{_shown(text)} is no task: one is sleep MS, as in sleep 1000, with whole milliseconds from "
                f"0 to {SLEEP_LIMIT_MS}; for commands say --format shell"
            )
        return Parsed(f'{{"sleep":{ms}}}')

    return parse


def shell() -> Parser:
    """A command for `/bin/sh -c` a line; `#` begins a comment."""

    def parse(line: bytes) -> Parsed | None:
        text = _text(line)
        if _says_nothing(text):
            return None
        if (len(text) - len(text.rstrip("\\"))) % 2:
            rest = line.decode().lstrip()[len(text) :]
            text += rest.rstrip("\r\n")[:1]  # a blank that is escaped is part of the command
        try:
            command(text, ())
        except BadOption as error:
            raise BadLine(str(error)) from None
        return Parsed(_bounded(json.dumps({"run": text}, ensure_ascii=False)))

    return parse


def jsonl() -> Parser:
    """A job a line, as the client port takes it: `{"run": "make", "time": 60}`."""

    def parse(line: bytes) -> Parsed | None:
        text = _text(line)
        if not text:
            return None
        if not text.startswith("{"):
            example = '{"run": "make test", "time": 60}'
            raise BadLine(f"{_shown(text)} is no job: one is a JSON object on a line, as in {example}")
        request = parse_line(text.encode())
        if isinstance(request, Invalid):
            raise BadLine(request.reason)
        return Parsed(_bounded(text))

    return parse


def swf(speed: float = 1.0) -> Parser:
    """The Standard Workload Format: each job a sleep of its run time, at its submit time after the first
    one's; both divided by `speed`."""
    first: float | None = None

    def parse(line: bytes) -> Parsed | Omitted | None:
        nonlocal first
        text = _text(line)
        if not text or text.startswith(";"):
            return None
        fields = [_number(word) for word in text.split()]
        if len(fields) != SWF_FIELDS:
            raise BadLine(
                f"a line of the Standard Workload Format has {SWF_FIELDS} numbers (job, submit time, wait "
                f"time, run time, processors, …), this one has {len(fields)}"
            )
        submitted, run_time, processors = fields[1], fields[3], fields[4]
        if submitted < 0:
            raise BadLine(f"the submit time, the 2nd number, is {submitted:g}: it must be 0 or more seconds")
        if (run_time < 0 and run_time != -1) or (processors < 0 and processors != -1):
            raise BadLine(
                "run time and processors, the 4th and 5th number, must be 0 or more, or -1 for unknown"
            )
        first = submitted if first is None else first
        if run_time == -1:
            return Omitted("its run time is unknown")
        ms, at = run_time * 1000 / speed, max(0.0, submitted - first) / speed
        # Before they are rounded: they may be infinite.
        if ms > SLEEP_LIMIT_MS:
            raise BadLine(f"a run time of {run_time:g} s is over {SLEEP_LIMIT_MS} ms; --speed N divides it")
        if at * 1000 > SLEEP_LIMIT_MS * 1000:
            raise BadLine(f"a submit time of {submitted:g} s is too late; --speed N divides it")
        return Parsed(f'{{"sleep":{round(ms)}}}', at)

    return parse


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        where = f"byte {error.start + 1} is 0x{line[error.start]:02x}"
        raise BadLine(f"{where}, which is no UTF-8: text in UTF-8 is read here") from None


def _says_nothing(text: str) -> bool:
    return not text or text[0] == "#"


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")


def _bounded(job: str) -> str:
    if len(job) * 4 > JOB_LIMIT and (size := len(job.encode())) > JOB_LIMIT:
        raise BadLine(f"that job has {size} bytes as JSON: at most {JOB_LIMIT} can be submitted")
    return job


def _number(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadLine(f"{_shown(word)} is no number: all fields of the Standard Workload Format are")
    return number
