"""Brings results home: on through to their origin where it is there, from the store where it was not."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from loadbalancer.core.events import Deliver, Send, Stored
from loadbalancer.core.jobs import Job, State
from loadbalancer.core.ledger import Ledger, Passing
from loadbalancer.core.nodes import Node
from protocol.explain import Story, Tried
from protocol.job import Ended
from protocol.messages import AckResults, Drop, Held, Result, in_batches, result_size


class Courier:
    """What it sends gathers until `collect`: one message for each receiver, however many results came.

    A result that comes while its origin is connected is sent on at once and recorded by the origin alone. Its
    executor, which keeps it, is told to forget it only after the origin has acknowledged and the job is
    forgotten here. Where the origin is away, or slow, it is recorded here first.
    """

    def __init__(self, ledger: Ledger, act: Callable[[Send | Deliver], None]) -> None:
        """`act` takes what is to be done after the step's records are on disk."""
        self._ledger = ledger
        self._act = act
        #: By link: results that their executor may forget.
        self._acked: dict[int, list[Held]] = {}

    def finish(self, job: Job, ended: Ended) -> None:
        """The job has ended so."""
        if not self._ledger.pass_on(job, ended):
            self._ledger.finish(job, ended)

    def received(self, executor: Node, ended: Ended) -> None:
        """A result came, used or stale. What only passes through, its executor is to keep for now."""
        if not self._ledger.is_passing(executor, ended):
            self._may_forget(executor, ended)

    def came_home(self, origin: Node, results: Iterable[Held]) -> None:
        """The origin has these on its disk."""
        for ticket, _ in results:
            asked = self._ledger.asked.get(ticket)
            if asked is not None and asked.origin == origin.node_id:
                self._withdraw(asked)
                continue
            self._ledger.forget(origin, ticket)

    def _withdraw(self, job: Job) -> None:
        """It had ended before this balancer started, and perhaps runs again."""
        executor = self._ledger.nodes[job.node] if job.node is not None else None
        if executor is not None and executor.link is not None:
            self._act(Send(executor.link, Drop([Held(job.ticket, job.attempt)])))
        self._ledger.withdraw(job)

    def link_ended(self, node: Node, link: int) -> None:
        """Nothing more goes this way, and what passed on it may never have come home."""
        self._acked.pop(link, None)
        for job in node.undelivered.values():
            if job.state is State.PASSING:
                self._record(job)

    def overdue(self, origin: Node, before: float, now: float) -> list[Stored]:
        """Sent before that time and not acknowledged: to be sent again, from the store."""
        tickets = origin.owed.overdue(before, now)
        for ticket in tickets:
            if ticket in self._ledger.passing:
                self._record(origin.undelivered[ticket])
        return _stored(origin, tickets)

    def collect(self, now: float) -> list[Send]:
        """Hands over recorded results that are owed; returns what need not wait for the step's records.

        A result that passes through need not: that its job was dispatched is on disk, or it had not ended.
        """
        prompt: list[Send] = []
        for node in self._ledger.owing.values():
            self._deliver(node, now, prompt)
        return prompt

    def acknowledge(self, released: Iterable[Passing]) -> None:
        """Tells executors what they need not keep once the step's records are on disk."""
        for passing in released:
            self._may_forget(self._ledger.nodes[passing.executor], passing.ended)
        for link, acked in self._acked.items():
            for batch in in_batches(acked):
                self._act(Send(link, AckResults(batch)))
        self._acked = {}

    def _record(self, job: Job) -> None:
        passing = self._ledger.record(job)
        self._may_forget(self._ledger.nodes[passing.executor], passing.ended)

    def _may_forget(self, executor: Node, ended: Ended) -> None:
        if executor.link is not None:
            self._acked.setdefault(executor.link, []).append(Held(ended.ticket, ended.attempt))

    def _deliver(self, node: Node, now: float, prompt: list[Send]) -> None:
        """Sends what the node is owed, as far as its window allows."""
        link = node.link
        if link is None:
            return
        tickets = node.owed.take(now)
        fresh, passing = self._ledger.fresh, self._ledger.passing
        told = [Story(t, story) for t in tickets if (story := node.undelivered[t].story) is not None]
        if told:  # before the results themselves: after these the job is forgotten
            prompt += [Send(link, Tried(some)) for some in in_batches(t for t in told if t.ticket in passing)]
            for some in in_batches(t for t in told if t.ticket not in passing):
                self._act(Send(link, Tried(some)))
        passed = [passing[ticket].ended for ticket in tickets if ticket in passing]
        prompt += [Send(link, Result(batch)) for batch in in_batches(passed, result_size)]
        # What this step recorded goes from memory, the rest from the store.
        at_hand = [fresh[ticket] for ticket in tickets if ticket in fresh]
        for batch in in_batches(at_hand, result_size):
            self._act(Send(link, Result(batch)))
        stored = [ticket for ticket in tickets if ticket not in fresh and ticket not in passing]
        if stored:
            self._act(Deliver(link, _stored(node, stored)))


def _stored(node: Node, tickets: Iterable[str]) -> list[Stored]:
    jobs = (node.undelivered[ticket] for ticket in tickets)
    return [Stored(job.seq, job.ticket, job.attempt, job.outcome, job.result_size) for job in jobs]
