"""Runs a workload: submits what has no ticket yet, in order, and follows all of it to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from evenly.client.errors import ClientClosed, EvenlyError, Refused
from evenly.client.lane import Lane, object_of
from evenly.client.lines import job_of
from evenly.client.model import Address
from evenly.workload.books import Books
from evenly.workload.errors import WorkloadError
from evenly.workload.formats import with_key
from evenly.workload.reader import Entry, Fault, Workload
from evenly.workload.state import UNKNOWN, Refusal, State, Ticket
from evenly.workload.stations import Station

#: Submissions on their way at once, and bytes of them.
WINDOW, WINDOW_BYTES = 2000, 4 * 1024 * 1024
#: Jobs of the file that are compared with the state at once.
BLOCK = 10_000
#: Seconds between two writes to the state, and looks at whether all is over.
PERIOD = 0.1
#: Seconds that what is on its way has to be answered once we are asked to stop.
LAST_WORDS = 5.0
#: Seconds without any reply after which the next node is taken; for which nodes that were there are tried.
TIMEOUT, PATIENCE = 10.0, 60.0
#: Seconds: a job that is due so soon is submitted at once.
SOON = 0.001


class Run:
    """One run of a workload, begun or gone on with.

    `told` takes lines for the user, `seen` the books, now and then. `stop` may be set at any time; the run
    then ends as soon as what is on its way has been answered.
    """

    def __init__(
        self,
        workload: Workload,
        state: State,
        nodes: list[Address],
        *,
        told: Callable[[str], None],
        seen: Callable[[Books], None],
    ) -> None:
        self.books = Books(state)
        # What an earlier process had on its way may have ended before its ticket is read here.
        self.books.missed = bool(state.get("begun"))
        self.stop = asyncio.Event()
        self._workload = workload
        self._state = state
        self._nodes = nodes
        self._told = told
        self._seen = seen
        self._run = str(state.get("run"))
        self._skips_bad = bool(state.get("skip_bad"))
        self._reached: set[Address] = set()
        self._lane = Lane(nodes, timeout=TIMEOUT, patience=PATIENCE, reached=self._reached)
        self._stations: dict[Address, Station] = {}
        self._origins: dict[Address, int] = {}
        self._on_their_way = 0
        self._has_room = asyncio.Event()
        self._fault: Exception | None = None
        #: Tickets came whose node is not known: any of the nodes may answer for them.
        self._is_seeking = bool(state.open_jobs(UNKNOWN, UNKNOWN, 1))
        self._is_submitted = False
        self._has_told_of_strays = False

    async def go(self, *, follows: bool = True) -> bool:
        """Until all has ended (or, unless it `follows`, all is submitted), or it is stopped. Returns whether
        it came to that end.

        Raises:
            EvenlyError: where no node can be reached.
            WorkloadError: where the file or the state cannot be used any more.
        """
        try:
            if follows:
                for address in self._state.origins().values():
                    self._station(address)
            submitting = asyncio.ensure_future(self._submit_all(follows))
            try:
                return await self._follow(submitting, follows)
            finally:
                submitting.cancel()
                await asyncio.gather(submitting, return_exceptions=True)
                await self._last_words()
        finally:
            await self._close()

    # --- submitting ------------------------------------------------------------------------------

    async def _submit_all(self, follows: bool) -> None:
        if self.books.submitted < self.books.jobs:
            await self._lane.ask(b"json", object_of)
            self._state.set(begun=1)
            # The station first: so it hears of all that ends. But one whose node goes in this moment is not
            # waited for, where others are there; what it does not hear is asked for.
            if follows:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TIMEOUT):
                        await self._station(self._lane.node).ready()
            clock = asyncio.get_running_loop().time
            began: float | None = None
            for entry, round in self._unsubmitted():
                if began is None:
                    began = clock() - entry.at
                await self._until(began + entry.at)
                if self._on_their_way >= WINDOW or self._lane.owed_bytes > WINDOW_BYTES:
                    await self._room()
                if self._fault is not None:
                    raise self._fault
                self._submit(entry, round)
        while self._on_their_way:
            await self._room()
        if self._fault is not None:
            raise self._fault
        if self.books.submitted != self.books.jobs:
            raise WorkloadError(
                f"{self._workload.path} has changed while it was run: it had {self.books.jobs} jobs, and "
                f"{self.books.submitted} were found"
            )
        self._is_submitted = True

    def _unsubmitted(self) -> Iterator[tuple[Entry, int]]:
        """Jobs that are to be submitted, in which round each."""
        known: dict[int, int | None] = {}
        for each in self._workload.read():
            if isinstance(each, Fault) and not self._skips_bad:
                raise WorkloadError(
                    f"{self._workload.path}:{each.line}: {each.what} (it was right a moment ago)"
                )
            if not isinstance(each, Entry):
                continue
            if each.number % BLOCK == 0:
                known = self._state.known(each.number, BLOCK)
            round = known.get(each.number, 0)
            if round is not None:
                yield each, round

    async def _until(self, due: float) -> None:
        delay = due - asyncio.get_running_loop().time()
        if delay > SOON:
            await asyncio.sleep(delay)

    async def _room(self) -> None:
        self._has_room.clear()
        await self._has_room.wait()

    def _submit(self, entry: Entry, round: int) -> None:
        key = f"{self._run}.{entry.line}.{round}"
        answer = partial(self._answered, entry.number, entry.line, round)
        if '"key"' in entry.job:
            self.books.missed = True  # its job may have ended long ago
        self._on_their_way += 1
        asked = self._lane.ask(with_key(entry.job, key, round > 0).encode(), answer)
        asked.add_done_callback(self._settled)

    def _answered(self, number: int, line: int, round: int, reply: bytes, node: Address) -> None:
        try:
            job = job_of(reply, node)
        except Refused as error:
            self.books.refused(Refusal(number, line, round, str(error)))
            return
        origin = UNKNOWN
        try:
            origin = self._origin(job.node) if job.node else UNKNOWN
        except WorkloadError as error:  # not for who reads from the connection
            self._fault = self._fault or error
        self._is_seeking = self._is_seeking or origin == UNKNOWN
        self.books.ticket(Ticket(number, line, round, job.ticket, origin))

    def _settled(self, asked: asyncio.Future[None]) -> None:
        self._on_their_way -= 1
        self._has_room.set()
        error = None if asked.cancelled() else asked.exception()
        if isinstance(error, Exception) and not isinstance(error, ClientClosed):
            self._fault = self._fault or error

    def _origin(self, address: Address) -> int:
        if address not in self._origins:
            self._origins[address] = self._state.origin(address)
        return self._origins[address]

    # --- following -------------------------------------------------------------------------------

    def _station(self, address: Address) -> Station:
        if address not in self._stations:
            self._stations[address] = station = Station(
                address,
                self._origin(address),
                self.books,
                self._reached,
                self._told,
                timeout=TIMEOUT,
                patience=PATIENCE,
            )
            station.lane.connect()
        return self._stations[address]

    async def _follow(self, submitting: asyncio.Future[None], follows: bool) -> bool:
        """Looks now and then, until it is over."""
        books = self.books
        while not self.stop.is_set():
            books.write()
            self._seen(books)
            if submitting.done():
                submitting.result()
                if not follows or not books.open:
                    return not follows or await self._unless_stopped(self._explain())
            if follows:
                self._look_after_stations()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await self.stop.wait()
        return False

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether it came to its end before we were asked to stop."""
        tasks = [asyncio.ensure_future(work), asyncio.ensure_future(self.stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()
                return True
            return False
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _look_after_stations(self) -> None:
        for address in [*self._origins, *(self._nodes if self._is_seeking else [])]:
            self._station(address)
        for station in self._stations.values():
            station.check()
            if self._is_seeking or (self.books.missed and self._is_submitted):
                station.look()
        self._is_seeking = False
        strays = {station.stray for station in self._stations.values()}
        if not self._has_told_of_strays and len(strays) == 1 and (stray := strays.pop()) is not None:
            self._has_told_of_strays = True
            self._told(
                f"none of these nodes answers for {stray.ticket}, which another one gave for the same key "
                f"before: -s has to name that one, too"
            )
        self.books.missed = self.books.missed and not self._is_submitted

    async def _explain(self) -> None:
        for station in self._stations.values():
            try:
                await station.explain()
            except EvenlyError as error:
                self._told(f"why some jobs failed cannot be asked for now: {error}")

    # --- the end ---------------------------------------------------------------------------------

    async def _last_words(self) -> None:
        """What is on its way is answered, if that does not take too long, and written down."""
        try:
            async with asyncio.timeout(LAST_WORDS):
                while self._on_their_way and self._fault is None:
                    await self._room()
        except TimeoutError:
            pass
        self.books.write()

    async def _close(self) -> None:
        for station in self._stations.values():
            await station.close()
        await self._lane.close()
        self._seen(self.books)
