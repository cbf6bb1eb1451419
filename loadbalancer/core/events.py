"""What comes into the core and what goes out of it. A link is a node's connection, by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from loadbalancer.core.jobs import JobRecord
from loadbalancer.core.keys import KeyRecord
from protocol.messages import Hello, Message, Query
from protocol.relay import Ask


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """A stranger has said who it is."""

    link: int
    hello: Hello


@dataclass(frozen=True, slots=True)
class StrangerAsked:
    """A stranger asks how we are (the health check)."""

    link: int
    query: Query


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """From a link that was welcomed."""

    link: int
    message: Message


@dataclass(frozen=True, slots=True)
class LinkLost:
    link: int


@dataclass(frozen=True, slots=True)
class Tick:
    """A deadline has come. `deaf`: nothing is read from nodes at the moment, as the disk is behind."""

    deaf: bool = False


Event = HelloReceived | StrangerAsked | MessageReceived | LinkLost | Tick


@dataclass(frozen=True, slots=True)
class Together:
    """What came at once, in order: one step, one round of dispatch, one message for each receiver."""

    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class Send:
    link: int
    message: Message


@dataclass(frozen=True, slots=True)
class PassOn:
    """A question of the node on link `back`, which is told to come again where there is no room for it."""

    link: int
    ask: Ask
    back: int


class Stored(NamedTuple):
    """A result that is in the store."""

    seq: int
    ticket: str
    attempt: int
    outcome: str
    size: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Read these results from the store and send them; ask for `tickets` in the same breath."""

    link: int
    results: Sequence[Stored]
    tickets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Accept:
    """The stranger on this link is a node from now on."""

    link: int
    name: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close after what was sent; `at_once` where the peer hangs and would never read it."""

    link: int
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Log:
    """One line for the operator."""

    text: str
    warning: bool = False


Record = JobRecord | KeyRecord
Action = Send | PassOn | Deliver | Accept | Close | Log


@dataclass(slots=True)
class Outcome:
    """Records to commit; what may happen only after that, in order; and what need not wait.

    `prompt` holds what follows from no record of this store: heartbeats, and whatever concerns jobs that
    are on record elsewhere. It must not wait for a slow disk here.
    """

    records: list[Record] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    prompt: list[Action] = field(default_factory=list)
