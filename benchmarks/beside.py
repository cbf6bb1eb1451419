"""What stands beside the figures: the same work done by less, on the same machine, in the same run.

Files are made where the clusters keep their data: in the directory of temporary files.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from benchmarks.other import other_process
from evenly.local import HOST
from protocol.limits import MIB

PAGE = 4096
#: Pages that are written in turns: a write-ahead log overwrites its file, it does not grow it each time.
PAGES = 64
#: Rows of one commit, and the bytes of one: what the balancer stores of a job of 0 ms is about so large.
COMMIT_ROWS, ROW_BYTES = 100, 100


def xargs_rate(count: int) -> float:
    """Commands `true` a second of `xargs -P2 -n1`, which keeps nothing."""
    words = " ".join(map(str, range(count))).encode()
    began = time.perf_counter()
    subprocess.run(["xargs", "-P2", "-n1", "true"], input=words, check=True)
    return count / (time.perf_counter() - began)


def fsync_seconds(count: int) -> float:
    """The median time of making one overwritten page durable."""
    times = []
    with tempfile.TemporaryFile() as file:
        os.pwrite(file.fileno(), b"x" * PAGE * PAGES, 0)
        os.fsync(file.fileno())
        for turn in range(count):
            os.pwrite(file.fileno(), turn.to_bytes(4, "big") * (PAGE // 4), turn % PAGES * PAGE)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def sqlite_rate(count: int) -> float:
    """Durable rows a second of a bare SQLite table, in commits of COMMIT_ROWS."""
    with bare_table() as database:
        began = time.perf_counter()
        for _ in range(0, count, COMMIT_ROWS):
            insert(database, COMMIT_ROWS)
        return count / (time.perf_counter() - began)


@contextmanager
def bare_table() -> Iterator[sqlite3.Connection]:
    """A new SQLite table, as durable as the programs' own."""
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(sqlite3.connect(Path(directory) / "rows", isolation_level=None)) as database,
    ):
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, body BLOB)")
        yield database


def insert(database: sqlite3.Connection, rows: int) -> None:
    """One commit."""
    database.execute("BEGIN IMMEDIATE")
    database.executemany("INSERT INTO rows (body) VALUES (?)", [(b"x" * ROW_BYTES,)] * rows)
    database.execute("COMMIT")


def bare_server_seconds(count: int, commits: int) -> float:
    """The median time of one byte to a server in another process and back, which makes so many commits of
    one row between the two."""
    with (
        socket.create_server((HOST, 0)) as listening,
        other_process(_serve, listening.getsockname()[1], commits) as server,
    ):
        server.start()
        connection, _ = listening.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            times = []
            for _ in range(count):
                began = time.perf_counter()
                connection.sendall(b"?")
                connection.recv(1)
                times.append(time.perf_counter() - began)
        server.result()
    return statistics.median(times)


def _serve(port: int, commits: int) -> None:
    with bare_table() as database, socket.create_connection((HOST, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(1):
            for _ in range(commits):
                insert(database, 1)
            connection.sendall(data)


def bare_bytes(count: int, ticket: str, body: bytes) -> float:
    """The memory of a dictionary of `count` tickets and bodies like these: bytes for each."""
    return sys.getsizeof(dict.fromkeys(range(count))) / count + sys.getsizeof(ticket) + sys.getsizeof(body)


def disk_rate(count: int) -> float:
    """MB a second of writing `count` pieces of 1 MiB into a file, each made durable before the next."""
    piece = os.urandom(MIB)
    with tempfile.TemporaryFile() as file:
        began = time.perf_counter()
        for turn in range(count):
            os.pwrite(file.fileno(), piece, turn * MIB)
            os.fdatasync(file.fileno())
        return count * MIB / 1e6 / (time.perf_counter() - began)


def capture_rate(count: int, command: str) -> float:
    """MB a second of `count` runs of a command that writes 1 MiB, two at a time: read, written, durable."""
    words = command.split()

    def run(file: IO[bytes], turn: int) -> None:
        output = subprocess.run(words, capture_output=True, check=True).stdout
        os.pwrite(file.fileno(), output, turn * MIB)
        os.fdatasync(file.fileno())

    with tempfile.TemporaryFile() as file, ThreadPoolExecutor(2) as pool:
        began = time.perf_counter()
        list(pool.map(run, [file] * count, range(count)))
        return count * MIB / 1e6 / (time.perf_counter() - began)
