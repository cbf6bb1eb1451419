"""A job as the load balancer knows it, and the states it may go through."""

from __future__ import annotations

import enum
from typing import NamedTuple

from protocol.explain import Attempt


class State(enum.IntEnum):
    """RUNNING is not recorded on disk: after a restart the node says again what runs.

    DELAYED: it failed, and is queued again when its time has come.

    PASSING is not recorded either: its result is on its way through to its origin, from memory, and its
    executor keeps it until the origin has it on disk. After a restart the executor delivers it again.
    """

    QUEUED = 0
    ASSIGNED = 1
    RUNNING = 2
    DONE = 3
    DELAYED = 4
    PASSING = 5


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
        (State.ASSIGNED, State.PASSING),  # it ended, and its origin is there to take the result
        (State.RUNNING, State.PASSING),
        (State.PASSING, State.DONE),  # the origin went away, or does not acknowledge: recorded here
        (State.ASSIGNED, State.DELAYED),  # lost, and its origin is asked whether the result is home already
        (State.RUNNING, State.DELAYED),  # it failed and has retries left; so may one that is ASSIGNED
        (State.DELAYED, State.QUEUED),
        (State.DELAYED, State.DONE),  # cancelled, or an attempt thought lost had ended after all
    }
)


class IllegalTransition(AssertionError):
    """The core was about to do what the table does not allow."""


class Job:
    """One job from its submission until its origin has acknowledged the result.

    A class with slots rather than one object a state: a million of them wait at once.
    `node` stands exactly while ASSIGNED or RUNNING, `outcome` exactly when PASSING or DONE, `not_before`
    exactly while DELAYED. `seq` is the order of arrival and the key in the store. `losses` counts attempts
    that took their node or worker with them, `failures` those that ended badly and were tried again. `lost`
    names the nodes of lost attempts, whose results count if they come after all; it lives in memory only.
    `story`: what came of the last ATTEMPTS_TOLD attempts that are over; None where there is none.
    """

    __slots__ = (
        "at_most_once",
        "attempt",
        "body",
        "cancelled",
        "failures",
        "losses",
        "lost",
        "node",
        "not_before",
        "origin",
        "outcome",
        "priority",
        "result_size",
        "retries",
        "seq",
        "since",
        "state",
        "story",
        "submitted_at",
        "ticket",
        "version",
    )

    def __init__(
        self,
        seq: int,
        ticket: str,
        origin: str,
        submitted_at: float,
        body: bytes,
        retries: int = 0,
        at_most_once: bool = False,
        priority: int = 0,
    ) -> None:
        self.seq = seq
        self.ticket = ticket
        self.origin = origin
        self.submitted_at = submitted_at
        self.body = body
        self.state = State.QUEUED
        self.attempt = 1
        self.retries = retries
        self.at_most_once = at_most_once
        self.priority = priority
        self.losses = 0
        self.failures = 0
        self.lost: dict[int, str] | None = None
        self.story: tuple[Attempt, ...] | None = None
        self.not_before = 0.0
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
    failures: int
    not_before: float
    retries: int
    at_most_once: int
    priority: int
    body: bytes | None
    result: bytes | None
    story: tuple[Attempt, ...] = ()


class Forget(NamedTuple):
    """The job's origin has its result: nothing of it stays here. `has_result`: it was recorded here."""

    seq: int
    has_result: bool = True


JobRecord = Row | Forget


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
        job.failures,
        job.not_before,
        job.retries,
        job.at_most_once,
        job.priority,
        body,
        result,
        job.story or (),
    )


def job_of(row: Row) -> Job:
    """The job of a row as it was loaded (with its body, or empty when it is DONE)."""
    body = b"" if row.state == State.DONE else row.body or b""
    how = (row.retries, bool(row.at_most_once), row.priority)
    job = Job(row.seq, row.ticket, row.origin, row.submitted_at, body, *how)
    job.state = State(row.state)
    job.version, job.attempt, job.losses = row.version, row.attempt, row.losses
    job.node, job.outcome, job.result_size = row.node, row.outcome, row.result_size
    job.failures, job.not_before, job.story = row.failures, row.not_before, row.story or None
    return job
