"""Where open tickets are, for `list`."""

from __future__ import annotations

import json

import pytest

from clusternode.core.events import LinkDown, StatesAre, StatesOf
from clusternode.core.origin import AWAY
from clusternode.core.questions import STRANGE
from protocol.dialogue import Submit
from protocol.job import Command, Extras, JobState, Sleep
from protocol.messages import Answer as BalancerAnswer
from protocol.messages import Query, Result

from .bench import Bench, ended, ticket

TICKETS = tuple(map(ticket, range(1, 5)))


@pytest.fixture
def bench() -> Bench:
    """1 and 2 are handed in, 3 waits for 1; 4 is no ticket."""
    made = Bench()
    made.connect()
    made.ask(Submit(Sleep(5)), ticket(1))
    made.ask(Submit(Sleep(5)), ticket(2))
    made.ask(Submit(Command("x", extras=Extras(after=(ticket(1),)))), ticket(3))
    return made


def states(bench: Bench) -> dict[str, str]:
    (answer,) = bench.did(StatesAre)
    return {name: f"{view.state} {view.node or ''}".strip() for name, view in answer.views.items()}


def ask(bench: Bench) -> Query:
    bench.ask(StatesOf(TICKETS))
    (query,) = bench.sent(Query)
    return query


def test_the_load_balancer_is_asked_for_all_at_once(bench: Bench) -> None:
    query = ask(bench)
    assert (query.what, query.tickets) == ("status", TICKETS)
    value = {ticket(1): ["running", 2, "n7", 5.0], ticket(2): ["done", 1, "n8", None]}
    bench.hear(BalancerAnswer(query.number, json.dumps(value)))
    assert states(bench) == {ticket(1): "running n7", ticket(2): "running n8", ticket(3): "queued"}
    (answer,) = bench.did(StatesAre)
    assert answer.views[ticket(3)].waits_for == (ticket(1),)
    assert answer.note == ""


def test_what_has_ended_meanwhile_is_left_out(bench: Bench) -> None:
    query = ask(bench)
    bench.hear(Result([ended(2)]))
    bench.hear(BalancerAnswer(query.number, "{}"))
    assert states(bench) == {ticket(1): "queued", ticket(3): "queued"}


def test_while_it_is_away_or_goes_away_that_is_said(bench: Bench) -> None:
    ask(bench)
    bench.step(LinkDown())
    (answer,) = bench.did(StatesAre)
    assert (answer.note, list(answer.views)) == (AWAY, list(TICKETS[:3]))
    bench.ask(StatesOf(TICKETS))
    (answer,) = bench.did(StatesAre)
    assert (answer.note, len(answer.views)) == (AWAY, 3)
    assert {view.state for view in answer.views.values()} == {JobState.QUEUED}


@pytest.mark.parametrize("text", ["{", "7", json.dumps({ticket(1): ["flying", 1, "n", None]})])
def test_an_answer_of_another_form_is_none(bench: Bench, text: str) -> None:
    query = ask(bench)
    bench.hear(BalancerAnswer(query.number, text))
    (answer,) = bench.did(StatesAre)
    assert (answer.note, len(answer.views)) == (STRANGE, 3)
