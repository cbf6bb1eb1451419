"""The node's client port: lines in, replies out, in order, none waiting for another client."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import socket
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, cast

from clusternode.core.done import reply_of_done
from clusternode.core.events import Asked, Line, LinesReceived, LookUp, StatesAre, StatesOf
from clusternode.listing import Listing, all_results, unreadable, view_of
from clusternode.store.sqlite import TicketRow
from clusternode.tickets import new_tickets
from clusternode.uploads import Intake, Item, Uploading
from protocol.arrays import size_of
from protocol.dialogue import (
    TOO_LONG,
    CancelJob,
    Exit,
    Explain,
    Fetch,
    GetAll,
    GetResult,
    Has,
    Help,
    Invalid,
    Json,
    Nodes,
    Partial,
    Request,
    Stats,
    Status,
    Submit,
    Tail,
    TakeCheckpoint,
    Upload,
    Wait,
    WaitForAll,
    parse_line,
)
from protocol.errors import ProtocolError
from protocol.explain import Attempt
from protocol.job import JobState
from protocol.limits import ARRAY_PAGE, CLIENT_BUFFER_LIMIT, CLIENTS_LIMIT, LINES_PER_TURN, PIPELINE_LIMIT
from protocol.listing import ListJobs
from protocol.replies import (
    ArrayView,
    Failure,
    Goodbye,
    HelpText,
    JsonMode,
    LeftOut,
    Reply,
    ResultOf,
    StatusOf,
    UnknownTicket,
    render_json,
    render_text,
)
from runtime.connection import set_nodelay

if TYPE_CHECKING:
    from clusternode.door import Door

log = logging.getLogger("clusternode")

#: Lines read and not yet handled, above which the client is left unread.
LINES_HIGH = 2 * LINES_PER_TURN
#: Seconds that a client has to read its last replies once the connection is closing.
LINGER = 30.0
#: Probes find a client whose machine or process is gone while it `wait`s: idle, between, how many.
KEEPALIVE = (60, 10, 3)


#: Requests whose answer depends on when they are asked, and changes nothing.
Question = GetResult | Status | Explain | Nodes | Stats


class News:
    """A line for many clients, made once for all that read the same."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._lines: dict[bool, bytes] = {}

    def line(self, as_json: bool) -> bytes:
        if as_json not in self._lines:
            self._lines[as_json] = (render_json if as_json else render_text)(self._reply)
        return self._lines[as_json]


