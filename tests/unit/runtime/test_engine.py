import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from runtime.engine import CONGESTED, RELIEVED, Clock, Engine
from runtime.errors import InternalFault, StorageError


@dataclass
class Step:
    """An event of the fake core, which does what the event says: this comes of it."""

    records: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    prompt: list[str] = field(default_factory=list)


TICK, DEAF_TICK = Step(actions=["tick"]), Step(actions=["deaf tick"])


class FakeCore:
    """`deadlines`: what it wants after each step, in turn; then nothing."""

    def __init__(self) -> None:
        self.deadlines: list[float | None] = []
        self.deadline: float | None = None
        self.steps: list[tuple[Step, float]] = []

    def step(self, event: Step, now: float) -> Step:
        self.steps.append((event, now))
        self.deadline = self.deadlines.pop(0) if self.deadlines else None
        return event

    def next_deadline(self) -> float | None:
        return self.deadline


class FakeClock(Clock):
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time


class Disk:
    """Commits wait until the test lets them through."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[tuple[list[str], asyncio.Future[None]]] = asyncio.Queue()
        self.waits = True

    async def commit(self, records: list[str]) -> None:
        end = asyncio.get_running_loop().create_future()
        self.begun.put_nowait((list(records), end))
        if self.waits:
            await end

    async def next(self) -> tuple[list[str], asyncio.Future[None]]:
        """(records, the future that ends it) of the commit that is under way next."""
        return await asyncio.wait_for(self.begun.get(), 30)


class Tap:
    """A source that counts."""

    def __init__(self) -> None:
        self.paused = False
        self.calls: list[str] = []

    def pause(self) -> None:
        self.paused = True
        self.calls.append("pause")

    def resume(self) -> None:
        self.paused = False
        self.calls.append("resume")


class Rig:
    """An engine on a fake core, a fake disk and a fake clock."""

    def __init__(self) -> None:
        self.core, self.disk, self.clock = FakeCore(), Disk(), FakeClock()
        self.released: list[str] = []
        self.engine: Engine[Step, str, str] = Engine(
            self.core,
            lambda is_deaf: DEAF_TICK if is_deaf else TICK,
            self.disk.commit,
            self.release,
            self.clock,
        )
        self.running = asyncio.ensure_future(self.engine.run())

    def release(self, actions: Sequence[str]) -> None:
        self.released += actions

    def submit(self, records: str = "", actions: str = "", prompt: str = "") -> None:
        """An event of which come these, one letter each."""
        self.engine.submit(Step(list(records), list(actions), list(prompt)))

    async def settle(self) -> None:
        await asyncio.wait_for(self.engine.settle(), 30)

    async def next_turn(self) -> None:
        """Returns when all that can happen without the disk has happened: a few turns of the loop."""
        for _ in range(5):
            turn = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(turn.set_result, None)
            await turn


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    made.running.cancel()
    await asyncio.gather(made.running, return_exceptions=True)


# --- commit, then release --------------------------------------------------------------------------------


async def test_actions_are_released_only_after_the_commit_of_their_records(rig: Rig) -> None:
    rig.submit("r", "ab")
    records, end = await rig.disk.next()
    assert records == ["r"]
    await rig.next_turn()
    assert rig.released == []
    end.set_result(None)
    await rig.settle()
    assert rig.released == ["a", "b"]


async def test_the_core_steps_at_once_whatever_the_disk_does(rig: Rig) -> None:
    rig.submit("r")
    await rig.disk.next()
    rig.clock.time = 1007.0
    rig.submit("s")
    assert [now for _, now in rig.core.steps] == [1000.0, 1007.0]


async def test_while_a_commit_is_under_way_the_next_group_gathers(rig: Rig) -> None:
    rig.submit("r", "a")
    _, first = await rig.disk.next()
    for records, actions in (("s", "b"), ("", "c"), ("tu", "d")):
        rig.submit(records, actions)
    await rig.next_turn()
    assert rig.disk.begun.empty()
    first.set_result(None)
    records, second = await rig.disk.next()
    assert records == ["s", "t", "u"]
    assert rig.released == ["a"]
    second.set_result(None)
    await rig.settle()
    assert rig.released == ["a", "b", "c", "d"]


async def test_events_of_one_turn_are_one_group(rig: Rig) -> None:
    for letter in "abc":
        rig.submit(letter, letter)
    records, end = await rig.disk.next()
    assert records == ["a", "b", "c"]
    end.set_result(None)
    await rig.settle()
    assert rig.released == ["a", "b", "c"]


async def test_actions_without_records_do_not_overtake_those_that_wait(rig: Rig) -> None:
    rig.submit("r", "a")
    _, end = await rig.disk.next()
    rig.submit(actions="b")
    await rig.next_turn()
    assert rig.released == []
    end.set_result(None)
    await rig.settle()
    assert rig.released == ["a", "b"]


async def test_actions_without_records_need_no_commit(rig: Rig) -> None:
    rig.submit(actions="a")
    await rig.settle()
    assert rig.released == ["a"]
    assert rig.disk.begun.empty()


async def test_prompt_actions_do_not_wait_for_the_disk(rig: Rig) -> None:
    rig.submit("r", "a")
    _, end = await rig.disk.next()
    rig.submit("s", "b", prompt="p")
    assert rig.released == ["p"]
    end.set_result(None)
    (await rig.disk.next())[1].set_result(None)
    await rig.settle()
    assert rig.released == ["p", "a", "b"]


async def test_an_event_of_which_nothing_comes_leaves_all_at_rest(rig: Rig) -> None:
    rig.submit()
    await rig.settle()
    assert rig.released == []
    assert rig.disk.begun.empty()


async def test_settle_waits_for_the_last_release(rig: Rig) -> None:
    rig.submit("r", "a")
    settled = asyncio.ensure_future(rig.settle())
    _, first = await rig.disk.next()
    rig.submit("s", "b")
    first.set_result(None)
    _, second = await rig.disk.next()
    await rig.next_turn()
    assert not settled.done()
    second.set_result(None)
    await settled
    assert rig.released == ["a", "b"]


async def test_what_an_action_submits_is_committed_and_released_too(rig: Rig) -> None:
    rig.disk.waits = False
    plain = rig.release

    def release(actions: Sequence[str]) -> None:
        plain(actions)
        if "a" in actions:
            rig.submit("s", "b")

    rig.engine._release = release
    rig.submit("r", "a")
    await rig.settle()
    assert rig.released == ["a", "b"]


# --- a failed commit ------------------------------------------------------------------------------------


async def test_a_failed_commit_ends_the_run_and_nothing_of_it_is_released(rig: Rig) -> None:
    rig.submit("r", "a")
    _, first = await rig.disk.next()
    rig.submit("s", "b")
    first.set_result(None)
    _, second = await rig.disk.next()
    rig.submit("", "c")
    second.set_exception(StorageError("disk full"))
    with pytest.raises(StorageError, match="disk full"):
        await rig.running
    await rig.next_turn()
    assert rig.released == ["a"]
    assert rig.disk.begun.empty()


async def test_a_core_that_raises_ends_the_run_and_is_not_stepped_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(event: Step, now: float) -> Step:
        raise AssertionError("Job(X)\ncannot become DONE")

    monkeypatch.setattr(rig.core, "step", fail)
    rig.engine.submit(Step(["a"], ["never"]))
    with pytest.raises(InternalFault, match=r"^AssertionError: Job\(X\) cannot become DONE at .*:\d+$"):
        await asyncio.wait_for(rig.running, 30)
    rig.engine.submit(Step([], ["never"]))
    await asyncio.wait_for(rig.engine.settle(), 30)
    assert rig.released == []


async def test_a_cancelled_run_releases_nothing_more(rig: Rig) -> None:
    rig.submit("r", "a")
    await rig.disk.next()
    rig.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rig.running
    assert rig.released == []


# --- congestion --------------------------------------------------------------------------------------------


async def test_a_disk_far_behind_pauses_sources_until_it_has_caught_up(rig: Rig) -> None:
    early, late = Tap(), Tap()
    rig.engine.attach(early)
    rig.submit("r")
    _, first = await rig.disk.next()
    rig.submit("x" * CONGESTED)
    assert not early.paused
    rig.submit("x")
    assert early.paused
    rig.engine.attach(late)
    assert late.paused
    rig.submit("x")
    first.set_result(None)
    _, second = await rig.disk.next()
    assert early.paused
    assert late.paused
    rig.submit("x" * (RELIEVED - 1))
    second.set_result(None)
    _, third = await rig.disk.next()
    assert not early.paused
    assert not late.paused
    third.set_result(None)
    await rig.settle()
    assert early.calls == late.calls == ["pause", "resume"]


async def test_sources_stay_paused_while_as_much_gathers_behind_the_commit(rig: Rig) -> None:
    tap = Tap()
    rig.engine.attach(tap)
    rig.submit("x" * (CONGESTED + 1))
    _, first = await rig.disk.next()
    assert tap.paused
    rig.submit("x" * RELIEVED)
    first.set_result(None)
    _, second = await rig.disk.next()
    assert tap.paused
    second.set_result(None)
    await rig.settle()
    assert tap.calls == ["pause", "resume"]


async def test_a_source_that_has_left_is_not_called(rig: Rig) -> None:
    gone, there = Tap(), Tap()
    rig.engine.attach(gone)
    rig.engine.attach(there)
    rig.engine.detach(gone)
    rig.engine.detach(gone)
    rig.submit("x" * (CONGESTED + 1))
    assert there.calls == ["pause"]
    assert gone.calls == []


async def test_a_source_may_leave_while_all_are_paused(rig: Rig) -> None:
    class Leaving(Tap):
        def pause(self) -> None:
            super().pause()
            rig.engine.detach(self)

    taps = [Leaving(), Leaving(), Leaving()]
    for tap in taps:
        rig.engine.attach(tap)
    rig.submit("x" * (CONGESTED + 1))
    assert [tap.calls for tap in taps] == [["pause"]] * 3


def test_congestion_ends_well_below_where_it_begins() -> None:
    assert 0 < RELIEVED < CONGESTED


# --- timers ------------------------------------------------------------------------------------------------


class Timers:
    """Stands in for the loop's `call_later`; the test fires what was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.delays: list[float] = []
        self.live: list[asyncio.TimerHandle] = []
        loop = asyncio.get_running_loop()
        real = loop.call_later

        def call_later(delay: float, callback: object, *args: object) -> asyncio.TimerHandle:
            self.delays.append(delay)
            self.live.append(real(3600, callback, *args))  # type: ignore[arg-type]
            return self.live[-1]

        monkeypatch.setattr(loop, "call_later", call_later)

    def pending(self) -> list[asyncio.TimerHandle]:
        return [timer for timer in self.live if not timer.cancelled()]

    def fire(self) -> None:
        (timer,) = self.pending()
        self.live.clear()
        timer._run()
        timer.cancel()

    def clear(self) -> None:
        for timer in self.pending():
            timer.cancel()


