"""The node as an origin: it issued a ticket, hands the job in until the load balancer has it, and answers.

Only open tickets are in memory. What is done is in the store, and looked up there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from clusternode.core.after import After, never_started, not_started, reason_after
from clusternode.core.arrays import Array
from clusternode.core.done import view_of_done
from clusternode.core.events import (
    Answer,
    CancelAsked,
    Done,
    Forget,
    Line,
    LookUp,
    Outcome,
    Send,
    StatesOf,
    Tell,
    Withdrawn,
)
from clusternode.core.explain import explain_here
from clusternode.core.keys import Keys
from clusternode.core.notices import Notices
from clusternode.core.openjob import OpenJob, Stored, Waiter
from clusternode.core.questions import Questions
from clusternode.core.submissions import Submissions
from clusternode.core.subscriptions import Subscriptions
from protocol.arrays import size_of
from protocol.dialogue import (
    CancelJob,
    Explain,
    GetResult,
    Nodes,
    Stats,
    Status,
    Submit,
    Subscribe,
    Unsubscribe,
    Wait,
)
from protocol.errors import ProtocolError
from protocol.explain import Attempt, Story
from protocol.job import Ended, JobSpec, JobState, unpack_spec
from protocol.job import Outcome as JobOutcome
from protocol.limits import MIB, REQUEST_ITEMS, SUBSCRIPTIONS_LIMIT
from protocol.messages import (
    AckResults,
    Cancel,
    Checked,
    Held,
    Job,
    in_batches,
    job_size,
)
from protocol.replies import (
    CancelOf,
    Failure,
    JobEnded,
    JobView,
    Reply,
    ResultOf,
    StatusOf,
    Subscribed,
    Unsubscribed,
)
from protocol.tasks import Signature

#: Jobs that are handed in and not yet acknowledged, in bytes: a node that comes back with a million of them
#: would lose its link over them again and again, as no more than 64 MiB may wait for it.
HAND_IN_WINDOW = 16 * MIB
#: What a job takes in a message beside its body, somewhat more than that.
ITEM_BYTES = 64

#: What is said while there is no load balancer to ask, unless it is known why.
AWAY = "the ReverseProxy is away"


class Origin:
    def __init__(self, jobs: Iterable[Stored], next_seq: int) -> None:
        """`jobs`: the open tickets in the store; `next_seq`: above all that it has.

        Raises ProtocolError if a job in the store is of another version.
        """
        self.open: dict[str, OpenJob] = {}
        #: This node's row of `nodes`, and its counters; kept up to date by the core before each question.
        self.own_fields: dict[str, Any] = {}
        self.stats: dict[str, Any] = {}
        #: Those that a client may submit; None as long as they are not known.
        self.tasks: Mapping[str, Signature] | None = None
        #: What a task that runs on this node says of itself.
        self.progress_of: Callable[[str], tuple[float, str] | None] = lambda ticket: None
        #: Whether it runs on this node.
        self.runs_here: Callable[[str], bool] = lambda ticket: False
        self.why_away = AWAY
        #: Whether a client has uploaded a file with this digest.
        self.has_file: Callable[[str], bool] = lambda digest: False
        self.submitted = 0
        #: Results that came again, and were dropped.
        self.stale = 0
        self.outcomes: dict[str, int] = {str(outcome): 0 for outcome in JobOutcome}
        self.questions = Questions(self)
        self.submissions = Submissions(self, next_seq)
        self.keys = Keys(self)
        self.after = After()
        self._subscriptions = Subscriptions()
        self.notices = Notices()
        #: What came of earlier attempts of jobs whose results are about to come.
        self._tried: dict[str, tuple[Attempt, ...]] = {}
        self._unsent: dict[str, OpenJob] = {}
        #: Handed in on this link and not acknowledged: their sizes, and those in all.
        self._under_way: dict[str, int] = {}
        self._under_way_bytes = 0
        self._waiting: dict[int, set[str]] = {}
        #: Where the last REQUEST_OF_RES ended, so that each gets its turn.
        self._request_from = 0
        self._restore(jobs)

    def _restore(self, jobs: Iterable[Stored]) -> None:
        """In the order of submission: the jobs of an array are known by their places behind it.

        What waits for others does so again, also for those of which the store is still to be asked.
        """
        array, first, cancelled = None, 0, False
        for stored in jobs:
            spec, ticket = unpack_spec(stored.body), stored.ticket
            job = OpenJob(stored.seq, stored.submitted_at, spec, stored.body, stored.cancelled)
            self.open[ticket] = job
            if size_of(spec):
                job.array = array = Array(ticket, size_of(spec))
                first, cancelled = stored.seq, stored.cancelled
            elif array is not None and stored.seq <= first + array.size:
                job.within = array
                job.cancelled = job.cancelled or cancelled
                array.add([ticket])
            if job.after:
                self.after.add(ticket, job.after)
            if job.key:
                self.keys.restore(job.key, ticket)
        self._unsent = {ticket: job for ticket, job in self.open.items() if self._is_to_be_sent(ticket, job)}

    def spec_of(self, ticket: str) -> JobSpec | None:
        """Of an open job."""
        job = self.open.get(ticket)
        return None if job is None else unpack_spec(job.body)

    def to_count(self) -> dict[str, tuple[int, int]]:
        """At the start: the open arrays, (seq, size), whose counts are to come with the first event."""
        return {
            ticket: (job.seq, job.array.size) for ticket, job in self.open.items() if job.array is not None
        }

    def recall(self, counts: Mapping[str, Mapping[str, int]], now: float, out: Outcome) -> None:
        """How those jobs of these arrays ended that are not open."""
        over = []
        for ticket, how in counts.items():
            job = self.open[ticket]
            assert job.array is not None
            job.array.recall(how)
            if not job.array.open:
                over.append(job.array.ended(job.cancelled, now))
        self.end(over, now, out)

    def to_find(self) -> list[str]:
        """At the start: the tickets whose `Found` (AT_START) is to be the first event."""
        return [ticket for ticket in self.after.awaited() if ticket not in self.open]

    # --- clients ---------------------------------------------------------------------------------

    def line(self, client: int, line: Line, now: float, connected: bool, out: Outcome) -> None:
        """One request of a client."""
        asked = line.asked
        if isinstance(asked, Submit):
            self.submissions.take(client, line, asked.spec, now, connected, out)
        elif isinstance(asked, Nodes | Stats | StatesOf):
            self.questions.ask(client, line, connected, out)
        elif isinstance(asked, Subscribe | Unsubscribe):
            out.actions.append(Answer(client, line.seq, self._subscribe(client, asked)))
        elif (open_job := self.open.get(asked.ticket)) is None:
            out.actions.append(LookUp(client, line.seq, asked, asked.ticket))
        elif isinstance(asked, Wait):
            self._wait(open_job, asked.ticket, Waiter(client, line.seq, False))
        elif isinstance(asked, CancelJob):
            self._cancel(client, line, asked.ticket, open_job, now, connected, out)
        elif isinstance(asked, GetResult) and line.as_json and open_job.array is not None:
            out.actions.append(LookUp(client, line.seq, asked, asked.ticket))  # for its jobs
        elif isinstance(asked, Explain) and self.is_held(asked.ticket, open_job):
            explained = explain_here(self, asked.ticket, open_job, connected)
            out.actions.append(Answer(client, line.seq, explained))
        elif isinstance(asked, Explain) or (
            (isinstance(asked, Status) or line.as_json) and not self._is_ours(asked.ticket, open_job)
        ):
            self.questions.ask(client, line, connected, out)
        else:
            view = self.view(asked.ticket, open_job)
            reply = StatusOf(view) if isinstance(asked, Status) else ResultOf(view)
            out.actions.append(Answer(client, line.seq, reply))

    def _subscribe(self, client: int, asked: Subscribe | Unsubscribe) -> Reply:
        if isinstance(asked, Unsubscribe):
            self._subscriptions.leave(client)
            return Unsubscribed()
        if self._subscriptions.add(client, asked.tag):
            return Subscribed(asked.tag)
        return Failure(f"A client has {SUBSCRIPTIONS_LIMIT} subscriptions at most; unsubscribe ends them.")

    def client_gone(self, client: int) -> None:
        self._subscriptions.leave(client)
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
        self,
        client: int,
        line: Line,
        ticket: str,
        job: OpenJob,
        now: float,
        connected: bool,
        out: Outcome,
    ) -> None:
        tickets = [ticket] if job.array is None else list(job.array.open)
        if self.gate(ticket, job) in self.after:  # nobody else knows of it
            job.cancelled = True
            self.end([never_started(each, now) for each in tickets], now, out)
            out.actions.append(LookUp(client, line.seq, CancelJob(ticket), ticket))
            return
        if not job.cancelled:
            job.cancelled = True
            out.records.append(CancelAsked(job.seq))  # for all jobs of an array, too
        for each in tickets:
            self.open[each].cancelled = True
        if connected:
            # Where the JOB is still to go, the cancel goes with it.
            sent = [t for t in tickets if t not in self._unsent and not self.is_held(t, self.open[t])]
            self._send_cancels(sent, out)
            self._wait(job, ticket, Waiter(client, line.seq, True))
        else:
            reply = CancelOf(self.view(ticket, job), requested=True)
            out.actions.append(Answer(client, line.seq, reply))

    def view(self, ticket: str, job: OpenJob) -> JobView:
        awaited = self.after.awaited_by(self.gate(ticket, job))
        array = None if job.array is None else job.array.view()
        state = JobState.RUNNING if array and not awaited else JobState.QUEUED
        spec = unpack_spec(job.body)
        return JobView(ticket, spec, job.submitted_at, state, waits_for=awaited, array=array)

    # --- the load balancer -----------------------------------------------------------------------

    def link_up(self, out: Outcome) -> None:
        """Hands in again whatever is not acknowledged, and every cancel that has no result yet."""
        self.keys.link_up()
        self._under_way, self._under_way_bytes = {}, 0
        self._unsent = {ticket: job for ticket, job in self.open.items() if self._is_to_be_sent(ticket, job)}
        self.forward(out)
        self._send_cancels((ticket for ticket, job in self.open.items() if job.cancelled and job.acked), out)

    def _is_to_be_sent(self, ticket: str, job: OpenJob) -> bool:
        return not job.acked and not self.is_held(ticket, job)

    def is_held(self, ticket: str, job: OpenJob) -> bool:
        """The load balancer is told nothing of it yet."""
        return self._is_ours(ticket, job) or self.gate(ticket, job) in self.keys.unclaimed

    def _is_ours(self, ticket: str, job: OpenJob) -> bool:
        """Nobody else knows of it: it waits for others, or is an array."""
        return job.array is not None or self.gate(ticket, job) in self.after

    def gate(self, ticket: str, job: OpenJob) -> str:
        """Whose waiting holds it up: the jobs of an array have none of their own."""
        return ticket if job.within is None else job.within.ticket

    def link_down(self, out: Outcome) -> None:
        self.questions.link_down(out)
        self.keys.link_down(out)
        for ticket, job in self.open.items():
            if job.waiters and any(waiter.cancels for waiter in job.waiters):
                self._release_cancels(ticket, job, out)

    def _release_cancels(self, ticket: str, job: OpenJob, out: Outcome) -> None:
        """Nobody can say now when the cancelled job is done: it is noted, and that is what is said."""
        for waiter in job.waiters or ():
            if waiter.cancels:
                reply = CancelOf(self.view(ticket, job), requested=True)
                out.actions.append(Answer(waiter.client, waiter.seq, reply))
        job.waiters = [waiter for waiter in job.waiters or () if not waiter.cancels] or None

    def forward(self, out: Outcome) -> None:
        """Hands in what was not yet sent on this link."""
        self.keys.forward(out)
        if not self._unsent or self._under_way_bytes >= HAND_IN_WINDOW:
            return
        unsent = self._take_unsent()
        items = (job.item(ticket) for ticket, job in unsent.items())
        for batch in in_batches(items, job_size):
            out.actions.append(Send(Job(batch)))
        self._send_cancels((ticket for ticket, job in unsent.items() if job.cancelled), out)

    def _take_unsent(self) -> dict[str, OpenJob]:
        """Of what is to be handed in as much as may be under way: acknowledgements let the next ones go."""
        taken: dict[str, OpenJob] = {}
        for ticket, job in self._unsent.items():
            if self._under_way_bytes >= HAND_IN_WINDOW:
                break
            self._arrived(ticket)  # where it is handed in once more
            self._under_way[ticket] = size = len(job.body) + ITEM_BYTES
            self._under_way_bytes += size
            taken[ticket] = job
        if len(taken) == len(self._unsent):
            self._unsent = {}
        else:
            for ticket in taken:
                del self._unsent[ticket]
        return taken

    def _arrived(self, ticket: str) -> None:
        self._under_way_bytes -= self._under_way.pop(ticket, 0)

    def _send_cancels(self, tickets: Iterable[str], out: Outcome) -> None:
        for batch in in_batches(Held(ticket, 0) for ticket in tickets):
            out.actions.append(Send(Cancel(batch)))

    def acknowledged(self, tickets: Iterable[str]) -> None:
        for ticket in tickets:
            self._arrived(ticket)
            job = self.open.get(ticket)
            if job is not None:
                job.acked = True

    def unknown(self, tickets: Iterable[str]) -> None:
        """The load balancer has nothing of these: hand them in again."""
        for ticket in tickets:
            job = self.open.get(ticket)
            if job is None or self._is_ours(ticket, job):
                continue
            job.acked = False
            gate = self.gate(ticket, job)
            if key := self.open[gate].key:
                self.keys.ask_again(key, gate)
            else:
                self._unsent[ticket] = job

    def tell(self, stories: Iterable[Story]) -> None:
        """What came of earlier attempts of these jobs, whose results follow."""
        self._tried.update((ticket, told) for ticket, told in stories if ticket in self.open)

    def results(self, results: Iterable[Ended], now: float, out: Outcome) -> None:
        """Results come home: recorded once, shown to whoever waits, acknowledged."""
        acks = []
        for ended in results:
            acks.append(Held(ended.ticket, ended.attempt))
            job = self.open.get(ended.ticket)
            if job is None or job.array is not None:
                self.stale += 1  # a repetition
            else:
                self.end([ended], now, out)
        if acks:
            out.actions.append(Send(AckResults(acks)))

    def end(self, ending: list[Ended], now: float, out: Outcome) -> None:
        """The one place where tickets end; in the same commit so does what will not start after them."""
        while ending:  # no recursion: a chain may be long
            ended = ending.pop()
            ticket, outcome = ended.ticket, ended.outcome
            job = self.open.pop(ticket)
            self._unsent.pop(ticket, None)
            if job.key:
                self.keys.end(job.key, ticket)
            self.outcomes[outcome] += 1
            out.records.append(Done(job.seq, ended, self._tried.pop(ticket, ())))
            if job.has_checkpoint:
                out.actions.append(Forget(ticket))
            if job.notify:
                self.notices.add(job.seq, job.notify, now, out)
            if job.waiters:
                self._answer_waiters(job, ended, out)
            if self._subscriptions:
                self._tell(job, ended, out)
            if job.within is not None and job.within.end(ticket, outcome):
                parent = self.open[job.within.ticket]
                ending.append(job.within.ended(parent.cancelled, now))
            if self.after:
                self.after.leave(ticket)
                ending += self.follow(ticket, outcome, now)

    def follow(self, ticket: str, outcome: str | None, now: float) -> list[Ended]:
        """It ended so: what came after it is handed in, or ends as this list says."""
        if outcome == JobOutcome.SUCCEEDED:
            for each in self.after.succeeded(ticket):
                self.hand_in(each)
            return []
        followers = self.after.failed(ticket)
        return [ended for each in followers for ended in self.all_not_started(each, ticket, outcome, now)]

    def all_not_started(self, ticket: str, awaited: str, outcome: str | None, now: float) -> list[Ended]:
        """How it ends, or where it is an array each of its jobs, as `awaited` ended so."""
        why, array = reason_after(awaited, outcome), self.open[ticket].array
        if array is None:
            return [not_started(ticket, why, now)]
        array.why = why
        return [not_started(each, why, now) for each in array.open]

    def hand_in(self, ticket: str) -> None:
        """It waits for nothing more, unless it is for its key."""
        if ticket in self.keys.unclaimed:
            return
        array = self.open[ticket].array
        for each in (ticket,) if array is None else array.open:
            if not self.open[each].acked:
                self._unsent[each] = self.open[each]

    def withdraw(self, ticket: str, jobs: Iterable[str], out: Outcome) -> None:
        """Takes back a ticket, with the jobs of an array, of which nobody knows."""
        job = self.open[ticket]
        tickets = {ticket, *jobs}
        out.records.append(Withdrawn(job.seq, len(tickets)))
        self.after.leave(ticket)
        self.keys.end(job.key, ticket)
        self.submitted -= len(tickets)
        for each in tickets:
            del self.open[each]

    def _tell(self, job: OpenJob, ended: Ended, out: Outcome) -> None:
        clients = self._subscriptions.of(job.tag)
        if clients:
            with contextlib.suppress(ProtocolError):  # whoever asks for it is told that it cannot be read
                view = view_of_done(ended.ticket, job.submitted_at, job.body, ended)
                view = view if job.array is None else replace(view, array=job.array.view())
                out.actions.append(Tell(clients, JobEnded(view)))

    def _answer_waiters(self, job: OpenJob, ended: Ended, out: Outcome) -> None:
        reply: dict[bool, Reply]
        try:
            view = view_of_done(ended.ticket, job.submitted_at, job.body, ended)
            reply = {True: CancelOf(view), False: ResultOf(view)}
        except ProtocolError as error:
            failure = Failure(f"The result of {ended.ticket} cannot be read: {error.reason}.")
            reply = {True: failure, False: failure}
        for waiter in job.waiters or ():
            if job.array is None:
                out.actions.append(Answer(waiter.client, waiter.seq, reply[waiter.cancels]))
            else:  # its jobs are looked up
                asked = CancelJob(ended.ticket) if waiter.cancels else Wait(ended.ticket)
                out.actions.append(LookUp(waiter.client, waiter.seq, asked, ended.ticket))
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
