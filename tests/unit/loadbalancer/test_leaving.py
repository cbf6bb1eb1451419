"""Jobs that have ended, and whose files are on their way home."""

from loadbalancer.core.events import LinkLost
from loadbalancer.core.jobs import State
from loadbalancer.core.nodes import FIRST_DEPTH
from protocol.limits import LEAVING_LIMIT
from protocol.messages import Held, Leaving, Result

from .test_balancer import Bench, ended, ticket


def leaving(bench: Bench, *numbers: int) -> None:
    bench.say(1, Leaving([Held(ticket(n), 1) for n in numbers]))


def test_what_only_waits_for_a_way_home_takes_no_room() -> None:
    """Its origin is away, perhaps for days: others have their work done meanwhile."""
    bench = Bench()
    bench.join(1, slots=1)
    bench.submit(1, *range(FIRST_DEPTH))
    bench.submit(1, 900, 901)
    node = bench.core.ledger.nodes["id1"]
    assert node.load == len(node.jobs) == FIRST_DEPTH
    leaving(bench, 0, 1)
    bench.tick(0.1)
    assert (node.load, len(node.jobs)) == (FIRST_DEPTH, FIRST_DEPTH + 2)
    assert {bench.job(900).state, bench.job(901).state, bench.job(0).state} == {State.ASSIGNED, State.RUNNING}
    fields = node.fields()
    assert (fields["running"], fields["queued"]) == (1, FIRST_DEPTH - 1)
    bench.say(1, Result([ended(0)]))
    assert node.leaving == {ticket(1)}


def test_of_such_only_so_many_are_free() -> None:
    bench = Bench()
    bench.join(1, slots=1)
    node = bench.core.ledger.nodes["id1"]
    bench.submit(1, *range(LEAVING_LIMIT + 500))
    while len(node.leaving) < len(node.jobs) and len(node.leaving) < LEAVING_LIMIT + FIRST_DEPTH:
        fresh = [each for each in node.jobs if each not in node.leaving]
        bench.say(1, Leaving([Held(each, 1) for each in fresh]))
        bench.tick(0.1)
    assert LEAVING_LIMIT <= len(node.jobs) <= LEAVING_LIMIT + FIRST_DEPTH


def test_what_is_stale_or_of_another_is_not_taken_for_it() -> None:
    bench = Bench()
    bench.join(1, slots=1)
    bench.submit(1, 1)
    bench.say(1, Leaving([Held(ticket(1), 2), Held(ticket(2), 1)]))
    assert bench.core.ledger.nodes["id1"].leaving == set()


def test_a_node_that_is_back_says_so_again() -> None:
    bench = Bench()
    bench.join(1, slots=1)
    bench.submit(1, 1)
    leaving(bench, 1)
    bench.step(LinkLost(1))
    bench.join(1, slots=1, running=[Held(ticket(1), 1)])
    node = bench.core.ledger.nodes["id1"]
    assert (len(node.jobs), node.load) == (1, 1)
    leaving(bench, 1)
    assert node.load == 0


def test_what_had_ended_took_no_node_along() -> None:
    bench = Bench(crash_limit=1)
    bench.join(1, slots=1)
    bench.join(2, slots=1)
    bench.submit(2, 1)
    name = bench.job(1).node
    assert name is not None
    link = int(name.removeprefix("id"))
    bench.say(link, Leaving([Held(ticket(1), 1)]))
    bench.step(LinkLost(link))
    bench.pass_time(15, 3 - link)
    assert bench.job(1).attempt == 2
    assert bench.job(1).losses == 0
