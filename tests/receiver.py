"""A receiver of notices: an HTTP server that keeps what comes and answers as it is told."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support import eventually

#: Receives the connection in place of an answer.
Wild = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Delivery:
    """A POST as it came. `headers` by their names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def ticket(self) -> str:
        return self.headers["evenly-ticket"]

    @property
    def object(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@dataclass
class Receiver:
    """`answers`: for each POST in turn the status, or what does as it likes; 200 to all that come later."""

    port: int
    is_secure: bool = False
    answers: list[int | Wild] = field(default_factory=list)
    came: list[Delivery] = field(default_factory=list)
    #: What `Wild` answers wait for: set at the end of the test.
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{'https' if self.is_secure else 'http'}://127.0.0.1:{self.port}"

    def of(self, ticket: str) -> list[Delivery]:
        return [delivery for delivery in list(self.came) if delivery.ticket == ticket]

    def first(self, ticket: str) -> Delivery:
        return eventually(lambda: self.of(ticket), f"the notice of {ticket}")[0]

    def hang(self, connection: socket.socket) -> None:
        """Says nothing."""
        self.over.wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The node hangs up where it does not wait any longer."""


@contextlib.contextmanager
def receiver(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """One that runs; `port` 0: any; with `tls`, by https."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.came.append(Delivery(self.path, headers, body))
            answer = state.answers.pop(0) if state.answers else 200
            if not isinstance(answer, int):
                answer(self.connection)
                return
            self.send_response(answer)
            if 300 <= answer < 400:
                self.send_header("Location", f"{state.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Tests look at what came."""

    server = _Server(("127.0.0.1", port), Handler)
    state = Receiver(server.server_address[1], tls is not None)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=lambda: server.serve_forever(0.05), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
