"""The node's line protocol from the client's side, blocking: just enough for the demo and the benchmarks."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterable
from typing import Any, Self

#: Lines sent before the first reply is read: so few that they fit into the sockets' buffers. More are sent
#: by a thread, as a node leaves a client unread that does not read itself.
AT_ONCE = 500


class LineClient:
    """One connection to a node's client port.

    Every method raises OSError: where the node is not there, closes the connection or says nothing for
    `timeout` seconds. After that the connection is of no more use.
    """

    def __init__(
        self, port: int, *, as_json: bool = False, host: str = "127.0.0.1", timeout: float = 30.0
    ) -> None:
        self._socket = socket.create_connection((host, port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
        return [json.loads(reply) for reply in self.exchange(lines)]

    def exchange(self, lines: Iterable[str]) -> list[str]:
        """The replies to many lines, in their order; all lines are on their way at once."""
        lines = list(lines)
        if len(lines) <= AT_ONCE:
            self._send(lines)
            return [self._receive() for _ in lines]
        sender = threading.Thread(target=self._send_or_end, args=(lines,))
        sender.start()
        try:
            return [self._receive() for _ in lines]
        except BaseException:
            self._end()  # else the sender might wait for ever for its turn
            raise
        finally:
            sender.join()

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, lines: Iterable[str]) -> None:
        self._socket.sendall("".join(f"{line}\n" for line in lines).encode())

    def _send_or_end(self, lines: Iterable[str]) -> None:
        """In a thread: what goes wrong is seen by the reader, as the end of the replies."""
        try:
            self._send(lines)
        except OSError:
            self._end()

    def _end(self) -> None:
        with contextlib.suppress(OSError):  # the peer was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def _receive(self) -> str:
        line = self._replies.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the node closed the connection")
        return line[:-1].decode()
