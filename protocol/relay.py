"""The messages by which nodes speak to one another, and to the load balancer about keys.

Part of `messages`: there they are encoded, and decoded by what is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from protocol import fields
from protocol.errors import ProtocolError
from protocol.job import is_ticket
from protocol.limits import BATCH_ITEMS, NAME_LIMIT, RELAY_LIMIT

#: Statuses of TOLD beside 200.
NOT_FOUND, NO_ROOM, AWAY = 404, 507, 503
WHOM = ("node", "executor", "origin")
WHAT_LIMIT = 32


@dataclass(frozen=True, slots=True)
class Ask:
    """node -> LB -> node: a question of one node to another, which the load balancer passes on unread.

    `whom`: "node", then `name` is a node's id; on the way in also "executor" or "origin", then it is a
    ticket. On the way out it names the node that asks. `what` and `body`: see docs/protocol.md.
    """

    number: int
    whom: str
    name: str
    what: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """node -> LB -> node: answers ASK `number` of the node `name`, on the way out by it.

    `status` AWAY, or NOT_FOUND with an empty `name`: the load balancer found nobody to ask; `body` says why.
    """

    number: int
    name: str
    status: int
    body: bytes


class Claiming(NamedTuple):
    """A submission with a key that is about to get this ticket."""

    key: str
    ticket: str


@dataclass(frozen=True, slots=True)
class Claim:
    """node -> LB: whose are these keys?"""

    number: int
    claims: Sequence[Claiming]


class Owner(NamedTuple):
    """The ticket that a key stands for, and the name of the node that answers for it."""

    ticket: str
    node: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """LB -> node, answers CLAIM `number`, one owner a key: durable, and so for a day at least."""

    number: int
    owners: Sequence[Owner]


def _ask(payload: Any) -> Ask:
    number, whom, name, what, body = fields.exactly(payload, "ASK", 5)
    if whom not in WHOM:
        raise ProtocolError(f"an ASK of none of {', '.join(WHOM)}")
    return Ask(
        fields.integer(number, "the number", 0, 2**62),
        whom,
        fields.name(name, "whom it asks"),
        fields.text(what, "what it asks", WHAT_LIMIT),
        fields.data(body, "the body of ASK", RELAY_LIMIT),
    )


def _told(payload: Any) -> Told:
    number, name, status, body = fields.exactly(payload, "TOLD", 4)
    return Told(
        fields.integer(number, "the number", 0, 2**62),
        fields.text(name, "who is told", NAME_LIMIT),
        fields.integer(status, "the status", 100, 599),
        fields.data(body, "the body of TOLD", RELAY_LIMIT),
    )


def _claim(payload: Any) -> Claim:
    number, rows = fields.exactly(payload, "CLAIM", 2)
    pairs = [fields.exactly(row, "a claim", 2) for row in fields.rows(rows, "claims", BATCH_ITEMS)]
    if not all(is_ticket(ticket) for _, ticket in pairs):
        raise ProtocolError("a claim for no ticket")
    claims = tuple(Claiming(fields.name(key, "a key"), ticket) for key, ticket in pairs)
    return Claim(fields.integer(number, "the number", 0, 2**62), claims)


def _claimed(payload: Any) -> Claimed:
    number, rows = fields.exactly(payload, "CLAIMED", 2)
    pairs = [fields.exactly(row, "an owner", 2) for row in fields.rows(rows, "owners", BATCH_ITEMS)]
    if not all(is_ticket(ticket) for ticket, _ in pairs):
        raise ProtocolError("an owner that is no ticket")
    owners = tuple(Owner(ticket, fields.text(node, "its node", NAME_LIMIT)) for ticket, node in pairs)
    return Claimed(fields.integer(number, "the number", 0, 2**62), owners)


#: (type, payload of an instance) by class, and what makes an instance of the payload of each type.
ENCODERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    Ask: ("ASK", lambda m: (m.number, m.whom, m.name, m.what, m.body)),
    Told: ("TOLD", lambda m: (m.number, m.name, m.status, m.body)),
    Claim: ("CLAIM", lambda m: (m.number, m.claims)),
    Claimed: ("CLAIMED", lambda m: (m.number, m.owners)),
}
DECODERS: dict[str, Callable[[Any], Ask | Told | Claim | Claimed]] = {
    "ASK": _ask,
    "TOLD": _told,
    "CLAIM": _claim,
    "CLAIMED": _claimed,
}
