"""How a ticket is given: what has to be asked of the store before, and what is recorded with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clusternode.core.arrays import Array
from clusternode.core.events import Answer, Find, Found, Line, Outcome, Submitted
from clusternode.core.openjob import Asking, OpenJob, Seeking
from protocol.arrays import jobs_of
from protocol.dialogue import Submit
from protocol.job import Command, JobSpec, Task, key_of
from protocol.job import Outcome as JobOutcome
from protocol.replies import Failure, TicketIssued
from protocol.tasks import fault_of

if TYPE_CHECKING:
    from clusternode.core.origin import Origin

#: The number of the `Found` that comes first.
AT_START = 0
LOADING = "The tasks of this node are still being loaded; please come back in a moment."


class Submissions:
    """Those that wait for the store, and the order of all that got a ticket."""

    def __init__(self, origin: Origin, next_seq: int) -> None:
        self._origin = origin
        self._next_seq = next_seq
        self._seeking: list[Seeking] = []
        self._sought: dict[int, list[Seeking]] = {}
        self._next_find = AT_START + 1

    def take(self, client: int, line: Line, spec: JobSpec, now: float, connected: bool, out: Outcome) -> None:
        """One submission: answered now or later, with a ticket or with what is wrong."""
        fault = self._fault(spec)
        if fault is not None:
            out.actions.append(Answer(client, line.seq, Failure(fault)))
        elif key_of(spec):
            self._submit_with_key(client, line, spec, connected, out)
        else:
            self._submit(client, line, spec, {}, now, connected, out)

    def _fault(self, spec: JobSpec) -> str | None:
        """Why this job gets no ticket."""
        if isinstance(spec, Command | Task):
            for path, digest in spec.extras.files:
                if not self._origin.has_file(digest):
                    return f"--file {path}: {digest} was not uploaded to this node; upload comes first."
        if not isinstance(spec, Task):
            return None
        tasks = self._origin.tasks
        return LOADING if tasks is None else fault_of(tasks, spec.name, spec.payload)

    def _submit_with_key(self, client: int, line: Line, spec: JobSpec, connected: bool, out: Outcome) -> None:
        """The store is asked first for a ticket that has ended; those that are open are in memory."""
        if self._origin.keys.is_first(key_of(spec), Asking(line, client), connected, out):
            self._seeking.append(Seeking(client, line, spec, [], {}))

    def _submit(
        self,
        client: int,
        line: Line,
        spec: JobSpec,
        known: dict[str, str | None],
        now: float,
        connected: bool,
        out: Outcome,
    ) -> None:
        """Gives the ticket, once each that it comes after is open, or `known` to have ended so."""
        origin = self._origin
        ticket, job = line.ticket, OpenJob(self._next_seq, now, spec, spec.pack(), False)
        if job.after:
            missing = [each for each in job.after if each not in origin.open and each not in known]
            if missing:
                self._seeking.append(Seeking(client, line, spec, missing, known))
                return
            strange = next((each for each, outcome in known.items() if outcome is None), None)
            if strange is not None:
                reason = (
                    f"--after takes a ticket of this node, which {strange} is not: nothing was submitted."
                )
                out.actions.append(Answer(client, line.seq, Failure(reason)))
                for behind, other in origin.keys.settle(job.key):
                    assert isinstance(behind.asked, Submit)
                    self._submit_with_key(other, behind, behind.asked.spec, connected, out)
                return
        self._next_seq += 1
        origin.open[ticket] = job
        origin.submitted += 1
        out.records.append(Submitted(job.seq, ticket, now, job.body, job.key))
        if job.key:
            origin.keys.open[job.key] = ticket
            lines = [Asking(line, client), *origin.keys.settle(job.key)]
            origin.keys.issue(job.key, ticket, lines, connected, out)
        else:
            out.actions.append(Answer(client, line.seq, TicketIssued(ticket)))
        if line.tickets:
            assert isinstance(spec, Command)
            self._add_array(line, spec, job, now, out)
        if job.after:
            self._start_after(ticket, job, known, now, out)
        else:
            origin.hand_in(ticket)

    def _start_after(
        self, ticket: str, job: OpenJob, known: dict[str, str | None], now: float, out: Outcome
    ) -> None:
        origin = self._origin
        bad = next((each for each, outcome in known.items() if outcome != JobOutcome.SUCCEEDED), None)
        awaited = [each for each in job.after if each in origin.open]
        if bad is not None:
            origin.end(origin.all_not_started(ticket, bad, known[bad], now), now, out)
        elif awaited:
            origin.after.add(ticket, awaited)
        else:
            origin.hand_in(ticket)

    def _add_array(self, line: Line, spec: Command, parent: OpenJob, now: float, out: Outcome) -> None:
        """Its jobs, in the same commit as itself."""
        origin = self._origin
        parent.array = array = Array(line.ticket, spec.extras.array)
        array.add(line.tickets)
        single, bodies = jobs_of(spec, line.ticket)
        for ticket, body in zip(line.tickets, bodies, strict=True):
            job = OpenJob(self._next_seq, now, single, body, False)
            job.within = array
            origin.open[ticket] = job
            self._next_seq += 1
            out.records.append(Submitted(job.seq, ticket, now, job.body))
        origin.submitted += array.size

    def seek(self, out: Outcome) -> None:
        """Asks the store once for the keys of all this step's submissions, and for what they come after."""
        if self._seeking:
            number, self._next_find = self._next_find, self._next_find + 1
            self._sought[number], self._seeking = self._seeking, []
            tickets = dict.fromkeys(each for seeking in self._sought[number] for each in seeking.missing)
            keys = tuple(key for seeking in self._sought[number] if (key := key_of(seeking.spec)))
            out.actions.append(Find(number, tuple(tickets), keys))

    def found(self, found: Found, now: float, connected: bool, out: Outcome) -> None:
        """What the store says. It is asked again for what was open then and has ended since."""
        origin = self._origin
        if found.number == AT_START:
            for ticket, outcome in found.outcomes.items():
                origin.end(origin.follow(ticket, outcome, now), now, out)
        for client, line, spec, missing, known in self._sought.pop(found.number, ()):
            key = key_of(spec)
            if key in found.keys:  # the load balancer may know it as another's
                lines = [Asking(line, client), *origin.keys.settle(key)]
                origin.keys.issue(key, found.keys[key], lines, connected, out)
                continue
            known.update((ticket, found.outcomes[ticket]) for ticket in missing)
            self._submit(client, line, spec, known, now, connected, out)
