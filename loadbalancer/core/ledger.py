"""Every job and where it is: the one place that changes a job's state.

Where a job is:

    accepted -> QUEUED -> ASSIGNED -> RUNNING -> DONE -> its origin acknowledges -> forgotten
                  ^          |           |
                  +----------+-----------+   recalled (same attempt) or lost with its node (next attempt)
                  +------ DELAYED <-+        failed, and to be tried again (next attempt)

Invariants:

1. A QUEUED job is in `_queue`; an ASSIGNED or RUNNING one in its node's `jobs`, and in no other's; a DONE
   one in its origin's `undelivered` and `owed`; a DELAYED one in `_delayed`. `waiting` counts the QUEUED,
   `delayed` the DELAYED.
2. Whatever changed since the last `collect` is in its records: one whole row a job, or its Forget.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable

from loadbalancer.core.jobs import Forget, Job, Record, Row, State, job_of, row_of
from loadbalancer.core.nodes import Node
from protocol.job import Ended, Outcome, Report
from protocol.messages import JobItem

#: Seconds before a failed job is tried again: doubled from the first to the longest.
RETRY_FIRST = 1.0
RETRY_LONGEST = 300.0
#: Lost attempts of a job whose result would still count: the latest so many.
LOST_REMEMBERED = 8


class Ledger:
    """Jobs and nodes by ticket and id, and what of them is to be recorded."""

    def __init__(self, crash_limit: int, node_grace_period: float, rows: Iterable[Row], now: float) -> None:
        self.now = now
        self.jobs: dict[str, Job] = {}
        self.nodes: dict[str, Node] = {}
        self.waiting = 0
        self.delayed = 0
        self.counters: Counter[str] = Counter()
        #: Results that ended since the last `collect`: at hand, without reading the store.
        self.fresh: dict[str, Ended] = {}
        #: Nodes that are owed results, and can perhaps be sent some now.
        self.owing: dict[str, Node] = {}
        self._crash_limit = crash_limit
        self._grace = node_grace_period
        self._queue: deque[Job] = deque()
        self._delayed: list[tuple[float, int, Job]] = []
        self._next_seq = 1
        self._turn = 0
        self._touched: dict[str, Job] = {}
        self._bodies: dict[str, bytes] = {}
        self._forgotten: list[Record] = []
        self._flush = False
        for row in rows:
            self._restore(job_of(row))

    def _restore(self, job: Job) -> None:
        self.jobs[job.ticket] = job
        self._next_seq = max(self._next_seq, job.seq + 1)
        job.since = self.now
        if job.state is State.QUEUED:
            self._queue.append(job)
            self.waiting += 1
        elif job.state is State.DELAYED:
            self._delay(job)
        elif job.state is State.DONE:
            origin = self.node(job.origin)
            origin.undelivered[job.ticket] = job
            origin.owed.add(job.ticket, job.result_size)
        elif job.node is not None:
            self.node(job.node).jobs[job.ticket] = job

    def node(self, node_id: str) -> Node:
        """The node of that id, made (as one that is away) where it is not known."""
        node = self.nodes.get(node_id)
        if node is None:
            node = self.nodes[node_id] = Node(node_id, self.now + self._grace)
        return node

    def collect(self) -> list[Record]:
        """The records of all that changed since the last time; `fresh` and `owing` end with it.

        That a job may be forgotten is never urgent: it waits for other records, or for `flush`. A balancer
        that dies before it is on disk delivers the result again, and the origin acknowledges again.
        """
        records: list[Record] = []
        for ticket, job in self._touched.items():
            job.version += 1
            ended = self.fresh.get(ticket)
            records.append(row_of(job, self._bodies.get(ticket), ended.body if ended else None))
        if records or self._flush:
            records += self._forgotten
            self._forgotten, self._flush = [], False
        self._touched, self._bodies, self.fresh, self.owing = {}, {}, {}, {}
        return records

    def flush(self) -> None:
        """The next `collect` holds nothing back."""
        self._flush = bool(self._forgotten)

    # --- the changes -----------------------------------------------------------------------------

    def accept(self, origin: Node, item: JobItem) -> None:
        what = (item.ticket, origin.node_id, item.submitted_at, item.body, item.retries, item.at_most_once)
        job = Job(self._next_seq, *what)
        self._next_seq += 1
        job.since = self.now
        self.jobs[item.ticket] = job
        self._queue.append(job)
        self.waiting += 1
        self.counters["submitted"] += 1
        self._touched[item.ticket] = job
        self._bodies[item.ticket] = item.body

    def assign_next(self, node: Node) -> Job:
        """The job at the head of the queue goes to `node`. There must be one: `waiting` > 0."""
        job = self._queue.popleft()
        while job.state is not State.QUEUED:  # it ended while it waited
            job = self._queue.popleft()
        self.waiting -= 1
        job.move(State.ASSIGNED)
        job.node, job.since = node.node_id, self.now
        node.jobs[job.ticket] = job
        self._turn += 1
        node.order = self._turn
        self.counters["dispatched"] += 1
        self._touched[job.ticket] = job
        return job

    def start(self, job: Job) -> None:
        if job.state is State.ASSIGNED:
            job.move(State.RUNNING)
            job.since = self.now

    def requeue(self, job: Job) -> None:
        """Back to the head of the queue: it has waited longest."""
        self._leave_node(job)
        job.move(State.QUEUED)
        job.since = self.now
        self._queue.appendleft(job)
        self.waiting += 1
        self._touched[job.ticket] = job

    def fail(self, job: Job) -> None:
        """The attempt failed, and the job has retries left: the next one comes after a while."""
        self.counters["retried"] += 1
        job.not_before = self.now + min(RETRY_FIRST * 2.0**job.failures, RETRY_LONGEST)
        job.failures += 1
        job.attempt += 1
        self._leave_node(job)
        job.move(State.DELAYED)
        job.since = self.now
        self._delay(job)
        self._touched[job.ticket] = job

    def _delay(self, job: Job) -> None:
        heapq.heappush(self._delayed, (job.not_before, job.seq, job))
        self.delayed += 1

    def next_retry(self) -> float | None:
        """When the next DELAYED job is to be queued."""
        while self._delayed and self._delayed[0][2].state is not State.DELAYED:
            heapq.heappop(self._delayed)
        return self._delayed[0][0] if self._delayed else None

    def wake_delayed(self) -> None:
        """Queues the DELAYED jobs whose time has come, behind the others."""
        while (at := self.next_retry()) is not None and at <= self.now:
            job = heapq.heappop(self._delayed)[2]
            self.delayed -= 1
            job.move(State.QUEUED)
            job.not_before, job.since = 0.0, self.now
            self._queue.append(job)
            self.waiting += 1
            self._touched[job.ticket] = job

    def lose(self, job: Job, crashed: bool) -> None:
        """The attempt is gone. Another follows, unless the job is cancelled or has crashed too often.

        Its result counts if it comes after all before another has.
        """
        self.counters["lost attempts"] += 1
        job.losses += crashed
        if job.node is not None:
            known = list((job.lost or {}).items())[1 - LOST_REMEMBERED :]
            job.lost = {**dict(known), job.attempt: job.node}
        limit = self._crash_limit
        if job.cancelled:
            self.end(job, Outcome.CANCELLED, "")
        elif job.at_most_once:
            reason = "its node was lost, and whether it had started is not known (--at-most-once)"
            self.end(job, Outcome.LOST, reason)
        elif job.losses >= limit:
            reason = f"{limit} attempts took their node or worker along (CRASH_LIMIT={limit})"
            self.end(job, Outcome.LOST, reason)
        else:
            job.attempt += 1
            self.requeue(job)

    def lose_all(self, node: Node, jobs: list[Job], counts: bool) -> None:
        """`node` has lost these. Where it `counts`, each that may have been running counts as a crash.

        A node runs what it got first; whether STARTED had come for it says only how long it ran.
        """
        suspects = set(list(node.jobs)[: node.slots]) if counts else set()
        for job in jobs:
            self.lose(job, counts and (job.state is State.RUNNING or job.ticket in suspects))

    def end(self, job: Job, outcome: Outcome, reason: str) -> None:
        """Ends a job here: no executor reports it any more."""
        report = Report(finished_at=self.now, reason=reason)
        self.finish(job, Ended(job.ticket, job.attempt, outcome, report.pack()))

    def finish(self, job: Job, ended: Ended) -> None:
        """Records the one outcome of a job; its origin is owed the result from here on."""
        if job.state is State.QUEUED:
            self.waiting -= 1  # it stays in the queue, and is passed over when its turn comes
        elif job.state is State.DELAYED:
            self.delayed -= 1
        self._leave_node(job)
        job.move(State.DONE)
        job.outcome, job.body, job.since = ended.outcome, b"", self.now
        job.attempt, job.lost, job.not_before = ended.attempt, None, 0.0
        job.result_size = len(ended.body)
        self.counters[ended.outcome] += 1
        self._touched[job.ticket] = job
        self.fresh[job.ticket] = ended
        origin = self.node(job.origin)
        origin.undelivered[job.ticket] = job
        origin.owed.add(job.ticket, job.result_size)
        self.owing[origin.node_id] = origin

    def forget(self, origin: Node, ticket: str) -> None:
        """The origin has the result. Nothing happens where it was not owed."""
        if origin.owed.acknowledge(ticket):
            job = origin.undelivered.pop(ticket)
            del self.jobs[ticket]
            self._forgotten.append(Forget(job.seq))
        if origin.owed:
            self.owing[origin.node_id] = origin

    def _leave_node(self, job: Job) -> None:
        if job.node is not None:
            node = self.nodes[job.node]
            del node.jobs[job.ticket]
            node.recalled.discard(job.ticket)
            job.node = None
