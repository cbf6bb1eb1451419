"""A connection of its own for what takes long or is no line: output as it comes, files in both directions."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from evenly.client.addresses import split
from evenly.client.errors import ConnectionLost
from evenly.client.lane import CONNECT_TIMEOUT, keep_alive, object_of, refusal, said_of
from evenly.client.model import Address
from protocol.limits import MIB

#: A line at most, where files are listed: ten thousand of them with long names.
REPLY_LIMIT = 8 * MIB
#: Bytes of a file at once.
PIECE = 256 * 1024


class Talk:
    """One connection in JSON mode; as a context manager it is closed after the block.

    All methods raise ConnectionLost where it breaks, or where nothing comes for `timeout` seconds.
    """

    def __init__(
        self, node: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float
    ) -> None:
        self.node = node
        self._reader = reader
        self._writer = writer
        self.timeout = timeout

    @classmethod
    async def open(cls, node: Address, timeout: float) -> Talk:
        host, port = split(node)
        limit = min(timeout, CONNECT_TIMEOUT)
        try:
            async with asyncio.timeout(limit):
                reader, writer = await asyncio.open_connection(host, port, limit=REPLY_LIMIT)
        except OSError as error:
            said = f"no answer for {limit:g} s" if isinstance(error, TimeoutError) else said_of(error)
            raise ConnectionLost(f"{node}: {said}") from None
        keep_alive(writer.get_extra_info("socket"))
        talk = cls(node, reader, writer, timeout)
        try:
            await talk.send(b"json\n")
            reply = await talk.line()
            if reply.replace(b" ", b"") != b'{"json":true}':
                raise ConnectionLost(f"{node}: {refusal(reply)}")
        except BaseException:
            await talk.close()
            raise
        return talk

    async def __aenter__(self) -> Talk:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def abort(self) -> None:
        """Who reads or writes gets ConnectionLost."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def ask(self, line: str) -> dict[str, Any]:
        """The reply to a line, as an object. Raises Refused, UnknownTicket too."""
        await self.send(line.encode() + b"\n")
        return object_of(await self.line(), self.node)

    async def send(self, data: bytes) -> None:
        """Returns when there is room for more."""
        try:
            self._writer.write(data)
            async with asyncio.timeout(self.timeout):
                await self._writer.drain()
        except OSError as error:
            raise self._lost(error) from None

    async def line(self, is_patient: bool = False) -> bytes:
        """The next line without its end; `is_patient`: however long it takes."""
        try:
            async with asyncio.timeout(None if is_patient else self.timeout):
                line = await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            raise ConnectionLost(f"{self.node} closed the connection") from None
        except asyncio.LimitOverrunError:
            raise ConnectionLost(f"{self.node} sent a line over {REPLY_LIMIT} bytes") from None
        except OSError as error:
            raise self._lost(error) from None
        return line[:-1]

    async def piece(self, most: int) -> bytes:
        """Some raw bytes, 1 to `most`."""
        try:
            async with asyncio.timeout(self.timeout):
                data = await self._reader.read(min(most, PIECE))
        except OSError as error:
            raise self._lost(error) from None
        if not data:
            raise ConnectionLost(f"{self.node} closed the connection")
        return data

    @property
    def has_input(self) -> bool:
        """Whether something came, or the end."""
        return bool(self._reader._buffer) or self._reader.at_eof()  # type: ignore[attr-defined]

    def _lost(self, error: OSError) -> ConnectionLost:
        if isinstance(error, TimeoutError):
            return ConnectionLost(f"{self.node} showed no progress for {self.timeout:g} s")
        return ConnectionLost(f"the connection to {self.node} was lost: {said_of(error)}")
