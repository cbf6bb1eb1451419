"""Jobs whose files go to their origin before their result does."""

import pytest

from clusternode.core.events import (
    CommandEnded,
    Drain,
    Drained,
    Kill,
    LinkDown,
    LinkUp,
    Ship,
    Shipped,
    Spawn,
    SpawnTask,
    Stop,
    TakenBack,
    Tick,
    Unship,
)
from clusternode.core.executor import STARTED_AFTER
from protocol.job import Command, Extras, ResultFile, Task, unpack_report
from protocol.messages import (
    AckResults,
    Cancel,
    Drop,
    Held,
    Hello,
    Info,
    Leaving,
    NotHere,
    RequestOfRes,
    Result,
    Returned,
)

from .bench import Bench, ticket

FILES = (ResultFile("a/b", 3, "0" * 64),)
LEAVES = Command("x", extras=Extras(result_dir="r"))
KEY = (ticket(0), 1)


def over(code: int | None = 0, reason: str = "") -> CommandEnded:
    return CommandEnded(*KEY, 1000.0, 1001.0, code, reason=reason)


@pytest.fixture
def bench() -> Bench:
    """Its one job has ended, and its files are on their way."""
    bench = Bench()
    bench.connect()
    bench.give(LEAVES)
    bench.say(over())
    return bench


def results(bench: Bench) -> list[tuple[str, str, tuple[ResultFile, ...]]]:
    ended = [each for result in bench.sent(Result) for each in result.results]
    return [(e.outcome, unpack_report(e.body).reason, unpack_report(e.body).files) for e in ended]


def test_a_result_waits_for_its_files_and_its_slot_does_not(bench: Bench) -> None:
    assert bench.did(Ship) == [Ship(*KEY)]
    assert results(bench) == []
    assert bench.core.executor.running == {}
    bench.step(Shipped(*KEY, FILES))
    assert results(bench) == [("succeeded", "", FILES)]


def test_files_that_are_refused_fail_a_job_that_succeeded(bench: Bench) -> None:
    bench.step(Shipped(*KEY, (), "its files were refused: link x leads out of it"))
    assert results(bench) == [("failed", "its files were refused: link x leads out of it", ())]


def test_a_failed_job_leaves_its_files_too() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Command("x", extras=Extras(keep_output=True)))
    bench.say(over(1, "killed by SIGKILL"))
    bench.step(Shipped(*KEY, (), "disk full"))
    reason = "killed by SIGKILL; disk full"
    assert results(bench) == [("failed", reason, ())]


@pytest.mark.parametrize("code", [None, 143])
def test_what_was_lost_or_cancelled_ships_nothing(code: int | None) -> None:
    bench = Bench()
    bench.connect()
    bench.give(LEAVES)
    if code is not None:
        bench.hear(Cancel([Held(*KEY)]))
        assert bench.did(Kill) == [Kill(*KEY)]
    bench.say(over(code))
    assert bench.did(Ship) == []
    assert [outcome for outcome, _, _ in results(bench)] == ["lost" if code is None else "cancelled"]


def test_a_cancel_ends_it_on_its_way(bench: Bench) -> None:
    bench.hear(Cancel([Held(*KEY)]))
    assert bench.did(Unship) == [Unship(*KEY)]
    assert [outcome for outcome, _, _ in results(bench)] == ["cancelled"]
    bench.step(Shipped(*KEY, FILES))
    assert results(bench) == []


def test_a_stale_one_is_forgotten_and_its_files_with_it(bench: Bench) -> None:
    bench.hear(Drop([Held(*KEY)]))
    assert bench.did(Unship) == [Unship(*KEY)]
    bench.step(Shipped(*KEY, FILES))
    assert results(bench) == []
    bench.hear(RequestOfRes([ticket(0)]))
    assert bench.sent(NotHere) == [NotHere([ticket(0)])]


def test_while_it_is_on_its_way_this_node_has_it(bench: Bench) -> None:
    bench.hear(RequestOfRes([ticket(0)]))
    assert bench.sent(NotHere) == [NotHere([])]
    bench.step(LinkDown())
    bench.step(LinkUp())
    assert [hello.running for hello in bench.sent(Hello)] == [(Held(*KEY),)]
    assert bench.sent(Info) == []


