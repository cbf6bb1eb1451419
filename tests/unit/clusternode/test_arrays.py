"""`--array`: many jobs that were submitted as one."""

from __future__ import annotations

from typing import Any

import pytest

from clusternode.core.events import CancelAsked, Done, Find, Found, LinkDown, LookUp, Record, Submitted
from clusternode.core.openjob import Stored
from clusternode.core.submissions import AT_START
from protocol.dialogue import CancelJob, GetResult, Status, Submit, Wait
from protocol.job import Command, Extras, unpack_report, unpack_spec
from protocol.messages import AckJobs, Cancel, Held, Job, Result
from protocol.replies import ArrayView, CancelOf, StatusOf, TicketIssued

from .bench import Bench, ended, ticket

ARRAY = ticket(100)


def array(size: int = 3, *after: int, **fields: Any) -> Command:
    return Command("x", extras=Extras(array=size, after=tuple(map(ticket, after))), **fields)


def submit(bench: Bench, spec: Command) -> None:
    """The array 100 with the jobs 101, 102, …"""
    tickets = [ticket(101 + index) for index in range(spec.extras.array)]
    bench.receive(bench.line(Submit(spec), ARRAY)._replace(tickets=tickets))


def handed_in(bench: Bench) -> list[str]:
    return [item.ticket for message in bench.sent(Job) for item in message.jobs]


def ends(bench: Bench) -> dict[str, str]:
    done = [record.ended for record in bench.out.records if isinstance(record, Done)]
    return {each.ticket: f"{each.outcome}: {unpack_report(each.body).reason}" for each in done}


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.connect()
    return made


def test_it_is_kept_with_its_jobs_behind_it_and_they_are_handed_in(bench: Bench) -> None:
    submit(bench, array(retries=2))
    assert bench.replies() == [TicketIssued(ARRAY)]
    records = [record for record in bench.out.records if isinstance(record, Submitted)]
    assert [(record.seq, record.ticket) for record in records] == [(1 + n, ticket(100 + n)) for n in range(4)]
    spec = unpack_spec(records[2].body)
    assert isinstance(spec, Command)
    assert dict(spec.extras.env) == {"EVENLY_ARRAY_INDEX": "1", "EVENLY_ARRAY_TICKET": ARRAY}
    (message,) = bench.sent(Job)
    assert [(item.ticket, item.retries) for item in message.jobs] == [(ticket(101 + n), 2) for n in range(3)]
    bench.ask(Submit(Command("y")), ticket(1))
    (record,) = bench.out.records
    assert isinstance(record, Submitted)
    assert record.seq == 5


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (("succeeded", "succeeded", "succeeded"), "succeeded: 3 jobs: 3 succeeded"),
        (("succeeded", "failed", "succeeded"), "failed: 3 jobs: 2 succeeded, 1 failed"),
        (("lost", "timed-out", "cancelled"), "failed: 3 jobs: 1 timed-out, 1 cancelled, 1 lost"),
    ],
)
def test_it_ends_with_the_last_of_its_jobs_in_the_same_commit(
    bench: Bench, outcomes: tuple[str, ...], said: str
) -> None:
    submit(bench, array())
    for number, outcome in enumerate(outcomes[:2], 101):
        bench.hear(Result([ended(number, outcome)]))
        assert list(ends(bench)) == [ticket(number)]
    bench.ask(Wait(ARRAY), as_json=True)
    bench.hear(Result([ended(103, outcomes[2])]))
    assert list(ends(bench)) == [ticket(103), ARRAY]
    assert ends(bench)[ARRAY] == said
    (look_up,) = bench.did(LookUp)
    assert look_up.asked == Wait(ARRAY), "its jobs are read from the store"
    assert not bench.core.origin.open


def test_its_status_sums_its_jobs_up_without_asking_anybody(bench: Bench) -> None:
    submit(bench, array())
    bench.hear(Result([ended(101), ended(103, "failed")]))
    bench.ask(Status(ARRAY))
    (reply,) = bench.replies()
    assert isinstance(reply, StatusOf)
    assert reply.job.state == "running"
    assert reply.job.array == ArrayView(3, {"succeeded": 1, "failed": 1})
    bench.ask(GetResult(ARRAY, 2), as_json=True)
    assert [look_up.asked for look_up in bench.did(LookUp)] == [GetResult(ARRAY, 2)]


