"""The output of a job as a client reads it, wherever the job is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from clusternode import following
from clusternode.core.events import CommandEnded
from clusternode.core.executor import Executor
from clusternode.core.held import Running
from clusternode.executor import watching
from clusternode.executor.watching import WINDOW, Watching
from clusternode.following import Follower, Over, Written
from clusternode.relay import REFUSED, Handler, Refused, Relay
from clusternode.store.sqlite import SqliteStore, TicketRow
from protocol.job import Command, Ended, Extras, Report, Sleep
from protocol.limits import PIECE_BYTES
from protocol.relay import AWAY, NOT_FOUND
from protocol.replies import Failure, JobView, UnknownTicket

TICKET = "T" * 16
SPEC = Command("x")


class Store:
    """Knows the ticket, or not."""

    def __init__(self) -> None:
        self.row: TicketRow | None = TicketRow(1, TICKET, 5.0, SPEC.pack(), None)

    async def tickets(self, tickets: list[str]) -> list[TicketRow | None]:
        assert tickets == [TICKET]
        return [self.row]

    def end(self, report: Report, attempt: int = 1, outcome: str = "succeeded") -> None:
        self.row = TicketRow(1, TICKET, 5.0, SPEC.pack(), Ended(TICKET, attempt, outcome, report.pack()))


class Node:
    """One that runs jobs, and is asked."""

    def __init__(self) -> None:
        self.executor = Executor("n", 2, ())
        self.watching = Watching(lambda what, key: self.told.append((what, key)))
        self.told: list[tuple[str, tuple[str, int]]] = []
        self.handlers: dict[str, Handler] = {}
        Follower("other", cast(Relay, self), cast(SqliteStore, None), self.executor, self.watching)

    def serve(self, what: str, handler: Handler, is_patient: bool = False) -> None:
        assert is_patient
        self.handlers[what] = handler

    def run(self, attempt: int = 1, spec: Any = SPEC) -> None:
        self.executor.running[TICKET] = Running(attempt, spec, 1.0)

    def write(self, at: int, data: bytes, stream: int = 1, attempt: int = 1) -> None:
        self.watching.came((TICKET, attempt), stream, at, data)

    def end(self, attempt: int = 1, code: int | None = 0) -> None:
        del self.executor.running[TICKET]
        self.watching.ended(CommandEnded(TICKET, attempt, 1.0, 2.0, code, reason="why"))


class Wire:
    """From the node of the client to whichever node has the job."""

    def __init__(self) -> None:
        self.store = Store()
        self.node: Node | None = None
        self.status, self.reason, self.is_told = AWAY, "no node has it", True
        self.asked: list[Any] = []
        #: The node that has run it, as long as it is known by its id.
        self.behind: Node | None = None
        self.follower = Follower(
            "me", cast(Relay, self), cast(SqliteStore, self.store), cast(Executor, None), cast(Watching, None)
        )

    def serve(self, what: str, handler: Handler, is_patient: bool = False) -> None:
        """It is the other node that is asked."""

    async def ask(self, whom: str, name: str, what: str, value: Any) -> Any:
        assert (whom, name, what) in (("executor", TICKET, "tail"), ("node", "other", "tail"))
        self.asked.append(value)
        await asyncio.sleep(0)
        node = self.behind if whom == "node" else self.node
        if node is None:
            raise Refused(self.status, self.reason, self.is_told)
        return await node.handlers["tail"]("me", value)


class Tail:
    """One who follows, and what it has seen."""

    def __init__(self, wire: Wire, *start: int) -> None:
        self.seen: list[Any] = []
        self.last: Any = None
        self.task = asyncio.ensure_future(self._read(wire.follower.follow(TICKET, *(start or (0, 0, 0)))))

    async def _read(self, news: AsyncIterator[Any]) -> None:
        async for each in news:
            if isinstance(each, Written):
                self.seen.append(tuple(each))
            else:
                assert self.last is None
                self.last = each

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(4000):
            if condition():
                return
            assert not self.task.done() or self.task.exception() is None
            await asyncio.sleep(0.001)
        pytest.fail(f"seen: {self.seen}, {self.last}")

    async def end(self) -> Any:
        await asyncio.wait_for(self.task, 20)
        return self.last


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    monkeypatch.setattr(following, "LOOK_FIRST", 0.001)
    monkeypatch.setattr(following, "LOOK_LAST", 0.002)
    monkeypatch.setattr(watching, "HOLD", 0.05)
    made = Wire()
    yield made
    if made.node is not None:
        made.node.watching.close()


async def running(wire: Wire, *start: int) -> tuple[Node, Tail]:
    """One that runs and is watched."""
    wire.node = node = Node()
    node.run()
    tail = Tail(wire, *start)
    await tail.until(lambda: node.told)
    return node, tail


async def test_output_comes_as_it_is_written_and_the_job_at_the_end(wire: Wire) -> None:
    node, tail = await running(wire)
    node.write(0, b"one\n")
    await tail.until(lambda: len(tail.seen) == 1)
    node.write(0, b"oh", stream=2)
    node.write(4, b"two\n")
    await tail.until(lambda: len(tail.seen) == 3)
    node.end()
    wire.store.end(Report("n", stdout=b"one\ntwo\n", stderr=b"oh"))
    assert isinstance(await tail.end(), JobView)
    assert sorted(tail.seen) == [(1, 1, 0, b"one\n"), (1, 1, 4, b"two\n"), (1, 2, 0, b"oh")]


async def test_one_that_waits_is_looked_for_until_it_runs(wire: Wire) -> None:
    tail = Tail(wire)
    await tail.until(lambda: len(wire.asked) > 5)
    wire.node = node = Node()  # it is in its queue there
    asked = len(wire.asked)
    await tail.until(lambda: len(wire.asked) > asked + 5)
    assert node.told == []
    node.run()
    await tail.until(lambda: node.told)
    node.write(0, b"x")
    await tail.until(lambda: tail.seen)
    tail.task.cancel()


async def test_what_was_not_seen_of_it_comes_from_its_result(wire: Wire) -> None:
    node, tail = await running(wire)
    node.write(0, b"one\n")
    await tail.until(lambda: tail.seen)
    wire.node = None
    wire.store.end(Report("n", stdout=b"one\ntwo\n", stderr=b"oh"))
    await tail.end()
    assert tail.seen == [(1, 1, 0, b"one\n"), (1, 1, 4, b"two\n"), (1, 2, 0, b"oh")]


async def test_of_one_that_is_done_all_that_is_kept(wire: Wire) -> None:
    wire.store.end(Report("n", stdout=b"out", stderr=b"err", exit_code=3), attempt=2, outcome="failed")
    tail = Tail(wire)
    assert cast(JobView, await tail.end()).outcome == "failed"
    assert tail.seen == [(2, 1, 0, b"out"), (2, 2, 0, b"err")]
    assert wire.asked == []


@pytest.mark.parametrize(
    ("start", "seen"),
    [
        ((1, 2, 1), [(1, 1, 2, b"t"), (1, 2, 1, b"rr")]),
        ((1, 3, 3), []),
        ((1, 99, 99), []),
        ((2, 2, 1), [(1, 1, 0, b"out"), (1, 2, 0, b"err")]),
        ((0, 2, 1), [(1, 1, 0, b"out"), (1, 2, 0, b"err")]),
    ],
)
async def test_it_goes_on_from_where_it_was_left(wire: Wire, start: tuple[int, ...], seen: list[Any]) -> None:
    wire.store.end(Report("n", stdout=b"out", stderr=b"err"))
    tail = Tail(wire, *start)
    await tail.end()
    assert tail.seen == seen


async def test_while_it_runs_too(wire: Wire) -> None:
    node, tail = await running(wire, 1, 3, 0)
    node.write(0, b"abcdef")
    await tail.until(lambda: tail.seen)
    assert tail.seen == [(1, 1, 3, b"def")]
    tail.task.cancel()


async def test_another_attempt_begins_anew(wire: Wire) -> None:
    node, tail = await running(wire)
    node.write(0, b"first")
    await tail.until(lambda: tail.seen)
    node.end(code=1)
    asked = len(wire.asked)
    await tail.until(lambda: len(wire.asked) > asked + 5)  # it is to be tried again, nobody knows where
    assert not tail.task.done()
    wire.node = other = Node()
    other.run(attempt=2)
    await tail.until(lambda: other.told)
    other.write(0, b"second", attempt=2)
    await tail.until(lambda: len(tail.seen) == 2)
    assert tail.seen == [(1, 1, 0, b"first"), (2, 1, 0, b"second")]
    tail.task.cancel()


async def test_another_attempt_on_the_same_node_too(wire: Wire) -> None:
    node, tail = await running(wire)
    node.write(0, b"first")
    await tail.until(lambda: tail.seen)
    node.end(code=1)
    node.run(attempt=2)
    await tail.until(lambda: ("watch", (TICKET, 2)) in node.told)
    node.write(0, b"again", attempt=2)
    await tail.until(lambda: len(tail.seen) == 2)
    assert tail.seen[1] == (2, 1, 0, b"again")
    tail.task.cancel()


async def test_a_node_that_is_away_is_waited_for(wire: Wire) -> None:
    node, tail = await running(wire)
    node.write(0, b"one")
    await tail.until(lambda: tail.seen)
    wire.node, wire.reason, wire.is_told = None, "the ReverseProxy is away", False
    node.write(3, b"two")
    asked = len(wire.asked)
    await tail.until(lambda: len(wire.asked) > asked + 5)
    wire.node = node
    await tail.until(lambda: len(tail.seen) == 2)
    assert tail.seen[1] == (1, 1, 3, b"two")
    tail.task.cancel()


async def test_the_node_that_ran_it_is_asked_for_what_a_slow_reader_lacks(wire: Wire) -> None:
    node, tail = await running(wire)
    node.write(0, b"a" * 100)
    await tail.until(lambda: tail.seen)
    node.write(3 * WINDOW, b"last words")  # of which the result has nothing
    node.end()
    wire.node, wire.behind = None, node
    wire.store.end(Report("n", stdout=b"a" * 100, stdout_total=3 * WINDOW + 10))
    assert isinstance(await tail.end(), JobView)
    assert tail.seen == [(1, 1, 0, b"a" * 100), (1, 1, 3 * WINDOW, b"last words")]


async def test_what_it_has_of_another_attempt_is_not(wire: Wire) -> None:
    node, tail = await running(wire)
    node.write(0, b"first")
    await tail.until(lambda: tail.seen)
    wire.node, wire.behind = None, node
    node.write(5, b" of no interest")
    wire.store.end(Report("n", stdout=b"second"), attempt=2)
    await tail.end()
    assert tail.seen[-1] == (2, 1, 0, b"second")


class TestFromAnotherNode:
    """The ticket is not of the node that is asked."""

    @pytest.fixture(autouse=True)
    def strange(self, wire: Wire) -> None:
        wire.store.row = None

    async def test_its_end_is_told_with_its_code(self, wire: Wire) -> None:
        node, tail = await running(wire)
        node.write(0, b"x")
        await tail.until(lambda: tail.seen)
        node.end(code=7)
        asked = len(wire.asked)
        await tail.until(lambda: len(wire.asked) > asked + 2)
        wire.node, wire.status = None, NOT_FOUND
        over = await tail.end()
        assert over == Over(TICKET, 1, 7, "why")
        assert over.fields() == {
            "ticket": TICKET,
            "state": "done",
            "outcome": None,
            "attempt": 1,
            "exit_code": 7,
            "reason": "why",
        }

    async def test_of_one_whose_end_was_missed_the_node_that_ran_it_tells(self, wire: Wire) -> None:
        node, tail = await running(wire)
        node.write(0, b"x")
        await tail.until(lambda: tail.seen)
        wire.node, wire.behind, wire.status = None, node, NOT_FOUND
        node.write(1, b"y")
        node.end(code=7)
        assert await tail.end() == Over(TICKET, 1, 7, "why")
        assert tail.seen == [(1, 1, 0, b"x"), (1, 1, 1, b"y")]

    async def test_of_one_whose_end_was_missed_it_is_told_that_it_ended(self, wire: Wire) -> None:
        node, tail = await running(wire)
        node.write(0, b"x")
        await tail.until(lambda: tail.seen)
        wire.node, wire.status = None, NOT_FOUND
        assert await tail.end() == Over(TICKET, 1, -1, "")

    async def test_that_an_attempt_failed_says_nothing_of_the_next(self, wire: Wire) -> None:
        node, tail = await running(wire)
        node.end(code=1)
        node.run(attempt=2)
        await tail.until(lambda: ("watch", (TICKET, 2)) in node.told)
        node.write(0, b"x", attempt=2)
        await tail.until(lambda: tail.seen)
        wire.node, wire.status = None, NOT_FOUND
        assert await tail.end() == Over(TICKET, 2, -1, "")

    async def test_one_that_waited_and_was_cancelled_has_ended(self, wire: Wire) -> None:
        tail = Tail(wire)
        await tail.until(lambda: len(wire.asked) > 2)
        wire.status = NOT_FOUND
        over = await tail.end()
        assert over == Over(TICKET, 0, -1, "")
        assert over.fields()["attempt"] is None

    async def test_one_that_nobody_knows_is_unknown(self, wire: Wire) -> None:
        wire.status = NOT_FOUND
        assert await Tail(wire).end() == UnknownTicket(TICKET)

    async def test_that_nobody_could_be_asked_says_nothing_of_it(self, wire: Wire) -> None:
        wire.is_told = False
        tail = Tail(wire)
        await tail.until(lambda: len(wire.asked) > 5)
        wire.status, wire.is_told = NOT_FOUND, True
        assert await tail.end() == UnknownTicket(TICKET)

    async def test_one_whose_ticket_was_faster_than_itself_is_found(self, wire: Wire) -> None:
        """It was shown by its origin a moment ago, and is on its way to the load balancer."""
        wire.status = NOT_FOUND
        tail = Tail(wire)
        await tail.until(lambda: wire.asked)
        wire.node = node = Node()
        node.run()
        await tail.until(lambda: node.told)
        node.write(0, b"x")
        await tail.until(lambda: tail.seen)
        tail.task.cancel()

    async def test_a_sleep_writes_nothing_and_ends(self, wire: Wire) -> None:
        wire.node = node = Node()
        node.run(spec=Sleep(5))
        tail = Tail(wire)
        await tail.until(lambda: len(wire.asked) > 2)
        assert node.told == []
        del node.executor.running[TICKET]
        wire.node, wire.status = None, NOT_FOUND
        assert await tail.end() == Over(TICKET, 1, -1, "")
        assert tail.seen == []


async def test_a_slow_reader_finds_a_gap(wire: Wire) -> None:
    node, tail = await running(wire)
    node.write(0, b"a")
    await tail.until(lambda: tail.seen)
    for number in range(5 * 16):
        node.write(1 + number * 65536, bytes(65536))
    node.write(1 + 5 * 16 * 65536, b"last")
    await tail.until(lambda: tail.seen[-1][3].endswith(b"last"))
    begins = tail.seen[1][2]
    assert begins == 1 + 5 * 16 * 65536 + 4 - WINDOW
    assert sum(len(data) for *_, data in tail.seen) == 1 + WINDOW
    assert max(len(data) for *_, data in tail.seen) <= PIECE_BYTES
    tail.task.cancel()


async def test_fifty_watch_one_job(wire: Wire) -> None:
    wire.node = node = Node()
    node.run()
    tails = [Tail(wire) for _ in range(50)]
    await tails[0].until(lambda: node.told)
    node.write(0, b"for all")
    for tail in tails:
        await tail.until(lambda tail=tail: tail.seen)  # type: ignore[misc]
        assert tail.seen == [(1, 1, 0, b"for all")]
    assert node.told == [("watch", (TICKET, 1))]
    for tail in tails:
        tail.task.cancel()


async def test_where_too_many_are_watched_it_waits(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "WATCHED_LIMIT", 0)
    wire.node = node = Node()
    node.run()
    tail = Tail(wire)
    await tail.until(lambda: len(wire.asked) > 3)
    monkeypatch.setattr(watching, "WATCHED_LIMIT", 1)
    await tail.until(lambda: node.told)
    tail.task.cancel()


@pytest.mark.parametrize("is_done", [True, False])
async def test_an_array_is_refused(wire: Wire, is_done: bool) -> None:
    array = Command("x", extras=Extras(array=3)).pack()
    ended = Ended(TICKET, 1, "succeeded", Report("n").pack()) if is_done else None
    wire.store.row = TicketRow(1, TICKET, 5.0, array, ended)
    last = await Tail(wire).end()
    assert last == Failure(f"tail takes the ticket of one job, and {TICKET} is an array of many.")


@pytest.mark.parametrize("body", [b"\xc1", Command("x").pack()[:-1], b""])
async def test_a_row_that_cannot_be_read_is_said(wire: Wire, body: bytes) -> None:
    wire.store.row = TicketRow(1, TICKET, 5.0, body, None)
    last = await Tail(wire).end()
    assert isinstance(last, Failure)
    assert last.reason.startswith(f"The stored job {TICKET} cannot be read")


@pytest.mark.parametrize("status", [REFUSED, 500, 507])
async def test_what_is_refused_is_said(wire: Wire, status: int) -> None:
    wire.status, wire.reason = status, "its reason"
    last = await Tail(wire).end()
    assert last == Failure(f"The output of {TICKET} cannot be followed: its reason.")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        1,
        (),
        (1, (), False, 0, ""),
        ("1", (), False, 0, "", "n"),
        (1, ((1, 0),), False, 0, "", "n"),
        (1, ((3, 0, b"x"),), False, 0, "", "n"),
        (1, ((1, -1, b"x"),), False, 0, "", "n"),
        (1, ((1, 0, "x"),), False, 0, "", "n"),
        (1, ((1, "0", b"x"),), False, 0, "", "n"),
    ],
)
async def test_an_answer_that_is_none_is_said(wire: Wire, answer: object) -> None:
    async def nonsense(asker: str, asked: object) -> object:
        return answer

    wire.node = Node()
    wire.node.handlers["tail"] = nonsense
    last = await Tail(wire).end()
    assert last == Failure(f"The output of {TICKET} cannot be followed: an answer of another version.")


@pytest.mark.parametrize(
    "asked", [None, (), ("x", 1, 0, 0), (TICKET, "1", 0, 0), (TICKET, 1, 0), (1, 1, 1, 1)]
)
async def test_a_question_that_is_none_is_refused(asked: object) -> None:
    with pytest.raises(Refused) as refusal:
        await Node().handlers["tail"]("other", asked)
    assert refusal.value.status == REFUSED
