"""A transport without a socket."""

import asyncio
import socket


def deliver(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    """As a loop gives it what came from the socket."""
    rest = memoryview(data)
    while rest:
        space = protocol.get_buffer(-1)
        count = min(len(space), len(rest))
        space[:count] = rest[:count]
        protocol.buffer_updated(count)
        rest = rest[count:]


class FakeSocket:
    family = socket.AF_INET

    def setsockopt(self, *option: int) -> None:
        """Options do nothing here."""


class FakeTransport(asyncio.Transport):
    """Keeps what was written; `waiting` is what the peer seems not to have read."""

    def __init__(self) -> None:
        super().__init__({"socket": FakeSocket(), "peername": ("10.0.0.1", 1234)})
        self.written = b""
        self.waiting = 0
        self.closed = ""
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def is_closing(self) -> bool:
        return bool(self.closed)

    def close(self) -> None:
        self.closed = self.closed or "close"

    def abort(self) -> None:
        self.closed = self.closed or "abort"

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading
