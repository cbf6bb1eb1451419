"""Jobs that take more than one slot, or all of them."""

from __future__ import annotations

import pytest

from clusternode.core.events import CommandEnded, Drain, Kill, Spawn, SpawnTask, TakeBack, TakenBack, Tick
from clusternode.core.lanes import PATIENCE
from protocol.job import Command, Extras, JobSpec, Sleep, Task
from protocol.limits import INFO_PERIOD
from protocol.messages import Cancel, Drop, Held, Info, Job, JobItem, Recall, Result, Returned

from .bench import Bench, ticket


def wide(cpus: int, line: str = "wide") -> Command:
    return Command(line, extras=Extras(cpus=cpus))


def key(number: int) -> Held:
    return Held(ticket(number), 1)


def ended(number: int, took: float = 1.0, code: int | None = 0) -> CommandEnded:
    return CommandEnded(*key(number), 1000.0, 1000.0 + took, code)


def bench_of(slots: int, *specs: JobSpec) -> Bench:
    bench = Bench(slots)
    bench.connect()
    bench.give(*specs)
    return bench


def started(bench: Bench) -> list[str]:
    """Lines, in order, of what the last step started at once."""
    return [spawn.line for spawn in bench.did(Spawn) if spawn.behind is None]


def info(bench: Bench) -> Info:
    """The next one."""
    (said,) = bench.step(Tick(), after=INFO_PERIOD) and bench.sent(Info)
    return said


def test_a_wide_job_takes_its_slots_and_the_rest_serves_others() -> None:
    bench = bench_of(4, wide(3), Command("a"), Command("b"))
    assert started(bench) == ["wide", "a"]
    bench.say(ended(1))
    assert started(bench) == ["b"]


def test_one_that_wants_more_than_there_are_has_them_all() -> None:
    bench = bench_of(2, wide(64), Command("a"))
    assert started(bench) == ["wide"]
    bench.say(ended(0))
    assert started(bench) == ["a"]
    assert bench.core.executor.taken == 1


def test_what_is_behind_a_wide_one_does_not_overtake_it() -> None:
    bench = bench_of(2, Command("a"), wide(2), Command("b"), Sleep(0), Sleep(5))
    assert started(bench) == ["a"]
    assert not bench.sent(Result)
    bench.say(ended(0))
    assert started(bench) == ["wide"]
    bench.say(ended(1))
    assert started(bench) == ["b"]
    assert list(bench.core.executor.running) == [ticket(2), ticket(4)]


def test_a_higher_priority_overtakes_it_all_the_same() -> None:
    bench = bench_of(2, Command("a"), wide(2))
    bench.hear(Job([JobItem(ticket(7), 1, 0.0, Command("urgent").pack(), priority=1)]))
    assert started(bench) == ["urgent"]


def test_a_wide_task_takes_its_slots_too() -> None:
    extras = Extras(cpus=2)
    bench = bench_of(2, Task("t", extras=extras), Command("a"))
    assert bench.did(SpawnTask) == [SpawnTask(*key(0), "t", "{}", None, False, extras)]
    assert started(bench) == []
    bench.say(ended(0))
    assert started(bench) == ["a"]


def test_info_tells_of_the_slots_that_are_free() -> None:
    bench = bench_of(4, wide(3), Command("a"), Command("b"))
    said = info(bench)
    assert (said.running, said.free_slots, said.queue) == (2, 0, 1)
    bench.say(ended(1))
    bench.say(ended(2))
    said = info(bench)
    assert (said.running, said.free_slots, said.queue) == (1, 1, 0)


def test_a_wide_job_at_the_head_leaves_slots_free() -> None:
    bench = bench_of(4, wide(2), Command("a"), wide(3))
    said = info(bench)
    assert (said.running, said.free_slots, said.queue) == (2, 1, 1)


def test_a_wide_job_that_was_cancelled_has_its_slots_until_it_is_gone() -> None:
    bench = bench_of(2, wide(2), Command("a"))
    bench.hear(Cancel([key(0)]))
    assert bench.did(Kill) == [Kill(*key(0))]
    assert started(bench) == []
    bench.say(ended(0, code=143))
    assert started(bench) == ["a"]


