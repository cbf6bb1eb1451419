"""Files between the lines of a client."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusternode.clients import Client
from clusternode.core.events import Event, LinesReceived
from clusternode.desk import Desk
from clusternode.door import Door
from clusternode.files.store import UNFINISHED, Files
from clusternode.store.sqlite import SqliteStore
from clusternode.uploads import Intake, Uploading
from protocol.dialogue import Upload
from protocol.limits import CLIENT_BUFFER_LIMIT, UPLOADS_PENDING
from runtime.lifecycle import Background

from ..fakes import FakeTransport
from ..strategies import cuts, pieces

CONTENT = b"first line\nrun rm -rf x\n\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def upload(content: bytes, digest: str = "", size: int = -1) -> bytes:
    digest = digest or hashlib.sha256(content).hexdigest()
    return f"upload {len(content) if size < 0 else size} {digest}\n".encode() + content


class Session:
    """A client whose uploads go to a directory."""

    def __init__(self, directory: Path) -> None:
        self.files = Files(directory)
        self.events: list[Event] = []
        self.failures: list[BaseException] = []
        self.background = Background(self.failures.append)
        #: While it is not set, the disk takes nothing.
        self.disk = asyncio.Event()
        self.disk.set()
        no_store = cast(SqliteStore, None)
        door = Door(self.events.append, no_store, self.background.start, cast(Desk, self))
        self.transport = FakeTransport()
        self.client = Client(door, 1)
        self.client.connection_made(self.transport)
        self.begun: list[Uploading] = []

    def receive(self, asked: Upload, changed: object, before: Uploading | None) -> Uploading:
        """As the desk does."""
        uploading = Uploading(self.files, asked, changed, before)  # type: ignore[arg-type]
        self.begun.append(uploading)

        async def write() -> None:
            await self.disk.wait()
            await uploading.write()

        self.background.start(write())
        return uploading

    async def rest(self) -> list[str]:
        """What was replied, once all is done that can be."""
        while self.background._tasks:
            await asyncio.wait(self.background._tasks)
        for _ in range(5):
            await asyncio.sleep(0)
        return self.transport.written.decode().splitlines()

    def asked(self) -> list[object]:
        return [line.asked for event in self.events for line in cast(LinesReceived, event).lines]

    def unfinished(self) -> list[str]:
        return [each.name for each in self.files.directory.iterdir() if each.name.startswith(UNFINISHED)]


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    made = Session(tmp_path / "files")
    yield made
    assert made.failures == []
    await made.background.end()
    assert made.unfinished() == []


async def test_it_is_kept_by_its_digest_and_what_follows_is_a_line(session: Session) -> None:
    session.client.data_received(b"help me\n" + upload(CONTENT) + b"nodes\n")
    said = await session.rest()
    assert said[1:] == [f"Uploaded: {DIGEST}"]
    assert session.files.path(DIGEST).read_bytes() == CONTENT
    assert len(session.asked()) == 1


async def test_it_may_come_in_any_pieces(session: Session) -> None:
    for byte in upload(CONTENT):
        session.client.data_received(bytes([byte]))
    assert await session.rest() == [f"Uploaded: {DIGEST}"]


async def test_an_empty_file_is_one(session: Session) -> None:
    session.client.data_received(upload(b""))
    assert await session.rest() == [f"Uploaded: {hashlib.sha256().hexdigest()}"]


async def test_what_follows_waits_for_it_and_nothing_spins_meanwhile(session: Session) -> None:
    session.disk.clear()
    turns = 0
    work = session.client._work

    def counted() -> None:
        nonlocal turns
        turns += 1
        work()

    session.client._work = counted  # type: ignore[method-assign]
    session.client.data_received(upload(CONTENT) + b"nodes\n")
    for _ in range(50):
        await asyncio.sleep(0)
    assert session.asked() == []
    assert turns == 0
    session.disk.set()
    await session.rest()
    assert len(session.asked()) == 1


async def test_a_wrong_digest_is_refused_and_the_connection_goes_on(session: Session) -> None:
    wrong = "0" * 64
    session.client.data_received(upload(CONTENT, wrong) + b"nodes\n")
    (said,) = await session.rest()
    assert said == (
        f"That upload is not what was announced: what came has the SHA-256 {DIGEST}. Nothing of it was kept."
    )
    assert wrong not in session.files
    assert DIGEST not in session.files
    assert len(session.asked()) == 1


@pytest.mark.parametrize("how", ["eof", "lost"])
async def test_one_cut_off_in_the_middle_leaves_nothing(session: Session, how: str) -> None:
    session.client.data_received(upload(CONTENT)[:-1])
    if how == "eof":
        session.client.eof_received()
        assert await session.rest() == [
            "That upload ended too early: nothing of it was kept.",
            "Come back later to check your results.",
        ]
    else:
        session.client.connection_lost(None)
        assert await session.rest() == []
    assert list(session.files.directory.iterdir()) == []


async def test_one_that_was_whole_when_the_connection_went_is_kept(session: Session) -> None:
    session.disk.clear()
    session.client.data_received(upload(CONTENT))
    session.client.connection_lost(None)
    session.disk.set()
    await session.rest()
    assert DIGEST in session.files


@pytest.mark.parametrize(
    "line", [b"upload", b"upload 5", b"UPLOAD -1 x", b"upload 1e3 " + b"0" * 64, b"upload\t5 x"]
)
async def test_what_cannot_be_counted_ends_the_connection(session: Session, line: bytes) -> None:
    session.client.data_received(line + b"\nrun rm\nnodes\n")
    *said, bye = await session.rest()
    assert len(said) == 1
    assert bye == "Come back later to check your results."
    assert session.transport.closed
    session.client.data_received(b"nodes\n")
    assert session.asked() == []


async def test_one_behind_spaces_is_none_and_its_bytes_are_not_taken_as_lines(session: Session) -> None:
    session.client.data_received(b"  " + upload(b"run rm\n"))
    assert await session.rest() == ["upload comes first on its line; the connection ends."]
    assert session.transport.closed
    assert session.asked() == []


async def test_many_small_ones_are_written_one_after_the_other(session: Session) -> None:
    contents = [b"%d" % number for number in range(UPLOADS_PENDING * 3)]
    session.client.data_received(b"".join(map(upload, contents)))
    assert not session.transport.reading  # until some are on the disk
    said = await session.rest()
    assert said == [f"Uploaded: {hashlib.sha256(each).hexdigest()}" for each in contents]
    assert session.transport.reading


async def test_a_client_is_not_read_while_the_disk_is_slower(session: Session) -> None:
    session.disk.clear()
    content = bytes(3 * CLIENT_BUFFER_LIMIT)
    stream = upload(content)
    sent = 0
    while session.transport.reading and sent < len(stream):
        session.client.data_received(stream[sent : sent + 65536])
        sent += 65536
    assert sent < 2 * CLIENT_BUFFER_LIMIT
    session.disk.set()
    while sent < len(stream):
        while not session.transport.reading:  # noqa: ASYNC110, the disk is a thread
            await asyncio.sleep(0.001)
        session.client.data_received(stream[sent : sent + 65536])
        sent += 65536
    assert await session.rest() == [f"Uploaded: {hashlib.sha256(content).hexdigest()}"]


async def test_several_that_wait_for_the_disk_are_bounded_together(session: Session) -> None:
    session.disk.clear()
    half = bytes(CLIENT_BUFFER_LIMIT * 2 // 3)
    session.client.data_received(upload(half))
    assert session.transport.reading
    session.client.data_received(upload(half))
    assert not session.transport.reading
    session.disk.set()
    await session.rest()


async def test_a_full_disk_is_said_and_what_still_comes_is_no_line(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session.files, "begin", full)
    stream = upload(CONTENT) + b"nodes\n"
    session.client.data_received(stream[:-15])
    said = await session.rest()
    assert said == ["That upload could not be kept: No space left on device. Nothing of it was."]
    session.client.data_received(stream[-15:])
    await session.rest()
    assert len(session.asked()) == 1


async def test_the_same_file_from_many_clients_at_once(tmp_path: Path) -> None:
    files = Files(tmp_path / "files")
    asked = Upload(len(CONTENT), DIGEST)
    coming = [Uploading(files, asked, lambda: None, None) for _ in range(20)]
    for each in coming:
        each.feed(CONTENT)
    await asyncio.gather(*(each.write() for each in coming))
    assert all("Uploaded" in type(each.reply).__name__ for each in coming)
    assert [each.name for each in files.directory.iterdir()] == [DIGEST]


items = st.one_of(
    st.sampled_from([b"run upload it", b"5", b"", b"result x"]).map(lambda line: line + b"\n"),
    st.binary(max_size=40).map(upload),
    st.sampled_from([b"upload 3 \n", b"x\n" * 5]).map(upload),
)


@given(st.lists(items, max_size=8), cuts)
def test_any_split_of_a_stream_gives_the_same_lines_and_files(sent: list[bytes], sizes: list[int]) -> None:
    def cut(parts: list[bytes]) -> list[object]:
        begun: dict[Uploading, Upload] = {}

        def receive(asked: Upload, before: Uploading | None) -> Uploading:
            uploading = Uploading(cast(Files, None), asked, lambda: None, before)
            begun[uploading] = asked
            return uploading

        intake = Intake(receive)
        found = [item for part in parts for item in intake.feed(part)]
        for uploading, asked in begun.items():
            assert hashlib.sha256(b"".join(uploading._waiting)).hexdigest() == asked.digest
        return [begun[item] if isinstance(item, Uploading) else item for item in found]

    async def check() -> None:
        stream = b"".join(sent)
        assert cut(pieces(stream, sizes)) == cut([stream])
        assert len(cut([stream])) == len(sent)

    asyncio.run(check())
