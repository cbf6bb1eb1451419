"""The dialogues in our documents, taken out, played against a real node, and compared.

A dialogue is an indented block that begins with `$ nc node 9000` (or another host), as a terminal shows it: a
line that was typed, then what came in reply, then the next line. `…` stands for anything: in a line, for any
lines between two others, in JSON for any value, and for more keys or items. A line in parentheses says what
happens meanwhile. Tickets are other ones each time, and the same ones within a dialogue; times, durations,
ages, nodes, process ids and digests are other ones, too.
"""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from support import PATIENCE, Client

START = re.compile(r"\$ nc \S+ 9000")
ANY = "…"
TICKET = r"(?<![A-Z0-9])[A-Z0-9]{16}(?![A-Z0-9])"
#: What differs each time, as it stands in a document, and what it may be: the longest first.
PATTERNS = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"),
    (r"\b[0-9a-f]{64}\b", r"[0-9a-f]{64}"),
    (r"\bin \d+\.\d{3} s\b", r"in \d+\.\d{3} s"),
    (r"\bprocess \d+\b", r"process \d+"),
    (r"\bn\d\b", r"n\d"),
    (r"\b\d+[smhd]\b", r"\d+[smhd]"),
    (re.escape(ANY), r".*"),
)
_TOKEN = re.compile("|".join(f"({found})" for found, _ in PATTERNS) + f"|({TICKET})")
#: Questions that may be asked again until they are answered so: what they are about takes its time.
ASKED_AGAIN = ("status", "result", "nodes", "list", "getall", "stats", "partial", "has", "fetch", "explain")
#: The first lines of replies that a line with a dot ends.
_BLOCK = re.compile(
    r"(Nodes|Stats|Jobs|Partial|Files|Tail|Explain): .*|Commands:|.*, \d+ lines of output up to .*:"
)


class Exchange(NamedTuple):
    """A line that was typed, and the replies that came, each as its lines."""

    typed: str
    replies: list[list[str]]


def blocks_of(text: str) -> Iterator[list[str]]:
    """The dialogues of a document, as their lines."""
    for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.M):
        lines = textwrap.dedent(block).strip("\n").split("\n")
        if START.fullmatch(lines[0]):
            yield lines[1:]


