"""What a node answers about the files of its own tickets."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from clusternode.files import home as home_module
from clusternode.files.home import CHECKPOINT, CONFLICT, INCOMING_LIMIT, RESULTS, WRONG, Home
from clusternode.files.store import UNFINISHED
from clusternode.relay import REFUSED, Handler, Refused
from protocol.job import Command, Extras, JobSpec, Sleep, Task
from protocol.limits import PIECE_BYTES, RESULT_FILES_LIMIT
from protocol.relay import AWAY, NO_ROOM, NOT_FOUND

LEAVES, KEEPS, CHECKS, PLAIN, SLEEPS = (letter * 16 for letter in "LKCPS")
SPECS: dict[str, JobSpec] = {
    LEAVES: Command("x", extras=Extras(result_dir="r/s")),
    KEEPS: Command("x", extras=Extras(keep_output=True)),
    CHECKS: Task("t", extras=Extras(checkpoint=True)),
    PLAIN: Command("x"),
    SLEEPS: Sleep(5),
}
MOST = 10 * PIECE_BYTES
CONTENT = bytes(range(256)) * (2 * PIECE_BYTES // 256) + b"the rest"


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Bench:
    """A home, asked as another node asks it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.specs = dict(SPECS)
        self.home = self.open()

    def open(self) -> Home:
        async def knows(ticket: str) -> bool:
            return ticket in SPECS

        home = Home(self.directory, MOST, self.specs.get, knows)
        self.handlers: dict[str, Handler] = {}
        home.serve(self)  # type: ignore[arg-type]
        return home

    def serve(
        self, what: str, handler: Callable[[str, Any], Awaitable[Any]], is_patient: bool = False
    ) -> None:
        self.handlers[what] = handler

    async def ask(self, what: str, *asked: Any) -> Any:
        return await self.handlers[what]("other", asked)

    async def put(
        self, content: bytes, where: str = RESULTS, ticket: str = LEAVES, until: int = 2**60
    ) -> None:
        for at in range(0, max(len(content), 1), PIECE_BYTES):
            if at >= until:
                return
            piece = content[at : at + PIECE_BYTES]
            there = await self.ask("put", where, ticket, digest_of(content), len(content), at, piece)
            assert there in (at + len(piece), len(content))
            if there == len(content):
                return

    async def keep(
        self, ticket: str, *files: tuple[str, bytes], where: str = RESULTS, attempt: int = 1
    ) -> None:
        rows = tuple((path, len(content), digest_of(content)) for path, content in files)
        await self.ask("keep", where, ticket, attempt, rows)

    def unfinished(self) -> list[Path]:
        return list(self.directory.rglob(f"*{UNFINISHED}*"))


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class refused:
    """A block that is refused with this status, and with words in which these are."""

    def __init__(self, status: int, said: str = "") -> None:
        self.status, self.said = status, said

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, fault: BaseException | None, *_: object) -> bool:
        assert isinstance(fault, Refused), fault
        assert fault.status == self.status, fault
        assert self.said in fault.reason
        return True


