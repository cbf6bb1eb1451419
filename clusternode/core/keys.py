"""Submissions with a key: the same key gives the same ticket, on whichever node.

A job with a key gets its ticket and its place in the store like any other. Then it waits: the load balancer
is asked whose the key is, and when it has said so the ticket is shown and the job handed in. Where the key is
another job's, that one's ticket is shown, and what was stored is taken back. So whoever is told of a ticket
is told of one that is on its node's disk, whatever crashes.

Where the load balancer is away the ticket is shown at once, and the key claimed when it is back. To claim a
key again for the same ticket changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from clusternode.core.events import Answer, KeyFreed, Outcome, Send
from clusternode.core.openjob import Asking, OpenJob
from protocol.job import Ended, Report
from protocol.job import Outcome as JobOutcome
from protocol.limits import BATCH_ITEMS
from protocol.relay import Claim, Claimed, Claiming, Owner
from protocol.replies import TicketIssued

if TYPE_CHECKING:
    from clusternode.core.origin import Origin


#: CLAIMs without an answer: after a restart a node may have a million keys to claim, and a link takes no more
#: than 64 MiB at once.
CLAIMS_AT_ONCE = 50


@dataclass(slots=True)
class Unclaimed:
    """A ticket whose key is still to be claimed. `shown`: some client knows it already, or may."""

    key: str
    shown: bool = False
    #: What is answered when the load balancer has said whose the key is.
    lines: list[Asking] = field(default_factory=list)


class Keys:
    """Of a key either one submission is on its way to the store and back, or it is an open job's, or of no
    concern here: then the store knows, or nobody.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        #: The tickets of open jobs, by key.
        self.open: dict[str, str] = {}
        #: By ticket, open or not: none of these is handed in.
        self.unclaimed: dict[str, Unclaimed] = {}
        #: By key whose first submission is on its way: those that came after it.
        self._behind: dict[str, list[Asking]] = {}
        self._to_claim: dict[str, str] = {}
        self._claiming: dict[int, list[str]] = {}
        self._next_claim = 1

    def restore(self, key: str, ticket: str) -> None:
        """It is open at the start, and nobody knows whether its key was claimed."""
        self.open[key] = ticket
        self.unclaimed[ticket] = Unclaimed(key, shown=True)

    def is_first(self, key: str, asking: Asking, connected: bool, out: Outcome) -> bool:
        """Whether this submission is the first of its key as far as memory goes; it is to be settled then.

        Where it is not, it is answered as the first is, now or later.
        """
        ticket = self.open.get(key)
        if ticket is not None:
            self._answer(ticket, [asking], connected, out)
        elif key in self._behind:
            self._behind[key].append(asking)
        else:
            self._behind[key] = []
            return True
        return False

    def settle(self, key: str) -> list[Asking]:
        """The first submission has come back: those that came after it."""
        return self._behind.pop(key, [])

    def issue(self, key: str, ticket: str, lines: list[Asking], connected: bool, out: Outcome) -> None:
        """A ticket was made for this key, or the store has it: it is to be claimed, and shown."""
        if ticket not in self.unclaimed and (connected or self.open.get(key) == ticket):
            self.unclaimed[ticket] = Unclaimed(key)
            self._to_claim[ticket] = key
        self._answer(ticket, lines, connected, out)

    def _answer(self, ticket: str, lines: list[Asking], connected: bool, out: Outcome) -> None:
        """With this ticket, or when its key is claimed; not later than that can be expected."""
        unclaimed = self.unclaimed.get(ticket)
        if unclaimed is not None and connected:
            unclaimed.lines += lines
            return
        if unclaimed is not None:
            unclaimed.shown = True
        _answer(lines, TicketIssued(ticket), out)

    def ask_again(self, key: str, ticket: str) -> None:
        """The load balancer has lost the job, and may have lost its key with it."""
        self.unclaimed.setdefault(ticket, Unclaimed(key)).shown = True
        self._to_claim[ticket] = key

    def end(self, key: str, ticket: str) -> None:
        """The job is not open any more. Whoever waits for its claim still does."""
        if self.open.get(key) == ticket:
            del self.open[key]

    def link_up(self) -> None:
        """Nothing was claimed on this link."""
        self._to_claim = {ticket: unclaimed.key for ticket, unclaimed in self.unclaimed.items()}

    def link_down(self, out: Outcome) -> None:
        """What was asked is not answered any more: clients get their tickets as they are."""
        self._claiming, self._to_claim = {}, {}
        for ticket, unclaimed in list(self.unclaimed.items()):
            lines, unclaimed.lines = unclaimed.lines, []
            self._answer(ticket, lines, False, out)
            if ticket != self.open.get(unclaimed.key):
                del self.unclaimed[ticket]  # it is done

    def forward(self, out: Outcome) -> None:
        """Claims what was not yet claimed on this link, as much as may be under way."""
        while self._to_claim and len(self._claiming) < CLAIMS_AT_ONCE:
            batch = [Claiming(key, ticket) for ticket, key in islice(self._to_claim.items(), BATCH_ITEMS)]
            for _, ticket in batch:
                del self._to_claim[ticket]
            number, self._next_claim = self._next_claim, self._next_claim + 1
            self._claiming[number] = [ticket for _, ticket in batch]
            out.actions.append(Send(Claim(number, batch)))

    def claimed(self, message: Claimed, now: float, out: Outcome) -> bool:
        """Jobs whose key is theirs are handed in. False where nothing like it was asked."""
        tickets = self._claiming.pop(message.number, [])
        if len(tickets) != len(message.owners):
            return False
        origin = self._origin
        for ticket, owner in zip(tickets, message.owners, strict=True):
            unclaimed = self.unclaimed.pop(ticket, None)
            if unclaimed is None:
                continue  # asked twice
            node = "" if owner.node == origin.own_fields.get("name") else owner.node
            _answer(unclaimed.lines, TicketIssued(owner.ticket, node), out)
            if owner.ticket != ticket:
                out.records.append(KeyFreed(unclaimed.key, ticket))
            job = origin.open.get(ticket)
            if job is None:
                continue  # it has ended
            if owner.ticket != ticket:
                self._refuse(ticket, job, owner, unclaimed.shown, now, out)
            elif ticket not in origin.after:
                origin.hand_in(ticket)
        return True

    def _refuse(self, ticket: str, job: OpenJob, owner: Owner, shown: bool, now: float, out: Outcome) -> None:
        """Its key is another job's. Nobody need know of this one, unless somebody does."""
        origin, array = self._origin, job.array
        single = [ticket] if array is None else list(array.open)
        known = shown or (array is not None and len(array.open) < array.size)
        if not (known or any(map(self._is_known, (ticket, *single)))):
            origin.withdraw(ticket, single, out)
            return
        why = f"not started: its key was submitted before, as {owner.ticket} of {owner.node}"
        job.cancelled = True
        if array is not None:
            array.why = why
        origin.end([_refused(each, why, now) for each in single], now, out)

    def _is_known(self, ticket: str) -> bool:
        """Some client has learned it, as from a list of all."""
        job = self._origin.open[ticket]
        return bool(job.waiters or job.cancelled or ticket in self._origin.after.awaited())


def _refused(ticket: str, why: str, now: float) -> Ended:
    """How a job ends that was submitted before, under another ticket."""
    return Ended(ticket, 0, JobOutcome.CANCELLED, Report(finished_at=now, reason=why).pack())


def _answer(lines: Sequence[Asking], reply: TicketIssued, out: Outcome) -> None:
    out.actions.extend(Answer(client, line.seq, reply) for line, client in lines)