@pytest.mark.parametrize("spec", [wide(2), Task("t", extras=Extras(cpus=2))])
def test_one_that_counts_no_more_has_its_slots_until_it_is_gone(spec: JobSpec) -> None:
    bench = bench_of(2, spec, Command("a"))
    bench.hear(Drop([key(0)]))
    assert bench.did(Kill) == [Kill(*key(0))]
    assert (started(bench), bench.core.executor.taken) == ([], 2)
    bench.say(ended(0, code=None))
    assert (started(bench), bench.core.executor.taken) == (["a"], 1)


def test_a_wide_job_that_waits_is_given_back_and_what_was_behind_it_starts() -> None:
    bench = bench_of(2, Command("a"), wide(2), Command("b"))
    bench.hear(Recall([key(1)]))
    assert bench.sent(Returned) == [Returned([key(1)])]
    assert started(bench) == ["b"]


# --- commands ahead ------------------------------------------------------------------------------


def after_short_ones(slots: int) -> Bench:
    """A node whose commands have been short lately."""
    bench = Bench(slots)
    bench.connect()
    for number in range(100, 120):
        bench.hear(Job([JobItem(ticket(number), 1, bench.now, Command("short").pack())]))
        bench.say(ended(number, took=0.001))
    return bench


def test_a_wide_one_goes_behind_nothing_nor_does_what_follows_it() -> None:
    bench = after_short_ones(2)
    bench.give(*[Command("a")] * 4, wide(2), *[Command("b")] * 4)
    spawned = bench.did(Spawn)
    assert [spawn.line for spawn in spawned] == ["a"] * 4
    assert all(spawn.behind is not None for spawn in spawned[2:])
    bench.say(*(ended(number, took=0.001) for number in (0, 2, 3)))
    assert bench.did(Spawn) == []
    bench.say(ended(1, took=0.001))
    assert [(spawn.line, spawn.behind) for spawn in bench.did(Spawn)] == [("wide", None)]


def test_nothing_goes_behind_a_wide_one() -> None:
    bench = after_short_ones(3)
    bench.give(wide(2), *[Command("a")] * 9)
    spawned = bench.did(Spawn)
    assert [(spawn.line, spawn.behind) for spawn in spawned[:2]] == [("wide", None), ("a", None)]
    assert {spawn.behind for spawn in spawned[2:]} == {key(1)}


def test_where_one_slot_is_all_there_is_it_is_not_wide() -> None:
    bench = after_short_ones(1)
    bench.give(Command("a"), wide(2))
    assert [(spawn.line, spawn.behind) for spawn in bench.did(Spawn)] == [("a", None), ("wide", key(0))]


def test_what_comes_back_from_a_helper_stands_before_the_wide_one_that_waits() -> None:
    bench = after_short_ones(2)
    bench.give(Command("a"), Command("b"), Command("c"), Command("d"), wide(2))
    bench.step(Tick(), after=PATIENCE)
    assert bench.did(TakeBack) == [TakeBack(*key(3)), TakeBack(*key(2))]
    bench.say(TakenBack(*key(3)), TakenBack(*key(2)))
    assert list(bench.core.executor.queue) == [ticket(2), ticket(3), ticket(4)]
    bench.say(ended(0))
    assert started(bench) == ["c"]


def test_a_wide_one_beside_a_lane_whose_command_counts_no_more() -> None:
    """Its slots stay taken when what was behind another comes back."""
    bench = after_short_ones(3)
    bench.give(wide(2), Command("a"), Command("b"))
    bench.hear(Drop([key(0), key(1)]))
    assert bench.core.executor.taken == 3
    bench.say(TakenBack(*key(2)))
    assert bench.core.executor.taken == 3
    assert started(bench) == ["b"]
    bench.say(ended(0, code=None))
    assert bench.core.executor.taken == 1


def test_a_node_that_drains_starts_no_wide_one() -> None:
    bench = bench_of(2, Command("a"), wide(2))
    bench.step(Drain())
    assert bench.sent(Returned) == [Returned([key(1)])]
    bench.say(ended(0))
    assert started(bench) == []
