"""The link to the load balancer: connects, and connects again, with backoff."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from protocol.limits import LINK_TIMEOUT, MIB
from protocol.messages import Message
from runtime.connection import FrameConnection

log = logging.getLogger("clusternode")

#: Seconds between two attempts: doubled from the first to the last, and spread so that nodes do not come
#: back all at once.
BACKOFF_FIRST = 0.1
BACKOFF_LAST = 1.0


#: What other nodes asked for is answered as long as less than this waits for the load balancer: heartbeats
#: and results come behind it.
ROOM_BYTES = 4 * MIB


class Link:
    """At most one connection at a time: `on_up`, then `on_message`s, then `on_down`, again and again."""

    def __init__(
        self,
        host: str,
        port: int,
        on_up: Callable[[FrameConnection], None],
        on_message: Callable[[Message], None],
        on_down: Callable[[FrameConnection], None],
    ) -> None:
        self._host = host
        self._port = port
        self._on_up = on_up
        self._on_message = on_message
        self._on_down = on_down
        self._lost = asyncio.Event()
        self._heard = False
        self._said = ""
        self._leaving = False
        self.connection: FrameConnection | None = None

    async def run(self) -> None:
        """Until cancelled."""
        delay = BACKOFF_FIRST
        while True:
            try:
                await self._connect()
            except (OSError, TimeoutError) as error:
                self._say(
                    f"the ReverseProxy at {self._host}:{self._port} cannot be reached ({_reason(error)})"
                )
            else:
                await self._lost.wait()
                if self._heard:
                    delay = BACKOFF_FIRST
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, BACKOFF_LAST)

    def send(self, message: Message) -> None:
        if self.connection is not None:
            self.connection.send(message)

    def has_room(self) -> bool:
        """Whether what was sent has gone, but for what is always under way. Without a link nothing waits."""
        return self.connection is None or self.connection.backlog < ROOM_BYTES

    def leave(self) -> None:
        """The node stops: this end of the link is no news."""
        self._leaving = True
        self.close("the node stops")

    def disconnect(self, reason: str) -> None:
        """At once: to a load balancer that hangs, what is still to be sent would never be."""
        if self.connection is not None:
            self.connection.abort(reason)

    def close(self, reason: str) -> None:
        """After what was sent."""
        if self.connection is not None:
            self.connection.close(reason)

    async def _connect(self) -> None:
        self._lost.clear()
        self._heard = False
        loop = asyncio.get_running_loop()
        connection = FrameConnection(self._receive, self._ended)
        async with asyncio.timeout(LINK_TIMEOUT):
            await loop.create_connection(lambda: connection, self._host, self._port)
        self.connection = connection
        self._on_up(connection)

    def _receive(self, message: Message) -> None:
        self._on_message(message)

    def welcomed(self) -> None:
        """The load balancer took us: the next loss is news again, and the next attempt comes at once."""
        self._heard = True
        self._said = ""

    def _ended(self, reason: str) -> None:
        connection, self.connection = self.connection, None
        self._lost.set()
        if connection is not None:
            self._on_down(connection)
            if not self._leaving:
                self._say(f"the link to the ReverseProxy at {self._host}:{self._port} ended: {reason}")

    def _say(self, text: str) -> None:
        """Each state of affairs once, not once an attempt."""
        if text != self._said:
            self._said = text
            log.warning("%s; trying again until it is there", text)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {LINK_TIMEOUT:g} s"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
