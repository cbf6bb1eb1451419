"""Where a job was and why it waits: what the load balancer tells of attempts, what a client reads of it.

Part of `messages` and of `replies`: there it is encoded and rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from protocol import fields
from protocol.errors import ProtocolError
from protocol.job import JobState, is_ticket
from protocol.limits import ATTEMPT_LIMIT, ATTEMPTS_TOLD, BATCH_ITEMS, NAME_LIMIT, TIMESTAMP_LIMIT

HOW_LIMIT = 200


class Attempt(NamedTuple):
    """One attempt of a job: on which node, when it was given to it or began, when it was over, and how.

    Times are seconds since the epoch, None where they are not known, or it is not over.
    """

    attempt: int
    node: str
    begun: float | None
    over: float | None
    how: str


class Story(NamedTuple):
    """The attempts of a job that came to nothing, the last ones of them."""

    ticket: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """LB -> origin, before the results of these jobs: what came of their earlier attempts."""

    stories: Sequence[Story]


def tried(payload: Any) -> Tried:
    rows = [fields.exactly(row, "a story", 2) for row in fields.rows(payload, "stories", BATCH_ITEMS)]
    if not all(is_ticket(ticket) for ticket, _ in rows):
        raise ProtocolError("a story of no ticket")
    return Tried(
        tuple(
            Story(ticket, tuple(map(attempt, fields.rows(told, "attempts", ATTEMPTS_TOLD))))
            for ticket, told in rows
        )
    )


def attempt(row: Any, may_go_on: bool = False) -> Attempt:
    """`may_go_on`: it need not be over.

    Raises:
        ProtocolError: if it is none.
    """
    number, node, begun, over, how = fields.exactly(row, "an attempt", 5)
    return Attempt(
        fields.integer(number, "its number", 0, ATTEMPT_LIMIT),
        fields.text(node, "its node", NAME_LIMIT),
        moment(begun, "its beginning"),
        None if over is None and may_go_on else moment(over, "its end"),
        fields.text(how, "how it ended", HOW_LIMIT),
    )


def moment(value: Any, what: str) -> float:
    """Raises ProtocolError for what no calendar has."""
    if (at := fields.number(value, what)) > TIMESTAMP_LIMIT:
        raise ProtocolError(f"{what} is in no year that can be shown")
    return at


@dataclass(frozen=True, slots=True)
class Explained:
    """Answers `explain`. `more`: what else there is to say, by name, for programs.

    `until`: when what it waits for is over at the latest.
    """

    ticket: str
    state: JobState
    why: str
    attempts: Sequence[Attempt] = ()
    until: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


def _text(reply: Explained) -> bytes:
    lines = [f"Explain: {reply.ticket}, {reply.state}", _one_line(reply.why)]
    if reply.until is not None:
        lines.append(f"until {shown_time(reply.until)}")
    for each in reply.attempts:
        begun = f" from {shown_time(each.begun)}" if each.begun is not None else ""
        over = f" to {shown_time(each.over)}" if each.over is not None else ""
        on = f" on {each.node}" if each.node else ""
        lines.append(f"attempt {each.attempt}{on}{begun}{over}: {_one_line(each.how)}")
    # No line of these begins with a dot.
    return "".join(f"{line}\n" for line in (*lines, ".")).encode("utf-8", "replace")


def _one_line(text: str) -> str:
    return " ".join(text.split()).lstrip(".")


def shown_time(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _json(reply: Explained) -> dict[str, Any]:
    told = [
        {
            "attempt": each.attempt,
            "node": each.node or None,
            "from": each.begun,
            "to": each.over,
            "how": each.how,
        }
        for each in reply.attempts
    ]
    value = {"ticket": reply.ticket, "state": str(reply.state), "why": reply.why, "until": reply.until}
    return value | {"attempts": told} | reply.more


TEXT: dict[type, Callable[[Any], bytes]] = {Explained: _text}
JSON: dict[type, Callable[[Any], dict[str, Any]]] = {Explained: _json}
