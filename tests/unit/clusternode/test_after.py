"""`--after`: jobs that wait at their origin for the success of others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusternode.core.after import After
from clusternode.core.events import Answer, Done, Find, Found, LinkDown, LookUp, Submitted
from clusternode.core.openjob import Stored
from clusternode.core.submissions import AT_START
from protocol.dialogue import CancelJob, GetResult, Status, Submit, Wait
from protocol.job import Command, Extras, Sleep, unpack_report
from protocol.messages import AckResults, Cancel, Held, Job, NotHere, Result
from protocol.replies import Failure, ResultOf, StatusOf, TicketIssued

from .bench import Bench, ended, ticket


def after(*numbers: int) -> Command:
    return Command("x", extras=Extras(after=tuple(map(ticket, numbers))))


def submit(bench: Bench, number: int, *numbers: int) -> None:
    """Job `number`, which comes after those."""
    bench.ask(Submit(after(*numbers) if numbers else Sleep(5)), ticket(number))


def handed_in(bench: Bench) -> list[str]:
    """By the last step."""
    return [item.ticket for message in bench.sent(Job) for item in message.jobs]


def ends(bench: Bench) -> dict[str, str]:
    """What the last step recorded, and why."""
    done = [record.ended for record in bench.out.records if isinstance(record, Done)]
    return {
        each.ticket: f"{each.outcome}: {unpack_report(each.body).reason}".removesuffix(": ") for each in done
    }


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.connect()
    return made


def test_a_dependant_is_handed_in_when_what_it_comes_after_has_succeeded(bench: Bench) -> None:
    submit(bench, 1)
    submit(bench, 2, 1)
    assert bench.replies() == [TicketIssued(ticket(2))]
    assert isinstance(bench.out.records[0], Submitted), "it is kept like any other"
    assert handed_in(bench) == []
    bench.hear(Result([ended(1)]))
    assert handed_in(bench) == [ticket(2)]
    assert [type(record) for record in bench.out.records] == [Done]


@pytest.mark.parametrize(
    ("outcome", "how"),
    [
        ("failed", "failed"),
        ("timed-out", "timed out"),
        ("cancelled", "was cancelled"),
        ("lost", "was lost"),
    ],
)
def test_a_dependant_of_what_did_not_succeed_fails_in_the_same_commit(
    bench: Bench, outcome: str, how: str
) -> None:
    submit(bench, 1)
    submit(bench, 2, 1)
    bench.ask(Wait(ticket(2)))
    bench.hear(Result([ended(1, outcome)]))
    reason = f"not started: it comes after {ticket(1)}, which {how}"
    assert list(ends(bench).items())[1:] == [(ticket(2), f"failed: {reason}")]
    (reply,) = bench.replies()
    assert isinstance(reply, ResultOf)
    assert (reply.job.outcome, reply.job.report and reply.job.report.reason) == ("failed", reason)
    assert handed_in(bench) == []
    assert bench.sent(AckResults) == [AckResults([Held(ticket(1), 1)])], "nobody else knows of the other"


def test_fan_in_waits_for_all(bench: Bench) -> None:
    for number in (1, 2, 3):
        submit(bench, number)
    submit(bench, 4, 1, 2, 3, 2)
    bench.hear(Result([ended(1), ended(3)]))
    assert handed_in(bench) == []
    bench.hear(Result([ended(2)]))
    assert handed_in(bench) == [ticket(4)]


def test_the_first_failure_ends_it_and_the_others_go_on(bench: Bench) -> None:
    for number in (1, 2):
        submit(bench, number)
    submit(bench, 3, 1, 2)
    bench.hear(Result([ended(2, "failed")]))
    assert list(ends(bench)) == [ticket(2), ticket(3)]
    bench.hear(Result([ended(1)]))
    assert (list(ends(bench)), handed_in(bench)) == ([ticket(1)], [])


def test_a_long_chain_fails_as_one_and_each_says_what_it_came_after(bench: Bench) -> None:
    submit(bench, 0)
    for number in range(1, 3000):
        submit(bench, number, number - 1)
    bench.hear(Result([ended(0, "failed")]))
    assert len(ends(bench)) == 3000
    assert ends(bench)[ticket(2999)].endswith(f"it comes after {ticket(2998)}, which failed")
    assert not bench.core.origin.open


def test_a_chain_goes_step_by_step(bench: Bench) -> None:
    submit(bench, 0)
    for number in range(1, 5):
        submit(bench, number, number - 1)
    for number in range(4):
        bench.hear(Result([ended(number)]))
        assert handed_in(bench) == [ticket(number + 1)]


# --- what has ended before -----------------------------------------------------------------------


def test_what_is_not_open_is_found_in_the_store_before_a_ticket_is_given(bench: Bench) -> None:
    submit(bench, 3, 1, 2)
    assert bench.replies() == []
    assert bench.did(Find) == [Find(1, (ticket(1), ticket(2)))]
    bench.step(Found(1, {ticket(1): "succeeded", ticket(2): "succeeded"}))
    assert bench.replies() == [TicketIssued(ticket(3))]
    assert handed_in(bench) == [ticket(3)]


def test_one_that_failed_before_ends_it_with_its_submission(bench: Bench) -> None:
    submit(bench, 2, 1)
    bench.step(Found(1, {ticket(1): "lost"}))
    assert bench.replies() == [TicketIssued(ticket(2))]
    assert [type(record) for record in bench.out.records] == [Submitted, Done]
    assert ends(bench) == {ticket(2): f"failed: not started: it comes after {ticket(1)}, which was lost"}
    assert handed_in(bench) == []


def test_a_ticket_of_another_node_is_refused_and_nothing_is_recorded(bench: Bench) -> None:
    submit(bench, 1)
    submit(bench, 2, 1, 9)
    bench.step(Found(1, {ticket(9): None}))
    assert bench.replies() == [
        Failure(f"--after takes a ticket of this node, which {ticket(9)} is not: nothing was submitted.")
    ]
    assert not bench.out.records
    assert list(bench.core.origin.open) == [ticket(1)]
    bench.hear(Result([ended(1)]))
    assert handed_in(bench) == []


def test_one_that_ends_while_the_store_is_asked_is_asked_for_as_well(bench: Bench) -> None:
    submit(bench, 1)
    submit(bench, 3, 1, 2)
    assert bench.did(Find) == [Find(1, (ticket(2),))]
    bench.hear(Result([ended(1, "failed")]))
    bench.step(Found(1, {ticket(2): "succeeded"}))
    assert bench.replies() == []
    assert bench.did(Find) == [Find(2, (ticket(1),))]
    bench.step(Found(2, {ticket(1): "failed"}))
    assert bench.replies() == [TicketIssued(ticket(3))]
    assert list(ends(bench)) == [ticket(3)]


def test_the_lines_of_a_turn_ask_the_store_once(bench: Bench) -> None:
    lines = [bench.line(Submit(after(1, number)), ticket(10 + number)) for number in (2, 3, 2)]
    bench.receive(*lines)
    assert bench.did(Find) == [Find(1, (ticket(1), ticket(2), ticket(3)))]
    bench.step(Found(1, {ticket(number): "succeeded" for number in (1, 2, 3)}))
    assert [answer.seq for answer in bench.did(Answer)] == [line.seq for line in lines]


# --- restarts and links --------------------------------------------------------------------------


def stored(*jobs: tuple[int, tuple[int, ...]]) -> list[Stored]:
    return [Stored(number, ticket(number), 1.0, after(*numbers).pack(), False) for number, numbers in jobs]


def test_after_a_restart_it_waits_for_what_is_open_and_for_the_word_of_the_store() -> None:
    bench = Bench(stored=[Stored(1, ticket(1), 1.0, Sleep(5).pack(), False), *stored((3, (1, 2)), (4, (2,)))])
    assert bench.core.origin.to_find() == [ticket(2)]
    bench.connect()
    assert handed_in(bench) == [ticket(1)]
    bench.step(Found(AT_START, {ticket(2): "succeeded"}))
    assert handed_in(bench) == [ticket(4)]
    bench.hear(Result([ended(1)]))
    assert handed_in(bench) == [ticket(3)]


@pytest.mark.parametrize(("outcome", "how"), [("failed", "which failed"), (None, "which is not known here")])
def test_after_a_restart_what_must_not_start_ends(outcome: str | None, how: str) -> None:
    bench = Bench(stored=stored((2, (1,)), (3, (2,))))
    bench.step(Found(AT_START, {ticket(1): outcome}))
    assert ends(bench) == {
        ticket(2): f"failed: not started: it comes after {ticket(1)}, {how}",
        ticket(3): f"failed: not started: it comes after {ticket(2)}, which failed",
    }


def test_what_waits_is_not_handed_in_with_a_new_link_nor_when_it_is_asked_for(bench: Bench) -> None:
    submit(bench, 1)
    submit(bench, 2, 1)
    bench.step(LinkDown())
    bench.connect(epoch=2)
    assert handed_in(bench) == [ticket(1)]
    bench.hear(NotHere([ticket(2)]))
    assert handed_in(bench) == []


# --- questions and cancels -----------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_this_node_alone_says_what_it_waits_for(bench: Bench, as_json: bool) -> None:
    submit(bench, 1)
    submit(bench, 2, 1)
    bench.ask(Status(ticket(2)), as_json=as_json)
    (reply,) = bench.replies()
    assert isinstance(reply, StatusOf)
    assert (reply.job.state, reply.job.waits_for) == ("queued", (ticket(1),))
    bench.ask(GetResult(ticket(2)), as_json=as_json)
    assert isinstance(bench.replies()[0], ResultOf)


@pytest.mark.parametrize("connected", [True, False])
def test_a_cancel_ends_it_at_once_also_while_the_balancer_is_away(connected: bool) -> None:
    bench = Bench()
    if connected:
        bench.connect()
    submit(bench, 1)
    submit(bench, 2, 1)
    submit(bench, 3, 2)
    bench.ask(CancelJob(ticket(2)))
    assert ends(bench) == {
        ticket(2): "cancelled: before it started",
        ticket(3): f"failed: not started: it comes after {ticket(2)}, which was cancelled",
    }
    (look_up,) = bench.did(LookUp)
    assert (look_up.asked, look_up.ticket) == (CancelJob(ticket(2)), ticket(2))
    assert not bench.sent(Cancel)
    if not connected:
        bench.connect()
    bench.hear(Result([ended(1)]))
    assert handed_in(bench) == []


# --- any graph -----------------------------------------------------------------------------------


@given(st.data())
def test_in_any_graph_each_job_starts_after_all_it_waits_for_or_never(data: Any) -> None:
    """Jobs end in any order that their edges allow; some fail."""
    count = data.draw(st.integers(1, 12))
    edges = {
        number: data.draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        for number in range(count)
    }
    bad = data.draw(st.sets(st.integers(0, count - 1)))
    graph, ready = After(), []
    for number, awaited in edges.items():
        if awaited:
            graph.add(str(number), map(str, awaited))
        else:
            ready.append(str(number))
    outcomes: dict[str, bool] = {}

    def end(tickets: Iterable[str]) -> None:
        for each in tickets:
            assert each not in outcomes
            outcomes[each] = False
            end(graph.failed(each))

    while ready:
        each = ready.pop(data.draw(st.integers(0, len(ready) - 1)))
        assert all(outcomes[str(awaited)] for awaited in edges[int(each)])
        if int(each) in bad:
            end([each])
        else:
            outcomes[each] = True
            ready += graph.succeeded(each)
    assert len(outcomes) == count
    assert not graph
    assert not list(graph.awaited())
