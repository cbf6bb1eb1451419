"""Hands out jobs in rounds, and asks for some back where queues are not even. Who: `evenness.py` says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from loadbalancer.core.evenness import Load, least_loaded, surplus
from loadbalancer.core.ledger import Ledger
from loadbalancer.core.nodes import Node
from protocol.limits import BATCH_ITEMS
from protocol.messages import Held, Job, JobItem, Recall, in_batches, job_size

#: While every node holds at least this part of what it may, rounds gather for so long: a message and a commit
#: for each job that ends would cost more than the jobs.
ROUND_PAUSE = 0.01
HUNGRY_PART = 4
#: Between two recalls outside the period: work must not run to and fro faster than it is done.
EVENING_PAUSE = 0.1
#: Queues have drifted apart when they differ by more than this many jobs, and by more than this part of
#: the longest: below that, short jobs that come and go would move for nothing.
DRIFT = 3
DRIFT_PART = 8


class Dispatcher:
    """`nodes` are the connected ones, kept up to date by their owner."""

    def __init__(
        self,
        ledger: Ledger,
        nodes: Collection[Node],
        round_size: int,
        send: Callable[[Node, Job | Recall], None],
    ) -> None:
        self._ledger = ledger
        self._nodes = nodes
        self._round_size = round_size
        self._send = send
        #: When queues that are known to be uneven are evened out; None while there is no hurry.
        self.next_evening: float | None = None
        self._last_evening = -EVENING_PAUSE
        #: When rounds that were put off are due.
        self.next_round: float | None = None
        self._last_rounds = -ROUND_PAUSE

    # --- rounds ----------------------------------------------------------------------------------

    def run_rounds(self, now: float) -> None:
        """Round after round while there is a job and room for it; soon, where no node is near to idle."""
        self.next_round = None
        if not self._ledger.waiting:
            return
        if now < self._last_rounds + ROUND_PAUSE and not self._is_any_hungry():
            self.next_round = self._last_rounds + ROUND_PAUSE
            return
        self._last_rounds = now
        takers = self._takers()
        while self._ledger.waiting and self._round(takers):
            pass

    def run_round(self) -> None:
        """One round: at most `round_size` jobs, each to the least loaded."""
        self._round(self._takers())

    def _taking(self) -> list[Node]:
        return [node for node in self._nodes if not node.draining]

    def _takers(self) -> Iterator[str]:
        nodes, depth = self._taking(), self._depth
        return least_loaded([Load(node.load, node.order, node.node_id, depth - node.load) for node in nodes])

    @property
    def _depth(self) -> int:
        """The same for all, and what one has got already others may get: or they could not hold the same."""
        return max((max(node.depth, node.load) for node in self._taking()), default=0)

    def _is_any_hungry(self) -> bool:
        enough = max((node.depth for node in self._nodes), default=0) // HUNGRY_PART
        return any(node.load < enough for node in self._nodes)

    def _round(self, takers: Iterator[str]) -> bool:
        """False when nodes or jobs ran out."""
        parts: dict[str, list[JobItem]] = {}
        count = 0
        while count < min(self._round_size, count + self._ledger.waiting):
            node_id = next(takers, None)
            if node_id is None:
                break
            job = self._ledger.assign_next(self._ledger.nodes[node_id])
            item = JobItem(job.ticket, job.attempt, job.submitted_at, job.body, priority=job.priority)
            parts.setdefault(node_id, []).append(item)
            count += 1
        for node_id, items in parts.items():
            for batch in in_batches(items, job_size):
                self._send(self._ledger.nodes[node_id], Job(batch))
        return count == self._round_size

    # --- evening out -----------------------------------------------------------------------------

    def hurry(self) -> None:
        """A node has joined: what follows need not keep the pause."""
        self._last_evening = -EVENING_PAUSE

    def consider_evening(self, now: float) -> None:
        """Idle slots beside a queue, and queues that drifted apart, are evened out soon."""
        if self._ledger.waiting or self.next_evening is not None:
            return
        nodes = self._taking()
        if len(nodes) < 2:
            return
        high = max(nodes, key=lambda node: node.load)
        low = min(nodes, key=lambda node: node.load)
        apart = high.load - low.load
        drifted = apart > max(DRIFT, high.load // DRIFT_PART)
        starved = apart > 1 and low.is_idle
        # What runs cannot move: only a node with a queue has anything to give.
        has_queue = high.load > high.slots
        if (drifted or starved) and has_queue and not self._is_recalling:
            self.next_evening = max(now, self._last_evening + EVENING_PAUSE)

    def even_out(self, now: float) -> None:
        """RECALLs what nodes hold above their even share, as far as it has not started."""
        self.next_evening = None
        if self._ledger.waiting or self._is_recalling:
            return
        self._last_evening = now
        over = surplus([(node.node_id, node.load) for node in self._taking()])
        for node_id, count in over.items():
            node = self._ledger.nodes[node_id]
            jobs = node.recallable(min(count, BATCH_ITEMS))
            if jobs:
                node.recalled = {job.ticket for job in jobs}
                self._send(node, Recall([Held(job.ticket, job.attempt) for job in jobs]))

    @property
    def _is_recalling(self) -> bool:
        return any(node.recalled for node in self._nodes)
