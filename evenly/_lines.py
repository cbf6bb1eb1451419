"""The node's line protocol from the client's side, blocking: just enough for the demo and the benchmarks."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from itertools import islice
from typing import Any, Self

#: Lines sent before their replies are read: so few that they fit into the sockets' buffers.
PIPELINED = 500


class LineClient:
    """One connection to a node's client port.

    Every method raises OSError: where the node is not there, closes the connection or says nothing for
    `timeout` seconds.
    """

    def __init__(
        self, port: int, *, as_json: bool = False, host: str = "127.0.0.1", timeout: float = 30.0
    ) -> None:
        self._socket = socket.create_connection((host, port), timeout)
        self._replies = self._socket.makefile("rb")
        if as_json:
            try:
                self.ask("json")
            except BaseException:
                self.close()
                raise

    def ask(self, line: str) -> str:
        """The reply to one line, where that reply is one line itself."""
        self._send([line])
        return self._receive()

    def ask_json(self, line: str) -> dict[str, Any]:
        """The reply to one line as an object, in JSON mode."""
        return self.ask_all([line])[0]

    def ask_all(self, lines: Iterable[str]) -> list[dict[str, Any]]:
        """The replies to many lines, in their order, in JSON mode."""
        rest = iter(lines)
        replies: list[dict[str, Any]] = []
        while batch := list(islice(rest, PIPELINED)):
            self._send(batch)
            replies += [json.loads(self._receive()) for _ in batch]
        return replies

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, lines: Iterable[str]) -> None:
        self._socket.sendall("".join(f"{line}\n" for line in lines).encode())

    def _receive(self) -> str:
        line = self._replies.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the node closed the connection")
        return line[:-1].decode()
