"""The node as an origin: it issued a ticket, hands the job in until the load balancer has it, and answers.

Only open tickets are in memory. What is done is in the store, and looked up there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from clusternode.core.events import Answer, CancelAsked, Done, Line, LookUp, Outcome, Send, Submitted
from protocol.dialogue import CancelJob, GetResult, Nodes, Stats, Status, Submit, Wait
from protocol.errors import ProtocolError
from protocol.job import Command, Ended, JobSpec, JobState, Sleep, Task, unpack_report, unpack_spec
from protocol.job import Outcome as JobOutcome
from protocol.limits import REQUEST_ITEMS
from protocol.messages import (
    AckResults,
    Cancel,
    Checked,
    Held,
    Job,
    JobItem,
    Query,
    in_batches,
    job_size,
)
from protocol.messages import Answer as BalancerAnswer
from protocol.replies import (
    CancelOf,
    Failure,
    JobView,
    NodesAre,
    Reply,
    ResultOf,
    StatsAre,
    StatusOf,
    TicketIssued,
)
from protocol.tasks import Signature, fault_of

AWAY = "the ReverseProxy is away"
LOADING = "The tasks of this node are still being loaded; please come back in a moment."
#: What a sleep asks for.
_PLAIN = Command("")


class Waiter(NamedTuple):
    """A client's line that is answered when the job is done."""

    client: int
    seq: int
    cancels: bool


class OpenJob:
    """A ticket without a result. `acked`: the load balancer has it on its disk."""

    __slots__ = (
        "acked",
        "at_most_once",
        "body",
        "cancelled",
        "priority",
        "retries",
        "seq",
        "submitted_at",
        "waiters",
    )

    def __init__(self, seq: int, submitted_at: float, spec: JobSpec, body: bytes, cancelled: bool) -> None:
        self.seq = seq
        self.submitted_at = submitted_at
        self.body = body
        self.cancelled = cancelled
        self.acked = False
        command = _PLAIN if isinstance(spec, Sleep) else spec
        self.retries = command.retries
        self.at_most_once = command.at_most_once
        self.priority = command.extras.priority
        self.waiters: list[Waiter] | None = None

    def item(self, ticket: str) -> JobItem:
        how = (self.retries, self.at_most_once, self.priority)
        return JobItem(ticket, 0, self.submitted_at, self.body, *how)


class Stored(NamedTuple):
    """An open ticket as the store has it."""

    seq: int
    ticket: str
    submitted_at: float
    body: bytes
    cancelled: bool


class Asking(NamedTuple):
    """A client's line that waits for the load balancer's word."""

    line: Line
    client: int


def view_of_done(ticket: str, submitted_at: float, body: bytes, ended: Ended) -> JobView:
    """A done job for its client.

    Raises:
        ProtocolError: if the stored bytes are of another version.
    """
    report = unpack_report(ended.body)
    outcome = JobOutcome(ended.outcome)
    spec = unpack_spec(body)
    return JobView(
        ticket,
        spec,
        submitted_at,
        JobState.DONE,
        ended.attempt,
        report.node or None,
        report.started_at,
        outcome,
        report,
    )


def reply_of_done(asked: GetResult | Wait | Status | CancelJob, view: JobView) -> Reply:
    """What a client that asked so reads of a job that is done."""
    if isinstance(asked, Status):
        return StatusOf(view)
    return CancelOf(view) if isinstance(asked, CancelJob) else ResultOf(view)


