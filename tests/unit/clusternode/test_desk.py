"""What clients ask of files, by way of their lines: with a store and a directory, and nothing behind them."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from clusternode.clients import Client
from clusternode.core.events import Done, Event, Submitted
from clusternode.desk import Desk
from clusternode.door import Door
from clusternode.files.home import Home
from clusternode.files.stage import Stager
from clusternode.following import Follower, Written
from clusternode.store.sqlite import SqliteStore
from protocol.arrays import jobs_of
from protocol.job import Command, Ended, Extras, Report, ResultFile
from protocol.limits import PIECE_BYTES
from protocol.replies import Failure
from runtime.lifecycle import Background

from ..fakes import FakeTransport

TICKET, OPEN, STRANGE = "T" * 16, "O" * 16, "X" * 16
SMALL, LARGE = b"small\n", bytes(range(256)) * (3 * PIECE_BYTES // 256) + b"end"


class Endless:
    """Output that never comes."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended = asyncio.Event()

    async def follow(self, *_: object) -> AsyncGenerator[Written]:
        try:
            self.began.set()
            await asyncio.Event().wait()
            yield Written(1, 1, 0, b"")
        finally:
            self.ended.set()


class Bench:
    def __init__(self, directory: Path, store: SqliteStore) -> None:
        self.failures: list[BaseException] = []
        self.background = Background(self.failures.append)
        self.home = Home(directory, 2**40, lambda ticket: None, store.knows)
        self.follower = Endless()
        follower, stager = cast(Follower, self.follower), cast(Stager, None)
        self.desk = Desk(self.home, store, stager, follower, self.background.start)
        self.events: list[Event] = []
        door = Door(self.events.append, store, self.background.start, self.desk)
        self.transport = FakeTransport()
        self.client = Client(door, 1)
        self.client.connection_made(self.transport)

    def keep(self, content: bytes, path: str) -> ResultFile:
        digest = hashlib.sha256(content).hexdigest()
        incoming = self.home.files.begin(digest, len(content))
        incoming.write(content)
        incoming.finish()
        return ResultFile(path, len(content), digest)

    async def type(self, line: str) -> bytes:
        before = len(self.transport.written)
        self.client.data_received(line.encode() + b"\n")
        await self.rest()
        return self.transport.written[before:]

    async def rest(self) -> None:
        for _ in range(3):
            while self.background._tasks:
                await asyncio.wait(self.background._tasks)
            for _ in range(5):
                await asyncio.sleep(0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path)
    yield store
    await store.close()


@pytest.fixture
async def bench(tmp_path: Path, store: SqliteStore) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, store)
    files = (made.keep(SMALL, "a/small one"), made.keep(LARGE, "large"), made.keep(b"", "none"))
    spec = Command("x", extras=Extras(result_dir="r"))
    await store.commit([Submitted(1, TICKET, 5.0, spec.pack()), Submitted(2, OPEN, 5.0, spec.pack())])
    await store.commit([Done(1, Ended(TICKET, 1, "succeeded", Report("n", files=files).pack()))])
    yield made
    assert made.failures == []
    await made.background.end()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_files_are_listed(bench: Bench) -> None:
    said = await bench.type(f"fetch {TICKET}")
    assert said.decode().splitlines() == [
        f"Files: 3, {len(SMALL) + len(LARGE)} bytes",
        f"{len(SMALL)} {digest(SMALL)} a/small one",
        f"{len(LARGE)} {digest(LARGE)} large",
        f"0 {digest(b'')} none",
        ".",
    ]
    _, listed = (await bench.type(f"json\nfetch {TICKET}")).splitlines()
    value = json.loads(listed)
    assert (value["ticket"], value["result_dir"], len(value["files"])) == (TICKET, "r", 3)
    assert value["files"][0] == {"path": "a/small one", "bytes": len(SMALL), "sha256": digest(SMALL)}


@pytest.mark.parametrize(("path", "content"), [("a/small one", SMALL), ("large", LARGE), ("none", b"")])
async def test_a_file_comes_whole_behind_its_line_and_the_next_reply_behind_it(
    bench: Bench, path: str, content: bytes
) -> None:
    said = await bench.type(f"fetch {TICKET} {path}\nhas {digest(SMALL)}")
    head = f"File: {len(content)} {digest(content)} {path}\n".encode()
    assert said == head + content + f"Here: {digest(SMALL)}\n".encode()
    head, _, rest = (await bench.type(f"json\nfetch {TICKET} {path}")).partition(b"\n")[2].partition(b"\n")
    assert json.loads(head) == {"file": path, "bytes": len(content), "sha256": digest(content)}
    assert rest == content


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"fetch {TICKET} missing", f"{TICKET} left no file 'missing'; fetch {TICKET} lists them."),
        (f"fetch {OPEN}", f"{OPEN} is not done yet: its files are there when it is."),
        (f"fetch {OPEN} a", f"{OPEN} is not done yet: its files are there when it is."),
        (f"fetch {STRANGE}", "Result: This job could not be found on this node."),
        (f"fetch {STRANGE} a", "Result: This job could not be found on this node."),
        (f"has {'0' * 64}", f"Not here: {'0' * 64}"),
    ],
)
async def test_what_is_not_there_gets_one_line(bench: Bench, line: str, said: str) -> None:
    assert (await bench.type(line)).decode() == said + "\n"
    value = json.loads((await bench.type("json\n" + line)).splitlines()[1])
    assert value.keys() <= {"error", "ticket", "has", "here"}


