"""Files between nodes, over a relay that loses, delays and refuses."""

import asyncio
import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusternode.files import moving, store
from clusternode.files.home import CHECKPOINT, CONFLICT, RESULTS, Home
from clusternode.files.moving import PIECES_AT_ONCE, Mover
from clusternode.files.store import UNFINISHED, Files
from clusternode.files.tree import find, hashed
from clusternode.relay import REFUSED, Handler, Refused
from protocol.job import Command, Extras, ResultFile, Task
from protocol.limits import PIECE_BYTES
from protocol.relay import AWAY, NO_ROOM, NOT_FOUND

LEAVES, CHECKS, OTHER = (letter * 16 for letter in "LCO")
CONTENT = random.Random(3).randbytes(6 * PIECE_BYTES + 77)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Wire:
    """The relay of an executor, with the origin at its other end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.open = {
            LEAVES: Command("x", extras=Extras(result_dir="r")),
            CHECKS: Task("t", extras=Extras(checkpoint=True)),
        }
        self.restart()
        #: What is asked, how often.
        self.asked: Counter[str] = Counter()
        self.now, self.most = 0, 0
        #: Called with each question; raises what becomes of it, "lost" once it was answered.
        self.weather: Callable[[str, Any], str | None] = lambda what, value: None
        self.mover = Mover(self, Files(directory / "own"), Files(directory / "cache"))  # type: ignore[arg-type]

    def restart(self) -> None:
        """The origin begins anew, with what is on its disk."""

        async def knows(ticket: str) -> bool:
            return True

        self.handlers: dict[str, Handler] = {}
        self.home = Home(self.directory / "home", 2**30, self.open.get, knows)
        self.home.serve(self)  # type: ignore[arg-type]

    def serve(self, what: str, handler: Handler, is_patient: bool = False) -> None:
        self.handlers[what] = handler

    async def ask(self, whom: str, name: str, what: str, value: Any) -> Any:
        assert whom == "origin"
        self.asked[what] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            if name not in self.open and what != "piece":
                raise Refused(NOT_FOUND, "this job is not open")
            becomes = self.weather(what, value)
            told = await self.handlers[what]("executor", value)
            if becomes == "lost":
                raise Refused(AWAY, "no answer within 30 s")
            return told
        finally:
            self.now -= 1

    def upload(self, content: bytes) -> str:
        digest = digest_of(content)
        incoming = self.home.files.begin(digest, len(content))
        incoming.write(content)
        incoming.finish()
        return digest

    def unfinished(self) -> list[Path]:
        return list(self.directory.rglob(f"*{UNFINISHED}*"))


@pytest.fixture
async def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wire:
    monkeypatch.setattr(moving, "AGAIN_FIRST", 0.0)
    monkeypatch.setattr(moving, "AGAIN_LAST", 0.001)
    return Wire(tmp_path)


def leave(directory: Path, **contents: bytes) -> tuple[list[ResultFile], Any]:
    directory.mkdir()
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    found = find(directory, 2**30)
    return hashed(found), found


def bad_weather(seed: int, restart: Callable[[], None] | None = None) -> Callable[[str, Any], str | None]:
    """Answers are lost, the origin is away, and seldom begins anew."""
    chance = random.Random(seed)

    def weather(what: str, value: Any) -> str | None:
        drawn = chance.random()
        if drawn < 0.2:
            raise Refused(AWAY, "its node is away")
        if restart is not None and drawn < 0.22:
            restart()
        return "lost" if drawn < 0.4 else None

    return weather


# --- fetching -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [CONTENT, b"small", b"", CONTENT[: 4 * PIECE_BYTES], CONTENT[:PIECE_BYTES]]
)
async def test_a_file_comes_here_whole_whatever_the_weather(
    wire: Wire, tmp_path: Path, content: bytes
) -> None:
    digest = wire.upload(content)
    wire.weather = bad_weather(1)
    await wire.mover.copy(OTHER, digest, tmp_path / "work" / "x")
    assert (tmp_path / "work" / "x").read_bytes() == content
    assert wire.unfinished() == []


async def test_it_comes_once_for_a_thousand_jobs(wire: Wire, tmp_path: Path) -> None:
    digest = wire.upload(CONTENT)
    jobs = [wire.mover.copy(f"{n:016d}", digest, tmp_path / "work" / str(n)) for n in range(1000)]
    await asyncio.gather(*jobs[:500])
    await asyncio.gather(*jobs[500:])
    # Each piece once, and the last ones ahead for nothing.
    assert wire.asked["piece"] <= len(CONTENT) // PIECE_BYTES + 1 + moving.AHEAD
    assert {each.stat().st_size for each in (tmp_path / "work").iterdir()} == {len(CONTENT)}


async def test_files_of_this_nodes_own_tickets_take_no_way(wire: Wire, tmp_path: Path) -> None:
    digest = wire.upload(b"x")
    own = wire.mover._home.begin(digest, 1)
    own.write(b"x")
    own.finish()
    await wire.mover.copy(LEAVES, digest, tmp_path / "x")
    assert wire.asked.total() == 0


async def test_only_so_many_pieces_are_under_way_and_none_is_starved(wire: Wire, tmp_path: Path) -> None:
    digests = [wire.upload(CONTENT + b"%d" % number) for number in range(20)]
    await asyncio.gather(*(wire.mover.copy(OTHER, each, tmp_path / each) for each in digests))
    assert wire.most <= PIECES_AT_ONCE


async def test_a_job_that_is_over_is_no_reason_for_the_others(wire: Wire, tmp_path: Path) -> None:
    """The file is asked for in the name of one job; that it is not open any more says nothing of the rest."""
    digest = wire.upload(CONTENT)
    fallen = False

    def weather(what: str, value: Any) -> None:
        nonlocal fallen
        if not fallen:
            fallen = True
            raise Refused(NOT_FOUND, "this job is not open")

    wire.weather = weather
    jobs = [asyncio.ensure_future(wire.mover.copy(OTHER, digest, tmp_path / str(n))) for n in range(5)]
    first, *others = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(first, Refused)
    assert others == [None] * 4


async def test_a_file_that_its_origin_has_not_is_told_to_all(wire: Wire, tmp_path: Path) -> None:
    jobs = [wire.mover.copy(OTHER, digest_of(b"x"), tmp_path / str(n)) for n in range(5)]
    told = await asyncio.gather(*jobs, return_exceptions=True)
    assert [(type(each), getattr(each, "status", 0)) for each in told] == [(Refused, NOT_FOUND)] * 5
    assert wire.unfinished() == []


async def test_one_of_those_who_wait_may_go(wire: Wire, tmp_path: Path) -> None:
    digest = wire.upload(CONTENT)
    first, second = (
        asyncio.ensure_future(wire.mover.copy(OTHER, digest, tmp_path / str(n))) for n in range(2)
    )
    while not wire.asked:  # noqa: ASYNC110, nobody tells
        await asyncio.sleep(0)
    first.cancel()
    await second
    assert (tmp_path / "1").read_bytes() == CONTENT


async def test_nobody_asks_for_what_nobody_waits_for(wire: Wire, tmp_path: Path) -> None:
    digest = wire.upload(CONTENT)

    def away(what: str, value: Any) -> None:
        raise Refused(AWAY, "its node is away")

    wire.weather = away
    job = asyncio.ensure_future(wire.mover.copy(OTHER, digest, tmp_path / "x"))
    while not wire.asked:  # noqa: ASYNC110, nobody tells
        await asyncio.sleep(0)
    job.cancel()
    await asyncio.wait([job])
    while wire.unfinished() or wire.now:  # noqa: ASYNC110, nobody tells
        await asyncio.sleep(0.001)
    asked = wire.asked.total()
    await asyncio.sleep(0.02)
    assert wire.asked.total() == asked
    # And who wants it again gets it.
    wire.weather = lambda what, value: None
    await wire.mover.copy(OTHER, digest, tmp_path / "x")


async def test_a_full_disk_here_is_an_error_and_leaves_nothing(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = wire.upload(CONTENT)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        await wire.mover.copy(OTHER, digest, tmp_path / "x")
    assert wire.unfinished() == []


async def test_what_had_to_make_room_is_fetched_again(wire: Wire, tmp_path: Path) -> None:
    wire.mover._cache = Files(tmp_path / "little", 10)
    digests = [wire.upload(b"%09d" % number) for number in range(8)]
    await asyncio.gather(*(wire.mover.copy(OTHER, each, tmp_path / each) for each in digests))
    wire.mover._cache.path(digests[-1]).unlink(missing_ok=True)
    await wire.mover.copy(OTHER, digests[-1], tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == b"%09d" % 7


@pytest.mark.parametrize("answer", [None, "text", 1, bytes(PIECE_BYTES + 1), ()])
async def test_an_origin_that_says_nonsense_is_no_fault_of_ours(
    wire: Wire, tmp_path: Path, answer: object
) -> None:
    async def nonsense(asker: str, asked: object) -> object:
        return answer

    for what in ("piece", "resume", "wants", "put", "keep"):
        wire.handlers[what] = nonsense
    with pytest.raises(Refused):
        await wire.mover.copy(OTHER, digest_of(b"x"), tmp_path / "x")
    if answer != ():
        with pytest.raises(Refused):
            await wire.mover.resume(CHECKS)
    files, found = leave(tmp_path / "left", a=b"x")
    if answer != ():
        with pytest.raises(Refused):
            await wire.mover.bring(RESULTS, LEAVES, 1, files, found)


async def test_a_path_out_of_its_directory_is_refused_whatever_the_origin_says(wire: Wire) -> None:
    async def wrong(asker: str, asked: object) -> object:
        return (("../x", 1, "0" * 64),)

    wire.handlers["resume"] = wrong
    with pytest.raises(Refused):
        await wire.mover.resume(CHECKS)


async def test_wrong_bytes_are_not_taken_for_the_file(wire: Wire, tmp_path: Path) -> None:
    digest = wire.upload(b"right")
    path = wire.home.files.path(digest)
    path.chmod(0o600)
    path.write_bytes(b"wrong")
    with pytest.raises(Refused, match="came otherwise than it was"):
        await wire.mover.copy(OTHER, digest, tmp_path / "x")


# --- bringing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_all_files_come_home_whatever_the_weather(wire: Wire, tmp_path: Path, seed: int) -> None:
    contents = {"large": CONTENT, "small": b"x", "empty": b"", "same": CONTENT}
    files, found = leave(tmp_path / "left", **contents)
    wire.weather = bad_weather(seed, wire.restart)
    await wire.mover.bring(RESULTS, LEAVES, 1, files, found)
    for name, content in contents.items():
        assert (tmp_path / "home" / "results" / "r" / name).read_bytes() == content
    assert wire.unfinished() == []


async def test_what_is_there_is_not_brought_again(wire: Wire, tmp_path: Path) -> None:
    files, found = leave(tmp_path / "left", a=CONTENT, b=CONTENT)
    await wire.mover.bring(RESULTS, LEAVES, 1, files, found)
    first = wire.asked["put"]
    assert first == len(CONTENT) // PIECE_BYTES + 1
    await wire.mover.bring(RESULTS, LEAVES, 2, files, found)
    assert wire.asked["put"] == first


async def test_an_origin_that_is_away_is_waited_for(wire: Wire, tmp_path: Path) -> None:
    files, found = leave(tmp_path / "left", a=b"x")
    is_away = True

    def weather(what: str, value: Any) -> None:
        if is_away:
            raise Refused(AWAY, "its node is away")

    wire.weather = weather
    bringing = asyncio.ensure_future(wire.mover.bring(RESULTS, LEAVES, 1, files, found))
    while wire.asked["wants"] < 20:  # noqa: ASYNC110, nobody tells
        await asyncio.sleep(0)
    assert not bringing.done()
    is_away = False
    await bringing


@pytest.mark.parametrize("status", [NO_ROOM, NOT_FOUND, REFUSED])
@pytest.mark.parametrize("point", ["wants", "put", "keep"])
async def test_what_the_origin_refuses_is_refused(
    wire: Wire, tmp_path: Path, status: int, point: str
) -> None:
    files, found = leave(tmp_path / "left", a=b"x")

    def weather(what: str, value: Any) -> None:
        if what == point:
            raise Refused(status, "its reason")

    wire.weather = weather
    with pytest.raises(Refused, match="its reason"):
        await wire.mover.bring(RESULTS, LEAVES, 1, files, found)
    assert wire.asked[point] == 1


async def test_an_origin_that_forgets_for_ever_is_given_up(wire: Wire, tmp_path: Path) -> None:
    files, found = leave(tmp_path / "left", a=CONTENT)

    def weather(what: str, value: Any) -> None:
        if what == "put":
            wire.restart()

    wire.weather = weather
    with pytest.raises(Refused) as refusal:
        await wire.mover.bring(RESULTS, LEAVES, 1, files, found)
    assert refusal.value.status == CONFLICT


async def test_a_file_that_becomes_shorter_is_not_brought(wire: Wire, tmp_path: Path) -> None:
    files, found = leave(tmp_path / "left", a=CONTENT)
    (tmp_path / "left" / "a").write_bytes(CONTENT[:PIECE_BYTES])
    with pytest.raises(Refused, match="a became shorter while it was read"):
        await wire.mover.bring(RESULTS, LEAVES, 1, files, found)


async def test_a_checkpoint_goes_home_and_comes_back(wire: Wire, tmp_path: Path) -> None:
    wire.weather = bad_weather(5)
    files, found = leave(tmp_path / "left", a=CONTENT, b=b"")
    await wire.mover.bring(CHECKPOINT, CHECKS, 1, files, found)
    wire.restart()
    for file in await wire.mover.resume(CHECKS):
        await wire.mover.fetch_to(CHECKS, file, tmp_path / "again" / file.path)
    assert (tmp_path / "again" / "a").read_bytes() == CONTENT
    assert (tmp_path / "again" / "b").read_bytes() == b""


async def test_a_checkpoint_that_is_damaged_at_its_origin_is_none(wire: Wire, tmp_path: Path) -> None:
    files, found = leave(tmp_path / "left", a=CONTENT)
    await wire.mover.bring(CHECKPOINT, CHECKS, 1, files, found)
    (kept,) = (tmp_path / "home" / "checkpoints" / CHECKS).glob("[0-9a-f]*")
    os.truncate(kept, len(CONTENT) // 2)
    (file,) = await wire.mover.resume(CHECKS)
    with pytest.raises(Refused, match="a of its checkpoint is damaged at its origin"):
        await wire.mover.fetch_to(CHECKS, file, tmp_path / "again")


async def test_what_a_job_is_to_find_is_not_waited_for_without_end(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its origin is away: the job has a slot."""
    monkeypatch.setattr(moving, "AWAY_PATIENCE", 0.01)
    digest = wire.upload(CONTENT)

    def away(what: str, value: Any) -> str | None:
        raise Refused(AWAY, "its node is away", is_told=True)

    wire.weather = away
    with pytest.raises(Refused, match="away"):
        await wire.mover.copy(OTHER, digest, tmp_path / "x")
    with pytest.raises(Refused, match="away"):
        await wire.mover.resume(CHECKS)
    wire.weather = lambda what, value: None
    await wire.mover.copy(OTHER, digest, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


async def test_partial_results_that_are_refused_are_counted(wire: Wire) -> None:
    async def full(asker: str, asked: object) -> object:
        raise Refused(NO_ROOM, "its origin cannot keep it")

    wire.handlers["partial"] = full
    for number in range(3):
        with pytest.raises(Refused):
            await wire.mover.hand_in(CHECKS, 1, number, "1")
    assert [await wire.mover.handed_in(CHECKS, attempt) for attempt in (2, 1, 1)] == [0, 3, 0]


@pytest.mark.parametrize("wanted", [({},), (5,), "a", None, ("0" * 64,)])
async def test_an_origin_that_wants_what_there_is_not_is_refused(
    wire: Wire, tmp_path: Path, wanted: object
) -> None:
    async def wrong(asker: str, asked: object) -> object:
        return wanted

    wire.handlers["wants"] = wrong
    files, found = leave(tmp_path / "left", a=b"x")
    with pytest.raises(Refused, match="wants what there is not"):
        await wire.mover.bring(RESULTS, LEAVES, 1, files, found)
