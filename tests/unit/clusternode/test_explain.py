"""Why a job waits and what came of it, as its origin tells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clusternode.core.events import Done, Found, LinkDown, LookUp
from clusternode.core.explain import explain_done
from protocol.dialogue import Explain, Submit
from protocol.explain import Attempt, Explained, Story, Tried
from protocol.job import Command, Extras, JobState, Outcome, Report, Sleep
from protocol.messages import AckJobs, Answer, Job, JobItem, Query, Result
from protocol.replies import Failure, JobView

from .bench import Bench, ended, ticket


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.connect()
    return made


def explained(bench: Bench, number: int = 1) -> Explained:
    """What is said at once."""
    bench.ask(Explain(ticket(number)))
    (reply,) = bench.replies()
    assert isinstance(reply, Explained)
    assert reply.ticket == ticket(number)
    return reply


def told(bench: Bench, value: Any, number: int = 1) -> Any:
    """What is said when the load balancer has answered so."""
    bench.ask(Explain(ticket(number)))
    (query,) = bench.sent(Query)
    assert (query.what, query.tickets) == ("explain", (ticket(number),))
    bench.hear(Answer(query.number, json.dumps(value)))
    (reply,) = bench.replies()
    return reply


def test_the_load_balancer_is_asked_and_its_words_are_passed_on(bench: Bench) -> None:
    bench.ask(Submit(Sleep(5)), ticket(1))
    attempts = [[1, "n1", 5.0, 6.5, "failed"], [2, "n2", 8.0, None, "runs"]]
    value = {"state": "running", "why": "it runs on n2", "until": None, "attempts": attempts, "before": 3}
    assert told(bench, {ticket(1): value}) == Explained(
        ticket(1),
        JobState.RUNNING,
        "it runs on n2",
        [Attempt(1, "n1", 5.0, 6.5, "failed"), Attempt(2, "n2", 8.0, None, "runs")],
        None,
        {"before": 3},
    )


def test_what_the_load_balancer_has_not_heard_of_is_on_its_way(bench: Bench) -> None:
    bench.ask(Submit(Sleep(5)), ticket(1))
    assert told(bench, {}) == Explained(ticket(1), JobState.QUEUED, "it is on its way to the ReverseProxy")


@pytest.mark.parametrize(
    "value",
    [
        [],
        {ticket(1): {}},
        {ticket(1): {"state": "odd", "why": "", "until": None, "attempts": []}},
        {ticket(1): {"state": "queued", "why": 5, "until": None, "attempts": []}},
        {ticket(1): {"state": "queued", "why": "", "until": "soon", "attempts": []}},
        {ticket(1): {"state": "queued", "why": "", "until": 1e18, "attempts": []}},
        {ticket(1): {"state": "queued", "why": "", "until": None, "attempts": [[1]]}},
        {ticket(1): {"state": "queued", "why": "", "until": None, "attempts": [1]}},
        {ticket(1): 5},
    ],
)
def test_an_answer_of_another_version_is_told(bench: Bench, value: Any) -> None:
    bench.ask(Submit(Sleep(5)), ticket(1))
    reply = told(bench, value)
    assert isinstance(reply, Failure)
    assert "does not understand" in reply.reason


def test_what_has_ended_meanwhile_is_looked_up(bench: Bench) -> None:
    bench.ask(Submit(Sleep(5)), ticket(1))
    bench.ask(Explain(ticket(1)))
    bench.hear(Result([ended(1)]))
    bench.hear(Answer(1, "{}"))
    assert [action.asked for action in bench.did(LookUp)] == [Explain(ticket(1))]


def test_when_the_link_breaks_it_is_told_what_is_known(bench: Bench) -> None:
    bench.ask(Submit(Sleep(5)), ticket(1))
    bench.ask(Explain(ticket(1)))
    bench.step(LinkDown())
    (reply,) = bench.replies()
    assert reply.why == "the ReverseProxy is away; it is handed in as soon as that is back"
    bench.connect(epoch=2)
    bench.hear(AckJobs([ticket(1)]))
    bench.step(LinkDown())
    assert (
        explained(bench).why == "the ReverseProxy is away; where the job is, is not known until that is back"
    )


def test_what_runs_here_is_known_without_the_load_balancer(bench: Bench) -> None:
    bench.ask(Submit(Sleep(60_000)), ticket(1))
    bench.hear(Job([JobItem(ticket(1), 1, bench.now, Sleep(60_000).pack())]))
    bench.step(LinkDown())
    reply = explained(bench)
    assert (reply.state, reply.why) == ("running", "the ReverseProxy is away; it runs on this node")


def test_a_dependant_says_what_it_waits_for(bench: Bench) -> None:
    bench.ask(Submit(Sleep(5)), ticket(1))
    bench.ask(Submit(Command("x", extras=Extras(after=(ticket(1),)))), ticket(2))
    reply = explained(bench, 2)
    assert (reply.state, reply.why) == ("queued", f"it waits for {ticket(1)}")
    assert reply.more == {"waits_for": [ticket(1)]}


def test_an_array_says_what_has_come_of_its_jobs(bench: Bench) -> None:
    line = bench.line(Submit(Command("x", extras=Extras(array=2))), ticket(1))
    bench.receive(line._replace(tickets=(ticket(2), ticket(3))))
    bench.hear(Result([ended(2)]))
    reply = explained(bench)
    assert (reply.state, reply.why) == (
        "running",
        "it ends with its 2 jobs: 1 queued or running, 1 succeeded",
    )


def test_a_job_whose_key_is_claimed_says_so(bench: Bench) -> None:
    bench.ask(Submit(Command("x", extras=Extras(key="k"))), ticket(1))
    bench.step(Found(1, {}))
    assert explained(bench).why == "it is handed in as soon as its key is known to be its own"
    bench.step(LinkDown())
    assert explained(bench).why.startswith("the ReverseProxy is away; it is handed in as soon as its key")


# --- when it is done -------------------------------------------------------------------------------


def test_what_came_of_earlier_attempts_is_recorded_with_the_end(bench: Bench) -> None:
    bench.ask(Submit(Sleep(5)), ticket(1))
    tried = (Attempt(1, "n1", 5.0, 6.5, "failed"),)
    bench.hear(Tried([Story(ticket(1), tried), Story(ticket(9), tried)]))
    assert not bench.actions
    bench.hear(Result([ended(1, attempt=2)]))
    assert bench.out.records == [Done(1, ended(1, attempt=2), tried)]
    assert not bench.core.origin._tried, "nothing is left of either"


def view(**report: Any) -> JobView:
    made = Report(finished_at=9.0, **report)
    return JobView(ticket(1), Command("x"), 1.0, JobState.DONE, 3, None, None, Outcome.FAILED, made)


TRIED = (Attempt(1, "n1", 5.0, 6.5, "failed"), Attempt(3, "n1", 7.0, 8.0, "lost: its node had died"))


def test_a_done_job_has_its_earlier_attempts_and_the_last_one() -> None:
    reply = explain_done(view(node="n2", started_at=8.5, exit_code=1), TRIED[:1])
    assert reply.state == "done"
    assert reply.why == "it has ended: failed, exit code 1, in 0.500 s on n2"
    assert reply.more == {"outcome": "failed"}
    assert reply.attempts == [TRIED[0], Attempt(3, "n2", 8.5, 9.0, "failed")]


def test_the_last_attempt_says_how_it_ended_also_where_it_had_been_taken_as_lost() -> None:
    reply = explain_done(view(node="n1", started_at=7.0, reason="a reason"), TRIED)
    assert reply.attempts == [TRIED[0], Attempt(3, "n1", 7.0, 9.0, "failed, a reason")]


def test_a_job_that_no_executor_ended_has_the_attempts_that_came_before() -> None:
    reply = explain_done(view(reason="3 attempts took their node along"), TRIED)
    assert reply.attempts == list(TRIED)
