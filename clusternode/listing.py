"""Lists of this node's tickets, from its store in pieces, between which others get their turn.

`list`: where they are, newest first, of open ones as the load balancer says. `getall`: their results.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from clusternode.core.done import view_of_done
from clusternode.core.events import StatesAre
from clusternode.store.listing import PIECE_BYTES, Wanted
from clusternode.store.sqlite import SqliteStore, TicketRow
from protocol.arrays import size_of
from protocol.errors import ProtocolError
from protocol.job import JobState, unpack_spec
from protocol.listed import Listed, Row, json_list, json_row, text_list, text_row
from protocol.listing import DONE, OPEN, QUEUED, RUNNING, ListJobs
from protocol.replies import (
    ArrayView,
    Failure,
    JobView,
    listing_end,
    listing_failure,
    listing_row,
    listing_start,
    render_json,
    render_text,
)

#: What those look for whose tickets are open; `queued` are those that wait for a node, or on one.
_STATES = {
    OPEN: None,
    QUEUED: (JobState.QUEUED, JobState.ASSIGNED),
    RUNNING: (JobState.RUNNING,),
}
#: Rows of a list made in one turn of the loop, which takes some 10 ms.
ROWS_AT_ONCE = 200
#: Above all that a store has.
_NEWEST = 2**62


def view_of(row: TicketRow) -> JobView:
    """Raises ProtocolError if it is damaged or of another version."""
    if row.ended is None:
        return JobView(row.ticket, unpack_spec(row.body), row.submitted_at, JobState.QUEUED)
    return view_of_done(row.ticket, row.submitted_at, row.body, row.ended)


def unreadable(row: TicketRow, error: ProtocolError) -> str:
    """What is said in the place of such a ticket."""
    return f"The stored job {row.ticket} cannot be read: {error.reason}."


async def all_results(store: SqliteStore, as_json: bool) -> AsyncGenerator[bytes]:
    """`getall`, page by page."""
    yield listing_start(as_json)
    after, first = 0, True
    while rows := await store.page(after):
        pieces = [_with_result(row, as_json, first and row is rows[0]) for row in rows]
        first, after = False, rows[-1].seq
        yield b"".join(pieces)
    yield listing_end(as_json)


def _with_result(row: TicketRow, as_json: bool, first: bool) -> bytes:
    try:
        return listing_row(view_of(row), as_json, first)
    except ProtocolError as error:
        return listing_failure(row.ticket, unreadable(row, error), as_json, first)


class Listing:
    """One `list` of one client, when its turn has come."""

    def __init__(
        self,
        asked: ListJobs,
        as_json: bool,
        store: SqliteStore,
        ask: Callable[[Sequence[str]], None],
    ) -> None:
        """`ask`: where these open tickets are; `hear` follows."""
        self._asked = asked
        self._as_json = as_json
        self._store = store
        self._ask = ask
        self._answer: asyncio.Future[StatesAre | None] | None = None
        self._is_left = False
        self._note = ""
        self._now = time.time()

    def hear(self, states: StatesAre | None) -> None:
        """The answer to `ask`; None: there is nobody any more who would read it."""
        self._is_left = self._is_left or states is None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(states)

    async def reply(self) -> bytes:
        """The whole of it, bounded. Raises StorageError."""
        asked, before = self._asked, _NEWEST
        if asked.before:
            (row,) = await self._store.tickets([asked.before])
            if row is None:
                failure = Failure(f"--before takes a ticket of this node, which {asked.before} is not.")
                return render_json(failure) if self._as_json else render_text(failure)
            before = row.seq
        since = None if asked.since is None else self._now - asked.since
        is_open = None if not asked.state else asked.state != DONE
        wanted = Wanted(is_open, asked.outcome, asked.tag, asked.name, since)
        rows: list[Row] = []
        size = 0
        while before and len(rows) < asked.limit and size <= PIECE_BYTES and not self._is_left:
            most = min(asked.limit - len(rows), ROWS_AT_ONCE)
            found, before = await self._store.older(before, wanted, most)
            for listed in await self._placed(found):
                made = json_row(listed) if self._as_json else text_row(listed, self._now)
                rows.append(made)
                size += len(made.fields)
        following = rows[-1].ticket if before and rows else None
        return (json_list if self._as_json else text_list)(rows, following, self._note)

    async def _placed(self, rows: Sequence[TicketRow]) -> list[Listed]:
        """Those that fit once it is known where the open ones are."""
        states = await self._states([row.ticket for row in rows if row.ended is None])
        if states is None:
            return []
        if states.note:
            self._note = states.note
        listed = []
        for row in rows:
            if row.ended is None and row.ticket in states.views:
                view = states.views[row.ticket]
                is_placed = not states.note or bool(view.waits_for) or view.array is not None
                each = Listed(row.ticket, view, is_placed)
            else:
                each = await self._of_done(row)
            if self._fits(each):
                listed.append(each)
        return listed

    async def _states(self, tickets: Sequence[str]) -> StatesAre | None:
        if not tickets:
            return StatesAre(0, 0, {})
        if self._is_left:
            return None
        self._answer = asyncio.get_running_loop().create_future()
        self._ask(tickets)
        return await self._answer

    def _fits(self, listed: Listed) -> bool:
        """What the store was asked for, and has perhaps ended since."""
        if self._asked.state in ("", DONE):
            return True
        if listed.job is None or listed.job.state is JobState.DONE:
            return False
        states = _STATES[self._asked.state]
        return states is None or (listed.is_placed and listed.job.state in states)

    async def _of_done(self, row: TicketRow) -> Listed:
        if row.ended is None:  # it ended between two looks
            (again,) = await self._store.tickets([row.ticket])
            row = again or row
        try:
            if row.ended is None:
                raise ProtocolError("it has not ended, and is not open")
            view = view_of(row)
        except ProtocolError as error:
            return Listed(row.ticket, None, failure=unreadable(row, error))
        if view.report is not None:  # what it wrote is not shown, and need not wait here
            view = replace(view, report=replace(view.report, stdout=b"", stderr=b"", value="", files=()))
        size = size_of(view.spec)
        if size and self._as_json:
            view = replace(view, array=ArrayView(size, *await self._store.array(row.seq, size, 0, 0)))
        return Listed(row.ticket, view)
