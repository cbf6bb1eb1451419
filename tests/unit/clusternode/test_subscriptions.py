"""`subscribe`: who is told of which ends, and when."""

from __future__ import annotations

import pytest

from clusternode.core.events import ClientGone, Done, Tell
from clusternode.core.subscriptions import Subscriptions
from protocol.dialogue import Submit, Subscribe, Unsubscribe
from protocol.job import Command, Ended, Extras, Sleep
from protocol.limits import SUBSCRIPTIONS_LIMIT
from protocol.messages import Result
from protocol.replies import ArrayView, Failure, Subscribed, Unsubscribed

from .bench import Bench, ended, ticket


def submit(bench: Bench, number: int, tag: str = "", after: int | None = None) -> None:
    extras = Extras(tag=tag, after=() if after is None else (ticket(after),))
    bench.ask(Submit(Command("x", extras=extras) if tag or after else Sleep(5)), ticket(number))


def told(bench: Bench) -> list[tuple[str, tuple[int, ...]]]:
    """By the last step: tickets with the clients that hear of them."""
    return [(tell.news.job.ticket, tuple(tell.clients)) for tell in bench.did(Tell)]


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.connect()
    return made


def test_a_tag_is_told_to_who_asked_for_it_and_all_to_who_asked_for_all(bench: Bench) -> None:
    bench.ask(Subscribe("red"), client=1)
    assert bench.replies() == [Subscribed("red")]
    bench.ask(Subscribe("*"), client=2)
    bench.ask(Subscribe("red"), client=2)
    for number, tag in enumerate(("red", "blue", ""), 1):
        submit(bench, number, tag)
    bench.hear(Result([ended(number) for number in (1, 2, 3)]))
    assert told(bench) == [(ticket(1), (2, 1)), (ticket(2), (2,)), (ticket(3), (2,))]
    assert [type(record) for record in bench.out.records] == [Done] * 3
    assert not bench.out.prompt, "after the commit of what it says"
    bench.hear(Result([ended(1)]))
    assert told(bench) == [], "a repetition is no news"


def test_what_is_over_is_told_no_more(bench: Bench) -> None:
    bench.ask(Subscribe("*"), client=1)
    bench.ask(Subscribe("red"), client=2)
    bench.step(ClientGone(2))
    bench.ask(Unsubscribe(), client=1)
    assert bench.replies() == [Unsubscribed()]
    submit(bench, 1, "red")
    bench.hear(Result([ended(1)]))
    assert told(bench) == []
    assert not bench.core.origin._subscriptions


def test_every_way_to_end_is_told(bench: Bench) -> None:
    bench.ask(Subscribe("*"))
    submit(bench, 1)
    submit(bench, 2, "x", after=1)
    spec = Command("x", extras=Extras(array=2, after=(ticket(2),)))
    bench.receive(bench.line(Submit(spec), ticket(3))._replace(tickets=[ticket(4), ticket(5)]))
    bench.hear(Result([ended(1, "failed")]))
    assert {number for number, _ in told(bench)} == {ticket(number) for number in range(1, 6)}
    (array,) = (tell.news.job for tell in bench.did(Tell) if tell.news.job.ticket == ticket(3))
    assert array.array == ArrayView(2, {"failed": 2})


def test_a_result_that_cannot_be_read_is_recorded_and_not_told(bench: Bench) -> None:
    bench.ask(Subscribe("*"))
    submit(bench, 1)
    bench.hear(Result([Ended(ticket(1), 1, "failed", b"nonsense")]))
    assert (len(bench.out.records), told(bench)) == (1, [])


def test_a_client_has_so_many_and_no_more(bench: Bench) -> None:
    for number in range(SUBSCRIPTIONS_LIMIT):
        bench.ask(Subscribe(str(number)))
    bench.ask(Subscribe("0"))
    assert bench.replies() == [Subscribed("0")]
    bench.ask(Subscribe("*"))
    assert bench.replies() == [
        Failure("A client has 100 subscriptions at most; unsubscribe ends them."),
    ]
    bench.ask(Unsubscribe())
    bench.ask(Subscribe("*"))
    assert bench.replies() == [Subscribed("*")]


def test_nothing_is_left_of_those_that_left() -> None:
    subscriptions = Subscriptions()
    for client in (1, 2):
        for tag in ("a", "b"):
            subscriptions.add(client, tag)
    subscriptions.leave(1)
    subscriptions.leave(1)
    assert subscriptions.of("a") == (2,)
    subscriptions.leave(2)
    assert not subscriptions
    assert subscriptions._clients == {}