def test_what_the_balancer_says_of_the_array_itself_is_dropped(bench: Bench) -> None:
    submit(bench, array())
    bench.hear(Result([ended(100)]))
    assert not bench.out.records
    assert bench.core.origin.stale == 1


# --- cancels -------------------------------------------------------------------------------------


def test_a_cancel_reaches_all_its_jobs_that_have_not_ended(bench: Bench) -> None:
    submit(bench, array())
    bench.hear(Result([ended(102)]))
    bench.ask(CancelJob(ARRAY))
    assert bench.out.records == [CancelAsked(1)]
    assert bench.sent(Cancel) == [Cancel([Held(ticket(101), 0), Held(ticket(103), 0)])]
    bench.hear(Result([ended(101, "cancelled")]))
    assert not bench.did(LookUp)
    bench.hear(Result([ended(103, "cancelled")]))
    assert ends(bench)[ARRAY] == "cancelled: 3 jobs: 1 succeeded, 2 cancelled"
    assert [look_up.asked for look_up in bench.did(LookUp)] == [CancelJob(ARRAY)]


def test_a_cancel_that_comes_too_late_leaves_it_as_it_is(bench: Bench) -> None:
    submit(bench, array(2))
    bench.ask(CancelJob(ARRAY))
    bench.hear(Result([ended(101), ended(102)]))
    assert ends(bench)[ARRAY] == "succeeded: 2 jobs: 2 succeeded"


def test_a_cancel_while_the_balancer_is_away_is_noted_for_each_of_them() -> None:
    bench = Bench()
    submit(bench, array(2))
    bench.ask(CancelJob(ARRAY))
    (reply,) = bench.replies()
    assert isinstance(reply, CancelOf)
    assert reply.requested
    bench.connect()
    assert bench.sent(Cancel) == [Cancel([Held(ticket(101), 0), Held(ticket(102), 0)])]


def test_one_of_them_may_be_cancelled(bench: Bench) -> None:
    submit(bench, array(2))
    bench.ask(CancelJob(ticket(102)))
    assert bench.sent(Cancel) == [Cancel([Held(ticket(102), 0)])]
    bench.hear(Result([ended(102, "cancelled"), ended(101)]))
    assert ends(bench)[ARRAY] == "failed: 2 jobs: 1 succeeded, 1 cancelled"


# --- restarts ------------------------------------------------------------------------------------


def stored(*jobs: Record, cancelled: bool = False) -> list[Stored]:
    return [Stored(*job[:4], cancelled and job.seq == 1) for job in jobs if isinstance(job, Submitted)]


def restarted(spec: Command, *done: int, cancelled: bool = False) -> Bench:
    """With what a node had on its disk when those jobs were done; and a job that came behind the array."""
    before = Bench()
    submit(before, spec)
    if before.did(Find):
        before.step(Found(1, dict.fromkeys(spec.extras.after, "succeeded")))
    records = list(before.out.records)
    before.ask(Submit(Command("y")), ticket(1))
    jobs = stored(*records, *before.out.records, cancelled=cancelled)
    return Bench(stored=[job for job in jobs if job.ticket not in map(ticket, done)])


def test_after_a_restart_its_jobs_are_those_behind_it() -> None:
    bench = restarted(array(), 101, 102)
    assert bench.core.origin.to_count() == {ARRAY: (1, 3)}
    bench.step(Found(AT_START, {}, {ARRAY: {"succeeded": 1, "lost": 1}}))
    bench.connect()
    assert handed_in(bench) == [ticket(103), ticket(1)]
    bench.hear(Result([ended(1), ended(103)]))
    assert ends(bench)[ARRAY] == "failed: 3 jobs: 2 succeeded, 1 lost"


def test_after_a_restart_a_cancel_of_the_array_is_one_of_its_jobs() -> None:
    bench = restarted(array(), 101, cancelled=True)
    bench.step(Found(AT_START, {}, {ARRAY: {"succeeded": 1}}))
    bench.connect()
    assert bench.sent(Cancel) == [Cancel([Held(ticket(102), 0), Held(ticket(103), 0)])]
    bench.hear(Result([ended(102, "cancelled"), ended(103, "cancelled")]))
    assert ends(bench)[ARRAY] == "cancelled: 3 jobs: 1 succeeded, 2 cancelled"


def test_an_array_all_of_whose_jobs_are_done_ends_at_the_start() -> None:
    bench = restarted(array(), 101, 102, 103)
    bench.step(Found(AT_START, {}, {ARRAY: {"succeeded": 3}}))
    assert ends(bench) == {ARRAY: "succeeded: 3 jobs: 3 succeeded"}


