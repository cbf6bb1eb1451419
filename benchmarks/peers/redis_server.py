"""A Redis server of our own, as durable as it can be: every write is in its file, after an fsync."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.client import BenchError
from evenly.local import HOST, free_port

SERVER = "redis-server"
#: Seconds until it is up, and until it has stopped.
TIMEOUT = 10.0
LOOK_PERIOD = 0.02


@contextmanager
def redis_server() -> Iterator[str]:
    """Its URL; it is up inside the block, on a free port, with a directory that is removed."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="evenly-redis-") as directory:
        options = ["--port", str(port), "--bind", HOST, "--dir", directory, "--save", ""]
        durable = ["--appendonly", "yes", "--appendfsync", "always"]
        server = subprocess.Popen(
            [SERVER, *options, *durable], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            _wait(server, port)
            yield f"redis://{HOST}:{port}/0"
        finally:
            server.terminate()
            try:
                server.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            socket.create_connection((HOST, port), TIMEOUT).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{SERVER} did not start on port {port}") from None
        time.sleep(LOOK_PERIOD)
