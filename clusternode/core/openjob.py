"""A ticket without a result, as its origin has it in memory and as its store gives it back."""

from __future__ import annotations

from typing import NamedTuple

from clusternode.core.arrays import Array
from clusternode.core.events import Line
from protocol.job import Command, JobSpec, Sleep, key_of
from protocol.messages import JobItem

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
        "after",
        "array",
        "at_most_once",
        "body",
        "cancelled",
        "has_checkpoint",
        "key",
        "notify",
        "priority",
        "retries",
        "seq",
        "submitted_at",
        "tag",
        "waiters",
        "within",
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
        self.tag = command.extras.tag
        self.notify = command.extras.notify
        self.after = command.extras.after
        self.has_checkpoint = command.extras.checkpoint
        self.key = key_of(spec)
        #: What it is, where it is one; what it is in, where it is in one.
        self.array: Array | None = None
        self.within: Array | None = None
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


class Seeking(NamedTuple):
    """A submission whose key the store may know, or that comes after tickets of which the store must say how
    they ended; `known`: has said."""

    client: int
    line: Line
    spec: JobSpec
    missing: list[str]
    known: dict[str, str | None]


class Asking(NamedTuple):
    """A client's line that waits for the load balancer's word."""

    line: Line
    client: int