def test_so_do_all_of_them_and_what_came_after_them_is_handed_in() -> None:
    """No crash leaves such a store behind; it would be read all the same."""
    numbered = [
        Stored(1, ticket(1), 1.0, array(2).pack(), False),
        Stored(4, ticket(4), 1.0, array(2, 1).pack(), False),
        Stored(7, ticket(7), 1.0, Command("x", extras=Extras(after=(ticket(4),))).pack(), False),
    ]
    bench = Bench(stored=numbered)
    assert bench.core.origin.to_count() == {ticket(1): (1, 2), ticket(4): (4, 2)}
    bench.step(Found(AT_START, {}, {ticket(1): {"succeeded": 2}, ticket(4): {"succeeded": 2}}))
    assert list(ends(bench)) == [ticket(4), ticket(1)]
    bench.connect()
    assert handed_in(bench) == [ticket(7)]


def test_a_new_link_hands_in_its_jobs_and_not_itself(bench: Bench) -> None:
    submit(bench, array())
    bench.hear(AckJobs([ticket(102)]))
    bench.step(LinkDown())
    bench.connect(epoch=2)
    assert handed_in(bench) == [ticket(101), ticket(103)]


# --- with --after --------------------------------------------------------------------------------


def test_an_array_that_comes_after_a_job_is_handed_in_as_a_whole(bench: Bench) -> None:
    bench.ask(Submit(Command("y")), ticket(1))
    submit(bench, array(3, 1))
    assert handed_in(bench) == []
    for asked in (ARRAY, ticket(102)):
        bench.ask(Status(asked))
        (reply,) = bench.replies()
        assert isinstance(reply, StatusOf)
        assert (reply.job.state, reply.job.waits_for) == ("queued", (ticket(1),))
    bench.hear(Result([ended(1)]))
    assert handed_in(bench) == [ticket(101), ticket(102), ticket(103)]


@pytest.mark.parametrize("found", [False, True])
def test_an_array_that_comes_after_a_failure_fails_with_its_jobs(bench: Bench, found: bool) -> None:
    if not found:
        bench.ask(Submit(Command("y")), ticket(1))
    submit(bench, array(3, 1))
    if found:
        assert bench.did(Find)
        bench.step(Found(1, {ticket(1): "failed"}))
        assert bench.replies() == [TicketIssued(ARRAY)]
    else:
        bench.hear(Result([ended(1, "failed")]))
    reason = f"not started: it comes after {ticket(1)}, which failed"
    said = ends(bench)
    assert {said[ticket(101 + index)] for index in range(3)} == {f"failed: {reason}"}
    assert said[ARRAY] == f"failed: {reason}; 3 jobs: 3 failed"
    assert not bench.core.origin.open
    assert handed_in(bench) == []


def test_a_job_may_come_after_an_array_and_after_one_of_its_jobs(bench: Bench) -> None:
    submit(bench, array(2))
    for number, awaited in ((1, ARRAY), (2, ticket(101))):
        bench.ask(Submit(Command("y", extras=Extras(after=(awaited,)))), ticket(number))
    bench.hear(Result([ended(101)]))
    assert handed_in(bench) == [ticket(2)]
    bench.hear(Result([ended(102)]))
    assert handed_in(bench) == [ticket(1)]


def test_while_it_waits_a_cancel_of_it_or_of_one_of_its_jobs_is_done_at_once(bench: Bench) -> None:
    bench.ask(Submit(Command("y")), ticket(1))
    submit(bench, array(3, 1))
    bench.ask(CancelJob(ticket(102)))
    assert ends(bench) == {ticket(102): "cancelled: before it started"}
    bench.ask(CancelJob(ARRAY))
    assert ends(bench)[ARRAY] == "cancelled: 3 jobs: 3 cancelled"
    assert len(ends(bench)) == 3
    bench.hear(Result([ended(1)]))
    assert handed_in(bench) == []


def test_after_a_restart_it_waits_as_before() -> None:
    bench = restarted(array(2, 50))
    assert bench.core.origin.to_find() == [ticket(50)]
    bench.connect()
    assert handed_in(bench) == [ticket(1)]
    bench.step(Found(AT_START, {ticket(50): "succeeded"}, {ARRAY: {}}))
    assert handed_in(bench) == [ticket(101), ticket(102)]
