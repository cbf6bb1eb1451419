"""Looking through a node's tickets from the newest on, in pieces that hold up nobody."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from protocol.errors import ProtocolError
from protocol.job import Sleep, unpack_spec
from protocol.limits import MIB
from runtime.database import BrokenSeal, sealed_value

if TYPE_CHECKING:
    from clusternode.store.sqlite import TicketRow

#: Tickets looked at in one piece, a few ms of the database's thread, and bytes of jobs and results in it.
PIECE_ROWS = 1000
PIECE_BYTES = 2 * MIB

_SELECT = "SELECT seq, ticket, submitted_at, body, attempt, outcome FROM tickets"


class Wanted(NamedTuple):
    """What is looked for; `is_open` None: both; `since`: when it was submitted at the earliest."""

    is_open: bool | None = None
    outcome: str = ""
    tag: str = ""
    name: str = ""
    since: float | None = None


class Piece(NamedTuple):
    """What was found, newest first, and before which seq the look goes on: 0 where there is nothing more."""

    rows: list[TicketRow]
    before: int


def scan(
    connection: sqlite3.Connection,
    before: int,
    wanted: Wanted,
    most: int,
    row_of: Callable[[tuple[Any, ...]], TicketRow],
) -> Piece:
    """Of those before that seq, `most` at most. `row_of` makes a row of what was found with its report.

    What is open has an index of its own; of all else each ticket is looked at, lest one query passes over
    millions of them.
    """
    where = f"WHERE {'outcome IS NULL AND ' if wanted.is_open else ''}seq < ?"
    # One more than are looked at: it tells whether the look goes on.
    query = f"{_SELECT} {where} ORDER BY seq DESC LIMIT {PIECE_ROWS + 1}"
    rows: list[TicketRow] = []
    size = 0
    for number, found in enumerate(connection.execute(query, (before,))):
        if number == PIECE_ROWS or len(rows) == most or size > PIECE_BYTES:
            return Piece(rows, before)
        before = found[0]
        if wanted.since is not None and found[2] < wanted.since:
            break
        _, ticket, submitted_at, body, _, outcome = found
        size += len(body)
        if _fits(wanted, ticket, submitted_at, body, outcome):
            report = connection.execute("SELECT report, segment FROM reports WHERE seq = ?", (before,))
            row = row_of((*found, *(report.fetchone() or (None, None))))
            rows.append(row)
            size += len(row.ended.body) if row.ended is not None else 0
    return Piece(rows, 0)


def _fits(wanted: Wanted, ticket: str, submitted_at: float, body: bytes, outcome: str | None) -> bool:
    if wanted.is_open is not None and wanted.is_open != (outcome is None):
        return False
    if wanted.outcome and wanted.outcome != outcome:
        return False
    words = [word.encode() for word in (wanted.name, wanted.tag) if word]
    if not words:
        return True
    if not all(word in body for word in words):  # most have not, and need no unpacking
        return False
    try:
        spec = unpack_spec(sealed_value(body, ticket, submitted_at))
    except (BrokenSeal, ProtocolError):
        return False
    if isinstance(spec, Sleep):
        return False
    return wanted.name in ("", spec.extras.name) and wanted.tag in ("", spec.extras.tag)
