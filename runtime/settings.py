"""Settings: each an environment variable and a flag, checked at start, listed by `--help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

Value = Callable[[str], Any]


class BadValue(ValueError):
    """What is allowed, in words that follow "must be"."""


def integer(low: int, high: int, unit: str = "") -> Value:
    """A whole number from `low` to `high`."""
    allowed = f"a whole number{f' of {unit}' if unit else ''} from {low} to {high}"

    def parse(text: str) -> int:
        try:
            value = int(text) if len(text) <= 20 else low - 1
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise BadValue(allowed)
        return value

    return parse


def choice(*words: str) -> Value:
    """One of these words, in upper or lower case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise BadValue(" or ".join(words))
        return text.lower()

    return parse


def text(allowed: str, accepts: Callable[[str], bool] = bool) -> Value:
    """A text; `allowed` says in words what `accepts` accepts (by default, any but the empty one)."""

    def parse(value: str) -> str:
        if not accepts(value):
            raise BadValue(allowed)
        return value

    return parse


PORT = integer(1, 65535)
ADDRESS = text("an address to listen on, as 127.0.0.1, or 0.0.0.0 for all")


@dataclass(frozen=True, slots=True)
class Setting:
    """`name` is the environment variable; the flag follows from it unless given. No default: None."""

    name: str
    value: Value
    default: Any
    help: str
    flag: str = ""

    @property
    def option(self) -> str:
        return self.flag or "--" + self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Argument:
    """A positional argument; without a default it must be given."""

    name: str
    value: Value
    help: str
    default: Any = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the usage as well."""
        print(f"{self.prog}: {message}; --help shows what is there", file=sys.stderr)
        sys.exit(2)


def parse(
    program: str,
    description: str,
    arguments: Sequence[Argument],
    settings: Sequence[Setting],
    argv: Sequence[str],
    environ: Mapping[str, str],
) -> dict[str, Any]:
    """The values by name (as the environment spells it): flag before environment before default.

    Prints one line and exits with 2 where a value is bad.
    """
    parser = _Parser(
        program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for argument in arguments:
        optional = argument.default is not None
        extra = f" (default: {argument.default})" if optional else ""
        parser.add_argument(
            argument.name, nargs="?" if optional else None, help=argument.help + extra, metavar=argument.name
        )
    for setting in settings:
        shown = "" if setting.default is None else f" (default: {setting.default})"
        parser.add_argument(
            setting.option, dest=setting.name, metavar="X", help=f"{setting.help}{shown} [{setting.name}]"
        )
    given = vars(parser.parse_args(argv))
    values: dict[str, Any] = {}
    for argument in arguments:
        values[argument.name] = _check(program, argument.name, given[argument.name], argument)
    for setting in settings:
        raw = given[setting.name]
        source = setting.option if raw is not None else setting.name
        if raw is None:
            raw = environ.get(setting.name) or None  # an empty variable is as none
        values[setting.name] = _check(program, source, raw, setting)
    return values


def _check(program: str, source: str, raw: str | None, setting: Setting | Argument) -> Any:
    if raw is None:
        return setting.default
    try:
        return setting.value(raw)
    except BadValue as allowed:
        shown = raw if len(raw) <= 60 else raw[:60] + "…"
        print(f"{program}: {source} must be {allowed}, not {shown!r}", file=sys.stderr)
        sys.exit(2)