async def test_an_array_that_left_too_many_names_its_jobs_as_the_way(
    bench: Bench, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Command("x", extras=Extras(array=3))
    array, *jobs = ("A" * 16, "B" * 16, "C" * 16, "D" * 16)
    _, bodies = jobs_of(spec, array)
    await store.commit(
        [Submitted(3, array, 5.0, spec.pack())]
        + [Submitted(4 + at, job, 5.0, body) for at, (job, body) in enumerate(zip(jobs, bodies, strict=True))]
    )
    files = (ResultFile("x", 1, "0" * 64), ResultFile("y", 1, "0" * 64))
    report = Report("n", files=files).pack()
    ended = [Done(4 + at, Ended(job, 1, "succeeded", report)) for at, job in enumerate(jobs)]
    await store.commit([*ended, Done(3, Ended(array, 0, "succeeded", Report().pack()))])
    # The next ticket of the node is none of the array.
    await store.commit(
        [Submitted(7, "E" * 16, 5.0, spec.pack()), Done(7, Ended("E" * 16, 1, "succeeded", report))]
    )
    monkeypatch.setattr("clusternode.desk.ARRAY_FILES_LIMIT", 6)
    said = (await bench.type(f"fetch {array}")).decode().splitlines()
    assert said[0] == "Files: 6, 6 bytes"
    assert said[-2] == f"1 {'0' * 64} 2/y"
    monkeypatch.setattr("clusternode.desk.ARRAY_FILES_LIMIT", 5)
    assert (await bench.type(f"fetch {array}")).decode() == (
        f"The jobs of {array} left more than 5 files: fetch them by their own tickets, which result lists in"
        " JSON.\n"
    )


async def test_a_file_that_is_gone_is_said_to_be(bench: Bench) -> None:
    bench.home.files.path(digest(LARGE)).unlink()
    said = await bench.type(f"fetch {TICKET} large\nfetch {TICKET} none")
    assert said.decode().splitlines()[0] == f"'large' of {TICKET} cannot be read: No such file or directory."
    assert f"File: 0 {digest(b'')} none" in said.decode()


async def test_a_file_that_became_shorter_is_said_to_be(bench: Bench) -> None:
    path = bench.home.files.path(digest(SMALL))
    path.chmod(0o600)
    path.write_bytes(b"s")
    said = (await bench.type(f"fetch {TICKET} a/small one")).decode()
    assert said == f"'a/small one' of {TICKET} cannot be read: file {digest(SMALL)} is shorter than it was.\n"


async def test_one_that_breaks_off_in_the_middle_ends_the_connection_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = bench.home.files.piece

    def failing(digest: str, offset: int, length: int) -> bytes:
        if offset:
            raise OSError(5, "Input/output error")
        return piece(digest, offset, length)

    monkeypatch.setattr(bench.home.files, "piece", failing)
    said = await bench.type(f"fetch {TICKET} large\nnodes")
    assert said.startswith(b"File: ")
    assert len(said) < len(LARGE)
    assert bench.transport.closed == "abort"


async def test_a_slow_reader_gets_a_piece_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    write, sizes = bench.transport.write, []

    def write_and_wait(data: bytes | bytearray | memoryview) -> None:
        write(data)
        sizes.append(len(data))
        bench.client.pause_writing()

    monkeypatch.setattr(bench.transport, "write", write_and_wait)
    bench.client.data_received(f"fetch {TICKET} large\n".encode())
    while not bench.transport.written.endswith(LARGE):
        seen = len(sizes)
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert len(sizes) <= seen + 1
        bench.client.resume_writing()
    assert max(sizes) < PIECE_BYTES + 200
    await bench.rest()


async def test_a_listing_behind_a_wait_sees_what_it_waited_for(bench: Bench) -> None:
    bench.client.data_received(f"wait {OPEN}\nfetch {OPEN}\nfetch {OPEN} small\n".encode())
    await bench.rest()
    assert bench.transport.written == b""
    report = Report("n", files=(ResultFile("small", len(SMALL), digest(SMALL)),))
    await bench.client._door.store.commit([Done(2, Ended(OPEN, 1, "succeeded", report.pack()))])
    bench.client.answer(0, Failure("done"))
    await bench.rest()
    assert bench.transport.written.decode().splitlines() == [
        "done",
        f"Files: 1, {len(SMALL)} bytes",
        f"{len(SMALL)} {digest(SMALL)} small",
        ".",
        f"File: {len(SMALL)} {digest(SMALL)} small",
        "small",
    ]


async def test_who_goes_away_ends_what_was_streamed_to_it(bench: Bench) -> None:
    bench.client.data_received(f"tail {OPEN}\n".encode())
    await bench.follower.began.wait()
    bench.client.connection_lost(None)
    await bench.follower.ended.wait()
    await bench.rest()
