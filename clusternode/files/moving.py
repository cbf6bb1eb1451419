"""Files between this node, which runs a job, and the job's origin: in pieces, again and again until done."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clusternode.files.home import CONFLICT
from clusternode.files.store import Files, Mismatch
from clusternode.files.tree import Found
from clusternode.relay import Refused, Relay
from protocol.errors import ProtocolError
from protocol.job import ResultFile, unpack_files
from protocol.limits import PIECE_BYTES
from protocol.relay import AWAY, NO_ROOM
from runtime.lifecycle import in_thread

#: Seconds until an origin that is away is asked again: doubled from the first to the last.
AGAIN_FIRST, AGAIN_LAST = 0.1, 3.0
#: What a job is to find is waited for so long while its origin is away: it has a slot.
AWAY_PATIENCE = 2.0
#: Pieces of one file asked for at once: the way to and fro costs more than the pieces.
AHEAD = 4
#: And of all files together, either way: so much is under way on the link at most, and all else goes on.
PIECES_AT_ONCE = 16
#: Partial results of one job that wait for their origin; more are not kept.
PARTIALS_WAITING = 10_000
#: Attempts of which it is known how many were refused.
REMEMBERED = 1000
#: A file that the origin does not know the beginning of is brought anew so often.
ANEW = 10


class _Fetching:
    """A file on its way here, and how many wait for it."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.waiting = 0


