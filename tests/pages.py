"""For tests that play pages of docs: what a page shows is run, and what came is compared with it.

Compared loosely: tickets, times, node names and process numbers are those of the moment. A ticket in a page
stands for the one that came in its place, also in commands further down; so does the node of `running on n1`.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest

from support import ROOT, Client, eventually

TICKET = re.compile(r"\b(?=[A-Z0-9]*\d)[A-Z0-9]{16}\b")
#: On a line with one of these every number is loose.
_MEASURED = re.compile(r"\d\.\d|\d:\d\d|\b\d+/s\b|\d+[smhd]\b|process \d|slots busy|^n\d +(yes|no) ")
_PIECE = re.compile(
    rf"(?P<ticket>{TICKET.pattern})|running on (?P<where>n\d)|\b(?P<node>n\d)\b"
    r"|\b(?P<digest>[0-9a-f]{64})\b"
    r"|\b(?P<number>\d[\d.,:]*[smhd]?)|(?P<here>\b(?:yes|no)\b|-$)|(?P<gap>…)|(?P<space>\s+)"
)
#: Numbers that are meant, on any line.
_MEANT = re.compile(r"exit code \d+|\d+ of \d+ jobs succeeded, \d+ failed|attempt \d+|signal \d+")


class Step(NamedTuple):
    """A command and what it prints; without a command it is what another terminal shows."""

    command: str
    shown: tuple[str, ...]


def steps(page: str) -> Iterator[list[Step]]:
    """Of each indented block of this file; commands begin with `$ `, and go on behind `> `."""
    text = (ROOT / page).read_text("utf-8")
    for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.MULTILINE):
        if not block.strip():
            continue
        found: list[tuple[str, list[str]]] = []
        for line in block.strip("\n").splitlines():
            line = line.removeprefix("    ")
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.startswith("> ") and found:
                found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
            else:
                found = found or [("", [])]
                found[-1][1].append(line)
        yield [Step(command, tuple(shown)) for command, shown in found]


class Meanings:
    """What stands for what: a page's tickets, nodes and other words by those of this run."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self._words = dict(words)

    def of(self, text: str) -> str:
        """A command of the page as it is to be run."""
        for shown in sorted(self._words, key=len, reverse=True):
            text = re.sub(rf"\b{re.escape(shown)}\b", self._words[shown], text)
        return text

    @property
    def tickets(self) -> list[str]:
        """Those of this run."""
        return [meant for shown, meant in self._words.items() if TICKET.fullmatch(shown)]

    def learn(self, shown: str, meant: str) -> None:
        self._words[shown] = meant

    def match(self, shown: str, said: str) -> bool:
        """Whether a line is what the page shows; if so, what is new in it is learnt."""
        new: list[str] = []
        found = re.fullmatch(self._pattern(shown, new), said.rstrip())
        if found is None:
            return False
        for word, meant in zip(new, found.groups(), strict=True):
            self.learn(word, meant)
        return True

    def _pattern(self, line: str, new: list[str]) -> str:
        """`new` gets the words of the page that its groups, in order, give a meaning to."""
        is_measured = _MEASURED.search(line) is not None
        meant = {at for each in _MEANT.finditer(line) for at in range(*each.span())}
        parts, at = [], 0
        for piece in _PIECE.finditer(line):
            parts.append(re.escape(line[at : piece.start()]))
            at = piece.end()
            is_loose = is_measured and piece.start() not in meant
            match piece.lastgroup:
                case "ticket" if piece.group() in self._words:
                    parts.append(re.escape(self._words[piece.group()]))
                case "ticket":
                    new.append(piece.group())
                    parts.append(r"([A-Z0-9]{16})")
                case "where":
                    new.append(piece["where"])
                    parts.append(r"running on (n\d)")
                case "node":
                    parts.append(r"n\d")
                case "digest":
                    parts.append(r"[0-9a-f]{64}")
                case "number" if is_loose:
                    parts.append(r"(?:[\d.,:]+[smhd]?|-)")
                case "here" if is_loose:
                    parts.append(r"(?:yes|no|[\d.]+|-)")
                case "gap":
                    parts.append(".*")
                case "space":
                    parts.append(r"\s+")
                case _:
                    parts.append(re.escape(piece.group()))
        return "".join(parts) + re.escape(line[at:])

    def compare(self, shown: tuple[str, ...], said: str) -> str:
        """Empty, or the first line that did not come. A line `…` stands for any number of lines."""
        lines, at, may_skip = said.splitlines(), 0, False
        for line in shown:
            if line == "…":
                may_skip = True
                continue
            while at < len(lines) and not self.match(line.rstrip(), lines[at]):
                if not may_skip:
                    return line
                at += 1
            if at == len(lines):
                return line
            at, may_skip = at + 1, False
        return "" if may_skip or at == len(lines) else f"no more than that, but: {lines[at]}"


class Shell:
    """A bash that lives through a page: its variables, directory and background jobs are there for the next
    command. Ended with all that it started at the end of the block."""

    END = "--- that was all, exit code "

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        self._stdin, self._stdout = stdin, stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is not None:
            os.killpg(self._process.pid, 9)
        self._stdin.close()
        self._stdout.close()
        self._process.wait()

    def run(self, command: str) -> str:
        """What it writes to stdout and stderr."""
        self._stdin.write(f"{command}\necho '{self.END}'$?\n")
        self._stdin.flush()
        said = ""
        for line in self._stdout:
            said += line
            if self.END in line:
                break
        return said[: said.rindex(self.END)] if self.END in said else said


#: Commands that may be given again until what they say is what is waited for.
_QUESTIONS = ("evenly status", "evenly top", "evenly nodes", "evenly list", "evenly explain")


def play(step: Step, shell: Shell, meanings: Meanings) -> None:
    """Runs a command; fails where it prints something else than the page shows."""
    command = meanings.of(step.command)
    last = ""

    def is_as_shown() -> bool:
        nonlocal last
        said = shell.run(command)
        wrong = meanings.compare(step.shown, said)
        last = f"$ {command}\n{said}--- the page shows: {wrong}"
        return not wrong

    if not command.startswith(_QUESTIONS):
        assert is_as_shown(), last
        return
    try:
        eventually(is_as_shown)
    except pytest.fail.Exception:
        pytest.fail(last)


#: What a person types into nc, in the pages for beginners.
TYPED = re.compile(r"(run|wait) .*|\d+|exit|getall")


def converse(lines: Sequence[str], port: int, meanings: Meanings, aside: Callable[[str], None]) -> None:
    """A session of nc: what is typed there is sent, what is answered has to come. `aside` gets lines in
    parentheses, which say what happens meanwhile."""
    with Client(port) as client:
        for line in lines:
            if line.strip().startswith("("):
                aside(line)
            elif TYPED.fullmatch(line):
                if line == "getall":  # a person types slowly
                    with Client(port) as other:
                        other.send(*(f"wait {ticket}" for ticket in meanings.tickets))
                        other.lines(len(meanings.tickets))
                client.send(meanings.of(line))
            else:
                said = client.line()
                assert meanings.match(line, said), f"{said}\n--- the page shows: {line}"
        assert client.rest() == b""