@pytest.fixture
async def timers(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Timers]:
    await rig.next_turn()
    with monkeypatch.context() as patch:
        made = Timers(patch)
        yield made
        made.clear()


def submit_with_deadline(rig: Rig, deadline: float | None) -> None:
    rig.core.deadlines = [deadline]
    rig.submit()


async def test_the_core_gets_its_tick_when_its_deadline_has_come(rig: Rig, timers: Timers) -> None:
    submit_with_deadline(rig, 1002.5)
    assert timers.delays == [2.5]
    rig.clock.time = 1002.5
    timers.fire()
    assert rig.core.steps[-1] == (TICK, 1002.5)
    assert timers.pending() == []
    assert rig.engine._actions == ["tick"]


async def test_a_tick_says_whether_sources_are_paused(rig: Rig, timers: Timers) -> None:
    rig.core.deadlines = [1001.0]
    rig.submit("x" * (CONGESTED + 1))
    timers.fire()
    assert rig.core.steps[-1][0] == DEAF_TICK
    (_, end) = await rig.disk.next()
    end.set_result(None)
    await rig.settle()
    submit_with_deadline(rig, 1002.0)
    timers.fire()
    assert rig.core.steps[-1][0] == TICK


async def test_a_tick_that_wants_another_gets_it(rig: Rig, timers: Timers) -> None:
    submit_with_deadline(rig, 1001.0)
    rig.clock.time = 1001.0
    rig.core.deadlines = [1005.0]
    timers.fire()
    assert timers.delays == [1.0, 4.0]