class Client(asyncio.Protocol):
    """One client. Its lines are numbered, and so are their replies, which leave in that order."""

    def __init__(self, door: Door, number: int) -> None:
        self.number = number
        self._door = door
        self._intake = Intake(self._receive)
        self._lines: deque[Item] = deque()
        self._transport: asyncio.Transport | None = None
        self._next_line = 0
        self._next_reply = 0
        #: A reply of many pieces is made when its turn has come.
        self._ready: dict[int, bytes | AsyncGenerator[bytes]] = {}
        self._ready_bytes = 0
        self._json_from: int | None = None
        #: Questions behind a `wait` or `tail`: asked when their turn has come, so that they see what it saw.
        self._held_back: dict[int, Question] = {}
        self._last_wait = -1
        #: Lines that belong to no line of its own, and how many had no room among them.
        self._news: list[bytes] = []
        self._news_bytes = 0
        self._left_out = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._input_over = False
        self._working = False
        self._flushing = False
        self._streaming: asyncio.Task[None] | None = None
        self._lookups: dict[int, LookUp] = {}
        self._listings: dict[int, Listing] = {}
        #: Set whenever replies have left, or will never leave.
        self._moved = asyncio.Event()
        self._linger: asyncio.TimerHandle | None = None
        self._looking_up = False
        self._reading_paused = False

    # --- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=CLIENT_BUFFER_LIMIT)
        set_nodelay(transport)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            for option, value in zip(options, KEEPALIVE, strict=True):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        if not self._door.admit(self):
            self._reply(0, Failure(f"This node has {CLIENTS_LIMIT} clients already; please come back later."))
            self._next_line = 1
            self._input_over = True

    def data_received(self, data: bytes) -> None:
        if not self._input_over:
            self._lines.extend(self._intake.feed(data))
            self._schedule_work()

    def _receive(self, asked: Upload, before: Uploading | None) -> Uploading:
        # Called again when there is room for more of it, and when what becomes of it is known.
        return self._door.desk.receive(asked, self._schedule_work, before)

    def eof_received(self) -> bool:
        if not self._input_over:
            self._lines.extend(self._intake.end())
            self._schedule_work()
        return True  # what is still owed is written before it closes

    def connection_lost(self, error: Exception | None) -> None:
        self._input_over = True
        self._intake.abort()
        if self._streaming is not None:
            self._streaming.cancel()  # it may wait for what does not come for hours
        self._lines.clear()
        self._lookups.clear()
        self._held_back.clear()
        self._news.clear()
        for listing in self._listings.values():
            listing.hear(None)
        self._writable.set()
        self._moved.set()
        if self._linger is not None:
            self._linger.cancel()
        self._door.leave(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        self._moved.set()
        self._schedule_work()
        self._schedule_flush()

    # --- lines -----------------------------------------------------------------------------------

    @property
    def _may_work(self) -> bool:
        """A client that does not read its replies, or is owed too many, is not read either.

        Nor is any while the disk is far behind: one line may be as much work as 100,000.
        """
        owed = self._next_line - self._next_reply
        may_answer = self._writable.is_set() and owed < PIPELINE_LIMIT and not self._is_full
        return may_answer and not self._door.congested

    @property
    def _is_full(self) -> bool:
        """As many replies are ready as may be in memory; one before them is not."""
        return self._ready_bytes >= CLIENT_BUFFER_LIMIT

    @property
    def _has_work(self) -> bool:
        """What follows a file may need it."""
        if not self._lines:
            return False
        first = self._lines[0]
        return not isinstance(first, Uploading) or first.reply is not None

    def _schedule_work(self) -> None:
        if not self._working and self._has_work and self._may_work:
            self._working = True
            asyncio.get_running_loop().call_soon(self._work)
        self.regulate()

    def go_on(self) -> None:
        """Reads and works, or stops that, as the disk is now."""
        self._schedule_work()

    def _work(self) -> None:
        """One turn: so many lines, in one event."""
        self._working = False
        lines: list[Line] = []
        requests: list[tuple[int, Request]] = []
        weight = 0
        while self._has_work and weight < LINES_PER_TURN and not self._input_over:
            raw = self._lines.popleft()
            if isinstance(raw, Uploading):
                assert raw.reply is not None
                self._reply(self._next_line, raw.reply)
                self._next_line += 1
                continue
            request = TOO_LONG if raw is None else parse_line(raw)
            if request is None:
                continue
            weight += _tickets_of(request)
            for each in map(Wait, request.tickets) if isinstance(request, WaitForAll) else (request,):
                number, self._next_line = self._next_line, self._next_line + 1
                requests.append((number, each))
            if isinstance(request, Exit | Upload):
                self._input_over = True
                self._lines.clear()
            elif isinstance(request, Json) and self._json_from is None:
                self._json_from = number
        tickets = new_tickets(sum(_tickets_of(each) for _, each in requests if isinstance(each, Submit)))
        for number, request in requests:
            if isinstance(request, Wait | CancelJob | Tail):
                self._last_wait = number
            if isinstance(request, Submit) and self._door.draining:
                self._reply(number, Failure("This node is about to stop and takes no more jobs; others do."))
            elif isinstance(request, Question) and self._last_wait >= self._next_reply:
                self._held_back[number] = request
            elif isinstance(request, Asked):
                lines.append(self._line(number, request, tickets))
            else:
                self._answer_here(number, request)
        if lines:
            self._door.submit(LinesReceived(self.number, lines))
        self._schedule_work()

    def _line(self, number: int, request: Asked, tickets: Iterator[str]) -> Line:
        """`tickets`: new ones, taken from where it submits."""
        as_json = self._reads_json(number)
        if not isinstance(request, Submit):
            return Line(number, request, "", as_json)
        ticket = next(tickets)
        return Line(number, request, ticket, as_json, tuple(islice(tickets, size_of(request.spec))))

    def _ask_held_back(self) -> None:
        """The questions whose turn has come: up to the next line that is waited for."""
        lines = []
        number = self._next_reply
        while (question := self._held_back.pop(number, None)) is not None:
            lines.append(Line(number, question, "", self._reads_json(number)))
            number += 1
        self._door.submit(LinesReceived(self.number, lines))

    def _answer_here(self, number: int, request: Request) -> None:
        match request:
            case Invalid(reason):
                self._reply(number, Failure(reason))
            case Help():
                self._reply(number, HelpText())
            case Json():
                self._reply(number, JsonMode())
            case Exit():
                self._reply(number, Goodbye())
            case GetAll():
                self._stream_later(number, all_results(self._door.store, self._reads_json(number)))
            case ListJobs():
                self._stream_later(number, self._list(number, request))
            case Tail():
                self._stream_later(number, self._door.desk.tail(request, self._reads_json(number)))
            case Fetch(_, path) if path:
                self._stream_later(number, self._door.desk.send_file(request, self._reads_json(number)))
            case Fetch() | Has() | Partial():
                self._stream_later(number, self._door.desk.in_turn(request, self._reads_json(number)))
            case TakeCheckpoint():
                self._door.background(self._take_checkpoint(number, request))
            case Upload():
                # Its bytes are no lines, and have come as such.
                self._reply(number, Failure("upload comes first on its line; the connection ends."))

    async def _take_checkpoint(self, number: int, request: TakeCheckpoint) -> None:
        self._reply(number, await self._door.desk.answer(request))

    def _stream_later(self, number: int, chunks: AsyncGenerator[bytes]) -> None:
        """When its turn has come."""
        self._ready[number] = chunks
        self._schedule_flush()

    def _reads_json(self, number: int) -> bool:
        return self._json_from is not None and number >= self._json_from

    def regulate(self) -> None:
        """Reads the socket, or leaves it unread, as things are now."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        full = len(self._lines) > LINES_HIGH or not self._may_work
        if self._intake.in_file or self._intake.is_full:
            full = self._intake.is_full
        if full != self._reading_paused:
            self._reading_paused = full
            if full:
                transport.pause_reading()
            else:
                transport.resume_reading()

    # --- replies ---------------------------------------------------------------------------------

    def answer(self, number: int, reply: Reply) -> None:
        """The reply to a line; it leaves when those before it have left."""
        self._reply(number, reply)

    def _reply(self, number: int, reply: Reply) -> None:
        data = render_json(reply) if self._reads_json(number) else render_text(reply)
        self._ready[number] = data
        self._ready_bytes += len(data)
        self._schedule_flush()

    def tell(self, news: News) -> None:
        """A line between its replies. Where it does not read, they are counted, and it is told that."""
        if self._left_out or self._news_bytes >= CLIENT_BUFFER_LIMIT:
            self._left_out += 1
            return
        if self._next_reply in self._ready and self._writable.is_set():
            self._flush()  # what it was answered before comes first
        data = news.line(self._hears_json)
        self._news.append(data)
        self._news_bytes += len(data)
        self._schedule_flush()

    @property
    def _hears_json(self) -> bool:
        return self._json_from is not None and self._next_reply > self._json_from

    def _take_news(self) -> list[bytes]:
        """What is to be written now."""
        news, self._news, self._news_bytes = self._news, [], 0
        if self._left_out:
            news.append(News(LeftOut(self._left_out)).line(self._hears_json))
            self._left_out = 0
        return news

    def _schedule_flush(self) -> None:
        if not self._flushing and not self._streaming:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        transport = self._transport
        if transport is None or transport.is_closing() or self._streaming:
            return
        chunks = self._take_news() if self._news and self._writable.is_set() else []
        size = 0
        while self._writable.is_set() and size < CLIENT_BUFFER_LIMIT:
            data = self._ready.pop(self._next_reply, None)
            if data is None:
                break
            if not isinstance(data, bytes):
                self._streaming = self._door.background(self._stream(data))
                break
            chunks.append(data)
            size += len(data)
            self._next_reply += 1
        self._ready_bytes -= size
        if self._next_reply in self._held_back:
            self._ask_held_back()
        if chunks:
            transport.write(b"".join(chunks))
            self._moved.set()
        if self._next_reply in self._ready and self._writable.is_set():
            self._schedule_flush()
        if self._input_over and self._next_reply == self._next_line:
            self.close()
        self._schedule_work()

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            self._linger = asyncio.get_running_loop().call_later(LINGER, self._transport.abort)

    async def _stream(self, chunks: AsyncGenerator[bytes]) -> None:
        """A reply of many pieces, as fast as the client reads."""
        transport = self._transport
        assert transport is not None
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    if transport.is_closing():
                        break
                    transport.write(chunk)
                    await self._writable.wait()
        except OSError as error:
            # It was promised so many bytes: only the end of the connection tells that they do not come.
            log.warning("a reply broke off in the middle: %s", error.strerror)
            transport.abort()
        self._next_reply += 1
        self._streaming = None
        self._moved.set()  # what is looked up may be waiting to be the next
        self._schedule_flush()

    async def _list(self, number: int, asked: ListJobs) -> AsyncGenerator[bytes]:
        def ask(tickets: Sequence[str]) -> None:
            self._door.submit(LinesReceived(self.number, [Line(number, StatesOf(tickets), "", True)]))

        listing = Listing(asked, self._reads_json(number), self._door.store, ask)
        self._listings[number] = listing
        try:
            yield await listing.reply()
        finally:
            del self._listings[number]

    def hear(self, number: int, states: StatesAre) -> None:
        """Where open tickets are that a `list` asked for."""
        if number in self._listings:
            self._listings[number].hear(states)

    # --- answers from the store ------------------------------------------------------------------

    def look_up(self, action: LookUp) -> None:
        """Answers from the store; one reader a client, so that its replies never pile up in memory."""
        self._lookups[action.seq] = action
        self._moved.set()  # it may be the one that the others wait for
        if not self._looking_up:
            self._looking_up = True
            self._door.background(self._look_up_all())

    async def _look_up_all(self) -> None:
        while self._lookups:
            # In the order of the lines: the reply that the others wait for is never behind them.
            batch = heapq.nsmallest(LINES_PER_TURN, self._lookups)
            if not self._writable.is_set() or (self._is_full and batch[0] != self._next_reply):
                self._moved.clear()
                await self._moved.wait()
                continue
            rows = await self._door.store.tickets([self._lookups[seq].ticket for seq in batch])
            for seq, row in zip(batch, rows, strict=False):
                action = self._lookups.pop(seq, None)
                if action is None:  # the client has gone meanwhile
                    continue
                tried: Sequence[Attempt] = ()
                if row is not None and isinstance(action.asked, Explain):
                    tried = await self._door.store.tried(row.seq)
                reply = _reply_of_row(action, row, tried)
                if row is not None and isinstance(reply, ResultOf | StatusOf) and size_of(reply.job.spec):
                    await self._reply_of_array(action, reply, row.seq)
                    if self._is_full:
                        break  # the rest is read when there is room for it
                else:
                    self._reply(seq, reply)
        self._looking_up = False

    async def _reply_of_array(self, action: LookUp, reply: ResultOf | StatusOf, seq: int) -> None:
        """A program reads what has come of its jobs as well."""
        if not self._reads_json(action.seq):
            self._reply(action.seq, reply)
            return
        size = size_of(reply.job.spec)
        first = action.asked.first if isinstance(action.asked, GetResult) else 0
        most = 0 if isinstance(reply, StatusOf) else ARRAY_PAGE
        array = ArrayView(size, *await self._door.store.array(seq, size, first, most), first)
        state = JobState.RUNNING if reply.job.outcome is None else JobState.DONE
        self._reply(action.seq, replace(reply, job=replace(reply.job, state=state, array=array)))


def _tickets_of(request: Request) -> int:
    """What it takes of a turn, and of new tickets at most: one, and of an array one for each job as well."""
    return 1 + size_of(request.spec) if isinstance(request, Submit) else 1


def _reply_of_row(action: LookUp, row: TicketRow | None, tried: Sequence[Attempt] = ()) -> Reply:
    if row is None:
        return UnknownTicket(action.ticket)
    try:
        return reply_of_done(action.asked, view_of(row), tried)
    except ProtocolError as error:
        return Failure(unreadable(row, error))