class Mover:
    """`copy` here what a job needs, `bring` home what it leaves. Both wait for an origin that is away."""

    def __init__(self, relay: Relay, home: Files, cache: Files) -> None:
        """`home`: the files of this node's own tickets; `cache`: those of others."""
        self._relay = relay
        self._home = home
        self._cache = cache
        self._pieces = asyncio.Semaphore(PIECES_AT_ONCE)
        self._fetching: dict[str, _Fetching] = {}
        #: By ticket: whose turn it is to come home, and how many partial results wait.
        self._handing_in: dict[str, tuple[asyncio.Lock, int]] = {}
        #: By attempt: how many of its partial results were refused.
        self._not_kept: Counter[tuple[str, int]] = Counter()

    async def copy(self, ticket: str, digest: str, target: Path) -> None:
        """A file that this job brings along, once it is here; it comes once for all jobs.

        Raises:
            Refused: if its origin has it no more.
            OSError: if it cannot be kept.
        """
        while True:
            files = await self._fetch(ticket, digest)
            try:
                return await in_thread(files.copy, digest, target)
            except FileNotFoundError:
                if digest in files:
                    raise
                # It had to make room for others meanwhile, or somebody has removed it.

    async def _fetch(self, ticket: str, digest: str) -> Files:
        """Where it is."""
        if digest in self._home:
            return self._home
        while digest not in self._cache:
            fetching = self._fetching.get(digest)
            is_ours = fetching is None
            if fetching is None:
                task = asyncio.ensure_future(self._fetch_now(ticket, digest))
                fetching = self._fetching[digest] = _Fetching(task)
                task.add_done_callback(partial(self._fetched, digest))
            fetching.waiting += 1
            try:
                # One of those who wait may be cancelled; the others still want it.
                await asyncio.shield(fetching.task)
            except (Refused, OSError):
                # The reason may be the job for which it was asked: another one asks for itself.
                if is_ours:
                    raise
            finally:
                fetching.waiting -= 1
                if not fetching.waiting and not fetching.task.done():
                    del self._fetching[digest]
                    fetching.task.cancel()
        return self._cache

    def _fetched(self, digest: str, task: asyncio.Task[None]) -> None:
        if (fetching := self._fetching.get(digest)) is not None and fetching.task is task:
            del self._fetching[digest]
        if not task.cancelled():
            task.exception()  # for those who still wait; where nobody does, it is no news

    async def fetch_to(self, ticket: str, file: ResultFile, target: Path) -> None:
        """A file of the job's checkpoint. Raises as `copy`; Refused also where it is not what was kept."""
        digest, size = hashlib.sha256(), 0
        async with contextlib.aclosing(self._pieces_of(ticket, ticket, file.digest)) as pieces:
            data = await anext(pieces)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                while data:
                    size += len(data)
                    await asyncio.to_thread(digest.update, data)
                    await asyncio.to_thread(out.write, data)
                    data = await anext(pieces, b"")
        if (size, digest.hexdigest()) != (file.size, file.digest):
            raise Refused(CONFLICT, f"{file.path} of its checkpoint is damaged at its origin")

    async def resume(self, ticket: str) -> tuple[ResultFile, ...]:
        """The files of its last checkpoint."""
        asked = ("origin", ticket, "resume", ticket)
        rows = await self._patiently(lambda: self._relay.ask(*asked), AWAY_PATIENCE)
        try:
            return unpack_files(rows)
        except ProtocolError as error:
            raise Refused(CONFLICT, error.reason) from None

    async def bring(
        self, where: str, ticket: str, attempt: int, files: Sequence[ResultFile], found: Sequence[Found]
    ) -> None:
        """Brings the files home that are not there yet, and has them kept.

        Raises:
            Refused: with the origin's reason.
            OSError: where they cannot be read here.
        """
        at = {file.digest: (each.at, file.size) for file, each in zip(files, found, strict=True)}
        asked = (where, ticket, tuple(at))
        wanted = await self._patiently(lambda: self._relay.ask("origin", ticket, "wants", asked))
        if not isinstance(wanted, tuple | list) or not all(isinstance(d, str) and d in at for d in wanted):
            raise Refused(CONFLICT, "its origin wants what there is not")
        for digest in wanted:
            await self._bring_file(where, ticket, digest, *at[digest])
        kept = (where, ticket, attempt, tuple(tuple(each) for each in files))
        await self._patiently(lambda: self._relay.ask("origin", ticket, "keep", kept))

    async def hand_in(self, ticket: str, attempt: int, number: int, value: str) -> None:
        """A partial result comes home, after those of its job that came before. Raises Refused."""
        turn, waiting = self._handing_in.get(ticket, (asyncio.Lock(), 0))
        if waiting >= PARTIALS_WAITING:
            self._count_refused(ticket, attempt)
            raise Refused(NO_ROOM, f"{PARTIALS_WAITING} of its partial results wait already")
        self._handing_in[ticket] = turn, waiting + 1
        asked = (ticket, attempt, number, value)
        try:
            async with turn:
                await self._patiently(lambda: self._relay.ask("origin", ticket, "partial", asked))
        except Refused:
            self._count_refused(ticket, attempt)
            raise
        finally:
            turn, waiting = self._handing_in.pop(ticket)
            if waiting > 1:
                self._handing_in[ticket] = turn, waiting - 1

    def _count_refused(self, ticket: str, attempt: int) -> None:
        if len(self._not_kept) >= REMEMBERED and (ticket, attempt) not in self._not_kept:
            del self._not_kept[next(iter(self._not_kept))]  # it was cancelled, or somebody floods us
        self._not_kept[ticket, attempt] += 1

    async def handed_in(self, ticket: str, attempt: int) -> int:
        """How many were refused, when all that this job has handed out so far is home, or was."""
        turn, _ = self._handing_in.get(ticket, (asyncio.Lock(), 0))
        async with turn:  # those before us have had theirs
            return self._not_kept.pop((ticket, attempt), 0)

    # --- inside ----------------------------------------------------------------------------------

    async def _bring_file(self, where: str, ticket: str, digest: str, at: Path, size: int) -> None:
        delay = AGAIN_FIRST
        for tries in range(ANEW):
            try:
                return await self._bring_once((where, ticket, digest, size), at)
            except Refused as refused:
                if refused.status != CONFLICT or tries == ANEW - 1:
                    raise
            await asyncio.sleep(delay)
            delay = min(2 * delay, AGAIN_LAST)

    async def _bring_once(self, file: tuple[str, str, str, int], at: Path) -> None:
        _, ticket, _, size = file
        offset = 0
        with at.open("rb") as source:
            while True:
                data = await asyncio.to_thread(source.read, PIECE_BYTES)
                piece = (*file, offset, data)
                there = await self._patiently(lambda: self._ask_for_piece(ticket, "put", piece))  # noqa: B023
                offset += len(data)
                if there == size:
                    return
                if there != offset:
                    raise Refused(CONFLICT, f"{there} bytes of it are said to be there, and not {offset}")
                if not data:
                    raise Refused(CONFLICT, f"{at.name} became shorter while it was read")

    async def _ask_for_piece(self, ticket: str, what: str, asked: tuple[Any, ...]) -> Any:
        async with self._pieces:
            return await self._relay.ask("origin", ticket, what, asked)

    async def _fetch_now(self, ticket: str, digest: str) -> None:
        """Into the cache."""
        incoming = self._cache.begin(digest, None)  # no thread: who is cancelled would leave it open
        try:
            async with contextlib.aclosing(self._pieces_of(ticket, "", digest)) as pieces:
                async for data in pieces:
                    await asyncio.to_thread(incoming.write, data)
            await asyncio.to_thread(incoming.finish)
        except Mismatch as fault:
            raise Refused(CONFLICT, f"file {digest} came otherwise than it was: {fault}") from None
        finally:
            incoming.abort()

    async def _pieces_of(self, ticket: str, space: str, digest: str) -> AsyncGenerator[bytes]:
        """Some are always under way; the last one is shorter than the others, or empty."""
        waiting = [self._start_piece(ticket, space, digest, number * PIECE_BYTES) for number in range(AHEAD)]
        try:
            offset = AHEAD * PIECE_BYTES
            while True:
                data = await waiting.pop(0)
                yield data
                if len(data) < PIECE_BYTES:
                    break
                waiting.append(self._start_piece(ticket, space, digest, offset))
                offset += PIECE_BYTES
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _start_piece(self, ticket: str, space: str, digest: str, offset: int) -> asyncio.Task[bytes]:
        return asyncio.ensure_future(self._piece(ticket, space, digest, offset))

    async def _piece(self, ticket: str, space: str, digest: str, offset: int) -> bytes:
        asked = (space, digest, offset)
        data = await self._patiently(lambda: self._ask_for_piece(ticket, "piece", asked), AWAY_PATIENCE)
        if not isinstance(data, bytes) or len(data) > PIECE_BYTES:
            raise Refused(CONFLICT, "a piece that is none")
        return data

    async def _patiently(self, ask: Callable[[], Awaitable[Any]], patience: float | None = None) -> Any:
        """Until there is an answer; Refused for all others than AWAY, and for that after `patience` seconds
        of being told so."""
        delay, began = AGAIN_FIRST, asyncio.get_running_loop().time()
        while True:
            try:
                return await ask()
            except Refused as refused:
                late = patience is not None and asyncio.get_running_loop().time() > began + patience
                if refused.status != AWAY or (late and refused.is_told):
                    raise
            await asyncio.sleep(delay)
            delay = min(2 * delay, AGAIN_LAST)
