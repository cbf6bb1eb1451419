"""What one node asks another goes through, by node, by executor and by origin."""

import pytest

from loadbalancer.core.events import LinkLost, PassOn
from loadbalancer.core.relay import REMEMBERED, Unanswered
from protocol.relay import AWAY, NOT_FOUND, Ask, Told

from .test_balancer import Bench, ended, ticket
from .test_balancer import Result as ResultMessage


@pytest.fixture
def bench() -> Bench:
    """Two nodes; the first is the origin of a job that the second runs."""
    bench = Bench()
    bench.join(1, slots=1)
    bench.submit(1, 1)
    bench.join(2, slots=1)
    bench.submit(1, 2)
    assert bench.job(2).node == "id2"
    return bench


@pytest.mark.parametrize(
    ("whom", "name", "link"),
    [("node", "id2", 2), ("executor", ticket(2), 2), ("origin", ticket(2), 1), ("node", "id1", 1)],
)
def test_a_question_reaches_whom_it_is_for_with_its_asker(
    bench: Bench, whom: str, name: str, link: int
) -> None:
    outcome = bench.say(1, Ask(7, whom, name, "what", b"body"))
    # No commit of the balancer's is waited for.
    assert outcome.prompt == [PassOn(link, Ask(7, "node", "id1", "what", b"body"), 1)]


def test_an_answer_goes_back_with_who_gave_it(bench: Bench) -> None:
    bench.say(2, Told(7, "id1", 200, b"body"))
    assert bench.sent(Told, 1) == [Told(7, "id2", 200, b"body")]


@pytest.mark.parametrize(
    ("whom", "name", "status"),
    [
        ("node", "nobody", AWAY),
        ("executor", ticket(9), NOT_FOUND),
        ("origin", ticket(9), NOT_FOUND),
    ],
)
def test_where_there_is_nobody_the_asker_is_told(bench: Bench, whom: str, name: str, status: int) -> None:
    bench.say(1, Ask(7, whom, name, "what", b""))
    (told,) = bench.sent(Told, 1)
    assert (told.number, told.name, told.status) == (7, "", status)
    assert not any(isinstance(action, PassOn) for action in bench.actions)


def test_a_node_that_is_away_is_said_to_be(bench: Bench) -> None:
    bench.step(LinkLost(2))
    bench.say(1, Ask(7, "executor", ticket(2), "what", b""))
    assert [told.status for told in bench.sent(Told, 1)] == [AWAY]
    # And what is told to one that is away is nobody's.
    bench.say(1, Told(1, "id2", 200, b""))
    assert not bench.sent(Told)


def test_a_job_that_waits_has_no_executor_and_one_that_ended_is_not_open(bench: Bench) -> None:
    bench.submit(1, *range(10, 500))
    waiting = next(n for n in range(10, 500) if bench.job(n).node is None)
    bench.say(1, Ask(7, "executor", ticket(waiting), "what", b""))
    assert [told.status for told in bench.sent(Told, 1)] == [AWAY]
    bench.say(2, ResultMessage([ended(2)]))
    bench.say(1, Ask(8, "executor", ticket(2), "what", b""))
    assert [told.status for told in bench.sent(Told, 1)] == [AWAY]


def test_who_asked_a_node_that_goes_away_is_told_at_once_and_once(bench: Bench) -> None:
    for number in (7, 8, 9):
        bench.say(1, Ask(number, "executor", ticket(2), "what", b""))
    bench.say(2, Told(8, "id1", 200, b"body"))
    bench.step(LinkLost(2))
    away = [(told.number, told.name) for told in bench.sent(Told, 1) if told.status == AWAY]
    assert away == [(7, ""), (9, "")]


def test_a_node_that_never_answers_costs_no_more_than_so_much_memory() -> None:
    unanswered = Unanswered()
    for number in range(REMEMBERED + 5):
        unanswered.passed_on("asked", "asker", number)
    assert unanswered.gone("asked") == [("asker", number) for number in range(5, REMEMBERED + 5)]
    assert unanswered.gone("asked") == []
    unanswered.told("asked", "asker", 1)
