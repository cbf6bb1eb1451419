"""How far a run is: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TextIO

from evenly.workload.books import Books
from evenly.workload.report import seconds

if TYPE_CHECKING:
    from rich.progress import Progress

#: Seconds between two lines where nobody can see a line redrawn; between two looks at a bar.
LINE_PERIOD, BAR_PERIOD = 5.0, 0.2
#: Seconds of the past that the rate is taken from.
RATE_PERIOD = 15.0


class Rate:
    """How many a second there were lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, count: int) -> None:
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - RATE_PERIOD:
            self._seen.popleft()

    @property
    def value(self) -> float:
        if len(self._seen) < 2:
            return 0.0
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began else 0.0


class View:
    """`update` may be called often. As a context manager a bar is gone after the block.

    `follows`: whether the ends of jobs are what is counted, or the submissions alone. `span`: seconds that
    submitting takes at least, as the workload has it.
    """

    def __init__(self, stream: TextIO | None = None, *, follows: bool = True, span: float = 0.0) -> None:
        self._stream = stream or sys.stderr
        self._follows = follows
        self._rate = Rate()
        self._began = time.monotonic()
        self._span = span
        self._next = 0.0
        self._bar: Progress | None = None
        self._task: Any = None
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._start_bar()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, line: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._stream, flush=True)

    def update(self, books: Books, is_last: bool = False) -> None:
        now = time.monotonic()
        if now < self._next and not is_last:
            return
        count = books.ended if self._follows else books.submitted
        self._rate.add(now, count)
        if self._bar is not None:
            self._next = now + BAR_PERIOD
            self._bar.update(
                self._task, total=books.jobs, completed=count, said=self._said(books, count, now)
            )
        elif is_last or now >= self._began + LINE_PERIOD:
            self._next = now + LINE_PERIOD
            self.tell(f"{count} of {books.jobs} {self._what}, {self._said(books, count, now)}")

    @property
    def _what(self) -> str:
        return "done" if self._follows else "submitted"

    def _said(self, books: Books, count: int, now: float) -> str:
        words = []
        if self._follows:
            words.append(f"{books.submitted} submitted")
        if books.failed:
            words.append(f"{books.failed} failed")
        rate = self._rate.value
        words.append(f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
        scheduled = self._began + self._span - now
        if count < books.jobs and (rate or scheduled > 0):
            left = max((books.jobs - count) / rate if rate else 0.0, scheduled)
            words.append(f"{seconds(max(1, round(left))) if left > 1 else '1 s'} left")
        return ", ".join(words)

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[said]}"),
            console=Console(file=self._stream),
            expand=True,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, said="")
        self._bar.start()
