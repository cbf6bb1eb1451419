"""The node's side of its helpers, without processes."""

from __future__ import annotations

import asyncio
import marshal
import socket
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusternode.core.events import CommandEnded, FromHelpers, Spawn, TakenBack
from clusternode.executor import pool as pool_module
from clusternode.executor.pool import BUSY, HEAR_LATER, Helper, Pool
from protocol.job import Extras

from ..fakes import FakeTransport

News = CommandEnded | TakenBack


class FakeHelper(Helper):
    """A helper that says what the test lets it say."""

    made: list[FakeHelper]
    refused = False

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.up = asyncio.Event()
        self.transport = FakeTransport()
        self.wakes = 0
        self._rest, self.far_end = socket.socketpair()
        self._rest.setblocking(False)
        FakeHelper.made.append(self)

    async def start(self, soft_limit: int) -> None:
        await self.up.wait()
        if FakeHelper.refused:
            raise OSError(12, "no memory")
        self.connection_made(self.transport)

    async def wait(self) -> None:
        """There is no process."""

    def wake(self) -> None:
        self.wakes += 1

    def got(self) -> list[tuple[Any, ...]]:
        """What it was sent since it was asked last, without details, and without how it is set up."""
        return [message[:2] for message in self.got_all()]

    def got_all(self) -> list[tuple[Any, ...]]:
        data, self.transport.written = self.transport.written, b""
        messages = []
        while data:
            end = 4 + int.from_bytes(data[:4], "big")
            messages.append(marshal.loads(data[4:end]))
            data = data[end:]
        return [message for message in messages if message[0] != "set-up"]

    def says(self, *messages: tuple[Any, ...]) -> None:
        self.data_received(b"".join(map(packed, messages)))


def packed(message: tuple[Any, ...]) -> bytes:
    body = marshal.dumps(message)
    return len(body).to_bytes(4, "big") + body


def ended(number: int) -> tuple[Any, ...]:
    return ("ended", (str(number), 1), 1.0, 2.0, 0, False, b"", b"", 0, 0, "")


def run(number: int) -> tuple[Any, ...]:
    return ("run", (str(number), 1))


class Rig:
    """A pool, and what it told the core: one list an event."""

    def __init__(self, slots: int) -> None:
        self.told: list[list[tuple[str, str]]] = []
        self._tasks: set[asyncio.Future[None]] = set()
        self.pool = Pool(slots, Path("/nowhere"), "id", 0.0, self._tell, self._start)

    def _tell(self, event: FromHelpers) -> None:
        self.told.append([(news.ticket, how(news)) for news in event.news])

    def _start(self, work: Awaitable[None]) -> None:
        self._tasks.add(asyncio.ensure_future(work))

    def spawn(self, *numbers: int, behind: int | None = None) -> None:
        for number in numbers:
            self.pool.spawn(Spawn(str(number), 1, "x", None, None if behind is None else (str(behind), 1)))

    async def helper(self, number: int = 0) -> FakeHelper:
        """Once it is up."""
        helper = FakeHelper.made[number]
        helper.up.set()
        await settle()
        return helper


def how(news: News) -> str:
    if isinstance(news, TakenBack):
        return "back"
    return "lost" if news.exit_code is None else "ended"


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def helpers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    FakeHelper.made, FakeHelper.refused = [], False
    monkeypatch.setattr(pool_module, "Helper", FakeHelper)
    monkeypatch.setattr(pool_module, "kill_leftovers", lambda *_: 0)
    yield
    for helper in FakeHelper.made:
        helper.close()
        helper.far_end.close()


async def test_commands_wait_for_a_helper_with_those_behind_them() -> None:
    rig = Rig(slots=2)
    rig.spawn(1)
    rig.spawn(2)
    rig.spawn(3, 4, behind=1)
    first = await rig.helper(0)
    second = await rig.helper(1)
    assert first.got() == [run(1), run(3), run(4)]
    assert second.got() == [run(2)]
    rig.spawn(5, behind=2)
    await settle()
    assert second.got() == [run(5)]


async def test_what_no_helper_has_yet_is_taken_back_or_killed_in_order() -> None:
    rig = Rig(slots=1)
    rig.spawn(1)
    rig.spawn(2, 3, 4, behind=1)
    rig.pool.take_back("3", 1)
    rig.pool.kill("1", 1)
    assert not rig.told, "the core is in the middle of a step"
    await settle()
    assert rig.told == [[("3", "back"), ("1", "lost")]]
    assert (await rig.helper()).got() == [run(2), run(4)]


async def test_ends_in_one_read_are_one_event() -> None:
    rig = Rig(slots=1)
    rig.spawn(1)
    rig.spawn(2, 3, behind=1)
    helper = await rig.helper()
    helper.says(("taken", ("3", 1)), ended(1), ended(2))
    assert rig.told == [[("3", "back"), ("1", "ended"), ("2", "ended")]]
    rig.spawn(4)
    await settle()
    assert helper.got() == [run(1), run(2), run(3), run(4)]


async def test_a_message_in_pieces_is_heard_when_it_is_whole() -> None:
    rig = Rig(slots=1)
    rig.spawn(1)
    helper = await rig.helper()
    for piece in packed(ended(1)):
        assert not rig.told
        helper.data_received(bytes([piece]))
    assert rig.told == [[("1", "ended")]]


