"""Cuts a client's byte stream into lines, with a bound on each."""

from __future__ import annotations

import re

from protocol.limits import LINE_LIMIT

_UPLOAD = b"upload "
#: At the beginning of a line, with something behind it or alone.
_UPLOAD_LINE = re.compile(rb"\nupload[ \t\r\n]", re.IGNORECASE)


class LineDecoder:
    """Lines without their end (`\\n` or `\\r\\n`); None stands for a line over the limit, which is skipped.

    Keeps at most one line of `limit` bytes, whatever is fed.
    """

    __slots__ = ("_partial", "_skipping", "limit")

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self.limit = limit
        self._partial = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that `data` completes, in order."""
        *complete, rest = data.split(b"\n")
        lines: list[bytes | None] = []
        if complete:
            first = self._partial + complete[0]
            lines = [self._bounded(line) for line in complete]
            lines[0] = None if self._skipping else self._bounded(first)
            self._partial, self._skipping = b"", False
        if not self._skipping:
            self._partial += rest
            # One byte over is allowed here: it may be the \r of a line of exactly the limit.
            if len(self._partial) > self.limit + 1:
                self._partial, self._skipping = b"", True
        return lines

    def feed_to_upload(self, data: bytes) -> tuple[list[bytes | None], bytes | None]:
        """The same up to an `upload` line; and what follows that, which is no line. None: there is none."""
        lines: list[bytes | None] = []
        # Cheaper than a look at each line, and almost never so.
        while b"upload" in (self._partial[: len(_UPLOAD)] + data).lower():
            # What came before, as far as it tells; what follows in `data` is then of the same line.
            head = b"" if self._skipping else b"\n" + self._partial[: len(_UPLOAD)]
            match = _UPLOAD_LINE.search(head + data)
            end = -1 if match is None else data.find(b"\n", max(0, match.end() - 1 - len(head)))
            if end < 0:
                break
            lines += self.feed(data[: end + 1])
            data = data[end + 1 :]
            if lines[-1] is not None:
                return lines, data
        return lines + self.feed(data), None

    def end(self) -> list[bytes | None]:
        """The unterminated last line, if there is one."""
        partial, skipping = self._partial, self._skipping
        self._partial, self._skipping = b"", False
        if skipping:
            return [None]
        return [self._bounded(partial)] if partial else []

    def _bounded(self, line: bytes) -> bytes | None:
        if line.endswith(b"\r"):
            line = line[:-1]
        return line if len(line) <= self.limit else None
