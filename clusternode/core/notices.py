"""Notices (`--notify`): which receiver is told next, and when it is told again.

A notice is pending from the outcome of its job, in the same commit, until its receiver has taken it, says
that it is gone, or a day has passed. A receiver may hang: as long as its last try failed, or there was none
yet, it has one place, and all receivers like that have half of the places together, in which those that are
new and those that failed take turns. So whoever took the last one waits for nobody who hangs.
"""

from __future__ import annotations

import enum
import heapq
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from clusternode.core.events import Log, Noticed, NoticeOver, Outcome, Post, Posted
from protocol.limits import (
    NOTICE_RETRY_FIRST,
    NOTICE_RETRY_MOST,
    NOTICE_RETRY_PERIOD,
    NOTICES_AT_ONCE,
    NOTICES_PER_RECEIVER,
    RECEIVERS_KNOWN,
)

#: Places of the receivers that did not take the last one.
DOUBTFUL_AT_ONCE = NOTICES_AT_ONCE // 2
#: The one status beside 2xx that ends the trying.
GONE = 410


class StoredNotice(NamedTuple):
    """A pending notice as the store gives it back. `since`: when its job ended; `due`: of the next try."""

    seq: int
    url: str
    since: float
    tries: int
    due: float


class _Standing(enum.Enum):
    """Whether a receiver took the last notice that it was given."""

    NEW = 0
    GOOD = 1
    BAD = 2


class _Receiver:
    """`queue`: what is due and waits for a place."""

    __slots__ = ("name", "pending", "queue", "standing", "under_way")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[int] = deque()
        self.pending = 0
        self.under_way = 0
        self.standing = _Standing.NEW

    @property
    def is_good(self) -> bool:
        return self.standing is _Standing.GOOD

    @property
    def may_be_told(self) -> bool:
        return bool(self.queue) and self.under_way < (NOTICES_PER_RECEIVER if self.is_good else 1)


class _Notice:
    __slots__ = ("receiver", "since", "tries")

    def __init__(self, receiver: _Receiver, since: float, tries: int) -> None:
        self.receiver = receiver
        self.since = since
        self.tries = tries


class Notices:
    def __init__(self) -> None:
        self._pending: dict[int, _Notice] = {}
        self._receivers: dict[str, _Receiver] = {}
        #: Those that have nothing to be told and are remembered as good, the least recent first.
        self._idle: dict[str, None] = {}
        #: (due, seq) of those that wait for their time.
        self._later: list[tuple[float, int]] = []
        #: Receivers that may be told something now, in turn.
        self._turns: dict[_Standing, dict[str, _Receiver]] = {standing: {} for standing in _Standing}
        self._told_last = _Standing.BAD
        #: What is being sent: whether its receiver was good then.
        self._under_way: dict[int, bool] = {}
        self._doubtful = 0

    def __len__(self) -> int:
        return len(self._pending)

    def restore(self, stored: Iterable[StoredNotice], now: float) -> None:
        """At the start. The clock may have been set since: none is held back for longer than ever."""
        for seq, url, since, tries, due in stored:
            self._put(seq, url, min(since, now), tries, min(due, now + NOTICE_RETRY_MOST))

    def add(self, seq: int, url: str, now: float, out: Outcome) -> None:
        """The job with this place in the store has ended."""
        out.records.append(Noticed(seq, now, 0, now))
        self._put(seq, url, now, 0, now)

    def posted(self, posted: Posted, now: float, out: Outcome) -> None:
        """What came of a try."""
        notice = self._pending[posted.seq]
        receiver = notice.receiver
        receiver.under_way -= 1
        self._doubtful -= not self._under_way.pop(posted.seq)
        self._turns[receiver.standing].pop(receiver.name, None)
        is_taken = posted.status is not None and 200 <= posted.status < 300
        receiver.standing = _Standing.GOOD if is_taken else _Standing.BAD
        notice.tries += 1
        due = now + min(NOTICE_RETRY_MOST, NOTICE_RETRY_FIRST * 2.0 ** min(notice.tries - 1, 30))
        is_late = due > notice.since + NOTICE_RETRY_PERIOD
        if is_taken or posted.status == GONE or posted.is_hopeless or is_late:
            if not is_taken:
                why = f"{posted.why}, {notice.tries} tries" if notice.tries > 1 else posted.why
                text = f"the notice of {posted.ticket} to {receiver.name} is given up: {why}"
                out.actions.append(Log(text, warning=True))
            self._end(posted.seq, out)
        else:
            out.records.append(Noticed(posted.seq, notice.since, notice.tries, due))
            heapq.heappush(self._later, (due, posted.seq))
        self._queue(receiver)

    def send(self, now: float, out: Outcome) -> None:
        """What is due and has a place, from one receiver after the other."""
        while self._later and self._later[0][0] <= now:
            _, seq = heapq.heappop(self._later)
            receiver = self._pending[seq].receiver
            receiver.queue.append(seq)
            self._queue(receiver)
        while (turns := self._next_turns()) is not None:
            receiver = turns.pop(next(iter(turns)))
            seq = receiver.queue.popleft()
            receiver.under_way += 1
            self._under_way[seq] = receiver.is_good
            self._doubtful += not receiver.is_good
            out.actions.append(Post(seq))
            self._queue(receiver)

    def next_deadline(self) -> float | None:
        return self._later[0][0] if self._later else None

    # --- inside ----------------------------------------------------------------------------------

    def _put(self, seq: int, url: str, since: float, tries: int, due: float) -> None:
        name = receiver_of(url)
        receiver = self._receivers.get(name)
        if receiver is None:
            receiver = self._receivers[name] = _Receiver(name)
        self._idle.pop(name, None)
        receiver.pending += 1
        self._pending[seq] = _Notice(receiver, since, tries)
        heapq.heappush(self._later, (due, seq))

    def _end(self, seq: int, out: Outcome) -> None:
        receiver = self._pending.pop(seq).receiver
        out.records.append(NoticeOver(seq))
        receiver.pending -= 1
        if receiver.pending:
            return
        if not receiver.is_good:
            del self._receivers[receiver.name]
            return
        self._idle[receiver.name] = None
        if len(self._idle) > RECEIVERS_KNOWN:
            oldest = next(iter(self._idle))
            del self._idle[oldest], self._receivers[oldest]

    def _queue(self, receiver: _Receiver) -> None:
        """It gets its turn, behind those that have waited longer, if it may be told something."""
        if receiver.may_be_told:
            self._turns[receiver.standing].setdefault(receiver.name, receiver)

    def _next_turns(self) -> dict[str, _Receiver] | None:
        """Of whom the next one is told: the doubtful first, as they have few places."""
        if len(self._under_way) >= NOTICES_AT_ONCE:
            return None
        if self._doubtful < DOUBTFUL_AT_ONCE:
            new, bad = self._turns[_Standing.NEW], self._turns[_Standing.BAD]
            if new and not (bad and self._told_last is _Standing.NEW):
                self._told_last = _Standing.NEW
                return new
            if bad:
                self._told_last = _Standing.BAD
                return bad
        return self._turns[_Standing.GOOD] or None


def receiver_of(url: str) -> str:
    """Who gets what is sent there: `https://host:port`."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