async def test_a_kill_and_a_taking_back_go_to_the_helper_that_has_the_command() -> None:
    rig = Rig(slots=1)
    rig.spawn(1)
    rig.spawn(2, behind=1)
    helper = await rig.helper()
    helper.got()
    rig.pool.take_back("2", 1)
    rig.pool.kill("1", 1)
    rig.pool.kill("9", 1)
    await settle()
    assert helper.got() == [("take", ("2", 1)), ("kill", ("1", 1))]


async def test_a_helper_that_dies_loses_the_first_and_gives_back_the_others_the_last_one_first() -> None:
    rig = Rig(slots=1)
    rig.spawn(1)
    rig.spawn(2, 3, behind=1)
    helper = await rig.helper()
    rig.spawn(4)
    helper.far_end.close()
    helper.connection_lost(None)
    assert rig.told == [[("3", "back"), ("2", "back"), ("1", "lost")]]
    assert (await rig.helper(1)).got() == [run(4)]


async def test_what_a_helper_said_before_it_died_counts() -> None:
    rig = Rig(slots=1)
    rig.spawn(1)
    rig.spawn(2, 3, behind=1)
    helper = await rig.helper()
    message = packed(ended(1))
    helper.data_received(message[:10])
    helper.far_end.sendall(message[10:])
    helper.far_end.close()
    helper.connection_lost(BrokenPipeError())
    assert rig.told == [[("1", "ended"), ("3", "back"), ("2", "lost")]]


async def test_a_helper_with_much_to_do_is_heard_a_little_later() -> None:
    rig = Rig(slots=1)
    rig.spawn(1)
    rig.spawn(*range(2, BUSY + 4), behind=1)
    helper = await rig.helper()
    helper.says(ended(1))
    assert not helper.transport.reading
    await asyncio.sleep(HEAR_LATER)
    await settle()
    helper.says(*(ended(number) for number in range(2, 5)))
    assert helper.transport.reading


async def test_where_no_helper_can_be_started_nothing_is_left_waiting() -> None:
    FakeHelper.refused = True
    rig = Rig(slots=1)
    rig.spawn(1)
    rig.spawn(2, 3, behind=1)
    rig.spawn(4)
    await rig.helper()
    assert rig.told == [[("3", "back"), ("2", "back"), ("1", "lost"), ("4", "lost")]]


@pytest.mark.parametrize(
    ("extras", "sent"),
    [
        (None, None),
        (Extras(cpus=8, env=(("K", "V"),)), ({"K": "V", "EVENLY_CPUS": "3"}, "", b"", "", 3, 0)),
        (Extras(memory=2**30, cwd="/x", stdin="y"), ({}, "/x", b"y", "", 0, 2**30)),
    ],
)
async def test_a_helper_is_told_what_a_command_wishes(extras: Extras | None, sent: object) -> None:
    """Of CPUs no more than there are slots."""
    rig = Rig(slots=3)
    rig.pool.spawn(Spawn("1", 1, "x", None, extras=extras))
    helper = await rig.helper()
    assert helper.got_all() == [("run", ("1", 1), "x", None, sent)]


async def test_a_helper_that_its_job_has_stopped_is_waked_to_end_it() -> None:
    rig = Rig(slots=1)
    rig.spawn(1)
    helper = await rig.helper()
    rig.pool.kill("1", 1)
    await settle()
    assert (helper.wakes, helper.got()[-1]) == (1, ("kill", ("1", 1)))


async def test_a_job_that_is_watched_before_anybody_has_it_is_watched_from_its_start() -> None:
    """Its files may still be on their way while it counts as running; or it waits for a helper."""
    rig = Rig(1)
    rig.pool.watch("watch", ("1", 1))
    rig.pool.watch("watch", ("2", 1))
    rig.pool.watch("unwatch", ("2", 1))
    rig.spawn(1, 2)
    helper = await rig.helper()
    assert helper.got() == [("watch", ("1", 1)), run(1)]
    rig.pool.watch("watch", ("2", 1))
    helper.says(ended(1))
    await settle()
    assert helper.got() == [("watch", ("2", 1)), run(2)]
    rig.pool.watch("unwatch", ("2", 1))
    await settle()
    assert helper.got() == [("unwatch", ("2", 1))]
    assert rig.pool._to_watch == set()


async def test_output_is_passed_on_and_is_no_news_to_the_core() -> None:
    rig = Rig(1)
    came: list[tuple[Any, ...]] = []
    rig.pool.output = lambda *piece: came.append(piece)
    rig.spawn(1)
    helper = await rig.helper()
    helper.says(("output", ("1", 1), 1, 5, b"x"), ended(1))
    assert came == [(("1", 1), 1, 5, b"x")]
    assert rig.told == [[("1", "ended")]]


async def test_a_helper_that_hangs_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "CLOSE_PATIENCE", 0.01)
    rig = Rig(slots=1)
    rig.spawn(1)
    helper = await rig.helper()
    killed = asyncio.Event()
    monkeypatch.setattr(helper, "wait", killed.wait)
    monkeypatch.setattr(helper, "kill", killed.set)
    await rig.pool.close()
    assert killed.is_set()
    assert "a worker process did not end within 0.01 s and is killed" in caplog.text