class TestResults:
    @pytest.mark.parametrize("content", [CONTENT, b"small", b"", CONTENT[: 2 * PIECE_BYTES]])
    async def test_what_was_brought_is_kept_by_digest_and_by_name(self, bench: Bench, content: bytes) -> None:
        assert await bench.ask("wants", RESULTS, LEAVES, (digest_of(content),)) == [digest_of(content)]
        await bench.put(content)
        assert await bench.ask("wants", RESULTS, LEAVES, (digest_of(content),)) == []
        await bench.keep(LEAVES, ("a/b", content), ("c", content))
        for path in ("a/b", "c"):
            assert (bench.directory / "results" / "r" / "s" / path).read_bytes() == content
        assert bench.home.files.size(digest_of(content)) == len(content)
        assert bench.unfinished() == []

    async def test_what_another_job_has_brought_meanwhile_is_not_kept_half(self, bench: Bench) -> None:
        await bench.put(CONTENT, until=PIECE_BYTES)
        await bench.put(CONTENT, ticket=KEEPS)
        second = CONTENT[PIECE_BYTES : 2 * PIECE_BYTES]
        asked = (RESULTS, LEAVES, digest_of(CONTENT), len(CONTENT), PIECE_BYTES, second)
        assert await bench.ask("put", *asked) == len(CONTENT)
        assert bench.unfinished() == []

    async def test_without_a_name_of_its_own_it_is_kept_by_the_ticket(self, bench: Bench) -> None:
        await bench.put(b"x", ticket=KEEPS)
        await bench.keep(KEEPS, ("stdout", b"x"))
        assert (bench.directory / "results" / KEEPS / "stdout").read_bytes() == b"x"

    async def test_two_jobs_of_one_name_and_path_keep_theirs_and_the_last_has_the_name(
        self, bench: Bench
    ) -> None:
        bench.specs[PLAIN] = SPECS[LEAVES]
        for ticket, content in ((LEAVES, b"first"), (PLAIN, b"second")):
            await bench.put(content, ticket=ticket)
            await bench.keep(ticket, ("x", content), (f"of {ticket}", content))
        directory = bench.directory / "results" / "r" / "s"
        assert (directory / "x").read_bytes() == b"second"
        assert (directory / f"of {LEAVES}").read_bytes() == b"first"
        assert digest_of(b"first") in bench.home.files

    async def test_a_name_that_is_taken_by_a_file_is_said(self, bench: Bench) -> None:
        await bench.put(b"x")
        (bench.directory / "results" / "r").mkdir(parents=True)
        (bench.directory / "results" / "r" / "s").write_text("a file")
        with refused(NO_ROOM, "its origin cannot keep results/r/s: File exists"):
            await bench.keep(LEAVES, ("a", b"x"))

    async def test_a_directory_in_the_place_of_a_file_is_said_and_the_other_way_round(
        self, bench: Bench
    ) -> None:
        await bench.put(b"x")
        await bench.keep(LEAVES, ("a/b", b"x"))
        with refused(NO_ROOM, "its origin cannot keep results/r/s/a: Is a directory"):
            await bench.keep(LEAVES, ("a", b"x"))
        with refused(NO_ROOM, "its origin cannot keep results/r/s/a/b"):
            await bench.keep(LEAVES, ("a/b/c", b"x"))
        assert bench.unfinished() == []

    async def test_what_was_not_brought_is_not_kept(self, bench: Bench) -> None:
        await bench.put(CONTENT, until=PIECE_BYTES)
        with refused(CONFLICT, "not all of these files have been brought"):
            await bench.keep(LEAVES, ("a", CONTENT))
        assert not (bench.directory / "results").exists()

    @pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", "a\nb", " x"])
    async def test_paths_that_leave_are_refused_whatever_a_node_says(self, bench: Bench, path: str) -> None:
        await bench.put(b"x")
        with refused(REFUSED, "result files that are not"):
            await bench.keep(LEAVES, (path, b"x"))

    async def test_nothing_is_nothing(self, bench: Bench) -> None:
        await bench.keep(LEAVES)
        assert not (bench.directory / "results").exists()

    @pytest.mark.parametrize("ticket", ["X" * 16, PLAIN, SLEEPS, CHECKS, "", "../../x"])
    async def test_a_ticket_without_results_brings_none(self, bench: Bench, ticket: str) -> None:
        status = REFUSED if ticket in SPECS else NOT_FOUND
        with refused(status):
            await bench.ask("wants", RESULTS, ticket, ())
        with refused(status):
            await bench.put(b"x", ticket=ticket)
        with refused(status):
            await bench.keep(ticket)


