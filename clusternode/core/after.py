"""Which open jobs wait for the success of which others (`--after`): tickets and edges, each seen once.

What is ready is handed in, and what must not start is ended, by the origin.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.job import Ended, Outcome, Report

#: How a job ended that others came after, in the words of their reason.
_HOW = {
    Outcome.FAILED: "failed",
    Outcome.TIMED_OUT: "timed out",
    Outcome.CANCELLED: "was cancelled",
    Outcome.LOST: "was lost",
}


class After:
    """Both ways of the same edges: a job that ends costs as much as it has followers."""

    def __init__(self) -> None:
        #: By dependant, what it still waits for; by dependency, who waits. In the order in which they came.
        self._awaited: dict[str, dict[str, None]] = {}
        self._followers: dict[str, dict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._awaited)

    def __contains__(self, ticket: str) -> bool:
        """Whether it waits for others."""
        return ticket in self._awaited

    def awaited_by(self, ticket: str) -> tuple[str, ...]:
        return tuple(self._awaited.get(ticket, ()))

    def awaited(self) -> Iterable[str]:
        """All that others wait for."""
        return self._followers.keys()

    def add(self, ticket: str, awaited: Iterable[str]) -> None:
        """`ticket` waits for these, at least one."""
        self._awaited[ticket] = dict.fromkeys(awaited)
        for each in self._awaited[ticket]:
            self._followers.setdefault(each, {})[ticket] = None

    def succeeded(self, ticket: str) -> list[str]:
        """It has: those that wait for nothing any more."""
        ready = []
        for follower in self._followers.pop(ticket, ()):
            awaited = self._awaited[follower]
            del awaited[ticket]
            if not awaited:
                del self._awaited[follower]
                ready.append(follower)
        return ready

    def failed(self, ticket: str) -> list[str]:
        """It did not succeed: those that will not start, and wait for nothing any more."""
        followers = list(self._followers.get(ticket, ()))
        for follower in followers:
            self.leave(follower)
        return followers

    def leave(self, ticket: str) -> None:
        """It waits no longer, whatever becomes of it."""
        for each in self._awaited.pop(ticket, ()):
            followers = self._followers[each]
            del followers[ticket]
            if not followers:
                del self._followers[each]


def reason_after(awaited: str, outcome: str | None) -> str:
    """Why a job was not started that comes after one that ended so; None where nothing is known of that."""
    how = "is not known here" if outcome is None else _HOW[Outcome(outcome)]
    return f"not started: it comes after {awaited}, which {how}"


def not_started(ticket: str, why: str, now: float) -> Ended:
    return Ended(ticket, 0, Outcome.FAILED, Report(finished_at=now, reason=why).pack())


def never_started(ticket: str, now: float) -> Ended:
    """How a job ends that is cancelled while it waits."""
    report = Report(finished_at=now, reason="before it started")
    return Ended(ticket, 0, Outcome.CANCELLED, report.pack())
