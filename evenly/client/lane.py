"""Lines to a node and their replies, pipelined over one connection that is made again when it breaks.

A node answers in the order of the lines, so who is owed a reply stands in a queue. When the connection is
lost, or gives no reply for too long, all that is owed goes to the next node, in the same order. That is right
because every line here may be asked twice: a question, or a submission with a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar, cast

from evenly.client.addresses import split
from evenly.client.errors import (
    ClientClosed,
    ConnectionLost,
    EvenlyError,
    NodesUnreachable,
    Refused,
    UnknownTicket,
)
from evenly.client.model import Address
from protocol.replies import NOT_FOUND

T = TypeVar("T")

#: Seconds to connect: a machine that is off does not answer at all.
CONNECT_TIMEOUT = 5.0
#: Seconds between two rounds of trying all nodes, from the first to the longest.
BACKOFF_FIRST, BACKOFF_MOST = 0.1, 2.0
#: Seconds: probes find a node whose machine is gone while nothing is owed but a `wait`.
KEEPALIVE = (30, 10, 3)
#: A node that is stopping says this to submissions.
STOPPING = b'{"error":"This node is about to stop'
#: Lines that gather before they are written in the middle of a turn of the loop.
AT_ONCE = 200
NEWS = (b'{"done":', b'{"left_out":')


class Question(Generic[T]):
    """A line that is owed a reply. `answer` makes a value of (reply, address), or raises an EvenlyError."""

    __slots__ = ("answer", "future", "is_once", "line")

    def __init__(
        self,
        line: bytes,
        answer: Callable[[bytes, Address], T],
        future: asyncio.Future[T],
        is_once: bool = False,
    ) -> None:
        self.line = line
        self.answer = answer
        self.future = future
        #: Not asked again when the connection is lost: it then fails with ConnectionLost.
        self.is_once = is_once

    def deliver(self, reply: bytes, node: Address) -> None:
        if self.future.done():  # cancelled by who asked
            return
        try:
            value = self.answer(reply, node)
        except EvenlyError as error:
            self.fail(error)
        except (ValueError, KeyError, TypeError):
            self.fail(EvenlyError(f"{node} answered what no node says: {reply[:60]!r}"))
        else:
            self.future.set_result(value)

    def fail(self, error: EvenlyError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # who asked may have gone; asyncio is not to complain of that


class Listener(Protocol):
    """Who reads the lines between the replies (see watch.py)."""

    def greeting(self) -> Iterable[Question[Any]]:
        """What is to be asked first over a new connection."""

    def news(self, line: bytes) -> None: ...

    def failed(self, error: EvenlyError) -> None:
        """The connection is lost and could not be made again."""

    @property
    def is_needed(self) -> bool:
        """Whether the connection is to be kept even while no reply is owed."""


class Lane:
    """One pipelined connection to one of `nodes`: the first, and the next one whenever that fails.

    `timeout`: seconds without any reply, while one is owed, after which the next node is taken; None where
    replies may take for ever. `patience`: seconds of trouble after which all that is owed fails with
    NodesUnreachable; at once if none of the nodes was ever `reached`.
    """

    def __init__(
        self,
        nodes: list[Address],
        *,
        timeout: float | None,
        patience: float,
        reached: set[Address],
        listener: Listener | None = None,
    ) -> None:
        self.nodes = nodes
        self._timeout = timeout
        self._patience = patience
        self._reached = reached
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._at = 0
        self._wire: _Wire | None = None
        #: Sent and not answered; not sent yet.
        self._owed: deque[Question[Any]] = deque()
        self._unsent: deque[Question[Any]] = deque()
        self._is_flushing = False
        self._connecting: asyncio.Task[None] | None = None
        self._connected_at = 0.0
        self._trouble_since: float | None = None
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        #: How many ask of it to wait for a node that was never reached, as for one that was.
        self.expected_by = 0
        #: Bytes of lines that wait for their reply.
        self.owed_bytes = 0

    @property
    def node(self) -> Address:
        """The one that it speaks to, or tries to."""
        return self.nodes[self._at % len(self.nodes)]

    def ask(
        self, line: bytes, answer: Callable[[bytes, Address], T], is_once: bool = False
    ) -> asyncio.Future[T]:
        """Sends a line (without its end) in its turn; the future has what `answer` makes of the reply."""
        future: asyncio.Future[T] = self._loop.create_future()
        if self._is_closed:
            future.set_exception(ClientClosed("the client is closed"))
            future.exception()  # who asked may not look
            return future
        self.owed_bytes += len(line)
        self._unsent.append(Question(line, answer, future, is_once))
        if self._wire is None:
            self.connect()
        elif len(self._unsent) >= AT_ONCE:
            self._flush()  # the node works while more lines are made
        elif not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)
        return future

    def connect(self) -> None:
        if self._wire is None and self._connecting is None and not self._is_closed:
            self._connecting = self._loop.create_task(self._connect())

    async def close(self) -> None:
        """Whatever is owed fails with ClientClosed."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        wire, self._wire = self._wire, None
        self._fail_all(ClientClosed("the client was closed before the answer came"))
        if wire is not None:
            await wire.end()

    def pause(self) -> None:
        """Leaves the socket unread until `resume`: the node then stops sending."""
        if self._wire is not None and self._wire.transport is not None:
            with contextlib.suppress(RuntimeError):
                self._wire.transport.pause_reading()

    def resume(self) -> None:
        if self._wire is not None and self._wire.transport is not None:
            with contextlib.suppress(RuntimeError):
                self._wire.transport.resume_reading()

    # --- the connection --------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Tries the nodes in turn until one answers, or patience is over."""
        delay = BACKOFF_FIRST
        faults: dict[Address, str] = {}
        try:
            while True:
                if self._trouble_since is None:
                    self._trouble_since = self._loop.time()
                for _ in self.nodes:
                    node = self.node
                    try:
                        wire = await _Wire.open(node, self._hello_timeout)
                    except OSError as error:
                        faults[node] = said_of(error)
                        self._at += 1
                        continue
                    self._begin(node, wire)
                    return
                tried_for = self._loop.time() - self._trouble_since
                is_hopeless = not (self.expected_by or self._reached.intersection(self.nodes))
                if tried_for >= self._patience or is_hopeless:
                    raise NodesUnreachable(_unreachable(faults), faults)
                await asyncio.sleep(min(delay * random.uniform(0.5, 1.0), self._patience - tried_for))
                delay = min(2 * delay, BACKOFF_MOST)
        except EvenlyError as error:
            self._connecting = self._trouble_since = None
            self._fail_all(error)
            if self._listener is not None:
                self._listener.failed(error)

    @property
    def _hello_timeout(self) -> float:
        return CONNECT_TIMEOUT if self._timeout is None else min(self._timeout, CONNECT_TIMEOUT)

    def _begin(self, node: Address, wire: _Wire) -> None:
        self._reached.add(node)
        self._connecting = None
        self._wire = wire
        self._connected_at = self._heard_at = self._loop.time()
        if self._listener is not None:
            first = list(self._listener.greeting())
            self.owed_bytes += sum(len(each.line) for each in first)
            self._unsent.extendleft(reversed(first))
        wire.listen(self)
        self._flush()
        self._set_timer()

    def lost(self, wire: _Wire, reason: str) -> None:
        """The connection is over. What may be asked again goes to the next node."""
        if wire is not self._wire:
            return
        self._wire = None
        now = self._loop.time()
        if self._trouble_since is None or now - self._connected_at > self._patience:
            self._trouble_since = now
        node = self.node
        self._at += 1
        again = []
        for each in self._owed:
            if each.is_once:
                self.owed_bytes -= len(each.line)
                each.fail(ConnectionLost(f"the connection to {node} was lost: {reason}"))
            elif each.future.done():
                self.owed_bytes -= len(each.line)
            else:
                again.append(each)
        self._owed.clear()
        self._unsent.extendleft(reversed(again))
        if self._loop.time() - self._trouble_since > self._patience:
            self._trouble_since = None
            self._fail_all(NodesUnreachable(f"{node} takes connections and loses them: {reason}"))
        if self._unsent or (self._listener is not None and self._listener.is_needed):
            self.connect()
        else:
            self._trouble_since = None  # nobody waits: what passes until somebody does is no trouble

    def _fail_all(self, error: EvenlyError) -> None:
        owed = [*self._owed, *self._unsent]
        self._owed.clear()
        self._unsent.clear()
        self.owed_bytes = 0
        for each in owed:
            each.fail(error)

    def _flush(self) -> None:
        self._is_flushing = False
        if self._wire is None or not self._unsent:
            return
        if not self._owed:
            self._heard_at = self._loop.time()
        lines = [each.line for each in self._unsent]
        lines.append(b"")
        self._owed.extend(self._unsent)
        self._unsent.clear()
        self._wire.write(b"\n".join(lines))
        self._set_timer()

    # --- replies ---------------------------------------------------------------------------------

    def received(self, lines: list[bytes]) -> None:
        self._heard_at = self._loop.time()
        owed, node = self._owed, self.node
        for line in lines:
            if line.startswith(NEWS):
                if self._listener is not None:
                    self._listener.news(line)
                continue
            if not owed:
                self._drop("it answered what it was not asked")
                return
            if line.startswith(STOPPING):
                self._drop("it is about to stop")
                return
            question = owed.popleft()
            self.owed_bytes -= len(question.line)
            question.deliver(line, node)
        self._trouble_since = None

    def _drop(self, reason: str) -> None:
        wire = self._wire
        if wire is not None:
            self.lost(wire, reason)
            wire.abort()

    # --- silence ---------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._timer is None and self._timeout is not None and not self._is_closed:
            self._timer = self._loop.call_later(self._timeout / 4, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._wire is None or self._timeout is None:
            return
        silence = self._loop.time() - self._heard_at
        is_kept = self._listener is not None and self._listener.is_needed
        if self._owed and silence > self._timeout:
            self._drop(f"no reply for {self._timeout:g} s")
        elif not self._owed and is_kept and silence > self._timeout / 2:
            self.ask(b"json", lambda reply, node: None, is_once=True)
        if self._owed or is_kept:
            self._set_timer()


class _Wire(asyncio.Protocol):
    """Bytes to lines, for one life of a connection."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._lane: Lane | None = None
        self._parts: list[bytes] = []
        loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[bytes] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def open(cls, node: Address, timeout: float) -> _Wire:
        """A connection in JSON mode. Raises OSError."""
        wire: _Wire | None = None
        try:
            async with asyncio.timeout(timeout):
                _, wire = await asyncio.get_running_loop().create_connection(cls, *split(node))
                wire.write(b"json\n")
                reply = await wire._hello
        except BaseException as error:
            if wire is not None:
                wire.abort()
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"no answer for {timeout:g} s") from None
            raise
        if reply.replace(b" ", b"") != b'{"json":true}':
            wire.abort()
            raise ConnectionError(refusal(reply))
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        keep_alive(transport.get_extra_info("socket"))

    def listen(self, lane: Lane) -> None:
        self._lane = lane

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def end(self) -> None:
        """Closes, and returns when the socket is closed."""
        if self.transport is not None:
            self.transport.abort()
            await self._ended

    def data_received(self, data: bytes) -> None:
        if b"\n" not in data:
            self._parts.append(data)
            return
        lines = data.split(b"\n")
        if self._parts:
            lines[0] = b"".join([*self._parts, lines[0]])
            self._parts.clear()
        rest = lines.pop()
        if rest:
            self._parts.append(rest)
        if not self._hello.done():
            self._hello.set_result(lines.pop(0))
        if self._lane is not None and lines:
            self._lane.received(lines)

    def connection_lost(self, error: Exception | None) -> None:
        reason = said_of(error) if error else "it closed the connection"
        if not self._hello.done():
            self._hello.set_exception(ConnectionError(reason))
            self._hello.exception()  # nobody may be left to read it
        if not self._ended.done():
            self._ended.set_result(None)
        if self._lane is not None:
            self._lane.lost(self, reason)


# --- what replies say ----------------------------------------------------------------------------


def object_of(reply: bytes, node: Address = "") -> dict[str, Any]:
    """The reply as an object.

    Raises:
        UnknownTicket, Refused: where it is an error.
        EvenlyError: where no node would say that.
    """
    try:
        value = json.loads(reply)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise EvenlyError(f"{node or 'the other side'} answers, and is no node of Evenly: {reply[:60]!r}")
    if "error" in value:
        if "ticket" in value and value["error"] == NOT_FOUND:
            raise UnknownTicket(str(value["ticket"]))
        raise Refused(str(value["error"]))
    return value


def refusal(reply: bytes) -> str:
    """What was said in place of the JSON greeting: a node that is full says so in text."""
    text = reply.decode("utf-8", "replace").strip()
    return (
        text if text.startswith("This node has") else f"it answers, and is no node of Evenly: {text[:60]!r}"
    )


def said_of(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "no such host"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _unreachable(faults: dict[Address, str]) -> str:
    each = "; ".join(f"{node}: {fault}" for node, fault in faults.items())
    return f"no node can be reached ({each})"


def keep_alive(sock: socket.socket | None) -> None:
    if sock is None:
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        for option, value in zip(options, KEEPALIVE, strict=True):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
