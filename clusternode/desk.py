"""What clients ask of the files and the output of jobs: it takes its time, and no step of the core."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable

from clusternode.core.done import view_of_done
from clusternode.files.home import Home
from clusternode.files.stage import Stager
from clusternode.files.store import Incoming, Mismatch
from clusternode.following import Follower, Over, Written
from clusternode.relay import Refused
from clusternode.store.sqlite import SqliteStore, TicketRow
from protocol.dialogue import Fetch, Has, Partial, Tail, TakeCheckpoint, Upload
from protocol.errors import ProtocolError
from protocol.file_replies import (
    CheckpointTaken,
    FilesOf,
    HereOrNot,
    PartialOf,
    TailJson,
    TailText,
    Uploaded,
    file_head,
)
from protocol.job import Command, Report, Task
from protocol.limits import MIB, PIECE_BYTES
from protocol.replies import (
    Failure,
    JobView,
    Reply,
    UnknownTicket,
    job_fields,
    render_json,
    render_text,
    status_fields,
)

#: Of an upload, so much waits for the disk; then its client waits.
UPLOAD_BUFFER = 4 * MIB


class Desk:
    def __init__(
        self,
        home: Home,
        store: SqliteStore,
        stager: Stager,
        follower: Follower,
        start: Callable[[Awaitable[None]], object],
    ) -> None:
        """`start` runs a coroutine in the background."""
        self._start = start
        self._home = home
        self._store = store
        self._stager = stager
        self._follower = follower

    async def answer(self, asked: Fetch | Has | Partial | TakeCheckpoint) -> Reply:
        """What fits into one reply."""
        if isinstance(asked, Has):
            return HereOrNot(asked.digest, asked.digest in self._home.files)
        if isinstance(asked, Partial):
            values = await self._home.partials(asked.ticket)
            is_known = values or await self._home.knows(asked.ticket)
            return PartialOf(asked.ticket, values) if is_known else UnknownTicket(asked.ticket)
        if isinstance(asked, TakeCheckpoint):
            try:
                return CheckpointTaken(*await self._stager.take_checkpoint(asked.ticket))
            except Refused as refused:
                return Failure(f"No checkpoint was taken: {refused.reason}.")
        view = await self._done(asked.ticket)
        if not isinstance(view, JobView):
            return view
        report = view.report or Report()
        return FilesOf(asked.ticket, _result_dir(view), report.files)

    async def send_file(self, asked: Fetch, as_json: bool) -> AsyncGenerator[bytes]:
        """A file that a job left, or one line that says why not."""
        view = await self._done(asked.ticket)
        reply: Reply | None = None if isinstance(view, JobView) else view
        file = None
        if isinstance(view, JobView):
            files = (view.report or Report()).files
            file = next((each for each in files if each.path == asked.path), None)
            if file is None:
                reply = Failure(
                    f"{asked.ticket} left no file {asked.path!r}; fetch {asked.ticket} lists them."
                )
            elif file.digest not in self._home.files:
                reply = Failure(f"The file {asked.path!r} of {asked.ticket} is not there any more.")
        if reply is not None or file is None:
            assert reply is not None
            yield render_json(reply) if as_json else render_text(reply)
            return
        yield file_head(file, as_json)
        for offset in range(0, file.size, PIECE_BYTES):
            data = await asyncio.to_thread(self._home.files.piece, file.digest, offset, PIECE_BYTES)
            yield data

    async def tail(self, asked: Tail, as_json: bool) -> AsyncGenerator[bytes]:
        """Its output as it comes, to its end; or one line that says why not."""
        form = TailJson(asked.ticket) if as_json else TailText(asked.ticket)
        begun = False
        start = (asked.attempt, asked.stdout, asked.stderr)
        async for news in self._follower.follow(asked.ticket, *start):
            if isinstance(news, UnknownTicket | Failure):
                yield render_json(news) if as_json else render_text(news)
                return
            if not begun:
                begun = True
                yield form.start()
            if isinstance(news, Written):
                yield form.piece(*news)
            elif isinstance(news, Over):
                yield form.end(news.fields())
            else:
                fields = job_fields(news)
                more = {"exit_code": fields["exit_code"], "reason": fields["reason"]}
                yield form.end(status_fields(news) | more)

    def receive(self, asked: Upload, changed: Callable[[], None]) -> Uploading:
        """A file that a client sends; `changed` is called when there is room for more, and at its end."""
        uploading = Uploading(self._home, asked, changed)
        self._start(uploading.write())
        return uploading

    async def _done(self, ticket: str) -> JobView | Reply:
        """The job that left files, or what is to be said in its place."""
        row: TicketRow | None
        (row,) = await self._store.tickets([ticket])
        if row is None:
            return UnknownTicket(ticket)
        if row.ended is None:
            return Failure(f"{ticket} is not done yet: its files are there when it is.")
        try:
            return view_of_done(row.ticket, row.submitted_at, row.body, row.ended)
        except ProtocolError as error:
            return Failure(f"The stored job {ticket} cannot be read: {error.reason}.")


def _result_dir(view: JobView) -> str:
    return view.spec.extras.result_dir if isinstance(view.spec, Command | Task) else ""


class Uploading:
    """A file from a client: its pieces go to the disk in a thread, in order."""

    def __init__(self, home: Home, asked: Upload, changed: Callable[[], None]) -> None:
        self._home = home
        self._asked = asked
        self._changed = changed
        self._missing = asked.size
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._is_aborted = False
        self._came = asyncio.Event()
        #: What its client is told; None until that is known.
        self.reply: Reply | None = None

    @property
    def is_whole(self) -> bool:
        """All of it has come."""
        return self._missing == 0

    @property
    def is_full(self) -> bool:
        return self._waiting_bytes > UPLOAD_BUFFER

    def feed(self, data: bytes) -> bytes:
        """Takes what is of it; returns what follows."""
        mine, rest = data[: self._missing], data[self._missing :]
        self._missing -= len(mine)
        if self.reply is None:  # else it is refused already
            self._waiting.append(mine)
            self._waiting_bytes += len(mine)
            self._came.set()
        return rest

    def abort(self) -> None:
        """No more of it will come."""
        if not self.is_whole:
            self._is_aborted = True
            self._came.set()

    async def write(self) -> None:
        """To the disk, as it comes, to its end."""
        incoming: Incoming | None = None
        asked = self._asked
        try:
            incoming = await asyncio.to_thread(self._home.files.begin, asked.digest, asked.size)
            while incoming.received < asked.size:
                await self._came.wait()
                self._came.clear()
                if self._is_aborted:
                    self._end(Failure("That upload ended too early: nothing of it was kept."))
                    return
                data, self._waiting, self._waiting_bytes = b"".join(self._waiting), [], 0
                self._changed()
                await asyncio.to_thread(incoming.write, data)
            await asyncio.to_thread(incoming.finish)
            self._end(Uploaded(asked.digest, asked.size))
        except Mismatch as fault:
            self._end(Failure(f"That upload is not what was announced: {fault}. Nothing of it was kept."))
        except OSError as error:
            said = error.strerror or os.strerror(error.errno or 0)
            self._end(Failure(f"That upload could not be kept: {said}. Nothing of it was."))
        finally:
            if incoming is not None:
                incoming.abort()

    def _end(self, reply: Reply) -> None:
        self.reply = reply
        self._waiting, self._waiting_bytes = [], 0
        self._changed()