class TestPieces:
    async def test_a_piece_that_comes_again_is_taken_once(self, bench: Bench) -> None:
        await bench.put(CONTENT, until=2 * PIECE_BYTES)
        size, digest = len(CONTENT), digest_of(CONTENT)
        again = CONTENT[PIECE_BYTES : 2 * PIECE_BYTES]
        for _ in range(3):
            told = await bench.ask("put", RESULTS, LEAVES, digest, size, PIECE_BYTES, again)
            assert told == 2 * PIECE_BYTES
        rest = CONTENT[2 * PIECE_BYTES :]
        for _ in range(2):
            assert await bench.ask("put", RESULTS, LEAVES, digest, size, 2 * PIECE_BYTES, rest) == size
        assert bench.home.files.piece(digest, 0, size) == CONTENT

    async def test_after_a_restart_it_is_begun_again(self, bench: Bench) -> None:
        await bench.put(CONTENT, until=2 * PIECE_BYTES)
        assert len(bench.unfinished()) == 1
        bench.open()
        assert bench.unfinished() == []
        with refused(CONFLICT, "begin again"):
            await bench.ask("put", RESULTS, LEAVES, digest_of(CONTENT), len(CONTENT), 2 * PIECE_BYTES, b"x")
        await bench.put(CONTENT)

    @pytest.mark.parametrize("offset", [1, PIECE_BYTES - 1, PIECE_BYTES + 1, 2**62])
    async def test_one_out_of_turn_has_it_begun_again(self, bench: Bench, offset: int) -> None:
        await bench.put(CONTENT, until=PIECE_BYTES)
        with refused(CONFLICT, "not the next one"):
            await bench.ask("put", RESULTS, LEAVES, digest_of(CONTENT), len(CONTENT), offset, b"xyz")
        assert bench.unfinished() == []
        await bench.put(CONTENT)

    async def test_begun_twice_it_goes_on_from_the_second(self, bench: Bench) -> None:
        await bench.put(CONTENT, until=2 * PIECE_BYTES)
        await bench.put(CONTENT, until=PIECE_BYTES)
        assert len(bench.unfinished()) == 1
        await bench.put(CONTENT)
        assert bench.unfinished() == []

    async def test_begun_by_two_at_once_one_file_is_left_and_no_other(self, bench: Bench) -> None:
        """Two attempts of a job, one of which is lost and does not know."""
        tries = [asyncio.ensure_future(bench.put(CONTENT)) for _ in range(5)]
        faults = [each for each in await asyncio.gather(*tries, return_exceptions=True) if each is not None]
        assert all(isinstance(fault, Refused) and fault.status == CONFLICT for fault in faults)
        await bench.put(CONTENT)
        assert bench.home._coming == {}
        assert bench.unfinished() == []

    async def test_wrong_bytes_are_not_kept(self, bench: Bench) -> None:
        with refused(WRONG, "what came has the SHA-256"):
            await bench.ask("put", RESULTS, LEAVES, digest_of(b"ab"), 2, 0, b"ba")
        with refused(WRONG, "more than the 2 bytes"):
            await bench.ask("put", RESULTS, LEAVES, digest_of(b"ab"), 2, 0, b"abc")
        assert bench.unfinished() == []
        assert await bench.ask("wants", RESULTS, LEAVES, (digest_of(b"ab"),)) != []

    async def test_what_comes_no_more_is_given_up(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(home_module, "IDLE", 0.01)
        await bench.put(CONTENT, until=PIECE_BYTES)
        while bench.unfinished():  # noqa: ASYNC110, a timer tells nobody
            await asyncio.sleep(0.005)
        assert bench.home._coming == {}

    async def test_more_than_may_come_at_once_come_later(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        contents = [CONTENT + b"%d" % number for number in range(INCOMING_LIMIT + 1)]
        for content in contents[:-1]:
            await bench.put(content, until=PIECE_BYTES)
        with refused(AWAY, "256 files come in already"):
            await bench.put(contents[-1])
        monkeypatch.setattr(home_module, "IDLE_IN_THE_WAY", 0.0)
        await bench.put(contents[-1])
        # The one that was silent for longest has lost its place, and is brought anew.
        with refused(CONFLICT, "its beginning is not here"):
            at = PIECE_BYTES
            await bench.ask("put", RESULTS, LEAVES, digest_of(contents[0]), len(contents[0]), at, b"x")
        assert len(bench.unfinished()) == INCOMING_LIMIT - 1

    async def test_a_full_disk_is_said(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        await bench.put(CONTENT, until=PIECE_BYTES)
        monkeypatch.setattr(os, "write", full)
        with refused(NO_ROOM, "its origin cannot keep it: No space left on device"):
            at = PIECE_BYTES
            await bench.ask("put", RESULTS, LEAVES, digest_of(CONTENT), len(CONTENT), at, b"x")
        assert bench.unfinished() == []

    async def test_who_does_not_want_it_any_more_leaves_nothing(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a job of this very node that is cancelled: nothing is between it and the disk."""
        begun, may = threading.Event(), threading.Event()
        write = os.write

        def slow(*given: Any) -> int:
            begun.set()
            may.wait()
            return write(*given)

        monkeypatch.setattr(os, "write", slow)
        putting = asyncio.ensure_future(bench.put(CONTENT, until=PIECE_BYTES))
        await asyncio.to_thread(begun.wait)
        putting.cancel()
        may.set()
        await asyncio.gather(putting, return_exceptions=True)
        for _ in range(1000):
            if not bench.unfinished():
                break
            await asyncio.sleep(0.01)
        assert bench.unfinished() == []

    async def test_a_partial_result_that_cannot_be_written_is_refused(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with refused(NO_ROOM, "its origin cannot keep it: No space left on device"):
            await bench.ask("partial", LEAVES, 1, 0, "1")

    async def test_pieces_are_given_to_who_asks(self, bench: Bench) -> None:
        await bench.put(CONTENT)
        pieces = [await bench.ask("piece", "", digest_of(CONTENT), at * PIECE_BYTES) for at in range(4)]
        assert b"".join(pieces) == CONTENT
        assert [len(piece) for piece in pieces] == [PIECE_BYTES, PIECE_BYTES, len(b"the rest"), 0]
        with refused(NOT_FOUND, f"there is no file {digest_of(b'x')}"):
            await bench.ask("piece", "", digest_of(b"x"), 0)

    async def test_asking_for_a_checkpoint_that_is_not_there_makes_none(self, bench: Bench) -> None:
        for ticket in (CHECKS, "X" * 16, "../results"):
            with refused(NOT_FOUND):
                await bench.ask("piece", ticket, digest_of(b"x"), 0)
        assert not (bench.directory / "checkpoints").exists()


class TestCheckpoints:
    async def test_the_last_one_is_what_a_job_goes_on_from(self, bench: Bench) -> None:
        assert await bench.handlers["resume"]("other", CHECKS) == ()
        for content in (b"first", b"second"):
            await bench.put(content, CHECKPOINT, CHECKS)
            await bench.keep(CHECKS, ("a", content), where=CHECKPOINT)
        (file,) = await bench.handlers["resume"]("other", CHECKS)
        assert tuple(file) == ("a", 6, digest_of(b"second"))
        assert await bench.ask("piece", CHECKS, digest_of(b"second"), 0) == b"second"
        with refused(NOT_FOUND):  # the one before is gone
            await bench.ask("piece", CHECKS, digest_of(b"first"), 0)

    async def test_that_of_an_attempt_that_was_lost_takes_the_place_of_none(self, bench: Bench) -> None:
        await bench.put(b"new", CHECKPOINT, CHECKS)
        await bench.keep(CHECKS, ("a", b"new"), where=CHECKPOINT, attempt=2)
        await bench.put(b"old", CHECKPOINT, CHECKS)
        with refused(CONFLICT, "attempt 2 has a checkpoint already"):
            await bench.keep(CHECKS, ("a", b"old"), where=CHECKPOINT, attempt=1)

    async def test_what_is_done_goes_on_from_nothing(self, bench: Bench) -> None:
        await bench.put(b"x", CHECKPOINT, CHECKS)
        await bench.keep(CHECKS, ("a", b"x"), where=CHECKPOINT)
        home = bench.open()
        home.forget_all_but([CHECKS])
        assert len(await bench.handlers["resume"]("other", CHECKS)) == 1
        home.forget_all_but([])
        assert await bench.handlers["resume"]("other", CHECKS) == ()
        assert list((bench.directory / "checkpoints").iterdir()) == []

    async def test_one_that_is_damaged_is_none(self, bench: Bench) -> None:
        await bench.put(b"x", CHECKPOINT, CHECKS)
        await bench.keep(CHECKS, ("a", b"x"), where=CHECKPOINT)
        for content in (b"", b"\xc1", b"\x92\x01\x91\x93\xa4../x\x01\xa1x"):
            (bench.directory / "checkpoints" / CHECKS / "manifest").write_bytes(content)
            assert await bench.handlers["resume"]("other", CHECKS) == ()

    async def test_where_no_directory_can_be_made_that_is_said(self, bench: Bench) -> None:
        (bench.directory / "checkpoints").write_text("a file")
        with refused(NO_ROOM, "cannot be used"):
            await bench.put(b"x", CHECKPOINT, CHECKS)


@pytest.mark.parametrize("what", ["piece", "wants", "put", "keep", "resume"])
@pytest.mark.parametrize(
    "asked",
    [
        None,
        1,
        (),
        ("",),
        ("", "x", 0),
        ("", "0" * 64, -1),
        (RESULTS, LEAVES, ("x",)),
        (RESULTS, LEAVES, (1, None, {})),
        (RESULTS, LEAVES, ("0" * 64,) * (RESULT_FILES_LIMIT + 1)),
        (RESULTS, LEAVES, "0" * 64, 1, 0, bytes(PIECE_BYTES + 1)),
        (RESULTS, LEAVES, "0" * 64, MOST + 1, 0, b""),
        (RESULTS, LEAVES, "0" * 64, -1, 0, b""),
        (RESULTS, LEAVES, "../x", 1, 0, b"x"),
        (RESULTS, LEAVES, 1, (("a", 1),)),
        ("elsewhere", LEAVES, ()),
        "x" * 16,
    ],
)
async def test_a_question_that_is_none_is_refused(bench: Bench, what: str, asked: Any) -> None:
    if what == "resume" and asked == "x" * 16:
        asked = "é" * 16
    with pytest.raises(Refused) as refusal:
        await bench.handlers[what]("other", asked)
    assert refusal.value.status in (REFUSED, NOT_FOUND)
    assert bench.unfinished() == []