async def test_an_earlier_deadline_replaces_the_timer(rig: Rig, timers: Timers) -> None:
    submit_with_deadline(rig, 1010.0)
    submit_with_deadline(rig, 1003.0)
    assert timers.delays == [10.0, 3.0]
    assert len(timers.pending()) == 1


@pytest.mark.parametrize("later", [1003.0, 1010.0, None])
async def test_a_later_deadline_keeps_the_timer_and_the_early_tick_sets_it_right(
    rig: Rig, timers: Timers, later: float | None
) -> None:
    submit_with_deadline(rig, 1003.0)
    submit_with_deadline(rig, later)
    assert timers.delays == [3.0]
    rig.clock.time = 1003.0
    rig.core.deadlines = [later]
    timers.fire()
    assert timers.delays[1:] == ([] if later is None else [later - 1003.0])


async def test_a_deadline_in_the_past_is_due_at_once(rig: Rig, timers: Timers) -> None:
    submit_with_deadline(rig, 900.0)
    assert timers.delays == [0.0]


async def test_no_deadline_is_no_timer(rig: Rig, timers: Timers) -> None:
    submit_with_deadline(rig, None)
    assert timers.delays == []


async def test_the_first_deadline_is_there_before_any_event() -> None:
    rig = Rig()
    rig.core.deadline = 1000.0
    async with asyncio.timeout(30):
        while not rig.released:
            await rig.next_turn()
    assert rig.released == ["tick"]
    rig.running.cancel()
    await asyncio.gather(rig.running, return_exceptions=True)


def test_the_clock_shows_the_time_of_day_and_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_600_000_000.0)
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)
    clock = Clock()
    assert clock.now() == 1_600_000_000.0
    monkeypatch.setattr(time, "time", lambda: 0.0)  # somebody has set the clock
    monkeypatch.setattr(time, "monotonic", lambda: 52.0)
    assert clock.now() == 1_600_000_002.0
