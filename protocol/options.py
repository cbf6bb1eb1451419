"""The options of commands and tasks: one table for lines (`--time 60`) and for JSON (`{"time": 60}`)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from protocol.fields import is_digest, is_inside, is_name
from protocol.job import NO_EXTRAS, Command, Extras, Task, is_ticket
from protocol.limits import (
    AFTER_LIMIT,
    ARRAY_BYTES,
    ARRAY_LEAST,
    ARRAY_LIMIT,
    FILES_LIMIT,
    GIB,
    KIB,
    MEMORY_LEAST,
    MEMORY_LIMIT,
    MIB,
    NAME_LIMIT,
    PRIORITY_LIMIT,
    RETRIES_LIMIT,
    SLOTS_LIMIT,
    TICKET_LENGTH,
    TIME_LIMIT,
    URL_LIMIT,
)
from protocol.tasks import BadPayload, read_object

TASK_FORM = 'as in: task --time 60 checksum {"path": "/etc/hostname"}'
#: What options take, in words.
NAMED = f"1 to {NAME_LIMIT} printable characters without spaces"
NO_VALUE = "no value (in JSON true or false)"
#: Variables that the executor sets itself.
RESERVED = "EVENLY_"


class BadOption(ValueError):
    """What is wrong with the options, and what would be right, in one line for the client."""


@dataclass(frozen=True, slots=True)
class Option:
    """`form`: how it is written; `read` makes its value of a text or a JSON value, or raises ValueError.

    `allowed` says in words what it takes. A flag takes no value; what is `many` may come more than once.
    """

    form: str
    read: Callable[[Any], Any]
    allowed: str
    help: str
    is_flag: bool = False
    is_many: bool = False

    @property
    def name(self) -> str:
        return self.form.partition(" ")[0][2:]


def read_seconds(value: Any) -> float:
    """Raises ValueError, as all that read values of options."""
    seconds = float(value) if type(value) in (str, int, float) else math.nan
    if not 0 < seconds <= TIME_LIMIT:
        raise ValueError
    return seconds


def read_whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        text = str(value) if type(value) in (str, int) else ""
        digits = text.removeprefix("-") if low < 0 else text
        # The length first: Python refuses int() of 4300 digits or more.
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 9 and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return read


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError
    return value


def read_name(value: Any) -> str:
    if not (isinstance(value, str) and is_name(value)):
        raise ValueError
    return value


def _text(value: Any) -> str:
    if not (isinstance(value, str) and is_text(value)):
        raise ValueError
    return value


def is_text(value: str) -> bool:
    """Whether a process can be given it: no NUL, and no half of a surrogate pair, which JSON can say."""
    return "\0" not in value and (value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value))


def _directory(value: Any) -> str:
    if not _text(value).startswith("/"):
        raise ValueError
    return str(value)


def _variables(value: Any) -> tuple[tuple[str, str], ...]:
    """Of `K=V`, or of an object."""
    if isinstance(value, str):
        name, equals, text = value.partition("=")
        if not equals:
            raise ValueError
        value = {name: text}
    if not isinstance(value, dict):
        raise ValueError
    for name, text in value.items():
        if not name or "=" in _text(name) or name.startswith(RESERVED):
            raise ValueError
        _text(text)
    return tuple(value.items())


def _size(value: Any) -> int:
    """Bytes: of a number, or of a text with K, M or G behind it."""
    if isinstance(value, str) and value[-1:].upper() in _UNITS:
        factor, value = _UNITS[value[-1].upper()], value[:-1]
    else:
        factor = 1
    size = read_whole(0, 10**9 - 1)(value) * factor if type(value) is str else value
    if type(size) is not int or not MEMORY_LEAST <= size <= MEMORY_LIMIT:
        raise ValueError
    return size


_UNITS = {"K": KIB, "M": MIB, "G": GIB}


def _files(value: Any) -> tuple[tuple[str, str], ...]:
    """Of `NAME=DIGEST`, or of an object."""
    if isinstance(value, str):
        name, _, digest = value.rpartition("=")
        value = {name: digest}
    if not isinstance(value, dict) or not all(is_inside(n) and is_digest(d) for n, d in value.items()):
        raise ValueError
    return tuple(value.items())


def _inside(value: Any) -> str:
    if not is_inside(_text(value)):
        raise ValueError
    return str(value)


def _url(value: Any) -> str:
    parts = urlsplit(_text(value))
    is_plain = len(value) <= URL_LIMIT and value.isprintable() and not any(map(str.isspace, value))
    # A port that is none raises ValueError where it is looked at.
    if not (is_plain and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0):
        raise ValueError
    return str(value)


def read_ticket(value: Any) -> str:
    if not (isinstance(value, str) and is_ticket(value.upper())):
        raise ValueError
    return value.upper()


def _tickets(value: Any) -> tuple[str, ...]:
    """Of one ticket, or of a list of them."""
    return tuple(map(read_ticket, value if isinstance(value, list) else [value]))


OPTIONS = {
    option.name: option
    for option in (
        Option(
            "--time SECONDS",
            read_seconds,
            f"seconds, more than 0, at most {TIME_LIMIT:.0f}",
            "end it with its process group after so long",
        ),
        Option(
            "--retries N",
            read_whole(0, RETRIES_LIMIT),
            f"a whole number from 0 to {RETRIES_LIMIT}",
            "try it again, ever later, when it failed",
        ),
        Option(
            "--at-most-once",
            _flag,
            NO_VALUE,
            "never start it twice; it ends as lost where that is not sure",
            is_flag=True,
        ),
        Option(
            "--priority N",
            read_whole(-PRIORITY_LIMIT, PRIORITY_LIMIT),
            f"a whole number from -{PRIORITY_LIMIT} to {PRIORITY_LIMIT}",
            "before all that waits with a lower one (default 0)",
        ),
        Option(
            "--env K=V",
            _variables,
            f"NAME=VALUE (in JSON an object of texts), and no name that begins with {RESERVED}",
            "a variable of its environment; may come more than once",
            is_many=True,
        ),
        Option(
            "--cwd DIRECTORY",
            _directory,
            "an absolute path",
            "run it there, not in an empty directory",
        ),
        Option("--stdin TEXT", _text, "a text without NUL", "what it reads (default: nothing)"),
        Option(
            "--name NAME",
            read_name,
            NAMED,
            "a name for people",
        ),
        Option(
            "--tag TAG",
            read_name,
            NAMED,
            "a word that jobs have in common",
        ),
        Option(
            "--after TICKET",
            _tickets,
            f"a ticket of this node, {TICKET_LENGTH} letters and digits (in JSON also a list of them)",
            "once that one has succeeded; may come more than once",
            is_many=True,
        ),
        Option(
            "--array N",
            read_whole(ARRAY_LEAST, ARRAY_LIMIT),
            f"a whole number from {ARRAY_LEAST} to {ARRAY_LIMIT}",
            "so many jobs with one ticket; EVENLY_ARRAY_INDEX tells them apart",
        ),
        Option(
            "--cpus N",
            read_whole(1, SLOTS_LIMIT),
            f"a whole number from 1 to {SLOTS_LIMIT}",
            "it takes so many slots of its node, or all of them",
        ),
        Option(
            "--memory SIZE",
            _size,
            f"bytes, at least {MEMORY_LEAST // MIB}M, also as 500M or 2G",
            "end it when its processes have more than that together",
        ),
        Option(
            "--file NAME=DIGEST",
            _files,
            "a relative path and the SHA-256 of an uploaded file (in JSON an object of these)",
            "find that file in its working directory; may come more than once",
            is_many=True,
        ),
        Option(
            "--result-dir NAME",
            _inside,
            "a relative path without . and ..",
            "what it writes into EVENLY_RESULT_DIR is kept under that name",
        ),
        Option(
            "--keep-output",
            _flag,
            NO_VALUE,
            "keep the whole of its output, as files stdout and stderr",
            is_flag=True,
        ),
        Option(
            "--checkpoint",
            _flag,
            NO_VALUE,
            "find EVENLY_CHECKPOINT_DIR again when it starts anew",
            is_flag=True,
        ),
        Option(
            "--notify URL",
            _url,
            f"an http or https address of at most {URL_LIMIT} characters",
            "POST its result there when it is done",
        ),
        Option(
            "--key KEY",
            read_name,
            NAMED,
            "the same key gives the same ticket, and no second job",
        ),
    )
}

#: What a task has no use for: it runs in a process that was there before it.
COMMANDS_ONLY = ("env", "cwd", "stdin", "array", "keep-output")
TASK_OPTIONS = {name: option for name, option in OPTIONS.items() if name not in COMMANDS_ONLY}


def split(
    rest: str, verb: str = "run", options: Mapping[str, Option] = OPTIONS
) -> tuple[list[tuple[str, str | None]], str]:
    """(options as name and value, the rest) of a line's arguments; `--` ends the options.

    A value with spaces stands in single or double quotes, which have no other meaning.

    Raises:
        BadOption: for an option that is not there, and for a quote without its end.
    """
    found: list[tuple[str, str | None]] = []
    while rest.startswith("--"):
        word, _, behind = rest.partition(" ")
        if word == "--":
            return found, behind.lstrip()
        name, equals, _ = word[2:].partition("=")
        option = options.get(name)
        if option is None:
            forms = ", ".join(option.form for option in options.values())
            raise BadOption(f"{verb} has no option {'--' + name[:38]!r}: it has {forms}; -- ends options.")
        if option.is_flag:
            if equals:
                raise BadOption(f"--{name} takes no value.")
            found.append((name, None))
            rest = behind.lstrip()
            continue
        behind = rest[len(name) + 3 :] if equals else behind.lstrip()
        value, rest = _value(name, behind)
        found.append((name, value))
    return found, rest


def _value(name: str, text: str) -> tuple[str, str]:
    """(the value at the start of `text`, what follows it)."""
    if text[:1] in ("'", '"'):
        value, end, rest = text[1:].partition(text[0])
        if not end:
            raise BadOption(f"--{name} has a {text[0]} without its end.")
        return value, rest.lstrip()
    value, _, rest = text.partition(" ")
    return value, rest.lstrip()


def command(line: str, options: Iterable[tuple[str, Any]]) -> Command:
    """The command with these options: names with a text or a JSON value, None where a flag stands alone.

    Raises:
        BadOption: with what is wrong and what would be right.
    """
    limit, retries, once, extras = _how(options, OPTIONS)
    if not line:
        raise BadOption("run needs a command line, as in: run --time 60 -- make test")
    if not is_text(line):
        what = "a NUL byte" if "\0" in line else "half of a surrogate pair"
        raise BadOption(f"A command line cannot hold {what}.")
    command = Command(line, limit, retries, once, extras)
    if extras.array and extras.array * len(command.pack()) > ARRAY_BYTES:
        raise BadOption(f"--array {extras.array} of so long a command is over {ARRAY_BYTES} bytes.")
    return command


def task(name: str, payload: str, options: Iterable[tuple[str, Any]]) -> Task:
    """The task of this name with a payload and these options, as for `command`.

    Raises:
        BadOption: with what is wrong and what would be right.
    """
    limit, retries, once, extras = _how(options, TASK_OPTIONS)
    if not name:
        raise BadOption(f"task needs a name and its payload, {TASK_FORM}")
    if not is_name(name):
        raise BadOption(f"A task's name is 1 to {NAME_LIMIT} printable characters: {name[:40]!r} is none.")
    try:
        read_object(payload)
    except BadPayload as fault:
        raise BadOption(f"The payload of task {name} {fault}; it is one JSON object, {TASK_FORM}") from None
    return Task(name, payload, limit, retries, once, extras)


def key(given: Any) -> str:
    """A key alone, as a sleep has it.

    Raises:
        BadOption: with what is wrong and what would be right.
    """
    return str(read_value(OPTIONS["key"], given))


def _how(
    options: Iterable[tuple[str, Any]], allowed: Mapping[str, Option]
) -> tuple[float | None, int, bool, Extras]:
    values: dict[str, Any] = {}
    for name, given in options:
        option = allowed.get(name)
        if option is None:
            raise BadOption(f"there is no option {name[:40]!r}: there are {', '.join(allowed)}.")
        value: Any = True if given is None and option.is_flag else read_value(option, given)
        values[name] = values.get(name, ()) + value if option.is_many else value
    limit, retries = values.pop("time", None), values.pop("retries", 0)
    once = values.pop("at-most-once", False)
    if once and retries:
        raise BadOption("--at-most-once and --retries exclude each other: it would be started again.")
    if len(values.get("after", ())) > AFTER_LIMIT:
        raise BadOption(f"--after takes {AFTER_LIMIT} tickets at most.")
    if len(files := values.pop("file", ())) > FILES_LIMIT or len(dict(files)) < len(files):
        raise BadOption(f"--file takes {FILES_LIMIT} files at most, each with a name of its own.")
    names = {name + "/" for name, _ in files}
    if any(longer != name and longer.startswith(name) for longer in names for name in names):
        raise BadOption("--file takes names none of which is a directory of another.")
    if not (values or files):
        return limit, retries, once, NO_EXTRAS
    given = {name.replace("-", "_"): value for name, value in values.items()} | {"files": files}
    # Whatever is the default is empty, or 0.
    return limit, retries, once, Extras(**given) if any(given.values()) else NO_EXTRAS


def read_value(option: Option, given: Any) -> Any:
    """Raises BadOption: with what is wrong and what would be right."""
    try:
        return option.read(given)
    except (ValueError, OverflowError):  # float() of a whole number of hundreds of digits
        shown = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        raise BadOption(f"--{option.name} takes {option.allowed}: not {shown[:40]!r}.") from None
