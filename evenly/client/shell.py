"""How `/bin/sh` reads the place where a word is put, and how that word has to be written there.

A small scanner with a stack of contexts, no parser: where it cannot be sure, nothing can be put, rather than
in the wrong quotes. What a program reads as a command once more (`sh -c '{}'`, `eval`) is beyond it.
"""

from __future__ import annotations

import enum
import re
import shlex
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import NamedTuple

from evenly.client.errors import EvenlyError

#: Gives a word as it has to be written at one place.
Writer = Callable[[str], str]


class Place(NamedTuple):
    """`line[start:end]`, in whose place a word is put; one at the line's end is an argument of its own.

    `is_number`: of digits alone, which are safe wherever they stand.
    """

    start: int
    end: int
    is_number: bool = False


def writers(line: str, places: Iterable[Place]) -> list[Writer | None]:
    """How a word is written at each of these places, which are in order; None for one that is the shell's
    own, as in `${#}`.

    Raises:
        EvenlyError: for a place where no text can be put safely.
    """
    scanner = _Scanner(line)
    return [scanner.writer(place) for place in places]


def as_command(word: str) -> str:
    """The first word of a command, which would be an assignment as `a=b`."""
    return _quoted(word) if "=" in word else shlex.quote(word)


# --- ways of writing ---------------------------------------------------------------------------------

#: Between these a word of plain characters needs no quotes: nothing beside it gives it another meaning, as
#: in `$x{}`, `~{}` and `{}>file`.
_APART_BEFORE, _APART_BEHIND = re.compile(r"(?:^|(?<!\\)\s)$"), re.compile(r"$|[\s./_;|&)-]")
#: Of plain letters; an item may be called so.
_RESERVED = re.compile(
    "case|coproc|do|done|elif|else|esac|fi|for|function|if|in|select|then|time|until|while"
)
_PLAIN_WORD = re.compile(r"[A-Za-z0-9@%+:,./_-]+")
_ENDS_WITH_NAME = re.compile(r"\$(?:\w|\\\n)*\Z")
_ACTIVE_IN_DOUBLE = re.compile(r'([\\$`"])')
_WHOLE = re.compile(r"-?[0-9]+")


def _as_it_is(word: str) -> str:
    return word


def _bare(word: str) -> str:
    is_plain = _PLAIN_WORD.fullmatch(word) and not _RESERVED.fullmatch(word)
    return word if is_plain else _quoted(word)


def _quoted(word: str) -> str:
    quoted = shlex.quote(word)
    return quoted if quoted != word else f"'{word}'"


def _in_single(word: str) -> str:
    return word.replace("'", "'\\''")


def _in_double(word: str) -> str:
    return _ACTIVE_IN_DOUBLE.sub(r"\\\1", word)


def _in_double_behind_a_name(word: str) -> str:
    return f'""{_in_double(word)}'


def _in_sum(word: str) -> str:
    # Not in quotes, which do not help: bash runs the $( ) in a[$(…)] even from a variable.
    if not _WHOLE.fullmatch(word):
        raise EvenlyError(f"between (( and )) there is place for whole numbers alone, not for {word[:40]!r}")
    return word


# --- the scanner -------------------------------------------------------------------------------------


class _Context(enum.Enum):
    LINE = "( )"  # the line itself, and what is in ( )
    COMMAND = "$( )"
    SINGLE = "'"
    DOUBLE = '"'
    BACKQUOTE = "`"
    BRACE = "${ }"
    SUM = "(( ))"
    COMMENT = "#"


_COMMANDS = (_Context.LINE, _Context.COMMAND)
_NO_PLACE = {
    _Context.BACKQUOTE: "stands in backquotes, where nothing can be quoted safely: use $( ) in their place",
    _Context.BRACE: "stands in ${ }, where nothing can be quoted safely: give it to a variable before",
    _Context.COMMENT: "stands in a comment, which an item with a line end would end",
}
_BEHIND_BACKSLASH = "stands behind a backslash, which would belong to the item: take it away"
#: Up to where a word reaches; behind them a `#` begins a comment.
_BREAKS = frozenset(" \t\n;&|()<>")
_CASE = re.compile(r"case\s")
#: What a `case` begins with, before the line end that cuts it in two.
_CUT_CASE = re.compile(r"(?<![^\s;&|()`<>\n])(?:c|ca|cas|case)$")


