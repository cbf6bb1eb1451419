"""A TCP proxy on loopback between a node and its balancer, which a test makes misbehave."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field

from support import free_port

CHUNK = 4096


@dataclass(slots=True)
class Way:
    """One direction of one connection: what was read and is not yet written, with the time it may go."""

    source: socket.socket
    target: socket.socket
    upwards: bool
    pending: list[tuple[float, bytes]] = field(default_factory=list)
    forwarded: int = 0
    #: The connection is cut after so many bytes in this direction: in the middle of a frame, mostly.
    cut_after: int | None = None


class Proxy:
    """Forwards what comes to `port` to `target`. `up` is from the node to the balancer."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.connections = 0
        self.cuts = 0
        #: Directions in which nothing passes; what comes is kept, as a network does that loses every packet.
        self.blocked: set[str] = set()
        self.delay = 0.0
        #: Each new connection is cut after a random number of bytes up to this.
        self.cut_within: int | None = None
        self.random = random.Random(7)
        self._target = target
        self._lock = threading.Lock()
        self._ways: dict[socket.socket, Way] = {}
        self._stranded: list[Way] = []
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setblocking(False)
        self._ended = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()

    def cut_all(self) -> None:
        """Every connection is reset now."""
        with self._lock:
            for way in list(self._ways.values()):
                self._cut(way)

    def held_up(self) -> int:
        """Bytes from the node that were read and have not gone on."""
        with self._lock:
            return sum(len(data) for way in self._ways.values() if way.upwards for _, data in way.pending)

    def strand(self) -> None:
        """The node's end of every connection is closed; the balancer's stays open and hears nothing of it."""
        with self._lock:
            for way in list(self._ways.values()):
                if way.upwards:
                    del self._ways[way.source], self._ways[way.target]
                    way.source.close()
                    self._stranded.append(way)

    def deliver_stranded(self) -> None:
        """What was held up on the stranded connections comes now; then they end."""
        with self._lock:
            for way in self._stranded:
                with contextlib.suppress(OSError):
                    way.target.sendall(b"".join(data for _, data in way.pending))
                way.target.close()
            self._stranded.clear()

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ended:
                with self._lock:
                    self._turn()
        finally:
            self._listener.close()
            self.deliver_stranded()
            for way in list(self._ways.values()):
                self._cut(way)

    def _turn(self) -> None:
        """What can be done now, and a wait of 2 ms at most."""
        with selectors.SelectSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            for source, way in self._ways.items():
                if len(way.pending) < 64:  # else let the kernel's buffers fill, as TCP does
                    selector.register(source, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select(0.002)]
        for source in ready:
            if source is self._listener:
                self._accept()
            else:
                assert isinstance(source, socket.socket)
                self._read(source)
        for way in list(self._ways.values()):
            self._write(way)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._target), 5)
        except OSError:
            near.close()
            return
        self.connections += 1
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, target, upwards in ((near, far, True), (far, near, False)):
            way = self._ways[source] = Way(source, target, upwards)
            if self.cut_within is not None:
                way.cut_after = self.random.randint(1, self.cut_within)

    def _read(self, source: socket.socket) -> None:
        way = self._ways.get(source)
        if way is None:
            return
        try:
            data = source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            way.pending.append((time.monotonic() + self.delay, data))
        else:
            self._cut(way)

    def _write(self, way: Way) -> None:
        if ("up" if way.upwards else "down") in self.blocked:
            return
        while way.pending and way.pending[0][0] <= time.monotonic() and way.source in self._ways:
            at, data = way.pending[0]
            if way.cut_after is not None:
                data = data[: way.cut_after - way.forwarded]
            try:
                sent = way.target.send(data)
            except BlockingIOError:
                return
            except OSError:
                self._cut(way)
                return
            way.forwarded += sent
            rest = way.pending[0][1][sent:]
            if rest:
                way.pending[0] = (at, rest)
            else:
                del way.pending[0]
            if way.forwarded == way.cut_after:
                self.cuts += 1
                self._cut(way)

    def _cut(self, way: Way) -> None:
        for sock in (way.source, way.target):
            self._ways.pop(sock, None)
            with contextlib.suppress(OSError):
                sock.close()
