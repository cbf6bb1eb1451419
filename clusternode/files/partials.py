"""Partial results of tasks: values that a task hands out before its end, kept by its origin as they come.

One file a ticket, a line a value: `[attempt, number, value]`, in the order in which they came home.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from protocol.job import is_ticket
from protocol.limits import JSON_DEPTH_LIMIT, PARTIAL_LIMIT, PARTIALS_BYTES
from protocol.tasks import depth_of, is_no_json_or_deep
from runtime.blobs import sync_directory

#: Tickets whose last value is remembered; of others it is read again.
REMEMBERED = 1000


class TooMuch(Exception):
    """A task has handed out more than is kept."""


class Partials:
    """All calls block: for one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        #: By ticket, the last (attempt, number) that is kept: what comes again is known by that. Those to
        #: which one came last are at the end.
        self._last: dict[str, tuple[int, int]] = {}

    def keep(self, ticket: str, attempt: int, number: int, value: str) -> None:
        """A value, as JSON text; durable when it returns. `number` counts those of the attempt, from 0 on.

        Raises:
            TooMuch: if there is no room for it.
            OSError: if it cannot be kept.
        """
        path = self._path(ticket)
        last = self._last.get(ticket)
        if last is None:
            _cut_to_lines(path)
            kept = self.read(ticket)
            last = kept[-1][:2] if kept else (0, -1)
            self._remember(ticket, last)
        if (attempt, number) <= last:
            return
        if is_no_json_or_deep(value):
            raise TooMuch(f"a partial result is no JSON, or nested deeper than {JSON_DEPTH_LIMIT} levels")
        if len(value) > PARTIAL_LIMIT:
            raise TooMuch(f"a partial result is over {PARTIAL_LIMIT} characters")
        is_new = not path.exists()
        if is_new:
            self._directory.mkdir(mode=0o700, exist_ok=True)
        elif path.stat().st_size > PARTIALS_BYTES:
            raise TooMuch(f"the partial results of one task are over {PARTIALS_BYTES} bytes")
        # Where that fails half a line may be left: it is not remembered, but read and cut again.
        del self._last[ticket]
        with path.open("ab") as file:
            file.write(f"[{attempt},{number},{value}]\n".encode())
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_directory(self._directory)
        self._remember(ticket, (attempt, number))

    def read(self, ticket: str) -> list[tuple[int, int, Any]]:
        """(attempt, number, value) of all that is kept. Raises OSError."""
        try:
            lines = self._path(ticket).read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        values = []
        for line in lines[:-1]:
            try:
                attempt, number, value = json.loads(line)
                if depth_of(value) > JSON_DEPTH_LIMIT:
                    continue  # kept by an earlier version: no reply could hold it
                values.append((int(attempt), int(number), value))
            except (ValueError, TypeError, RecursionError):
                continue  # cut off by a crash, and sent again
        return values

    def _remember(self, ticket: str, last: tuple[int, int]) -> None:
        self._last.pop(ticket, None)
        self._last[ticket] = last
        if len(self._last) > REMEMBERED:
            del self._last[next(iter(self._last))]

    def _path(self, ticket: str) -> Path:
        assert is_ticket(ticket)
        return self._directory / f"{ticket}.jsonl"


def _cut_to_lines(path: Path) -> None:
    """A crash may have left half a line: what came after it would be lost with it. Raises OSError."""
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < path.stat().st_size:
            os.truncate(path, whole)
