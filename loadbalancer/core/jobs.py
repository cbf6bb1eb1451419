"""A job as the load balancer knows it, and the states it may go through."""

from __future__ import annotations

import enum
from typing import NamedTuple


class State(enum.IntEnum):
    """RUNNING is not recorded on disk: after a restart the node says again what runs."""

    QUEUED = 0
    ASSIGNED = 1
    RUNNING = 2
    DONE = 3


#: Every legal change of state. What is not here is a fault of ours and raises.
TRANSITIONS = frozenset(
    {
        (State.QUEUED, State.ASSIGNED),  # dispatched
        (State.QUEUED, State.DONE),  # cancelled before it was dispatched, or lost too often
        (State.ASSIGNED, State.RUNNING),  # its node says so
        (State.ASSIGNED, State.QUEUED),  # recalled, or its node was lost
        (State.ASSIGNED, State.DONE),  # a short job: no STARTED came before its result
        (State.RUNNING, State.QUEUED),  # its node was lost
        (State.RUNNING, State.DONE),
    }
)


class IllegalTransition(AssertionError):
    """The core was about to do what the table does not allow."""


class Job:
    """One job from its submission until its origin has acknowledged the result.

    A class with slots rather than one object a state: a million of them wait at once.
    `node` stands exactly while ASSIGNED or RUNNING, `outcome` exactly when DONE. `seq` is the order of
    arrival and the key in the store. `losses` counts attempts that took their node or worker with them.
    """

    __slots__ = (
        "attempt",
        "body",
        "cancelled",
        "losses",
        "node",
        "origin",
        "outcome",
        "result_size",
        "seq",
        "since",
        "state",
        "submitted_at",
        "ticket",
        "version",
    )

    def __init__(self, seq: int, ticket: str, origin: str, submitted_at: float, body: bytes) -> None:
        self.seq = seq
        self.ticket = ticket
        self.origin = origin
        self.submitted_at = submitted_at
        self.body = body
        self.state = State.QUEUED
        self.attempt = 1
        self.losses = 0
        self.node: str | None = None
        self.outcome = ""
        self.result_size = 0
        self.cancelled = False
        #: When it came into its present place (seconds); of RUNNING, when it started.
        self.since = submitted_at
        self.version = 0

    def move(self, state: State) -> None:
        """Changes the state.

        Raises:
            IllegalTransition: with the job's story, if the table does not have the change.
        """
        if (self.state, state) not in TRANSITIONS:
            raise IllegalTransition(f"{self} cannot become {state.name}")
        self.state = state

    def __repr__(self) -> str:
        return (
            f"Job({self.ticket}, {self.state.name}, attempt {self.attempt}, node {self.node}, "
            f"{self.losses} losses, outcome {self.outcome or 'none'}, version {self.version})"
        )


class Row(NamedTuple):
    """A job as it is recorded: the whole row. `body`, `result`: None where the recorded one still holds."""

    seq: int
    ticket: str
    version: int
    state: int
    origin: str
    attempt: int
    losses: int
    node: str | None
    submitted_at: float
    outcome: str
    result_size: int
    body: bytes | None
    result: bytes | None


class Forget(NamedTuple):
    """The job's origin has its result: nothing of it stays here."""

    seq: int


Record = Row | Forget


def row_of(job: Job, body: bytes | None, result: bytes | None) -> Row:
    state = State.ASSIGNED if job.state is State.RUNNING else job.state
    return Row(
        job.seq,
        job.ticket,
        job.version,
        int(state),
        job.origin,
        job.attempt,
        job.losses,
        job.node,
        job.submitted_at,
        job.outcome,
        job.result_size,
        body,
        result,
    )


def job_of(row: Row) -> Job:
    """The job of a row as it was loaded (with its body, or empty when it is DONE)."""
    body = b"" if row.state == State.DONE else row.body or b""
    job = Job(row.seq, row.ticket, row.origin, row.submitted_at, body)
    job.state = State(row.state)
    job.version, job.attempt, job.losses = row.version, row.attempt, row.losses
    job.node, job.outcome, job.result_size = row.node, row.outcome, row.result_size
    return job
