"""How far it is: one line on a terminal's stderr, drawn again and again; nothing where nobody sees it."""

from __future__ import annotations

import os
import shutil
import sys
import time

#: Seconds between two drawings.
PERIOD = 0.1
#: Columns of the bar itself.
WIDTH = 30
CLEAR = "\r\x1b[2K"


class Bar:
    """As a context manager the line is gone after the block. `total`: None where it is not known yet."""

    def __init__(self, total: int | None, unit: str) -> None:
        self.total = total
        self.done = 0
        self.failed = 0
        self._unit = unit
        self._is_shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._next = self._began + PERIOD
        self._is_drawn = False

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def add(self, count: int = 1) -> None:
        self.done += count
        self.draw()

    def draw(self) -> None:
        if not self._is_shown or (now := time.monotonic()) < self._next:
            return
        self._next = now + PERIOD
        sys.stderr.write(CLEAR + self._line(now)[: shutil.get_terminal_size().columns - 1])
        sys.stderr.flush()
        self._is_drawn = True

    def clear(self) -> None:
        """Before something else is written there."""
        if self._is_drawn:
            self._is_drawn = False
            sys.stderr.write(CLEAR)
            sys.stderr.flush()

    def _line(self, now: float) -> str:
        rate = self.done / max(now - self._began, 1e-3)
        words = [
            f"{self.done} {self._unit}" if self.total is None else f"{self.done} of {self.total} {self._unit}"
        ]
        if self.failed:
            words.append(f"{self.failed} failed")
        words.append(f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
        if not self.total:
            return ", ".join(words)
        full = min(WIDTH, self.done * WIDTH // self.total)
        if rate and self.done < self.total:
            words.append(f"{(self.total - self.done) / rate:.0f} s left")
        return f"[{'#' * full}{'.' * (WIDTH - full)}] {', '.join(words)}"