def test_that_only_its_files_are_under_way_is_said_once_it_takes_a_moment(bench: Bench) -> None:
    assert bench.sent(Leaving) == []
    bench.step(Tick(), after=2 * STARTED_AFTER)
    assert bench.sent(Leaving) == [Leaving([Held(*KEY)])]
    bench.step(Tick(), after=1)
    assert bench.sent(Leaving) == []
    # And to a load balancer that knows it anew at once.
    bench.step(LinkDown())
    bench.connect()
    assert bench.sent(Leaving) == [Leaving([Held(*KEY)])]


def test_of_what_is_home_at_once_it_is_not_said(bench: Bench) -> None:
    bench.step(Shipped(*KEY, FILES))
    bench.step(Tick(), after=1)
    assert bench.sent(Leaving) == []


def test_a_node_that_drains_waits_for_it(bench: Bench) -> None:
    bench.step(Drain())
    assert bench.did(Drained) == []
    bench.step(Shipped(*KEY, FILES))
    assert results(bench) != []
    bench.hear(AckResults([Held(*KEY)]))
    assert bench.did(Drained) == [Drained()]


def test_one_that_stops_has_the_job_run_again_elsewhere(bench: Bench) -> None:
    bench.step(Stop())
    bench.step(Shipped(*KEY, FILES))
    assert bench.out.records == []


def test_what_brings_files_goes_behind_nothing_and_nothing_goes_behind_it() -> None:
    bench = Bench(slots=1)
    bench.connect()
    brings = Command("b", extras=Extras(files=(("x", "0" * 64),)))
    short = [Command("a")] * 20
    bench.give(*short)
    for number in range(20):  # they were short
        ended = CommandEnded(ticket(number), 1, bench.now, bench.now + 0.001, 0)
        bench.say(ended, after=0.001)
    bench.give(brings, Command("c"), brings, attempt=2)
    assert [(spawn.line, spawn.behind) for spawn in bench.did(Spawn)] == [("b", None)]
    bench.say(CommandEnded(ticket(0), 2, bench.now, bench.now, 0))
    assert [(spawn.line, spawn.behind) for spawn in bench.did(Spawn)] == [("c", None)]


def test_a_task_is_told_what_it_has() -> None:
    bench = Bench()
    bench.connect()
    extras = Extras(result_dir="r", checkpoint=True)
    bench.give(Task("t", extras=extras))
    assert bench.did(SpawnTask) == [SpawnTask(*KEY, "t", "{}", None, False, extras)]


# --- files that cannot be had here ---------------------------------------------------------------------


def test_a_job_whose_files_cannot_be_had_here_goes_back_and_has_no_slot() -> None:
    bench = Bench()
    bench.connect()
    bench.give(LEAVES, Command("y"))
    bench.say(TakenBack(*KEY))
    assert bench.sent(Returned) == [Returned([Held(*KEY)])]
    assert KEY[0] not in bench.core.executor.running
    assert [spawn.ticket for spawn in bench.did(Spawn)] == [ticket(1)]
    # And it may come again, as the same attempt.
    bench.say(CommandEnded(ticket(1), 1, 1000.0, 1001.0, 0))
    bench.give(LEAVES)
    assert [(spawn.ticket, spawn.attempt) for spawn in bench.did(Spawn)] == [KEY]


def test_one_that_was_cancelled_meanwhile_is_cancelled() -> None:
    bench = Bench()
    bench.connect()
    bench.give(LEAVES)
    bench.hear(Cancel([Held(*KEY)]))
    bench.say(TakenBack(*KEY))
    assert results(bench) == [("cancelled", "before it started", ())]
    assert bench.sent(Returned) == []


def test_without_a_link_the_next_hello_says_it() -> None:
    bench = Bench()
    bench.connect()
    bench.give(LEAVES)
    bench.step(LinkDown())
    bench.say(TakenBack(*KEY))
    bench.step(LinkUp())
    assert [list(hello.held) for hello in bench.sent(Hello)] == [[]]
