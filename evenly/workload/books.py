"""What nodes say of the jobs of a run, gathered for the state: one commit for many."""

from __future__ import annotations

from evenly.workload.state import End, Refusal, State, Ticket

#: Ends of tickets that are not in the state: others' jobs, and some of ours whose ticket comes on another
#: connection and is a moment late.
EARLY = 20_000


class Books:
    """The state, with what is not written yet, and its counts. Whoever owns it calls `write` now and then.

    `missed`: an end may have been dropped that was ours, so open jobs have to be asked for.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        counts = state.counts()
        self.jobs = counts.jobs
        self.submitted = counts.submitted
        self.ended = counts.ended
        self.failed = counts.failed
        self.missed = False
        self._tickets: list[Ticket] = []
        self._refused: list[Refusal] = []
        self._ends: list[End] = []
        self._early: dict[str, End] = {}

    @property
    def open(self) -> int:
        """Jobs that were submitted and have not ended."""
        return self.submitted - self.ended

    def ticket(self, ticket: Ticket) -> None:
        self.submitted += 1
        self._tickets.append(ticket)
        if self._early and (end := self._early.pop(ticket.ticket, None)) is not None:
            self._ends.append(end)

    def refused(self, refusal: Refusal) -> None:
        self.submitted += 1
        self._refused.append(refusal)

    def end(self, end: End) -> None:
        self._ends.append(end)

    def write(self) -> None:
        """Raises WorkloadError where the state cannot be written."""
        if not (self._tickets or self._refused or self._ends):
            return
        ended, failed, strangers = self.state.write(self._tickets, self._refused, self._ends)
        self.ended += ended
        self.failed += failed
        self._tickets, self._refused, self._ends = [], [], []
        for end in strangers:
            self._early[end.ticket] = end
        while len(self._early) > EARLY:
            del self._early[next(iter(self._early))]
            self.missed = True
