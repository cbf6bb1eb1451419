"""`list`: which tickets of a node a client wants to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocol.job import Outcome
from protocol.limits import LIST_LIMIT, LIST_USUAL, TICKET_LENGTH, TIME_LIMIT
from protocol.options import (
    NAMED,
    BadOption,
    Option,
    read_name,
    read_seconds,
    read_ticket,
    read_value,
    read_whole,
    split,
)

OPEN, QUEUED, RUNNING, DONE = STATES = ("open", "queued", "running", "done")


@dataclass(frozen=True, slots=True)
class ListJobs:
    """The newest of those that fit, `limit` at most; an empty text, or None, fits all.

    `state`: one of STATES; `since`: submitted in the last so many seconds; `before`: older than this ticket.
    """

    state: str = ""
    outcome: str = ""
    tag: str = ""
    name: str = ""
    since: float | None = None
    limit: int = LIST_USUAL
    before: str = ""


def _word(*words: str) -> Any:
    def read(value: str) -> str:
        if value.lower() not in words:
            raise ValueError
        return value.lower()

    return read


LIST_OPTIONS = {
    option.name: option
    for option in (
        Option(
            "--state STATE",
            _word(*STATES),
            f"one of {', '.join(STATES)}",
            "only those: open, queued, running, done",
        ),
        Option(
            "--outcome OUTCOME", _word(*Outcome), f"one of {', '.join(Outcome)}", "only those that ended so"
        ),
        Option("--tag TAG", read_name, NAMED, "only those with this tag"),
        Option("--name NAME", read_name, NAMED, "only those with this name"),
        Option(
            "--since SECONDS",
            read_seconds,
            f"seconds, more than 0, at most {TIME_LIMIT:.0f}",
            "only those of the last so many seconds",
        ),
        Option(
            "--limit N",
            read_whole(1, LIST_LIMIT),
            f"a whole number from 1 to {LIST_LIMIT}",
            f"at most so many (default {LIST_USUAL})",
        ),
        Option(
            "--before TICKET",
            read_ticket,
            f"a ticket of this node, {TICKET_LENGTH} letters and digits",
            "only older ones than this",
        ),
    )
}


def parse_list(rest: str) -> ListJobs:
    """What follows `list` on its line.

    Raises:
        BadOption: with what is wrong and what would be right.
    """
    found, rest = split(rest, "list", LIST_OPTIONS)
    if rest:
        raise BadOption(f"list takes nothing but its options, as in list --state open: not {rest[:40]!r}.")
    values = {name: read_value(LIST_OPTIONS[name], given) for name, given in found}
    if "outcome" in values and values.setdefault("state", DONE) != DONE:
        raise BadOption(f"--outcome is of what is done, which --state {values['state']} leaves out.")
    return ListJobs(**values)
