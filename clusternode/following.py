"""The output of a job as it comes, wherever it runs, for a client of this node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from clusternode.core.executor import Executor
from clusternode.executor.watching import Seen, Watching
from clusternode.listing import unreadable, view_of
from clusternode.relay import REFUSED, Refused, Relay
from clusternode.store.sqlite import SqliteStore, TicketRow
from protocol.arrays import size_of
from protocol.errors import ProtocolError
from protocol.job import JobState, Report, Sleep, is_ticket, unpack_spec
from protocol.relay import AWAY, NOT_FOUND
from protocol.replies import Failure, JobView, UnknownTicket

#: Seconds until a job that does not run yet, or whose result is on its way, is looked for again: doubled
#: from the first to the last.
LOOK_FIRST, LOOK_LAST = 0.02, 0.5
#: Bytes of one stream at most, as another node counts them.
OFFSET_LIMIT = 2**53


class Written(NamedTuple):
    """What a job wrote to stream 1, stdout, or 2, stderr, from byte `at` on."""

    attempt: int
    stream: int
    at: int
    data: bytes


class Over(NamedTuple):
    """The job, of another node, has ended; that is all that is known of it here."""

    ticket: str
    attempt: int
    code: int
    reason: str

    def fields(self) -> dict[str, Any]:
        code = None if self.code < 0 else self.code
        attempt = self.attempt or None
        value = {"ticket": self.ticket, "state": str(JobState.DONE), "outcome": None, "attempt": attempt}
        return value | {"exit_code": code, "reason": self.reason or None}


class Follower:
    def __init__(
        self, node_id: str, relay: Relay, store: SqliteStore, executor: Executor, watching: Watching
    ) -> None:
        self._node_id = node_id
        self._relay = relay
        self._store = store
        self._executor = executor
        self._watching = watching
        relay.serve("tail", self._answer, is_patient=True)

    async def follow(
        self, ticket: str, attempt: int, stdout: int, stderr: int
    ) -> AsyncGenerator[Written | Over | JobView | UnknownTicket | Failure]:
        """What it writes after these bytes of this attempt (0: from the start), to its end.

        The job itself comes last where it is of this node, Over where it is of another.
        """
        offsets = [stdout, stderr] if attempt else [0, 0]
        #: What is known of its end, from when on it is known that there is such a job.
        over: Over | None = None
        is_gone = False
        node = ""
        delay = LOOK_FIRST
        while True:
            (row,) = await self._store.tickets([ticket])
            last = _last_of(row) if row is not None else over if is_gone else None
            # The node that ran it still has what was written last.
            if last is not None and not (node and _attempt_of(last) == attempt):
                if isinstance(last, JobView):
                    for written in _rest(last, attempt, offsets):
                        yield written
                yield last
                return
            asked = (ticket, attempt, offsets[0], offsets[1])
            whom = ("executor", ticket) if last is None else ("node", node)
            try:
                attempt, seen, offsets, node = _read(await self._relay.ask(*whom, "tail", asked), asked)
            except Refused as refused:
                if last is not None:
                    node = ""
                    continue
                if refused.status not in (AWAY, NOT_FOUND):
                    yield Failure(f"The output of {ticket} cannot be followed: {refused.reason}.")
                    return
                if row is None and refused.status == NOT_FOUND and (over or delay == LOOK_LAST):
                    if over is None:
                        yield UnknownTicket(ticket)
                        return
                    is_gone = True
                    continue
                # Of a job of another node its ticket may be here before it is at the load balancer.
                if refused.is_told and refused.status == AWAY:
                    over = over or Over(ticket, 0, -1, "")
                await asyncio.sleep(delay)
                delay = min(2 * delay, LOOK_LAST)
                continue
            for stream, at, data in seen.pieces:
                yield Written(attempt, stream, at, data)
                offsets[stream - 1] = at + len(data)
            over = Over(ticket, attempt, seen.code, seen.reason)
            if seen.is_over or (last is not None and not seen.pieces):
                node = ""  # it has told all
            if last is not None:
                continue
            if seen.is_over:
                await asyncio.sleep(delay)
                delay = min(2 * delay, LOOK_LAST)
            else:
                delay = LOOK_FIRST

    async def _answer(self, asker: str, asked: Any) -> Any:
        """What a job here wrote, to another node."""
        match asked:
            case (str(ticket), int(attempt), int(stdout), int(stderr)) if is_ticket(ticket):
                job = self._executor.running.get(ticket)
                runs = attempt if job is None else job.attempt
                if job is None and not self._watching.has((ticket, attempt)):
                    raise Refused(AWAY, "it does not run here")
                if job is not None and isinstance(job.spec, Sleep):
                    await asyncio.sleep(LOOK_LAST)
                    return runs, (), False, -1, "", self._node_id
                offsets = (stdout, stderr) if runs == attempt else (0, 0)
                seen = await self._watching.after((ticket, runs), offsets)
                if seen is None:
                    raise Refused(AWAY, "too many jobs are watched here")
                return (runs, tuple(seen.pieces), *seen[1:], self._node_id)
        raise Refused(REFUSED, "a question of another version")


def _last_of(row: TicketRow) -> JobView | Failure | None:
    """What ends it; None while it is open."""
    try:
        if size_of(unpack_spec(row.body)):
            return Failure(f"tail takes the ticket of one job, and {row.ticket} is an array of many.")
        return None if row.ended is None else view_of(row)
    except ProtocolError as error:
        return Failure(unreadable(row, error))


def _attempt_of(last: JobView | Over | Failure) -> int:
    return 0 if isinstance(last, Failure) else last.attempt or 0


def _read(told: Any, asked: tuple[str, int, int, int]) -> tuple[int, Seen, list[int], str]:
    """(attempt, what was seen, from where, at which node) of an answer. Raises Refused."""
    match told:
        case (int(attempt), tuple(pieces), bool(is_over), int(code), str(reason), str(node)) if all(
            isinstance(piece, tuple)
            and [type(each) for each in piece] == [int, int, bytes]
            and piece[0] in (1, 2)
            and 0 <= piece[1] <= OFFSET_LIMIT
            for piece in pieces
        ):
            offsets = list(asked[2:]) if attempt == asked[1] else [0, 0]
            return attempt, Seen(list(pieces), is_over, code, reason), offsets, node
    raise Refused(REFUSED, "an answer of another version")


def _rest(view: JobView, attempt: int, offsets: list[int]) -> list[Written]:
    """What is kept of its output, after these bytes."""
    report = view.report or Report()
    done = view.attempt or 0
    from_here = offsets if attempt == done else [0, 0]
    pieces = ((1, from_here[0], report.stdout), (2, from_here[1], report.stderr))
    return [Written(done, stream, at, data[at:]) for stream, at, data in pieces if data[at:]]
