"""A framed connection: bytes of a socket to typed messages, and back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, cast

from protocol.errors import ProtocolError
from protocol.frames import FrameDecoder
from protocol.limits import FRAME_LIMIT, LINK_BUFFER_LIMIT
from protocol.messages import Error, Message, decode
from protocol.pieces import encode_pieces


class FrameConnection(asyncio.BufferedProtocol):
    """One end of the wire between node and load balancer.

    `on_message` gets each message; `on_lost` one line with the reason, once. What the peer sends wrong
    ends this connection alone, after an ERROR that tells it why.
    """

    def __init__(
        self,
        on_message: Callable[[Message], None],
        on_lost: Callable[[str], None],
        frame_limit: int = FRAME_LIMIT,
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._decoder = FrameDecoder(frame_limit)
        self._transport: asyncio.Transport | None = None
        self._reason = ""
        self._refusal: ProtocolError | None = None
        self.bytes_received = 0

    def trust(self) -> None:
        """The peer is known now: it may send frames of full size."""
        self._decoder.limit = FRAME_LIMIT

    @property
    def peer(self) -> str:
        name = self._transport.get_extra_info("peername") if self._transport else None
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "unknown"

    @property
    def backlog(self) -> int:
        """Bytes that were sent and that the peer has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, message: Message) -> None:
        """Sends, or does nothing once the connection is closing."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.writelines(encode_pieces(message))
        if transport.get_write_buffer_size() > LINK_BUFFER_LIMIT:
            self.abort(f"it does not read: {LINK_BUFFER_LIMIT} bytes wait for it")

    def close(self, reason: str) -> None:
        """Closes after what was sent; `on_lost` follows with this reason."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Closes at once, whatever was not sent."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    def refuse(self, error: ProtocolError) -> None:
        """Tells the peer what it did wrong, and closes; at once when connected, if that is still to come."""
        if self._transport is None:
            self._refusal = error
            return
        self.send(Error(error.status, error.reason[:2000]))
        self.close(error.reason)

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- asyncio.BufferedProtocol ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        set_nodelay(transport)
        if self._refusal is not None:
            self.refuse(self._refusal)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.space()

    def buffer_updated(self, count: int) -> None:
        self.bytes_received += count
        if self._reason:
            return
        try:
            for body in self._decoder.filled(count):
                self._on_message(decode(body))
                if self._reason:
                    return
        except ProtocolError as error:
            self.refuse(error)

    def eof_received(self) -> bool:
        if self._decoder.inside_frame:
            self._reason = self._reason or "it closed in the middle of a frame"
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._on_lost(self._reason or (f"connection lost: {error}" if error else "it closed the connection"))


def set_nodelay(transport: Any) -> None:
    """No waiting for more to send: batches are made by us. Keepalive finds peers that vanished."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
