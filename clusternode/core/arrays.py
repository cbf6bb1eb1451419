"""Arrays: many jobs that were submitted as one (`--array N`), and what has come of them.

An array has a ticket and a place in the store of its own, and its jobs have the N places behind it. Its
jobs are jobs like any other; the array itself is never handed in, and ends with the last of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from protocol.job import Ended, Outcome, Report
from protocol.replies import ArrayView, counted


class Array:
    """`open`: the tickets of its jobs that have not ended; the others are only counted."""

    __slots__ = ("counts", "open", "size", "ticket", "why")

    def __init__(self, ticket: str, size: int) -> None:
        self.ticket = ticket
        self.size = size
        self.open: dict[str, None] = {}
        self.counts: Counter[str] = Counter()
        #: Why none of its jobs was started.
        self.why = ""

    def add(self, tickets: Iterable[str]) -> None:
        self.open.update(dict.fromkeys(tickets))

    def recall(self, counts: Mapping[str, int]) -> None:
        """After a restart: how those of its jobs ended that are not open."""
        self.counts.update(counts)

    def end(self, ticket: str, outcome: str) -> bool:
        """One of its jobs ended so. Whether it was the last."""
        del self.open[ticket]
        self.counts[outcome] += 1
        return not self.open

    def ended(self, cancelled: bool, now: float) -> Ended:
        """How it ends when all its jobs have; `cancelled`: that was asked of the array itself."""
        if self.counts[Outcome.SUCCEEDED] == self.size:
            outcome = Outcome.SUCCEEDED
        elif cancelled and self.counts[Outcome.CANCELLED]:
            outcome = Outcome.CANCELLED
        else:
            outcome = Outcome.FAILED
        reason = f"{self.size} jobs: {counted(self.counts)}"
        reason = f"{self.why}; {reason}" if self.why else reason
        return Ended(self.ticket, 0, outcome, Report(finished_at=now, reason=reason).pack())

    def view(self) -> ArrayView:
        return ArrayView(self.size, dict(self.counts))
