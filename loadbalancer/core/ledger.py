"""Every job and where it is: the one place that changes a job's state.

Where a job is:

    accepted -> QUEUED -> ASSIGNED -> RUNNING -> PASSING -> its origin acknowledges -> forgotten
                  ^          |           |          |                ^
                  |          |           +----------+--> DONE -------+   the origin is away or slow: recorded
                  +----------+-----------+   recalled (same attempt) or lost with its node (next attempt)
                  +------ DELAYED <-+        failed, and to be tried again (next attempt)

Invariants:

1. A QUEUED job is in `queue`; an ASSIGNED or RUNNING one in its node's `jobs`, and in no other's; a PASSING
   or DONE one in its origin's `undelivered` and `owed`, a PASSING one in `passing` too; a DELAYED one in
   `_delayed`. `waiting` counts the QUEUED, `delayed` the DELAYED.
2. Whatever changed since the last `collect` is in its records: one whole row a job, or its Forget.
3. An executor is told to forget a result only after a record that makes it needless: DONE, or Forget.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from loadbalancer.core.jobs import Forget, Job, JobRecord, Row, State, job_of, row_of
from loadbalancer.core.nodes import Node
from loadbalancer.core.queue import JobQueue
from protocol.explain import Attempt
from protocol.job import Ended, Outcome, Report
from protocol.limits import ATTEMPTS_TOLD, MIB
from protocol.messages import JobItem

#: Seconds before a failed job is tried again: doubled from the first to the longest.
RETRY_FIRST = 1.0
RETRY_LONGEST = 300.0
#: A job that needs its origin, which is away, waits for it; so long where it does not come.
PARKED = 3600.0
#: Lost attempts of a job whose result would still count: the latest so many.
LOST_REMEMBERED = 8
#: Seconds until it is recorded that jobs may be forgotten, if nothing else is to be recorded before.
FORGET_AFTER = 0.02
#: Results in memory on their way to all origins; above it they are recorded first.
PASSING_BYTES = 64 * MIB


class Passing(NamedTuple):
    """A result on its way through, and the node that keeps it until it is home."""

    ended: Ended
    executor: str


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
        #: Results that are not recorded here, by ticket.
        self.passing: dict[str, Passing] = {}
        self._passing_bytes = 0
        #: Jobs that were ASSIGNED when this balancer started: their result may have passed through, and be
        #: home. One that is lost waits for its origin's word before it runs again, for a while; it is in
        #: `asked` until the origin has answered.
        self._unsure: set[str] = set()
        self.asked: dict[str, Job] = {}
        self._questions: dict[str, list[str]] = {}
        self._crash_limit = crash_limit
        self._grace = node_grace_period
        self.queue = JobQueue()
        self._delayed: list[tuple[float, int, Job]] = []
        self._next_seq = 1
        self._turn = 0
        self._touched: dict[str, Job] = {}
        self._bodies: dict[str, bytes] = {}
        self._forgotten: list[JobRecord] = []
        self._releasing: list[Passing] = []
        self.released: list[Passing] = []
        self.forget_at: float | None = None
        for row in rows:
            self._restore(job_of(row))

    def _restore(self, job: Job) -> None:
        self.jobs[job.ticket] = job
        self._next_seq = max(self._next_seq, job.seq + 1)
        job.since = self.now
        if job.state is State.QUEUED:
            self.queue.append(job)
            self.waiting += 1
        elif job.state is State.DELAYED:
            self._delay(job)
        elif job.state is State.DONE:
            origin = self.node(job.origin)
            origin.undelivered[job.ticket] = job
            origin.owed.add(job.ticket, job.result_size)
        elif job.node is not None:
            self.node(job.node).jobs[job.ticket] = job
            self._unsure.add(job.ticket)

    def node(self, node_id: str) -> Node:
        """The node of that id, made (as one that is away) where it is not known."""
        node = self.nodes.get(node_id)
        if node is None:
            node = self.nodes[node_id] = Node(node_id, self.now + self._grace)
        return node

    def collect(self) -> list[JobRecord]:
        """The records of all that changed since the last time; `fresh` and `owing` end with it.

        That a job may be forgotten is never urgent: it waits for other records, at most until `forget_at`. If
        the balancer dies before, the result is delivered again, from here or by its executor, and the origin
        acknowledges again. `released` are the results that no executor need keep after these records.
        """
        records: list[JobRecord] = []
        for ticket, job in self._touched.items():
            job.version += 1
            ended = self.fresh.get(ticket)
            records.append(row_of(job, self._bodies.get(ticket), ended.body if ended else None))
        self.released = []
        if records or (self.forget_at is not None and self.now >= self.forget_at):
            records += self._forgotten
            self.released, self._releasing = self._releasing, []
            self._forgotten, self.forget_at = [], None
        self._touched, self._bodies, self.fresh, self.owing = {}, {}, {}, {}
        return records

    # --- the changes -----------------------------------------------------------------------------

    def accept(self, origin: Node, item: JobItem) -> None:
        what = (item.ticket, origin.node_id, item.submitted_at, item.body)
        job = Job(self._next_seq, *what, item.retries, item.at_most_once, item.priority)
        self._next_seq += 1
        job.since = self.now
        self.jobs[item.ticket] = job
        self.queue.append(job)
        self.waiting += 1
        self.counters["submitted"] += 1
        self._touched[item.ticket] = job
        self._bodies[item.ticket] = item.body

    def assign_next(self, node: Node) -> Job:
        """The job at the head of the queue goes to `node`. There must be one: `waiting` > 0."""
        job = self.queue.pop()
        self.waiting -= 1
        job.move(State.ASSIGNED)
        job.node, job.since = node.node_id, self.now
        node.give(job, self.now)
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
        self.queue.append_left(job)
        self.waiting += 1
        self._touched[job.ticket] = job

    def park(self, job: Job) -> None:
        """It was not started, as what it is to find is at its origin, which is away."""
        self.tell(job, "not started: its files are at its origin, which is away")
        self._put_off(job, self.now + PARKED)
        self._touched[job.ticket] = job

    def is_parked(self, job: Job) -> bool:
        """Nothing else is delayed for so long."""
        return job.state is State.DELAYED and job.not_before > self.now + RETRY_LONGEST

    def unpark(self, origin: Node) -> None:
        """It has connected."""
        for _, _, job in list(self._delayed):
            if self.is_parked(job) and job.origin == origin.node_id:
                job.not_before = self.now
                self._wake_at_not_before(job)

    def tell(self, job: Job, how: str) -> None:
        """An attempt is over, and is not the one that the job ends with: that goes into its story."""
        if job.node is not None:
            told = Attempt(job.attempt, self.nodes[job.node].name, job.since, self.now, how)
            job.story = (*(job.story or ())[1 - ATTEMPTS_TOLD :], told)

    def fail(self, job: Job, outcome: str) -> None:
        """The attempt ended so, and the job has retries left: the next one comes after a while."""
        self.counters["retried"] += 1
        self.tell(job, outcome)
        until = self.now + min(RETRY_FIRST * 2.0**job.failures, RETRY_LONGEST)
        job.failures += 1
        job.attempt += 1
        self._put_off(job, until)
        self._touched[job.ticket] = job

    def _put_off(self, job: Job, until: float) -> None:
        """Off its node, to be queued then. Whether that is recorded is the caller's."""
        job.not_before = until
        self._leave_node(job)
        job.move(State.DELAYED)
        job.since = self.now
        self._delay(job)

    def _delay(self, job: Job) -> None:
        self.delayed += 1
        self._wake_at_not_before(job)

    def _wake_at_not_before(self, job: Job) -> None:
        heapq.heappush(self._delayed, (job.not_before, job.seq, job))

    def next_retry(self) -> float | None:
        """When the next DELAYED job is to be queued."""
        while self._delayed:
            at, _, job = self._delayed[0]
            if job.state is State.DELAYED and job.not_before == at:
                return at
            heapq.heappop(self._delayed)
        return None

    def wake_delayed(self) -> None:
        """Queues the DELAYED jobs whose time has come, behind the others."""
        while (at := self.next_retry()) is not None and at <= self.now:
            job = heapq.heappop(self._delayed)[2]
            self.delayed -= 1
            job.move(State.QUEUED)
            job.not_before, job.since = 0.0, self.now
            self.queue.append(job)
            self.waiting += 1
            self._touched[job.ticket] = job

    def lose(self, job: Job, crashed: bool, why: str) -> None:
        """The attempt is gone. Another follows, unless the job is cancelled or has crashed too often.

        Its result counts if it comes after all before another has.
        """
        self.counters["lost attempts"] += 1
        self.tell(job, f"lost: {why}")
        job.losses += crashed
        if job.node is not None:
            known = list((job.lost or {}).items())[1 - LOST_REMEMBERED :]
            job.lost = {**dict(known), job.attempt: job.node}
        limit = self._crash_limit
        if job.cancelled:
            self.end(job, Outcome.CANCELLED, "")
        elif job.at_most_once:
            began = "it had started" if job.state is State.RUNNING else "whether it had started is not known"
            reason = f"{why}, and {began} (--at-most-once)"
            self.end(job, Outcome.LOST, reason)
        elif job.losses >= limit:
            reason = f"{limit} attempts took their node or worker along (CRASH_LIMIT={limit})"
            self.end(job, Outcome.LOST, reason)
        elif job.ticket in self._unsure:
            job.attempt += 1
            self._ask_origin(job)
        else:
            job.attempt += 1
            self.requeue(job)

    def _ask_origin(self, job: Job) -> None:
        """It waits for its origin's word, as long as for a node that is away; it has not failed.

        Not recorded: a balancer that starts in between must ask again.
        """
        self._unsure.discard(job.ticket)
        self.asked[job.ticket] = job
        self._questions.setdefault(job.origin, []).append(job.ticket)
        self._put_off(job, self.now + self._grace)

    def ask_again(self, origin: Node) -> None:
        """It has connected: what was to be asked of it meanwhile, it has not heard."""
        tickets = [job.ticket for job in self.asked.values() if job.origin == origin.node_id]
        if tickets:
            self._questions[origin.node_id] = tickets

    def questions(self) -> dict[str, list[str]]:
        """What is to be asked since the last time, by origin."""
        questions, self._questions = self._questions, {}
        return questions

    def is_sure(self, job: Job) -> None:
        """Its node says what it has of it: no result has passed through."""
        self._unsure.discard(job.ticket)

    def is_open(self, ticket: str) -> None:
        """Its origin lacks the result: it is run again at once."""
        job = self.asked.pop(ticket, None)
        if job is not None and job.state is State.DELAYED:
            job.not_before = self.now
            self._wake_at_not_before(job)

    def lose_all(self, node: Node, jobs: list[Job], counts: bool, why: str) -> None:
        """`node` has lost these. Where it `counts`, each that may have been running counts as a crash.

        A node runs what it got first; whether STARTED had come for it says only how long it ran.
        """
        leaving, held = set(node.leaving), [each for each in node.jobs if each not in node.leaving]
        suspects = set(held[: node.slots]) if counts else set()
        for job in jobs:
            may_run = job.ticket not in leaving and (job.state is State.RUNNING or job.ticket in suspects)
            self.lose(job, counts and may_run, why)

    def end(self, job: Job, outcome: Outcome, reason: str) -> None:
        """Ends a job here: no executor reports it any more."""
        report = Report(finished_at=self.now, reason=reason)
        self.finish(job, Ended(job.ticket, job.attempt, outcome, report.pack()))

    def finish(self, job: Job, ended: Ended) -> None:
        """Records the one outcome of a job; its origin is owed the result from here on."""
        self._end(job, State.DONE, ended)
        self._touched[job.ticket] = job
        self.fresh[job.ticket] = ended
        origin = self.node(job.origin)
        origin.owed.add(job.ticket, job.result_size)
        self.owing[origin.node_id] = origin

    def pass_on(self, job: Job, ended: Ended) -> bool:
        """The same where its origin is there to take the result: from memory, with no record here.

        False, and nothing is changed, where it is not. What its window does not let through yet waits in
        memory: executors hold back themselves, as they are not acknowledged meanwhile.
        """
        origin, size = self.node(job.origin), len(ended.body)
        if origin.link is None or job.node is None or self._passing_bytes >= PASSING_BYTES:
            return False
        if ended.outcome == Outcome.CANCELLED:
            return False  # on record before it is shown: it must not start again, whoever is away then
        self.passing[job.ticket] = Passing(ended, job.node)
        self._passing_bytes += size
        self._end(job, State.PASSING, ended)
        origin.owed.add(job.ticket, size)
        self.owing[origin.node_id] = origin
        return True

    def is_passing(self, executor: Node, ended: Ended) -> bool:
        """Whether this very result is on its way: nobody has it on disk yet."""
        passing = self.passing.get(ended.ticket)
        return (
            passing is not None
            and passing.executor == executor.node_id
            and passing.ended.attempt == ended.attempt
        )

    def record(self, job: Job) -> Passing:
        """The origin does not take it now: DONE, as if it had not been passed on."""
        passing = self._passed(job.ticket)
        job.move(State.DONE)
        self._touched[job.ticket] = job
        self.fresh[job.ticket] = passing.ended
        return passing

    def _end(self, job: Job, state: State, ended: Ended) -> None:
        self._leave(job)
        job.move(state)
        job.outcome, job.body, job.since = ended.outcome, b"", self.now
        job.attempt, job.lost, job.not_before = ended.attempt, None, 0.0
        job.result_size = len(ended.body)
        self.counters[ended.outcome] += 1
        self.node(job.origin).undelivered[job.ticket] = job

    def _leave(self, job: Job) -> None:
        """It is nowhere from here on; what may be left of it in a queue is passed over."""
        if job.state is State.QUEUED:
            self.waiting -= 1
        elif job.state is State.DELAYED:
            self.delayed -= 1
        self.asked.pop(job.ticket, None)
        self._unsure.discard(job.ticket)
        self._leave_node(job)

    def _passed(self, ticket: str) -> Passing:
        passing = self.passing.pop(ticket)
        self._passing_bytes -= len(passing.ended.body)
        return passing

    def forget(self, origin: Node, ticket: str) -> None:
        """The origin has the result. Nothing happens where it was not owed."""
        if origin.owed.acknowledge(ticket):
            job = origin.undelivered.pop(ticket)
            if job.state is State.PASSING:
                self._releasing.append(self._passed(ticket))
            self._forget(job, has_result=job.state is State.DONE)
        if origin.owed:
            self.owing[origin.node_id] = origin

    def _forget(self, job: Job, has_result: bool) -> None:
        del self.jobs[job.ticket]
        self._forgotten.append(Forget(job.seq, has_result))
        if self.forget_at is None:
            self.forget_at = self.now + FORGET_AFTER

    def withdraw(self, job: Job) -> None:
        """Its origin was asked, and has the result."""
        self._leave(job)
        job.move(State.DONE)
        self._touched.pop(job.ticket, None)
        self._forget(job, has_result=False)

    def _leave_node(self, job: Job) -> None:
        if job.node is not None:
            node = self.nodes[job.node]
            del node.jobs[job.ticket]
            node.recalled.discard(job.ticket)
            node.leaving.discard(job.ticket)
            job.node = None