class _Scanner:
    """Reads the line up to one place after the other."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._at = 0
        #: What is open, the innermost last; the line itself is at the bottom.
        self._stack = [_Context.LINE]
        #: Parentheses that are open in each SUM.
        self._depths: list[int] = []
        #: Why contexts are not known any more from here on.
        self._doubt = ""
        #: Whether a word begins here.
        self._is_start = True

    def writer(self, place: Place) -> Writer | None:
        while self._at < place.start:
            self._step()
        was_taken = self._at > place.start
        is_beside = place.start == len(self._line)
        if was_taken and place.is_number and self._stack[-1] is _Context.BRACE:
            return None
        reason = self._why_not_beside(was_taken) if is_beside else self._why_not(was_taken)
        if reason and not (place.is_number and not is_beside):
            raise EvenlyError(f"{{}} {reason}; in {self._line[:60]!r}")
        if not was_taken:
            self._at = place.end
            self._is_start = False
        if reason:
            return _as_it_is
        return _bare if is_beside else self._way(place)

    def _why_not(self, was_taken: bool) -> str:
        reasons = [self._doubt, *(_NO_PLACE.get(each, "") for each in self._stack)]
        return next(filter(None, reasons), _BEHIND_BACKSLASH if was_taken else "")

    def _why_not_beside(self, was_taken: bool) -> str:
        if was_taken:
            return _BEHIND_BACKSLASH
        if len(self._stack) > 1:
            return f"would stand at the end, within {self._stack[-1].value}: say where"
        return self._doubt

    def _way(self, place: Place) -> Writer:
        context, before, behind = self._stack[-1], self._line[: place.start], self._line[place.end :]
        if _Context.SUM in self._stack:
            return _in_sum
        if context is _Context.SINGLE:
            return _in_single
        if context is _Context.DOUBLE:
            return _in_double_behind_a_name if _ENDS_WITH_NAME.search(before) else _in_double
        return _bare if _APART_BEFORE.search(before) and _APART_BEHIND.match(behind) else _quoted

    def _step(self) -> None:
        """One character, or some that belong together."""
        at, context = self._at, self._stack[-1]
        char = self._line[at]
        self._at = at + 1
        was_start, self._is_start = self._is_start, False
        if context is _Context.SINGLE:
            if char == "'":
                self._stack.pop()
        elif context is _Context.COMMENT:
            if char == "\n":
                self._stack.pop()
                self._is_start = True
        elif char == "\\":
            self._at = at + 2
            if self._line.startswith("\n", at + 1):  # the shell joins both lines
                self._is_start = was_start
                if at and self._line[at - 1] in "$(<{":
                    self._doubt = "stands behind an operator that a line end cuts in two"
                elif at and context in _COMMANDS and _CUT_CASE.search(self._line[:at]):
                    self._doubt = "stands behind a word that a line end cuts in two"
        elif context is _Context.BACKQUOTE:
            if char == "`":
                self._stack.pop()
        elif char == "`":
            self._stack.append(_Context.BACKQUOTE)
        elif char == "$":
            self._dollar(context)
        elif context is _Context.DOUBLE:
            if char == '"':
                self._stack.pop()
        elif context is _Context.BRACE:
            self._brace(char)
        elif context is _Context.SUM:
            self._sum(char)
        else:
            self._command(char, context, was_start)

    def _follows(self, text: str) -> bool:
        return self._line.startswith(text, self._at)

    def _dollar(self, context: _Context) -> None:
        if self._follows("(("):
            self._open_sum(2)
        elif self._follows("("):
            self._at += 1
            self._stack.append(_Context.COMMAND)
            self._is_start = True
        elif self._follows("{"):
            self._at += 1
            self._stack.append(_Context.BRACE)
        elif self._follows("$"):
            self._at += 1
            if self._line[self._at : self._at + 1] in tuple("({['"):
                self._doubt = "stands behind $$ and a bracket, which shells read in different ways: use ${$}"
        elif self._follows("[") or (self._follows("'") and context is not _Context.DOUBLE):
            self._doubt = "stands behind $' or $[, which shells read in different ways: use printf or $(( ))"

    def _open_sum(self, length: int) -> None:
        self._at += length
        self._stack.append(_Context.SUM)
        self._depths.append(2)

    def _command(self, char: str, context: _Context, was_start: bool) -> None:
        self._is_start = char in _BREAKS
        if char in "'\"":
            self._stack.append(_Context(char))
        elif char == "#" and was_start:
            self._stack.append(_Context.COMMENT)
        elif char == "(" and self._follows("("):
            self._open_sum(1)
        elif char == "(":
            self._stack.append(_Context.LINE)
        elif char == ")" and len(self._stack) > 1:  # without one to close it is of a `case`
            self._stack.pop()
            self._is_start = context is not _Context.COMMAND
            if self._follows("#"):
                self._doubt = "stands behind )#, which may begin a comment: put a space before the #"
        elif char == "<" and self._follows("<<"):  # a text of one word, where a shell has that
            self._at += 2
        elif char == "<" and self._follows("<"):
            self._doubt = "stands behind <<: use printf '%s\\n' {} | …, or $( )"
        elif was_start and _CASE.match(self._line, self._at - 1) and not set(self._stack) <= set(_COMMANDS):
            self._doubt = "stands behind a case in $( ) in quotes, whose ) may be of either: write it outside"

    def _brace(self, char: str) -> None:
        if char == "}":
            self._stack.pop()
        elif char in "'\"":
            around = set(takewhile(lambda each: each not in _COMMANDS, reversed(self._stack)))
            if around & {_Context.DOUBLE, _Context.SUM}:
                self._doubt = "stands behind quotes in ${ } in quotes, which shells read in different ways"
            else:
                self._stack.append(_Context(char))

    def _sum(self, char: str) -> None:
        is_here = char == "<" and self._follows("<") and "\n" in self._line[self._at :]
        if char in "'\"#;" or is_here or _CASE.match(self._line, self._at - 1):
            self._doubt = "stands behind (( with a command in it: put a space between ( and ("
        elif char in "()":
            self._depths[-1] += 1 if char == "(" else -1
            if not self._depths[-1]:
                self._depths.pop()
                self._stack.pop()
                if self._follows("#") and self._stack[-1] in _COMMANDS:
                    self._doubt = "stands behind a # that may begin a comment: put a space before it"
