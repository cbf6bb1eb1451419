"""What clients ask of the files and the output of jobs: it takes its time, and no step of the core."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import NamedTuple

from clusternode.files.home import Home
from clusternode.files.stage import Stager
from clusternode.following import Follower, Over, Written
from clusternode.listing import unreadable, view_of
from clusternode.relay import Refused
from clusternode.store.sqlite import SqliteStore, TicketRow
from clusternode.uploads import Uploading
from protocol.arrays import size_of
from protocol.dialogue import Fetch, Has, Partial, Tail, TakeCheckpoint, Upload
from protocol.errors import ProtocolError
from protocol.file_replies import (
    CheckpointTaken,
    FilesOf,
    HereOrNot,
    PartialOf,
    TailJson,
    TailText,
    file_head,
)
from protocol.job import Command, Report, ResultFile, Task
from protocol.job_objects import job_fields, status_fields
from protocol.limits import ARRAY_LIMIT, PIECE_BYTES
from protocol.replies import (
    Failure,
    JobView,
    Reply,
    UnknownTicket,
    render_json,
    render_text,
)

#: Files of all jobs of an array, in one list.
ARRAY_FILES_LIMIT = 10_000
#: Of one of its jobs; as ARRAY_LIMIT, of at most so many digits.
NUMBER = re.compile(rf"[0-9]{{1,{len(str(ARRAY_LIMIT))}}}", re.ASCII)


class Finished(NamedTuple):
    """A job or an array that has ended."""

    seq: int
    view: JobView

    @property
    def files(self) -> Sequence[ResultFile]:
        return (self.view.report or Report()).files

    @property
    def size(self) -> int:
        """Of how many jobs it is an array; 0 for a job."""
        return size_of(self.view.spec)

    def left(self, files: Sequence[ResultFile]) -> FilesOf:
        spec = self.view.spec
        result_dir = spec.extras.result_dir if isinstance(spec, Command | Task) else ""
        return FilesOf(self.view.ticket, result_dir, files)


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
        done = await self._done(asked.ticket)
        if not isinstance(done, Finished):
            return done
        return await self._of_array(done) if done.size else done.left(done.files)

    async def in_turn(self, asked: Fetch | Has | Partial, as_json: bool) -> AsyncGenerator[bytes]:
        """The same, rendered: only when what was asked before has been answered, which may change it."""
        reply = await self.answer(asked)
        render = render_json if as_json else render_text
        # A million partial results take their time, whether a file is here none.
        yield render(reply) if isinstance(asked, Has) else await asyncio.to_thread(render, reply)

    async def send_file(self, asked: Fetch, as_json: bool) -> AsyncGenerator[bytes]:
        """A file that a job left, or one line that says why not. Raises OSError in the middle of one."""
        found = await self._find(asked)
        if isinstance(found, ResultFile):
            try:
                first = await self._piece(found, 0)
            except OSError as error:
                found = Failure(f"{asked.path!r} of {asked.ticket} cannot be read: {error.strerror}.")
            else:
                yield file_head(found, as_json) + first
                for offset in range(len(first), found.size, PIECE_BYTES):
                    yield await self._piece(found, offset)
                return
        yield render_json(found) if as_json else render_text(found)

    async def _find(self, asked: Fetch) -> ResultFile | Reply:
        ticket, path = asked.ticket, asked.path
        done = await self._done(ticket)
        if isinstance(done, Finished) and done.size:
            number, _, path = path.partition("/")
            if not NUMBER.fullmatch(number) or int(number) >= done.size:
                return _no_file(asked)
            _, ((ticket, _),) = await self._store.array(done.seq, done.size, int(number), 1)
            done = await self._done(ticket)
        if not isinstance(done, Finished):
            return done
        for file in done.files:
            if file.path == path:
                return file._replace(path=asked.path)
        return _no_file(asked)

    async def _of_array(self, array: Finished) -> FilesOf | Failure:
        """Of its jobs, in order: each file's path begins with its job's number."""
        found: list[ResultFile] = []
        last, end = array.seq, array.seq + array.size
        while last < end and (rows := await self._store.page(last)):
            for row in rows:
                last = row.seq
                if last > end:
                    break
                try:
                    files = Finished(row.seq, view_of(row)).files
                except ProtocolError as error:
                    return Failure(unreadable(row, error))
                number = last - array.seq - 1
                found += [file._replace(path=f"{number}/{file.path}") for file in files]
            if len(found) > ARRAY_FILES_LIMIT:
                return Failure(
                    f"The jobs of {array.view.ticket} left more than {ARRAY_FILES_LIMIT} files: fetch them by"
                    " their own tickets, which result lists in JSON."
                )
        return array.left(found)

    async def _piece(self, file: ResultFile, offset: int) -> bytes:
        """Raises OSError also where the file is shorter than it was."""
        data = await asyncio.to_thread(self._home.files.piece, file.digest, offset, PIECE_BYTES)
        if len(data) < min(PIECE_BYTES, file.size - offset):
            raise OSError(errno.EIO, f"file {file.digest} is shorter than it was")
        return data

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
                more = {
                    name: fields[name] for name in ("exit_code", "reason", "stdout_bytes", "stderr_bytes")
                }
                yield form.end(status_fields(news) | more)

    def receive(self, asked: Upload, changed: Callable[[], None], before: Uploading | None) -> Uploading:
        """A file that a client sends, behind another; `changed` is called when there is room for more, and
        at its end."""
        uploading = Uploading(self._home.files, asked, changed, before)
        self._start(uploading.write())
        return uploading

    async def _done(self, ticket: str) -> Finished | Reply:
        """The job that left files, or what is to be said in its place."""
        row: TicketRow | None
        (row,) = await self._store.tickets([ticket])
        if row is None:
            return UnknownTicket(ticket)
        if row.ended is None:
            return Failure(f"{ticket} is not done yet: its files are there when it is.")
        try:
            return Finished(row.seq, view_of(row))
        except ProtocolError as error:
            return Failure(unreadable(row, error))


def _no_file(asked: Fetch) -> Failure:
    return Failure(f"{asked.ticket} left no file {asked.path!r}; fetch {asked.ticket} lists them.")
