"""What nodes ask one another."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest

from clusternode import relay as relay_module
from clusternode.relay import FAULT, REFUSED, Refused, Relay
from protocol.limits import RELAY_LIMIT
from protocol.relay import AWAY, NO_ROOM, NOT_FOUND, Ask, Told
from runtime.lifecycle import Background


class Bench:
    def __init__(self) -> None:
        self.sent: list[Ask | Told] = []
        self.connected = True
        self.room = True
        self.failures: list[BaseException] = []
        self.background = Background(self.failures.append)
        self.relay = Relay("me", self.send, self.is_mine, self.background.start, lambda: self.room)
        self.relay.serve("echo", self.echo)
        self.relay.serve("slow", self.slow, is_patient=True)
        self.go_on = asyncio.Event()
        self.inside, self.most = 0, 0

    def send(self, message: Ask | Told) -> bool:
        if self.connected:
            self.sent.append(message)
        return self.connected

    def is_mine(self, whom: str, name: str) -> bool:
        return name == "me"

    async def echo(self, asker: str, asked: Any) -> Any:
        match asked:
            case "refuse":
                raise Refused(NOT_FOUND, "no such thing")
            case "full":
                raise OSError(28, "No space left on device")
            case "fault":
                raise ValueError("wrong\nin two lines")
            case "large":
                return bytes(RELAY_LIMIT)
            case "unsayable":
                return {"a": object()}
        return asker, asked

    async def slow(self, asker: str, asked: Any) -> Any:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.go_on.wait()
        self.inside -= 1

    async def answer(self, what: str, value: Any) -> Told:
        """Of this node to a question of another."""
        self.relay.received(Ask(7, "node", "you", what, bytes(msgpack.packb(value))))
        await self.rest()
        told = self.sent.pop()
        assert isinstance(told, Told)
        assert (told.number, told.name) == (7, "you")
        return told

    async def rest(self) -> None:
        while self.background._tasks:
            await asyncio.wait(self.background._tasks)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.background.end()
    assert made.failures == []


async def asking(bench: Bench, value: Any = None) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(bench.relay.ask("origin", "T" * 16, "echo", value))
    await asyncio.sleep(0)
    return task


class TestAsking:
    async def test_what_is_told_is_the_answer(self, bench: Bench) -> None:
        first, second = await asking(bench, (1, b"x")), await asking(bench)
        asks = [message for message in bench.sent if isinstance(message, Ask)]
        assert [(ask.whom, ask.name, ask.what) for ask in asks] == [("origin", "T" * 16, "echo")] * 2
        assert msgpack.unpackb(asks[0].body) == [1, b"x"]
        bench.relay.received(Told(asks[1].number, "you", 200, bytes(msgpack.packb("b"))))
        bench.relay.received(Told(asks[0].number, "you", 200, bytes(msgpack.packb(["a"]))))
        assert (await first, await second) == (("a",), "b")
        assert bench.relay._asked == {}

    async def test_for_this_node_itself_it_takes_no_way(self, bench: Bench) -> None:
        bench.connected = False
        assert await bench.relay.ask("node", "me", "echo", 5) == ("me", 5)
        with pytest.raises(Refused, match="no such thing"):
            await bench.relay.ask("node", "me", "echo", "refuse")
        assert bench.sent == []

    async def test_without_a_link_it_is_away(self, bench: Bench) -> None:
        bench.connected = False
        with pytest.raises(Refused) as refusal:
            await bench.relay.ask("node", "you", "echo", 5)
        assert (refusal.value.status, refusal.value.is_told) == (AWAY, False)
        assert bench.relay._asked == {}

    async def test_when_the_link_ends_so_does_the_wait(self, bench: Bench) -> None:
        tasks = [await asking(bench) for _ in range(3)]
        bench.relay.link_down()
        for task in tasks:
            with pytest.raises(Refused) as refusal:
                await task
            assert (refusal.value.status, refusal.value.is_told) == (AWAY, False)

    async def test_what_is_refused_is_refused_with_the_words(self, bench: Bench) -> None:
        task = await asking(bench)
        bench.relay.received(Told(1, "you", 507, b"full \xff"))
        with pytest.raises(Refused) as refusal:
            await task
        assert (refusal.value.status, refusal.value.reason) == (NO_ROOM, "full \ufffd")
        assert refusal.value.is_told

    async def test_an_answer_that_does_not_come_is_not_waited_for(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay_module, "PATIENCE", 0.01)
        with pytest.raises(Refused) as refusal:
            await bench.relay.ask("node", "you", "echo", 5)
        assert refusal.value.status == AWAY
        # One that comes after all is nobody's.
        bench.relay.received(Told(1, "you", 200, b"\xc0"))
        bench.relay.received(Told(99, "you", 200, b"\xc0"))

    async def test_an_answer_that_comes_twice_is_taken_once(self, bench: Bench) -> None:
        task = await asking(bench)
        for value in (1, 2):
            bench.relay.received(Told(1, "you", 200, bytes(msgpack.packb(value))))
        assert await task == 1

    async def test_an_answer_that_is_nothing_is_refused(self, bench: Bench) -> None:
        task = await asking(bench)
        bench.relay.received(Told(1, "you", 200, b"\xc1"))
        with pytest.raises(Refused, match="no MessagePack"):
            await task

    async def test_who_gives_up_leaves_nothing(self, bench: Bench) -> None:
        task = await asking(bench)
        task.cancel()
        await asyncio.wait([task])
        assert bench.relay._asked == {}

    async def test_too_large_a_question_is_not_sent(self, bench: Bench) -> None:
        """The load balancer would close the link for it, again and again."""
        with pytest.raises(Refused) as refusal:
            await bench.relay.ask("node", "you", "echo", bytes(RELAY_LIMIT))
        assert refusal.value.status == FAULT
        assert bench.sent == []


class TestAnswering:
    async def test_the_handler_answers(self, bench: Bench) -> None:
        told = await bench.answer("echo", (1, "x"))
        assert (told.status, msgpack.unpackb(told.body)) == (200, ["you", [1, "x"]])

    @pytest.mark.parametrize(
        ("asked", "status", "said"),
        [
            ("refuse", NOT_FOUND, b"no such thing"),
            ("full", NO_ROOM, b"No space left on device"),
            ("fault", FAULT, b"a fault of its own"),
            ("unsayable", FAULT, b"a fault of its own"),
            ("large", FAULT, b"the answer is over 2097152 bytes"),
        ],
    )
    async def test_whatever_goes_wrong_is_an_answer(
        self, bench: Bench, asked: str, status: int, said: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            told = await bench.answer("echo", asked)
        assert (told.status, told.body) == (status, said)
        assert all("\n" not in record.getMessage() for record in caplog.records)

    async def test_a_question_that_is_not_known_or_none_is_refused(self, bench: Bench) -> None:
        told = await bench.answer("what" * 8, None)
        assert (told.status, told.body) == (
            REFUSED,
            b"this node does not know what 'whatwhatwhatwhatwhatwhatwhatwhat' is",
        )
        bench.relay.received(Ask(7, "node", "you", "echo", b"\xc1"))
        await bench.rest()
        told = bench.sent.pop()  # type: ignore[assignment]
        assert (told.status, told.body) == (REFUSED, b"what another node said is no MessagePack")

    async def test_answers_that_are_held_back_hold_up_no_others(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench.relay._patient = asyncio.Semaphore(3)
        bench.relay.serve("slow", bench.slow, is_patient=True)
        for number in range(10):
            bench.relay.received(Ask(number, "node", "you", "slow", b"\xc0"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert bench.inside == 3
        bench.relay.received(Ask(99, "node", "you", "echo", b"\xc0"))
        while not bench.sent:  # noqa: ASYNC110, nobody tells
            await asyncio.sleep(0)
        assert [message.number for message in bench.sent] == [99]
        bench.go_on.set()
        await bench.rest()
        assert bench.most == 3
        assert len(bench.sent) == 11

    async def test_an_answer_waits_for_room_on_the_link(self, bench: Bench) -> None:
        bench.room = False
        bench.relay.received(Ask(1, "node", "you", "echo", b"\xc0"))
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert bench.sent == []
        bench.room = True
        await bench.rest()
        assert len(bench.sent) == 1