class Player:
    """Plays one dialogue on a connection of its own."""

    def __init__(self, client: Client, lines: list[str], directions: dict[str, Callable[[], None]]) -> None:
        """`directions`: what is done where a line in parentheses says so."""
        self._client = client
        self._left = list(lines)
        self._directions = directions
        #: By the tickets of the document, the real ones.
        self._tickets: dict[str, str] = {}
        self._as_json = False
        self.played: list[Exchange] = []

    def play(self) -> list[Exchange]:
        while self._left:
            line = self._left.pop(0)
            if line.lstrip().startswith("("):
                self._direct(line.strip())
            elif line.startswith(("Done: ", '{"done"')):
                self._left.insert(0, line)
                self._compare(line, [self._client.line()])
            else:
                self._exchange(line)
        return self.played

    def _direct(self, line: str) -> None:
        said = line.strip("()")
        assert said in self._directions, f"nobody knows what to do where it says {line}"
        self._directions[said]()

    def _exchange(self, typed: str) -> None:
        sent = re.sub(TICKET, lambda match: self._tickets.get(match[0], match[0]), typed)
        exchange = Exchange(sent, [])
        self.played.append(exchange)
        self._client.send(sent)
        if upload := re.fullmatch(r"upload (\d+) \w+", sent):
            self._send_bytes(int(upload[1]))
        word, *words = typed.split()
        if word in ASKED_AGAIN:
            exchange.replies.append(self._answer_in_time(sent))
            return
        for _ in range(max(1, len(words)) if word == "wait" else 1):
            reply = self._read(sent)
            self._compare(sent, reply)
            exchange.replies.append(reply)

    def _send_bytes(self, count: int) -> None:
        """The lines that follow in the document, as bytes."""
        while count > 0:
            line = self._left.pop(0)
            self._client.send(line)
            count -= len(line.encode()) + 1
        assert count == 0, "the document says another number of bytes"

    def _answer_in_time(self, sent: str) -> list[str]:
        expected, end = list(self._left), time.monotonic() + PATIENCE
        while True:
            reply = self._read(sent)
            try:
                self._compare(sent, reply)
            except pytest.fail.Exception:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
                self._left = list(expected)
                self._client.send(sent)
                continue
            return reply

    def _read(self, sent: str) -> list[str]:
        """One reply, as any client has to find its end."""
        lines = [self._client.line()]
        if self._as_json or lines[0] == '{"json":true}':
            self._as_json = True
            return lines
        if sent == "getall":
            while lines[-1]:
                lines.append(self._client.line())
        elif file := re.match(r"File: (\d+) ", lines[0]):
            count = int(file[1])
            while count > 0:
                lines.append(self._client.line())
                count -= len(lines[-1].encode()) + 1
        elif re.fullmatch(_BLOCK, lines[0]):
            while lines[-1] != ".":
                lines.append(self._client.line())
        return lines

    # --- comparing -------------------------------------------------------------------------------

    def _compare(self, sent: str, reply: list[str]) -> None:
        """Takes the lines off the document that tell of this reply."""
        if self._left and self._left[0].startswith("{") and reply[0].startswith("{"):
            self._compare_json(sent, reply[0])
            return
        at = 0
        while at < len(reply):
            if not self._left:
                pytest.fail(f"{sent!r}: the document ends before {reply[at]!r}")
            line = self._left.pop(0)
            if line.strip() == ANY:
                following = self._left[0]
                while at < len(reply) and not self._is_line(following, reply[at]):
                    at += 1
                continue
            if not self._is_line(line, reply[at]):
                pytest.fail(f"{sent!r} was answered\n{reply[at]}\nwhere the document says\n{line}")
            at += 1

    def _is_line(self, documented: str, said: str) -> bool:
        """Whether that is what the document says; tickets that it names for the first time are these."""
        names: list[str] = []
        pattern, end = "", 0
        for match in _TOKEN.finditer(documented):
            pattern += re.escape(documented[end : match.start()])
            end = match.end()
            name = match[0]
            if match.lastindex and match.lastindex <= len(PATTERNS):
                pattern += PATTERNS[match.lastindex - 1][1]
            elif name in self._tickets:
                pattern += self._tickets[name]
            elif name in names:
                pattern += rf"(?P=t{names.index(name)})"
            else:
                pattern += rf"(?P<t{len(names)}>{TICKET})"
                names.append(name)
        pattern += re.escape(documented[end:])
        found = re.fullmatch(re.sub(r"(\\ ){2,}", " {2,}", pattern), said)  # columns are as wide as they are
        if found is None:
            return False
        self._tickets.update((name, found[f"t{number}"]) for number, name in enumerate(names))
        return True

    def _compare_json(self, sent: str, said: str) -> None:
        text = self._left.pop(0)
        while text.count("{") > text.count("}") and self._left:
            text += " " + self._left.pop(0).strip()
        documented = json.loads(with_any_as_text(text))
        wrong = self._difference(documented, json.loads(said), "")
        if wrong:
            pytest.fail(f"{sent!r} was answered\n{said}\nwhere the document says\n{text}\n{wrong}")

    def _difference(self, documented: Any, said: Any, key: str) -> str:
        """In words; empty where there is none."""
        if documented == ANY or (key.endswith("_at") and isinstance(documented, float)):
            is_right = documented == ANY or isinstance(said, float | int)
            return "" if is_right else f"{key} is {said!r}, no time"
        if isinstance(documented, str) and isinstance(said, str):
            return "" if self._is_line(documented, said) else f"{key} is {said!r}, not {documented!r}"
        if isinstance(documented, dict) and isinstance(said, dict):
            shown = documented.keys() - {ANY}
            if not shown <= said.keys() or (ANY not in documented and shown != said.keys()):
                return f"{key} has the keys {sorted(said)}, not {sorted(documented)}"
            parts = (
                self._difference(documented[name], said[name], name) for name in documented if name in shown
            )
            return next(filter(None, parts), "")
        if isinstance(documented, list) and isinstance(said, list):
            is_open = documented[-1:] == [ANY]
            items = documented[:-1] if is_open else documented
            if len(said) < len(items) or not (is_open or len(said) == len(items)):
                return f"{key} has {len(said)} items, not {len(documented)}"
            pairs = zip(items, said, strict=False)
            return next(filter(None, (self._difference(*pair, key) for pair in pairs)), "")
        is_same = documented == said and type(documented) is type(said)
        return "" if is_same else f"{key} is {said!r}, not {documented!r}"


def with_any_as_text(text: str) -> str:
    """JSON with `…` outside of texts, made JSON: a key and a value, or a value."""
    made, inside, before = "", "", ""
    for part in re.findall(r'"(?:[^"\\]|\\.)*"|.', text):
        if part == ANY:
            part = f'"{ANY}"' if before == ":" or inside[-1:] == "[" else f'"{ANY}": "{ANY}"'
        elif part in "{[":
            inside += part
        elif part in "}]":
            inside = inside[:-1]
        if not part.isspace():
            before = part
        made += part
    return made
