"""Results of attempts that ended here, until the load balancer has them: at hand first, later in the store.

They are sent promptly. Only SendKept waits for a commit: its results must be in the store first.
"""

from __future__ import annotations

from collections.abc import Iterable

from clusternode.core.events import Kept, Outcome, Released, Send, SendKept
from protocol.delivery import Delivery
from protocol.job import Ended
from protocol.limits import KIB
from protocol.messages import RequestOfRes, ResReq, Result, in_batches, result_size

#: While more jobs wait here, results gather for so long before they are sent: a message and a commit at
#: the load balancer for each would cost more than the jobs. The last ones never wait.
GATHER = 0.03
GATHER_MOST = 64
#: One of so many bytes waits for no other: what it costs to send is its own.
GATHER_BYTES = 64 * KIB
#: A result that the load balancer has not acknowledged after this long goes to our own disk.
KEEP_AFTER = 0.5


class Outbox:
    """At most one result a ticket."""

    def __init__(self, kept: Iterable[tuple[str, int, int]]) -> None:
        """`kept`: (ticket, attempt, size) of the results that the store kept."""
        #: Attempts by ticket whose result the load balancer has not acknowledged.
        self.attempts: dict[str, int] = {}
        self._delivery = Delivery()
        #: Results at hand; the others are in the store.
        self._results: dict[str, Ended] = {}
        self._stored: set[str] = set()
        #: When to keep which, in order.
        self._to_keep: dict[str, float] = {}
        self._gathering_since: float | None = None
        self._gathered = 0
        for ticket, attempt, size in kept:
            self.attempts[ticket] = attempt
            self._stored.add(ticket)
            self._delivery.add(ticket, size)

    def __len__(self) -> int:
        return len(self.attempts)

    def __contains__(self, ticket: str) -> bool:
        return ticket in self.attempts

    def add(self, ended: Ended, now: float) -> None:
        ticket, size = ended.ticket, len(ended.body)
        self.attempts[ticket] = ended.attempt
        self._results[ticket] = ended
        self._delivery.add(ticket, size)
        self._to_keep[ticket] = now + KEEP_AFTER
        if self._gathering_since is None:
            self._gathering_since, self._gathered = now, 0
        self._gathered += 1 if size < GATHER_BYTES else GATHER_MOST

    def hurry(self) -> None:
        """What has gathered is sent now: a job starts that was lost before. Should it take this node along
        again, those that have ended must not be blamed for it."""
        self._gathered = GATHER_MOST

    def release(self, ticket: str, out: Outcome) -> None:
        """The load balancer has it, or nobody wants it."""
        del self.attempts[ticket]
        self._delivery.acknowledge(ticket)
        self._results.pop(ticket, None)
        self._to_keep.pop(ticket, None)
        if ticket in self._stored:
            self._stored.discard(ticket)
            out.records.append(Released(ticket))

    def link_up(self) -> None:
        """The load balancer knows us anew: it is owed all of them."""
        self._delivery.reset()

    def send_due(self, now: float, more_wait: bool, out: Outcome) -> None:
        """Sends what is owed, as far as the window allows; `more_wait`: there are more jobs to do here."""
        since = self._gathering_since
        if since is None or not more_wait or self._gathered >= GATHER_MOST or now >= since + GATHER:
            self._gathering_since = None
            self._send(self._delivery.take(now), (), out)

    def exchange(self, before: float, tickets: list[str], now: float, out: Outcome) -> None:
        """The periodic REQUEST_OF_RES / RESULT / RES_REQ: overdue results again, and `tickets` asked for."""
        self._send(self._delivery.overdue(before, now), tickets, out)

    def keep_due(self, now: float, connected: bool, out: Outcome) -> None:
        """What was not acknowledged in time, or cannot be now, goes to the store and out of memory."""
        due = []
        for ticket, at in self._to_keep.items():
            if at > now and connected:
                break
            due.append(ticket)
        for ticket in due:
            del self._to_keep[ticket]
            out.records.append(Kept(self._results.pop(ticket)))
            self._stored.add(ticket)

    def next_deadline(self, connected: bool) -> float | None:
        deadlines = [next(iter(self._to_keep.values()))] if self._to_keep else []
        if self._gathering_since is not None and connected:
            deadlines.append(self._gathering_since + GATHER)
        return min(deadlines, default=None)

    def _send(self, tickets: list[str], asking: list[str] | tuple[()], out: Outcome) -> None:
        at_hand = [self._results[ticket] for ticket in tickets if ticket in self._results]
        stored = [ticket for ticket in tickets if ticket not in self._results]
        batches = list(in_batches(at_hand, result_size))
        if asking and not stored and batches:
            out.prompt.append(Send(ResReq(batches.pop(), asking)))
            asking = ()
        out.prompt.extend(Send(Result(batch)) for batch in batches)
        if stored:
            out.actions.append(SendKept(stored, asking))
        elif asking:
            out.prompt.append(Send(RequestOfRes(asking)))