class Origin:
    def __init__(self, jobs: Iterable[Stored], next_seq: int) -> None:
        """`jobs`: the open tickets in the store; `next_seq`: above all that it has.

        Raises ProtocolError if a job in the store is of another version.
        """
        self.open = {
            job.ticket: OpenJob(job.seq, job.submitted_at, unpack_spec(job.body), job.body, job.cancelled)
            for job in jobs
        }
        self._next_seq = next_seq
        #: This node's row of `nodes`, and its counters; kept up to date by the core before each question.
        self.own_fields: dict[str, Any] = {}
        self.stats: dict[str, Any] = {}
        #: Those that a client may submit; None as long as they are not known.
        self.tasks: Mapping[str, Signature] | None = None
        #: What a task that runs on this node says of itself.
        self.progress_of: Callable[[str], tuple[float, str] | None] = lambda ticket: None
        self.submitted = 0
        #: Results that came again, and were dropped.
        self.stale = 0
        self.outcomes: dict[str, int] = {str(outcome): 0 for outcome in JobOutcome}
        self._unsent: dict[str, OpenJob] = dict(self.open)
        self._waiting: dict[int, set[str]] = {}
        self._asking: dict[int, Asking] = {}
        self._next_query = 1
        #: Where the last REQUEST_OF_RES ended, so that each gets its turn.
        self._request_from = 0

    # --- clients ---------------------------------------------------------------------------------

    def line(self, client: int, line: Line, now: float, connected: bool, out: Outcome) -> None:
        """One request of a client."""
        asked, ticket = line.asked, line.ticket
        if isinstance(asked, Submit):
            fault = self._fault(asked.spec)
            if fault is not None:
                out.actions.append(Answer(client, line.seq, Failure(fault)))
                return
            job = OpenJob(self._next_seq, now, asked.spec, asked.spec.pack(), False)
            self._next_seq += 1
            self.open[ticket] = self._unsent[ticket] = job
            self.submitted += 1
            out.records.append(Submitted(job.seq, ticket, now, job.body))
            out.actions.append(Answer(client, line.seq, TicketIssued(ticket)))
        elif isinstance(asked, Nodes | Stats):
            self._ask(client, line, connected, out)
        elif (open_job := self.open.get(asked.ticket)) is None:
            out.actions.append(LookUp(client, line.seq, asked, asked.ticket))
        elif isinstance(asked, Wait):
            self._wait(open_job, asked.ticket, Waiter(client, line.seq, False))
        elif isinstance(asked, CancelJob):
            self._cancel(client, line, asked.ticket, open_job, connected, out)
        elif isinstance(asked, Status) or line.as_json:
            self._ask(client, line, connected, out)
        else:
            reply = ResultOf(self._view(asked.ticket, open_job))
            out.actions.append(Answer(client, line.seq, reply))

    def _fault(self, spec: JobSpec) -> str | None:
        """Why this job gets no ticket."""
        if not isinstance(spec, Task):
            return None
        return LOADING if self.tasks is None else fault_of(self.tasks, spec.name, spec.payload)

    def client_gone(self, client: int) -> None:
        for ticket in self._waiting.pop(client, ()):
            job = self.open.get(ticket)
            if job is not None and job.waiters:
                job.waiters = [waiter for waiter in job.waiters if waiter.client != client] or None

    def _wait(self, job: OpenJob, ticket: str, waiter: Waiter) -> None:
        if job.waiters is None:
            job.waiters = []
        job.waiters.append(waiter)
        self._waiting.setdefault(waiter.client, set()).add(ticket)

    def _cancel(
        self, client: int, line: Line, ticket: str, job: OpenJob, connected: bool, out: Outcome
    ) -> None:
        if not job.cancelled:
            job.cancelled = True
            out.records.append(CancelAsked(job.seq))
        if connected:
            if ticket not in self._unsent:  # else the cancel goes with its JOB
                self._send_cancels([ticket], out)
            self._wait(job, ticket, Waiter(client, line.seq, True))
        else:
            reply = CancelOf(self._view(ticket, job), requested=True)
            out.actions.append(Answer(client, line.seq, reply))

    def _view(self, ticket: str, job: OpenJob) -> JobView:
        return JobView(ticket, unpack_spec(job.body), job.submitted_at, JobState.QUEUED)

    # --- questions that the load balancer answers ------------------------------------------------

    def _ask(self, client: int, line: Line, connected: bool, out: Outcome) -> None:
        if not connected:
            self._answer_alone(Asking(line, client), out)
            return
        number, self._next_query = self._next_query, self._next_query + 1
        self._asking[number] = Asking(line, client)
        asked = line.asked
        if isinstance(asked, Nodes | Stats):
            out.actions.append(Send(Query(number, "nodes" if isinstance(asked, Nodes) else "stats")))
        elif isinstance(asked, GetResult | Status):
            out.actions.append(Send(Query(number, "status", (asked.ticket,))))

    def _answer_alone(self, asking: Asking, out: Outcome) -> None:
        """The load balancer is away: as much as this node knows."""
        asked = asking.line.asked
        reply: Reply
        if isinstance(asked, Nodes):
            reply = NodesAre([self.own_fields], f"{AWAY}: only this node is known")
        elif isinstance(asked, Stats):
            reply = StatsAre(self.stats, None)
        else:
            assert isinstance(asked, GetResult | Status)
            job = self.open.get(asked.ticket)
            if job is None:
                out.actions.append(LookUp(asking.client, asking.line.seq, asked, asked.ticket))
                return
            view = self._view(asked.ticket, job)
            reply = StatusOf(view, AWAY) if isinstance(asked, Status) else ResultOf(view)
        out.actions.append(Answer(asking.client, asking.line.seq, reply))

    def answered(self, message: BalancerAnswer, out: Outcome) -> None:
        asking = self._asking.pop(message.number, None)
        if asking is None:
            return
        asked, client, seq = asking.line.asked, asking.client, asking.line.seq
        try:
            value = json.loads(message.text)
            reply = self._reply(asked, value)
        except (ValueError, TypeError, AttributeError):
            reply = Failure("The ReverseProxy gave an answer that this version does not understand.")
        if reply is None:  # it was done in the meantime
            assert isinstance(asked, GetResult | Status)
            out.actions.append(LookUp(client, seq, asked, asked.ticket))
        else:
            out.actions.append(Answer(client, seq, reply))

    def _reply(self, asked: Any, value: Any) -> Reply | None:
        if isinstance(asked, Nodes):
            if not all(self.own_fields.keys() <= node.keys() for node in value):
                raise ValueError("a node without its fields")
            return NodesAre(value)
        if not isinstance(value, dict):
            raise TypeError("no object")
        if isinstance(asked, Stats):
            return StatsAre(self.stats, value)
        job = self.open.get(asked.ticket)
        if job is None:
            return None
        view = self._view(asked.ticket, job)
        if asked.ticket in value:
            state, attempt, node, started_at = value[asked.ticket]
            # Its result is on its way to us: until it is recorded here, it is not done here.
            shown = JobState.RUNNING if state == "done" else JobState(state)
            view = JobView(view.ticket, view.spec, view.submitted_at, shown, attempt, node, started_at)
        if isinstance(asked, Status):
            return StatusOf(view, progress=self.progress_of(asked.ticket))
        return ResultOf(view)

    # --- the load balancer -----------------------------------------------------------------------

    def link_up(self, out: Outcome) -> None:
        """Hands in again whatever is not acknowledged, and every cancel that has no result yet."""
        self._unsent = {ticket: job for ticket, job in self.open.items() if not job.acked}
        self.forward(out)
        self._send_cancels((ticket for ticket, job in self.open.items() if job.cancelled and job.acked), out)

    def link_down(self, out: Outcome) -> None:
        asking, self._asking = self._asking, {}
        for each in asking.values():
            self._answer_alone(each, out)
        for ticket, job in self.open.items():
            if job.waiters and any(waiter.cancels for waiter in job.waiters):
                self._release_cancels(ticket, job, out)

    def _release_cancels(self, ticket: str, job: OpenJob, out: Outcome) -> None:
        """Nobody can say now when the cancelled job is done: it is noted, and that is what is said."""
        for waiter in job.waiters or ():
            if waiter.cancels:
                reply = CancelOf(self._view(ticket, job), requested=True)
                out.actions.append(Answer(waiter.client, waiter.seq, reply))
        job.waiters = [waiter for waiter in job.waiters or () if not waiter.cancels] or None

    def forward(self, out: Outcome) -> None:
        """Hands in what was not yet sent on this link."""
        if not self._unsent:
            return
        unsent, self._unsent = self._unsent, {}
        items = (job.item(ticket) for ticket, job in unsent.items())
        for batch in in_batches(items, job_size):
            out.actions.append(Send(Job(batch)))
        self._send_cancels((ticket for ticket, job in unsent.items() if job.cancelled), out)

    def _send_cancels(self, tickets: Iterable[str], out: Outcome) -> None:
        for batch in in_batches(Held(ticket, 0) for ticket in tickets):
            out.actions.append(Send(Cancel(batch)))

    def acknowledged(self, tickets: Iterable[str]) -> None:
        for ticket in tickets:
            job = self.open.get(ticket)
            if job is not None:
                job.acked = True

    def unknown(self, tickets: Iterable[str]) -> None:
        """The load balancer has nothing of these: hand them in again."""
        for ticket in tickets:
            job = self.open.get(ticket)
            if job is not None:
                job.acked = False
                self._unsent[ticket] = job

    def results(self, results: Iterable[Ended], out: Outcome) -> None:
        """Results come home: recorded once, shown to whoever waits, acknowledged."""
        acks = []
        for ended in results:
            job = self.open.pop(ended.ticket, None)
            acks.append(Held(ended.ticket, ended.attempt))
            if job is None:
                self.stale += 1  # a repetition
                continue
            self._unsent.pop(ended.ticket, None)
            self.outcomes[ended.outcome] += 1
            out.records.append(Done(job.seq, ended))
            if job.waiters:
                self._answer_waiters(job, ended, out)
        if acks:
            out.actions.append(Send(AckResults(acks)))

    def _answer_waiters(self, job: OpenJob, ended: Ended, out: Outcome) -> None:
        reply: dict[bool, Reply]
        try:
            view = view_of_done(ended.ticket, job.submitted_at, job.body, ended)
            reply = {True: CancelOf(view), False: ResultOf(view)}
        except ProtocolError as error:
            failure = Failure(f"The result of {ended.ticket} cannot be read: {error.reason}.")
            reply = {True: failure, False: failure}
        for waiter in job.waiters or ():
            out.actions.append(Answer(waiter.client, waiter.seq, reply[waiter.cancels]))
            waiting = self._waiting.get(waiter.client)
            if waiting is not None:
                waiting.discard(ended.ticket)
                if not waiting:
                    del self._waiting[waiter.client]

    def checked(self, tickets: Iterable[str], out: Outcome) -> None:
        """CHECK: what is not open here is done here, or not of this node, which comes to the same."""
        asked = list(tickets)
        home = [Held(ticket, 0) for ticket in asked if ticket not in self.open]
        if home:
            out.actions.append(Send(AckResults(home)))
        out.actions.append(Send(Checked([ticket for ticket in asked if ticket in self.open])))

    def overdue(self, before: float) -> list[str]:
        """Open tickets handed in before that time, one message's worth; each gets its turn."""
        if not self.open:
            return []
        tickets = list(self.open) if len(self.open) <= REQUEST_ITEMS else self._slice()
        return [t for t in tickets if self.open[t].acked and self.open[t].submitted_at <= before]

    def _slice(self) -> list[str]:
        tickets = list(self.open)
        start = self._request_from % len(tickets)
        self._request_from = start + REQUEST_ITEMS
        return tickets[start : start + REQUEST_ITEMS]
