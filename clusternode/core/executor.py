"""The node as an executor: a queue, slots, and results kept until the load balancer has them.

An attempt is in exactly one of `queue`, `ahead`, `running`, `shipping` and `outbox`; anything else about it
is stale.

What runs takes a slot, or as many as it asks for (`--cpus`), at most all. Jobs start in the order of the
queue: while its head waits for enough slots, nothing behind it starts, or a wide one would wait for ever.

What it does follows from the load balancer's records, not from this node's: its actions are prompt.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise, takewhile

from clusternode.core.events import (
    CommandEnded,
    FromHelpers,
    Kill,
    Outcome,
    Progressed,
    Send,
    Ship,
    Shipped,
    Spawn,
    SpawnTask,
    TakeBack,
    TakenBack,
    Unship,
)
from clusternode.core.held import Running, Shipping, leaves_files
from clusternode.core.lanes import Ahead, Fate, Lane, Lanes
from clusternode.core.outbox import Outbox
from protocol.errors import ProtocolError
from protocol.job import Command, Ended, JobSpec, Report, Sleep, Task, unpack_spec
from protocol.job import Outcome as JobOutcome
from protocol.messages import (
    Held,
    JobItem,
    Leaving,
    NotHere,
    Returned,
    Started,
    in_batches,
)

#: A job that runs this long is reported as STARTED; shorter ones are spared the message.
STARTED_AFTER = 0.05


class Executor:
    """Starts what it is given in order, as far as there are slots."""

    def __init__(self, name: str, slots: int, kept: Iterable[tuple[str, int, int]]) -> None:
        """`kept`: (ticket, attempt, size) of the results that the store kept."""
        self.name = name
        self.slots = slots
        self.queue: dict[str, JobItem] = {}
        #: Given to helpers behind others, and not started as far as is known.
        self.ahead: dict[str, Ahead] = {}
        self.running: dict[str, Running] = {}
        #: Ended, with files on their way; they take no slot.
        self.shipping: dict[str, Shipping] = {}
        self.outbox = Outbox(kept)
        self.done = 0
        #: What came about attempts that are not here, or not any more, and was dropped.
        self.stale = 0
        #: Nothing starts any more.
        self.draining = False
        self.stopping = False
        self._lanes = Lanes()
        #: Commands that count no more but are still to end, with others behind them: their slots are taken.
        #: Wide ones as well, whatever is behind them.
        self._parting: set[Held] = set()
        #: Of wide attempts, the slots that they take beyond their first, until their end is known.
        self._wide: dict[Held, int] = {}
        self._sleeps: list[tuple[float, str, int]] = []
        #: When to report STARTED of these attempts, and LEAVING of these, in order.
        self._to_report: dict[tuple[str, int], float] = {}
        self._to_leave: dict[tuple[str, int], float] = {}

    @property
    def taken(self) -> int:
        """Slots that are not free."""
        return len(self.running) + len(self._parting) + sum(self._wide.values())

    # --- what the load balancer says -------------------------------------------------------------

    def holdings(self) -> tuple[tuple[Held, ...], tuple[Held, ...], tuple[Held, ...]]:
        """(held, running, finished) for HELLO."""
        return (
            (
                *(ahead.key for ahead in self.ahead.values()),
                *(Held(item.ticket, item.attempt) for item in self.queue.values()),
            ),
            tuple(
                Held(ticket, job.attempt)
                for jobs in (self.running, self.shipping)
                for ticket, job in jobs.items()
            ),
            tuple(Held(ticket, attempt) for ticket, attempt in self.outbox.attempts.items()),
        )

    def assign(self, items: Iterable[JobItem], out: Outcome) -> None:
        for item in items:
            known = self._attempt(item.ticket)
            if known is not None and known >= item.attempt:
                self.stale += 1
                continue
            if known is not None:
                self._forget(item.ticket, out)
            self._enqueue(item)
        if self.draining:
            self.give_back(out)

    def progress_of(self, ticket: str) -> tuple[float, str] | None:
        """What the task that runs here for this ticket has said."""
        job = self.running.get(ticket)
        return None if job is None else job.progress

    def recall(self, jobs: Iterable[Held], out: Outcome) -> None:
        """One RETURNED at once; another for each that is ahead, if its helper has not started it."""
        returned = []
        for ticket, attempt in jobs:
            item, ahead = self.queue.get(ticket), self.ahead.get(ticket)
            if item is not None and item.attempt == attempt:
                del self.queue[ticket]
                returned.append(Held(ticket, attempt))
            elif ahead is not None and ahead.key.attempt == attempt and ahead.fate is Fate.WAITS:
                self._take_back(ahead, Fate.RETURNED, out)
            else:
                self.stale += 1
        out.prompt.append(Send(Returned(returned)))

    def cancel(self, jobs: Iterable[Held], now: float, out: Outcome) -> None:
        for ticket, attempt in jobs:
            if self._attempt(ticket) != attempt:
                self.stale += 1
                continue
            if self.queue.pop(ticket, None) is not None:
                self._finish(ticket, attempt, JobOutcome.CANCELLED, self._bare(now, "before it started"), now)
                continue
            if (ahead := self.ahead.get(ticket)) is not None:
                self._take_back(ahead, Fate.CANCELLED, out)
                continue
            if (shipping := self.shipping.pop(ticket, None)) is not None:
                out.prompt.append(Unship(ticket, attempt))
                self._finish(ticket, attempt, JobOutcome.CANCELLED, shipping.report, now)
                continue
            job = self.running.get(ticket)
            if job is None or job.cancelled:
                continue
            job.cancelled = True
            if isinstance(job.spec, Sleep):
                del self.running[ticket]
                report = Report(self.name, job.started_at, now)
                self._finish(ticket, attempt, JobOutcome.CANCELLED, report, now)
            else:
                self._kill(Held(ticket, attempt), out)

    def drop(self, jobs: Iterable[Held], out: Outcome) -> None:
        """These attempts are stale: nothing more of them."""
        for ticket, attempt in jobs:
            if self._attempt(ticket) == attempt:
                self._forget(ticket, out)
            else:
                self.stale += 1

    def requested(self, tickets: Iterable[str], out: Outcome) -> None:
        """REQUEST_OF_RES: what is finished was sent or will be; what is not here at all is said so.

        Each request is answered, so that the load balancer knows which one an answer belongs to.
        """
        asked = list(tickets)
        if asked:
            out.prompt.append(Send(NotHere([ticket for ticket in asked if self._attempt(ticket) is None])))

    def acknowledged(self, results: Iterable[Held], out: Outcome) -> None:
        for ticket, attempt in results:
            if self.outbox.attempts.get(ticket) == attempt:
                self.outbox.release(ticket, out)
            else:
                self.stale += 1

    # --- what happens here -----------------------------------------------------------------------

    def heard(self, event: FromHelpers, now: float, connected: bool, out: Outcome) -> None:
        for news in event.news:
            if isinstance(news, TakenBack):
                self._taken_back(Held(*news), now, connected, out)
            elif isinstance(news, Progressed):
                job = self.running.get(news.ticket)
                if job is not None and job.attempt == news.attempt:
                    job.progress = news.part, news.text
            else:
                self._command_ended(news, now, out)

    def _command_ended(self, event: CommandEnded, now: float, out: Outcome) -> None:
        key = Held(event.ticket, event.attempt)
        # A task has no lane: what it takes says nothing about commands.
        is_command = self._lanes.of(key) is not None
        next_one = self._lanes.end(key, now)
        self._parting.discard(key)
        self._wide.pop(key, None)
        if is_command and event.exit_code is not None:
            self._lanes.took(event.finished_at - event.started_at)
        if next_one is not None:
            self._ahead_started(next_one, now, out)
        job = self.running.get(event.ticket)
        if job is None or job.attempt != event.attempt:
            return
        del self.running[event.ticket]
        if self.stopping:
            return
        if job.cancelled:
            outcome = JobOutcome.CANCELLED
        elif event.exit_code is None:
            outcome = JobOutcome.LOST
        elif event.timed_out:
            outcome = JobOutcome.TIMED_OUT
        else:
            outcome = JobOutcome.SUCCEEDED if event.exit_code == 0 else JobOutcome.FAILED
        report = Report(
            self.name,
            event.started_at,
            event.finished_at,
            event.exit_code,
            event.stdout,
            event.stderr,
            event.stdout_total,
            event.stderr_total,
            event.reason,
            event.value,
        )
        leaves = event.partials or leaves_files(job.spec)
        if leaves and outcome not in (JobOutcome.CANCELLED, JobOutcome.LOST):
            self.shipping[event.ticket] = Shipping(event.attempt, outcome, report)
            self._to_leave[key] = now + STARTED_AFTER
            out.prompt.append(Ship(event.ticket, event.attempt))
        else:
            self._finish(event.ticket, event.attempt, outcome, report, now)

    def shipped(self, event: Shipped, now: float) -> None:
        """Its files are home, or cannot be; only now there is a result."""
        ticket, attempt, files, fault = event
        shipping = self.shipping.get(ticket)
        if shipping is None or shipping.attempt != attempt:
            self.stale += 1
            return
        del self.shipping[ticket]
        outcome, report = shipping.outcome, replace(shipping.report, files=tuple(files))
        if fault:
            outcome = JobOutcome.FAILED if outcome is JobOutcome.SUCCEEDED else outcome
            report = replace(report, reason=f"{report.reason}; {fault}" if report.reason else fault)
        self._finish(ticket, attempt, outcome, report, now)

    def advance(self, now: float, connected: bool, out: Outcome) -> None:
        """Ends sleeps that are over, starts what there is room for, reports and keeps what is due.

        Sends what the load balancer is owed, as far as the window allows and it is connected.
        """
        while self._sleeps and self._sleeps[0][0] <= now:
            _, ticket, attempt = heapq.heappop(self._sleeps)
            job = self.running.get(ticket)
            if job is not None and job.attempt == attempt:
                del self.running[ticket]
                report = Report(self.name, job.started_at, now)
                self._finish(ticket, attempt, JobOutcome.SUCCEEDED, report, now)
        for lane in self._lanes.overdue(now):
            self._close(lane, out)
        while self.queue and not self.draining and self._start_next(now, out):
            pass
        if self.queue and not self.draining:
            self._hand_ahead(now, out)
        if connected:
            self._report(now, out)
            self.outbox.send_due(now, bool(self.queue or self.ahead), out)
        self.outbox.keep_due(now, connected and not self.stopping, out)

    def next_deadline(self, connected: bool) -> float | None:
        deadlines = [self._sleeps[0][0]] if self._sleeps else []
        if connected:
            deadlines += [next(iter(each.values())) for each in (self._to_report, self._to_leave) if each]
        if (patience := self._lanes.next_deadline()) is not None:
            deadlines.append(patience)
        if (due := self.outbox.next_deadline(connected)) is not None:
            deadlines.append(due)
        return min(deadlines, default=None)

    def link_up(self) -> None:
        """The load balancer knows us anew: it is owed all results, and HELLO told it what runs."""
        self.outbox.link_up()
        self._to_leave = {(ticket, each.attempt): 0.0 for ticket, each in self.shipping.items()}

    def drain(self, connected: bool, out: Outcome) -> None:
        """Nothing starts any more; what waits goes back, as soon as there is a link; what runs goes on."""
        self.draining = True
        for lane in self._lanes.all():
            self._close(lane, out)
        if connected:
            self.give_back(out)

    def give_back(self, out: Outcome) -> None:
        """RETURNED: nothing of what waits has started."""
        waiting = [Held(item.ticket, item.attempt) for item in self.queue.values()]
        self.queue.clear()
        for batch in in_batches(waiting):
            out.prompt.append(Send(Returned(batch)))

    def is_drained(self, connected: bool) -> bool:
        """Nothing runs any more, and no result can be delivered that was not."""
        is_busy = self.running or self.ahead or self.shipping
        return self.draining and not is_busy and not (connected and self.outbox)

    def stop(self, now: float, out: Outcome) -> None:
        """Commands are ended, and their end is nobody's news; what is not acknowledged goes to disk."""
        self.draining = True
        self.queue.clear()
        self.shipping.clear()
        self.stopping = True
        for ticket, job in list(self.running.items()):
            if isinstance(job.spec, Sleep):
                del self.running[ticket]
            else:
                self._kill(Held(ticket, job.attempt), out)
        self.outbox.keep_due(now, False, out)

    # --- inside ----------------------------------------------------------------------------------

    def _enqueue(self, item: JobItem) -> None:
        """Behind all that waits with its priority or a higher one."""
        last = next(reversed(self.queue.values()), item)
        self.queue[item.ticket] = item
        if item.priority > last.priority:
            self._line_up()

    def _line_up(self) -> None:
        """The order of the queue: by priority, and among equals as they stand."""
        waiting = list(self.queue.values())
        if any(later.priority > sooner.priority for sooner, later in pairwise(waiting)):
            waiting.sort(key=lambda item: -item.priority)
            self.queue = {item.ticket: item for item in waiting}

    def _attempt(self, ticket: str) -> int | None:
        if ticket in self.queue:
            return self.queue[ticket].attempt
        if ticket in self.ahead:
            return self.ahead[ticket].key.attempt
        if ticket in self.running:
            return self.running[ticket].attempt
        if ticket in self.shipping:
            return self.shipping[ticket].attempt
        return self.outbox.attempts.get(ticket)

    def _start_next(self, now: float, out: Outcome) -> bool:
        """Starts the head of the queue; False if there are not as many slots as it takes."""
        free = self.slots - self.taken
        if free <= 0:
            return False
        item = next(iter(self.queue.values()))
        try:
            spec = unpack_spec(item.body)
        except ProtocolError as error:
            del self.queue[item.ticket]
            self._finish(item.ticket, item.attempt, JobOutcome.FAILED, self._bare(now, error.reason), now)
            return True
        if (wanted := self._slots_of(spec)) > free:
            return False
        del self.queue[item.ticket]
        key = Held(item.ticket, item.attempt)
        if wanted > 1:
            self._wide[key] = wanted - 1
        if item.attempt > 1:
            self.outbox.hurry()
        self._start(key, spec, now, out)
        return True

    def _slots_of(self, spec: JobSpec) -> int:
        return 1 if isinstance(spec, Sleep) else max(1, min(spec.extras.cpus, self.slots))

    def _start(self, key: Held, spec: JobSpec, now: float, out: Outcome) -> None:
        ticket, attempt = key
        match spec:
            case Sleep(0):
                self._finish(ticket, attempt, JobOutcome.SUCCEEDED, Report(self.name, now, now), now)
                return
            case Sleep(ms):
                heapq.heappush(self._sleeps, (now + ms / 1000, ticket, attempt))
            case Command(line, limit):
                # What has files starts only when they are there: nothing may count on its place. And one slot
                # is not what a wide one leaves.
                self._lanes.start(key, now, closed=spec.extras.has_files or key in self._wide)
                out.prompt.append(Spawn(ticket, attempt, line, limit, extras=spec.extras.for_running))
            case Task(name, payload, limit):
                how = (limit, spec.at_most_once, spec.extras.for_running)
                out.prompt.append(SpawnTask(ticket, attempt, name, payload, *how))
        self.running[ticket] = Running(attempt, spec, now)
        self._to_report[ticket, attempt] = now + STARTED_AFTER

    # --- commands ahead --------------------------------------------------------------------------

    def _hand_ahead(self, now: float, out: Outcome) -> None:
        """Commands at the head of the queue go to helpers behind those that they have; a sleep needs none."""
        for lane, room in self._lanes.takers(len(self.queue), now):
            for _ in range(room):
                item = next(iter(self.queue.values()), None)
                spec = None if item is None else self._narrow_command(item)
                if item is None or spec is None:
                    return
                del self.queue[item.ticket]
                ahead = self.ahead[item.ticket] = Ahead(item, spec)
                out.prompt.append(self._lanes.hand(lane, ahead, now))

    def _narrow_command(self, item: JobItem) -> Command | None:
        """None for what is no command, has files, takes more than the slot that another leaves, was lost
        before, or is not understood: that is said when it starts."""
        if item.attempt > 1:
            return None
        try:
            spec = unpack_spec(item.body)
        except ProtocolError:
            return None
        is_fit = isinstance(spec, Command) and not spec.extras.has_files and self._slots_of(spec) == 1
        return spec if is_fit and isinstance(spec, Command) else None

    def _take_back(self, ahead: Ahead, fate: Fate, out: Outcome) -> None:
        ahead.fate = fate
        if not ahead.asked:
            ahead.asked = True
            out.prompt.append(TakeBack(*ahead.key))

    def _close(self, lane: Lane, out: Outcome) -> None:
        """Its command runs on or is to end: what is behind it goes where there is room."""
        lane.closed = True
        # The last one first, so that they stand in order again at the head of the queue.
        for ahead in reversed(lane.ahead):
            self._take_back(ahead, ahead.fate, out)

    def _kill(self, key: Held, out: Outcome) -> None:
        """Nothing that is behind this one may start because of that."""
        lane = self._lanes.of(key)
        if lane is not None:
            self._close(lane, out)
        out.prompt.append(Kill(*key))

    def _ahead_started(self, ahead: Ahead, now: float, out: Outcome) -> None:
        key = ahead.key
        if ahead.fate is Fate.DROPPED:
            self._part(key, out)
            return
        del self.ahead[key.ticket]
        self.running[key.ticket] = Running(key.attempt, ahead.spec, now, ahead.fate is Fate.CANCELLED)
        self._to_report[key] = now + STARTED_AFTER
        if ahead.fate is Fate.CANCELLED or self.stopping:
            self._kill(key, out)

    def _taken_back(self, key: Held, now: float, connected: bool, out: Outcome) -> None:
        ahead = self._lanes.take_out(key)
        if ahead is None:
            self._not_prepared(key, now, connected, out)
            return
        self._parting = {
            each
            for each in self._parting
            if each in self._wide or ((lane := self._lanes.of(each)) and lane.ahead)
        }
        if ahead.fate is Fate.DROPPED:
            return
        del self.ahead[key.ticket]
        if self.stopping:
            return
        if ahead.fate is Fate.CANCELLED:
            self._finish(*key, JobOutcome.CANCELLED, self._bare(now, "before it started"), now)
        elif connected and (self.draining or ahead.fate is Fate.RETURNED):
            out.prompt.append(Send(Returned([key])))
        else:
            self.queue = {key.ticket: ahead.item, **self.queue}
            self._line_up()

    def _not_prepared(self, key: Held, now: float, connected: bool, out: Outcome) -> None:
        """Its files could not be had here: nothing of it has started, and nobody crashed."""
        self._lanes.end(key, now)  # nothing is behind what has files
        self._parting.discard(key)
        self._wide.pop(key, None)
        job = self.running.get(key.ticket)
        if job is None or job.attempt != key.attempt:
            return
        del self.running[key.ticket]
        self._to_report.pop(key, None)
        if self.stopping:
            return
        if job.cancelled:
            self._finish(*key, JobOutcome.CANCELLED, self._bare(now, "before it started"), now)
        elif connected:  # else HELLO will not name it, which says the same
            out.prompt.append(Send(Returned([key])))

    def _part(self, key: Held, out: Outcome) -> None:
        """A command that counts no more is killed; its end is nobody's news."""
        self._kill(key, out)
        lane = self._lanes.of(key)
        if key in self._wide or (lane is not None and lane.ahead):
            self._parting.add(key)

    # --- results ---------------------------------------------------------------------------------

    def _finish(self, ticket: str, attempt: int, outcome: JobOutcome, report: Report, now: float) -> None:
        self.done += 1
        self._to_report.pop((ticket, attempt), None)
        self.outbox.add(Ended(ticket, attempt, str(outcome), report.pack()), now)

    def _bare(self, now: float, reason: str) -> Report:
        return Report(node=self.name, finished_at=now, reason=reason)

    def _forget(self, ticket: str, out: Outcome) -> None:
        """Takes an attempt out, wherever it is. A command is killed; its end will be nobody's news."""
        self.queue.pop(ticket, None)
        if (ahead := self.ahead.pop(ticket, None)) is not None:
            self._take_back(ahead, Fate.DROPPED, out)
        if (shipping := self.shipping.pop(ticket, None)) is not None:
            out.prompt.append(Unship(ticket, shipping.attempt))
        job = self.running.pop(ticket, None)
        if job is not None and not isinstance(job.spec, Sleep):
            self._part(Held(ticket, job.attempt), out)
        if ticket in self.outbox:
            self.outbox.release(ticket, out)

    def _report(self, now: float, out: Outcome) -> None:
        """What has run for a moment, and what has ended with files that are under way for one."""
        for waiting, jobs, kind in (
            (self._to_report, self.running, Started),
            (self._to_leave, self.shipping, Leaving),
        ):
            due = [Held(*key) for key in takewhile(lambda key: waiting[key] <= now, waiting)]  # noqa: B023
            for held in due:
                del waiting[held]
            for batch in in_batches(held for held in due if held.ticket in jobs):
                out.prompt.append(Send(kind(batch)))
