"""The node's core, one event at a time: no sockets, no clock but the numbers given."""

from __future__ import annotations

from typing import Any

import pytest

from clusternode.core.events import (
    CancelAsked,
    ClientGone,
    CommandEnded,
    Disconnect,
    Done,
    Drain,
    Drained,
    Kept,
    Kill,
    LinkDown,
    LinkUp,
    LookUp,
    Released,
    Send,
    SendKept,
    Spawn,
    Stop,
    Submitted,
    TakeBack,
    TakenBack,
    Tick,
)
from clusternode.core.executor import STARTED_AFTER
from clusternode.core.lanes import AHEAD_MOST, PATIENCE
from clusternode.core.openjob import Stored
from clusternode.core.origin import HAND_IN_WINDOW
from clusternode.core.outbox import GATHER, GATHER_BYTES, KEEP_AFTER
from protocol.dialogue import CancelJob, GetResult, Nodes, Stats, Status, Submit, Wait
from protocol.job import Command, Extras, Sleep, unpack_report
from protocol.messages import (
    AckJobs,
    AckResults,
    Bye,
    Cancel,
    Check,
    Checked,
    Drop,
    Held,
    Hello,
    Info,
    Job,
    JobItem,
    NotHere,
    Query,
    Recall,
    Refuse,
    RequestOfRes,
    ResReq,
    Result,
    Returned,
    Started,
    Welcome,
)
from protocol.messages import Answer as BalancerAnswer
from protocol.messages import Drain as DrainMessage
from protocol.replies import CancelOf, JobView, NodesAre, ResultOf, StatsAre, StatusOf, TicketIssued

from .bench import Bench, ended, ticket

# --- the origin ----------------------------------------------------------------------------------


def test_asked_whether_results_are_home_it_acknowledges_those_and_names_the_others() -> None:
    bench = Bench()
    bench.connect()
    for number in (1, 2):
        bench.ask(Submit(Sleep(5)), ticket(number))
    bench.hear(Result([ended(1)]))
    out = bench.hear(Check([ticket(1), ticket(2)]))
    assert out.actions == [
        Send(AckResults([Held(ticket(1), 0)])),
        Send(Checked([ticket(2)])),
    ], "after the commit of what it says"


def test_a_ticket_is_recorded_before_it_is_shown_and_handed_in_after_that() -> None:
    bench = Bench()
    bench.connect()
    out = bench.ask(Submit(Sleep(5)), ticket(1))
    assert out.records == [Submitted(1, ticket(1), bench.now, Sleep(5).pack())]
    assert not out.prompt
    assert bench.replies() == [TicketIssued(ticket(1))]
    assert bench.sent(Job) == [Job([JobItem(ticket(1), 0, bench.now, Sleep(5).pack())])]


def test_submissions_are_taken_while_the_balancer_is_away_and_handed_in_when_it_is_back() -> None:
    bench = Bench()
    bench.ask(Submit(Sleep(5)), ticket(1))
    assert bench.replies() == [TicketIssued(ticket(1))]
    assert not bench.sent(Job)
    bench.connect()
    assert [item.ticket for item in bench.sent(Job)[0].jobs] == [ticket(1)]
    bench.hear(AckJobs([ticket(1)]))
    bench.step(LinkDown())
    bench.connect(epoch=2)
    assert not bench.sent(Job), "what was acknowledged is not handed in again"


def test_after_a_restart_open_tickets_are_handed_in_again_with_their_cancels() -> None:
    stored = [
        Stored(1, ticket(1), 1.0, Sleep(5).pack(), False),
        Stored(2, ticket(2), 1.0, Sleep(5).pack(), True),
    ]
    bench = Bench(stored=stored)
    bench.connect()
    assert [item.ticket for item in bench.sent(Job)[0].jobs] == [ticket(1), ticket(2)]
    assert bench.sent(Cancel) == [Cancel([Held(ticket(2), 0)])]


def test_a_result_is_recorded_then_shown_to_who_waits_then_acknowledged_and_only_once() -> None:
    bench = Bench()
    bench.connect()
    bench.ask(Submit(Sleep(5)), ticket(1))
    bench.ask(Wait(ticket(1)))
    assert not bench.replies()
    out = bench.hear(Result([ended(1)]))
    assert out.records == [Done(1, ended(1))]
    (reply,) = bench.replies()
    assert isinstance(reply, ResultOf)
    assert reply.job.outcome == "succeeded"
    assert bench.sent(AckResults) == [AckResults([Held(ticket(1), 1)])]
    out = bench.hear(Result([ended(1, "failed")]))
    assert not out.records
    assert bench.sent(AckResults), "the repetition is acknowledged too"


def test_what_is_not_open_is_looked_up_in_the_store() -> None:
    bench = Bench()
    bench.ask(GetResult(ticket(9)))
    assert bench.did(LookUp) == [LookUp(1, 1, GetResult(ticket(9)), ticket(9))]


def test_a_client_that_is_gone_leaves_nothing_behind() -> None:
    bench = Bench()
    bench.connect()
    bench.ask(Submit(Sleep(5)), ticket(1))
    for client in range(2, 50):
        bench.ask(Wait(ticket(1)), client=client)
        bench.step(ClientGone(client))
    assert bench.core.origin.open[ticket(1)].waiters is None
    bench.hear(Result([ended(1)]))
    assert not bench.replies()


def test_a_ticket_that_the_balancer_does_not_know_is_handed_in_again() -> None:
    bench = Bench()
    bench.connect()
    bench.ask(Submit(Sleep(5)), ticket(1))
    bench.hear(AckJobs([ticket(1)]))
    bench.hear(NotHere([ticket(1)]))
    assert [item.ticket for item in bench.sent(Job)[0].jobs] == [ticket(1)]


def test_the_exchange_asks_for_what_is_open_and_repeats_what_was_not_acknowledged() -> None:
    bench = Bench()
    bench.connect()
    bench.ask(Submit(Sleep(5)), ticket(7))
    bench.hear(AckJobs([ticket(7)]))
    bench.give(Sleep(0))
    bench.step(Tick(), after=1.0)
    bench.step(Tick(), after=2.5)
    (kept,) = bench.did(SendKept)
    assert (list(kept.kept), list(kept.tickets)) == ([ticket(0)], [ticket(7)])


def test_a_cancel_is_recorded_sent_and_answered_with_the_end_of_the_job() -> None:
    bench = Bench()
    bench.connect()
    bench.ask(Submit(Command("x")), ticket(1))
    out = bench.ask(CancelJob(ticket(1)))
    assert out.records == [CancelAsked(1)]
    assert bench.sent(Cancel) == [Cancel([Held(ticket(1), 0)])]
    assert not bench.replies()
    bench.hear(Result([ended(1, "cancelled")]))
    (reply,) = bench.replies()
    assert isinstance(reply, CancelOf)
    assert (reply.requested, reply.job.outcome) == (False, "cancelled")


def test_a_cancel_while_the_balancer_is_away_is_noted_and_said_so() -> None:
    bench = Bench()
    bench.ask(Submit(Command("x")), ticket(1))
    out = bench.ask(CancelJob(ticket(1)))
    assert out.records == [CancelAsked(1)]
    assert bench.replies()[0].requested
    bench.connect()
    assert bench.sent(Cancel) == [Cancel([Held(ticket(1), 0)])]


def test_a_cancel_is_answered_when_the_link_goes_down() -> None:
    bench = Bench()
    bench.connect()
    bench.ask(Submit(Command("x")), ticket(1))
    bench.ask(CancelJob(ticket(1)))
    bench.step(LinkDown())
    assert bench.replies()[0].requested


def test_the_status_is_the_balancers_word() -> None:
    bench = Bench()
    bench.connect()
    bench.ask(Submit(Command("x")), ticket(1))
    bench.ask(Status(ticket(1)))
    (query,) = bench.sent(Query)
    bench.hear(BalancerAnswer(query.number, f'{{"{ticket(1)}": ["running", 2, "n5", 7.5]}}'))
    (reply,) = bench.replies()
    view = reply.job
    assert isinstance(view, JobView)
    assert (view.state, view.attempt, view.node, view.started_at) == ("running", 2, "n5", 7.5)


@pytest.mark.parametrize("text", ["", "[", "5", "[1]", '{"T000000000000001": ["nowhere", 1, null, null]}'])
def test_an_answer_that_makes_no_sense_is_one_line_to_the_client(text: str) -> None:
    bench = Bench()
    bench.connect()
    bench.ask(Submit(Command("x")), ticket(1))
    bench.ask(Status(ticket(1)))
    bench.hear(BalancerAnswer(1, text))
    assert "does not understand" in bench.replies()[0].reason
    bench.ask(Nodes())
    bench.hear(BalancerAnswer(2, text))
    assert "does not understand" in bench.replies()[0].reason


def test_questions_are_answered_without_the_balancer() -> None:
    bench = Bench()
    bench.ask(Submit(Command("x")), ticket(1))
    kinds = []
    for asked in (Nodes(), Stats(), Status(ticket(1)), GetResult(ticket(1))):
        bench.ask(asked, as_json=True)
        kinds += [type(reply) for reply in bench.replies()]
    assert kinds == [NodesAre, StatsAre, StatusOf, ResultOf]
    bench.connect()
    bench.ask(Nodes())
    assert not bench.replies()
    bench.step(LinkDown())
    assert [type(reply) for reply in bench.replies()] == [NodesAre]


# --- the executor --------------------------------------------------------------------------------


def test_a_sleep_of_no_time_is_done_at_once_and_its_result_does_not_wait_for_our_disk() -> None:
    bench = Bench()
    bench.connect()
    out = bench.give(Sleep(0))
    assert not out.records
    (result,) = bench.sent(Result)
    assert result.results[0][:3] == (ticket(0), 1, "succeeded")
    assert out.prompt


def test_no_more_run_than_there_are_slots_and_the_next_starts_when_one_ends() -> None:
    bench = Bench(slots=2)
    bench.connect()
    bench.give(Command("a"), Command("b"), Command("c"))
    assert [spawn.line for spawn in bench.did(Spawn)] == ["a", "b"]
    bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, 0))
    assert [spawn.line for spawn in bench.did(Spawn)] == ["c"]


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        ({"exit_code": 0}, "succeeded"),
        ({"exit_code": 3}, "failed"),
        ({"exit_code": 143, "timed_out": True}, "timed-out"),
        ({"exit_code": 0, "timed_out": True}, "timed-out"),
        ({"exit_code": None}, "lost"),
    ],
)
def test_how_a_command_ended_is_its_outcome(event: dict[str, Any], outcome: str) -> None:
    bench = Bench()
    bench.connect()
    bench.give(Command("a"))
    bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, **event))
    assert bench.sent(Result)[0].results[0].outcome == outcome


def test_a_sleep_takes_its_time_and_a_slot() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Sleep(500), Sleep(500))
    assert bench.core.next_deadline() == pytest.approx(bench.now + STARTED_AFTER)
    bench.step(Tick(), after=0.5)
    (result,) = bench.sent(Result)
    report = unpack_report(result.results[0].body)
    assert report.started_at is not None
    assert report.finished_at - report.started_at == pytest.approx(0.5)
    assert len(bench.core.executor.running) == 1


def test_results_gather_while_more_jobs_wait_and_the_last_does_not_wait() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Command("a"), Command("b"), Command("c"))
    bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, 0))
    assert not bench.sent(Result)
    assert bench.core.next_deadline() == pytest.approx(bench.now + GATHER)
    bench.say(CommandEnded(ticket(1), 1, 1.0, 2.0, 0))
    assert len(bench.sent(Result)[0].results) == 2, "the queue is empty now"


def test_a_large_result_waits_for_no_other() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Command("a"), Command("b"), Command("c"))
    bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, 0, stdout=b"x" * GATHER_BYTES))
    assert len(bench.sent(Result)[0].results) == 1


def test_a_result_that_stays_unacknowledged_goes_to_disk_and_is_released_by_the_acknowledgement() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Sleep(0))
    (result,) = bench.sent(Result)
    out = bench.step(Tick(), after=KEEP_AFTER)
    assert out.records == [Kept(result.results[0])]
    out = bench.hear(AckResults([Held(ticket(0), 1)]))
    assert out.records == [Released(ticket(0))]


def test_a_result_that_cannot_be_sent_is_kept_and_sent_when_the_balancer_is_back() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Sleep(100))
    bench.step(LinkDown())
    out = bench.step(Tick(), after=0.1)
    assert [type(record) for record in out.records] == [Kept]
    bench.connect(epoch=2)
    assert bench.did(SendKept) == [SendKept([ticket(0)], ())]


def test_hello_says_what_is_held_runs_and_is_finished() -> None:
    bench = Bench(kept=[(ticket(50), 3, 100)])
    bench.connect()
    bench.give(Command("a"), Command("b"))
    bench.step(LinkDown())
    bench.step(LinkUp())
    (hello,) = bench.sent(Hello)
    assert hello.running == (Held(ticket(0), 1),)
    assert hello.held == (Held(ticket(1), 1),)
    assert hello.finished == (Held(ticket(50), 3),)


def test_a_repeated_or_older_attempt_is_not_run_and_a_newer_one_replaces_it() -> None:
    bench = Bench(slots=5)
    bench.connect()
    bench.give(Command("a"), attempt=2)
    bench.give(Command("a"), attempt=2)
    assert not bench.did(Spawn)
    bench.give(Command("a"), attempt=1)
    assert not bench.did(Spawn)
    bench.give(Command("a"), attempt=3)
    assert bench.did(Kill) == [Kill(ticket(0), 2)]
    assert [spawn.attempt for spawn in bench.did(Spawn)] == [3]
    bench.say(CommandEnded(ticket(0), 2, 1.0, 2.0, 143))
    assert not bench.sent(Result), "the end of the replaced attempt is nobody's news"


def test_only_what_has_not_started_is_given_back_and_there_is_always_an_answer() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Command("a"), Command("b"), Command("c"))
    bench.hear(Recall([Held(ticket(0), 1), Held(ticket(1), 2), Held(ticket(2), 1)]))
    assert bench.sent(Returned) == [Returned([Held(ticket(2), 1)])]
    bench.hear(Recall([Held(ticket(9), 1)]))
    assert bench.sent(Returned) == [Returned([])]


def test_a_cancel_ends_what_waits_at_once_and_kills_what_runs() -> None:
    bench = Bench(slots=1)
    bench.connect()
    bench.give(Command("a"), Command("b"))
    bench.hear(Cancel([Held(ticket(1), 1)]))
    assert bench.sent(Result)[0].results[0][:3] == (ticket(1), 1, "cancelled")
    bench.hear(Cancel([Held(ticket(0), 1)]))
    assert bench.did(Kill) == [Kill(ticket(0), 1)]
    bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, 0))
    assert bench.sent(Result)[0].results[0].outcome == "cancelled"


def test_a_sleep_that_is_cancelled_ends_at_once() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Sleep(10_000))
    bench.hear(Cancel([Held(ticket(0), 1)]))
    assert bench.sent(Result)[0].results[0].outcome == "cancelled"


def test_what_is_dropped_is_killed_and_never_reported() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Command("a"))
    bench.hear(Drop([Held(ticket(0), 1)]))
    assert bench.did(Kill) == [Kill(ticket(0), 1)]
    bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, 143))
    assert not bench.sent(Result)
    bench.hear(RequestOfRes([ticket(0)]))
    assert bench.sent(NotHere) == [NotHere([ticket(0)])]


def test_long_jobs_are_reported_as_started_and_short_ones_are_spared_it() -> None:
    bench = Bench(slots=2)
    bench.connect()
    bench.give(Command("a"), Sleep(10))
    bench.step(Tick(), after=0.01)
    bench.step(Tick(), after=STARTED_AFTER)
    assert bench.sent(Started) == [Started([Held(ticket(0), 1)])]


def test_a_job_that_nobody_understands_ends_as_failed_with_the_reason() -> None:
    bench = Bench()
    bench.connect()
    bench.hear(Job([JobItem(ticket(1), 1, 0.0, b"\xc1")]))
    (result,) = bench.sent(Result)
    assert result.results[0].outcome == "failed"
    assert "MessagePack" in unpack_report(result.results[0].body).reason


# --- commands ahead ------------------------------------------------------------------------------


def end(number: int, took: float = 0.001, attempt: int = 1, code: int | None = 0) -> CommandEnded:
    return CommandEnded(ticket(number), attempt, 1.0, 1.0 + took, code)


def after_short_ones(slots: int = 1) -> Bench:
    """A node whose commands have been short lately."""
    bench = Bench(slots)
    bench.connect()
    for number in range(100, 120):
        bench.hear(Job([JobItem(ticket(number), 1, bench.now, Command("short").pack())]))
        bench.say(end(number))
        bench.hear(AckResults([Held(ticket(number), 1)]))
    return bench


def ahead(bench: Bench) -> list[str]:
    return [job.item.ticket for job in bench.core.executor.ahead.values()]


def test_nothing_is_handed_ahead_before_commands_have_been_short() -> None:
    bench = Bench()
    bench.connect()
    bench.give(*[Command("a")] * 5)
    assert len(bench.did(Spawn)) == 1
    bench.say(end(0, took=0.001))
    assert len(bench.did(Spawn)) == 1


def test_short_commands_are_handed_ahead_in_order_and_start_by_themselves() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a", 5.0)] * 3)
    first, second, third = bench.did(Spawn)
    assert first == Spawn(ticket(0), 1, "a", 5.0)
    assert second == Spawn(ticket(1), 1, "a", 5.0, Held(ticket(0), 1))
    assert third == Spawn(ticket(2), 1, "a", 5.0, Held(ticket(0), 1))
    bench.say(end(0), end(1))
    assert not bench.did(Spawn)
    assert list(bench.core.executor.running) == [ticket(2)]
    assert not ahead(bench)


def test_no_more_than_a_bound_is_ahead_and_each_slot_gets_an_even_share() -> None:
    bench = after_short_ones(slots=3)
    bench.give(*[Command("a")] * 9)
    behind = [spawn.behind for spawn in bench.did(Spawn) if spawn.behind is not None]
    assert sorted(behind) == sorted([Held(ticket(number), 1) for number in range(3)] * 2)
    bench = after_short_ones(slots=2)
    bench.give(*[Command("a")] * 200)
    assert len(ahead(bench)) <= 2 * AHEAD_MOST
    assert len(bench.core.executor.queue) > 100


def test_a_sleep_is_not_handed_ahead_and_nothing_passes_it() -> None:
    bench = after_short_ones()
    bench.give(Command("a"), Command("b"), Sleep(50), Command("c"))
    assert [spawn.line for spawn in bench.did(Spawn)] == ["a", "b"]
    bench.say(end(0), end(1))
    assert list(bench.core.executor.running) == [ticket(2)]


def test_what_is_ahead_is_held_and_queued_and_not_running() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 3)
    bench.step(Tick(), after=1.0)
    (info,) = bench.sent(Info)
    assert (info.queue, info.running, info.free_slots) == (2, 1, 0)
    bench.hear(RequestOfRes([ticket(1)]))
    assert bench.sent(NotHere) == [NotHere([])]
    bench.step(LinkDown())
    bench.step(LinkUp())
    (hello,) = bench.sent(Hello)
    assert hello.running == (Held(ticket(0), 1),)
    assert sorted(hello.held) == [Held(ticket(1), 1), Held(ticket(2), 1)]


def test_results_gather_while_commands_are_ahead() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 2)
    bench.say(end(0))
    assert bench.sent(Result), "the last one runs: nothing more waits"
    bench.hear(Job([JobItem(ticket(number), 1, bench.now, Command("a").pack()) for number in (5, 6)]))
    bench.say(end(1))
    assert not bench.sent(Result)


def test_what_is_behind_a_command_that_takes_long_is_taken_back_in_order() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 4)
    assert bench.core.next_deadline() == pytest.approx(bench.now + PATIENCE)
    bench.step(Tick(), after=PATIENCE)
    asked = bench.did(TakeBack)
    assert [each.ticket for each in asked] == [ticket(3), ticket(2), ticket(1)]
    bench.say(*(TakenBack(each.ticket, 1) for each in asked))
    assert list(bench.core.executor.queue) == [ticket(1), ticket(2), ticket(3)]
    assert not bench.did(Spawn), "the one that takes long still runs"
    bench.hear(Recall([Held(ticket(3), 1)]))
    assert bench.sent(Returned) == [Returned([Held(ticket(3), 1)])]
    bench.say(end(0, took=0.1))
    assert bench.did(Spawn)[0] == Spawn(ticket(1), 1, "a", None)


def test_what_was_to_be_taken_back_and_has_started_meanwhile_runs() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 2)
    bench.step(Tick(), after=PATIENCE)
    assert bench.did(TakeBack) == [TakeBack(ticket(1), 1)]
    bench.say(end(0))
    assert list(bench.core.executor.running) == [ticket(1)]
    bench.say(end(1))
    assert [result.ticket for result in bench.sent(Result)[0].results] == [ticket(1)]


def test_a_slot_that_is_free_runs_what_was_taken_back() -> None:
    bench = after_short_ones(slots=2)
    bench.give(*[Command("a")] * 4)
    bench.say(end(0), end(2))
    bench.step(Tick(), after=PATIENCE)
    assert bench.did(TakeBack) == [TakeBack(ticket(3), 1)]
    bench.say(TakenBack(ticket(3), 1))
    assert bench.did(Spawn) == [Spawn(ticket(3), 1, "a", None)]


def test_a_recall_gives_back_what_is_ahead_if_it_has_not_started() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 3)
    bench.hear(Recall([Held(ticket(1), 1), Held(ticket(2), 1)]))
    assert bench.sent(Returned) == [Returned([])]
    assert len(bench.did(TakeBack)) == 2
    bench.say(TakenBack(ticket(2), 1), end(0))
    assert bench.sent(Returned) == [Returned([Held(ticket(2), 1)])]
    assert list(bench.core.executor.running) == [ticket(1)]


def test_a_cancel_of_what_is_ahead_ends_it_before_it_starts_or_kills_it() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 3)
    bench.hear(Cancel([Held(ticket(1), 1), Held(ticket(2), 1)]))
    assert not bench.sent(Result)
    bench.say(TakenBack(ticket(2), 1))
    bench.say(end(0))
    assert bench.did(Kill) == [Kill(ticket(1), 1)]
    assert [each[:3] for each in bench.sent(Result)[0].results] == [
        (ticket(2), 1, "cancelled"),
        (ticket(0), 1, "succeeded"),
    ]
    bench.say(end(1, code=143))
    assert bench.sent(Result)[0].results[0][:3] == (ticket(1), 1, "cancelled")


@pytest.mark.parametrize("starts", [True, False])
def test_what_is_dropped_while_ahead_is_never_reported(starts: bool) -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 3)
    bench.hear(Drop([Held(ticket(1), 1)]))
    bench.hear(RequestOfRes([ticket(1)]))
    assert bench.sent(NotHere) == [NotHere([ticket(1)])]
    if starts:
        bench.say(end(0))
        assert bench.did(Kill) == [Kill(ticket(1), 1)]
        assert bench.did(TakeBack) == [TakeBack(ticket(2), 1)]
        assert not bench.core.executor.running
        bench.say(end(1, code=143))
    else:
        bench.say(TakenBack(ticket(1), 1))
        bench.say(end(0))
    assert list(bench.core.executor.running) == [ticket(2)]
    assert ticket(1) not in bench.core.executor.outbox


def test_a_newer_attempt_of_what_is_ahead_replaces_it() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 2)
    bench.hear(Job([JobItem(ticket(1), 2, bench.now, Command("b").pack())]))
    assert bench.did(TakeBack) == [TakeBack(ticket(1), 1)]
    bench.say(TakenBack(ticket(1), 1))
    for news in (end(0), end(1, attempt=2)):
        bench.say(news)
        (result,) = bench.sent(Result)
        assert [each[:2] for each in result.results] == [news[:2]]


def test_what_was_lost_before_goes_behind_nothing_and_has_the_results_before_it_sent_first() -> None:
    """Should it take its node along again, no other is to be blamed."""
    bench = after_short_ones()
    bench.give(Command("a"))
    bench.hear(Job([JobItem(ticket(1), 2, bench.now, Command("b").pack())]))
    assert not bench.did(Spawn)
    bench.hear(Job([JobItem(ticket(number), 1, bench.now, Command("c").pack()) for number in (5, 6)]))
    bench.say(end(0))
    assert next(spawn.line for spawn in bench.did(Spawn)) == "b"
    assert [result.results[0].ticket for result in bench.sent(Result)] == [ticket(0)]
    bench.say(end(1, attempt=2))
    assert not bench.sent(Result), "others gather as ever"


def test_a_kill_takes_back_first_what_is_behind() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 2)
    bench.hear(Drop([Held(ticket(0), 1)]))
    assert bench.out.prompt[:2] == [TakeBack(ticket(1), 1), Kill(ticket(0), 1)]
    bench.hear(Job([JobItem(ticket(7), 1, bench.now, Command("b").pack())]))
    assert not bench.did(Spawn), "the helper is not free, and something is behind it"
    bench.say(TakenBack(ticket(1), 1))
    assert bench.did(Spawn)[0] == Spawn(ticket(1), 1, "a", None)


def test_a_helper_that_dies_loses_what_runs_and_gives_back_the_rest() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 3)
    bench.say(TakenBack(ticket(2), 1), TakenBack(ticket(1), 1), end(0, code=None))
    assert bench.core.executor.running.keys() == {ticket(1)}
    assert [spawn.ticket for spawn in bench.did(Spawn)] == [ticket(1), ticket(2)]
    bench.say(end(1), end(2))
    (result,) = bench.sent(Result)
    assert [each.outcome for each in result.results] == ["lost", "succeeded", "succeeded"]


def test_a_node_that_drains_returns_what_is_ahead_when_its_helper_gives_it_back() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 3)
    bench.step(Drain())
    assert len(bench.did(TakeBack)) == 2
    bench.say(TakenBack(ticket(2), 1))
    assert bench.sent(Returned) == [Returned([Held(ticket(2), 1)])]
    bench.say(end(0))
    bench.hear(AckResults([Held(ticket(0), 1)]))
    assert not bench.did(Drained), "the other one has started"
    bench.say(end(1))
    bench.hear(AckResults([Held(ticket(1), 1)]))
    assert bench.did(Drained)


def test_what_comes_back_to_a_draining_node_without_a_link_is_returned_when_there_is_one() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 2)
    bench.step(LinkDown())
    bench.step(Drain())
    bench.say(TakenBack(ticket(1), 1))
    assert not bench.did(Spawn)
    bench.connect(epoch=2)
    assert bench.sent(Returned) == [Returned([Held(ticket(1), 1)])]


def test_a_stop_kills_what_starts_by_itself() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 2)
    out = bench.step(Stop())
    assert out.prompt == [TakeBack(ticket(1), 1), Kill(ticket(0), 1)]
    bench.say(end(0))
    assert bench.did(Kill) == [Kill(ticket(1), 1)]
    bench.say(end(1))
    assert not bench.sent(Result)


def test_what_runs_ahead_is_reported_as_started_only_when_it_runs() -> None:
    bench = after_short_ones()
    bench.give(*[Command("a")] * 2)
    bench.step(Tick(), after=STARTED_AFTER)
    assert bench.sent(Started) == [Started([Held(ticket(0), 1)])]
    bench.say(end(0))
    bench.step(Tick(), after=STARTED_AFTER)
    assert bench.sent(Started) == [Started([Held(ticket(1), 1)])]


# --- the link ------------------------------------------------------------------------------------


def test_nothing_but_hello_is_said_before_the_welcome() -> None:
    bench = Bench()
    bench.ask(Submit(Sleep(0)), ticket(1))
    bench.step(LinkUp())
    assert [type(action.message) for action in bench.actions if isinstance(action, Send)] == [Hello]


def test_an_older_epoch_of_the_same_balancer_is_left_alone() -> None:
    bench = Bench()
    bench.connect(epoch=5)
    bench.step(LinkDown())
    bench.connect(epoch=4)
    assert bench.did(Disconnect)
    assert not bench.core.connected


@pytest.mark.parametrize("message", [Bye(), Started([]), Job([]), ResReq([], [])])
def test_a_balancer_that_breaks_the_protocol_or_speaks_before_its_welcome_is_not_obeyed(message: Any) -> None:
    bench = Bench()
    bench.step(LinkUp())
    bench.hear(message)
    assert not bench.core.connected
    assert not bench.sent(Returned)


def test_a_refusal_ends_the_link_with_its_reason() -> None:
    bench = Bench()
    bench.step(LinkUp())
    bench.hear(Refuse(503, "full"))
    assert bench.did(Disconnect) == [Disconnect("refused: full")]


def test_a_silent_balancer_is_left() -> None:
    bench = Bench()
    bench.connect()
    reasons = []
    for _ in range(8):
        bench.step(Tick(), after=1.0)
        reasons += bench.did(Disconnect)
    assert reasons
    assert "silent" in reasons[0].reason


def test_a_balancer_is_not_silent_while_nothing_is_read() -> None:
    bench = Bench()
    bench.connect()
    for _ in range(60):
        bench.step(Tick(deaf=True), after=1.0)
        assert not bench.did(Disconnect)


def test_a_stop_ends_commands_keeps_results_and_says_goodbye() -> None:
    bench = Bench(slots=2)
    bench.connect()
    bench.give(Command("a"), Sleep(0), Command("c"))
    bench.step(LinkDown())
    bench.connect(epoch=2)
    out = bench.step(Stop())
    assert sorted(kill.ticket for kill in bench.did(Kill)) == [ticket(0), ticket(2)]
    assert bench.sent(Bye)
    assert [type(record) for record in out.records] in ([], [Kept])


# --- draining ------------------------------------------------------------------------------------


def test_a_node_that_drains_says_so_gives_back_what_waits_and_lets_what_runs_end() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Command("a"), Command("b"), Command("c"))
    out = bench.step(Drain())
    assert out.prompt == [
        Send(DrainMessage()),
        Send(Returned([Held(ticket(1), 1), Held(ticket(2), 1)])),
    ]
    assert not bench.did(Kill)
    assert not bench.did(Drained), "one runs"
    bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, 0))
    assert bench.sent(Result)[0].results[0][:3] == (ticket(0), 1, "succeeded")
    assert not bench.did(Spawn)
    assert not bench.did(Drained), "its result is not acknowledged"
    bench.hear(AckResults([Held(ticket(0), 1)]))
    assert bench.did(Drained)


def test_a_node_with_nothing_to_do_is_drained_at_once() -> None:
    bench = Bench()
    bench.connect()
    assert not bench.did(Drained)
    bench.step(Drain())
    assert bench.sent(DrainMessage)
    assert not bench.sent(Returned)
    assert bench.did(Drained)


def test_a_sleep_runs_to_its_end_while_the_node_drains() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Sleep(500))
    bench.step(Drain())
    bench.step(Tick(), after=0.5)
    assert bench.sent(Result)[0].results[0].outcome == "succeeded"
    bench.hear(AckResults([Held(ticket(0), 1)]))
    assert bench.did(Drained)


@pytest.mark.parametrize("message", [Cancel([Held(ticket(0), 1)]), Drop([Held(ticket(0), 1)])])
def test_what_runs_while_the_node_drains_can_be_ended(message: Any) -> None:
    bench = Bench()
    bench.connect()
    bench.give(Command("a"))
    bench.step(Drain())
    bench.hear(message)
    assert bench.did(Kill) == [Kill(ticket(0), 1)]
    bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, 143))
    bench.hear(AckResults([Held(ticket(0), 1)]))
    assert bench.did(Drained)


def test_results_of_before_are_waited_for_too_and_only_the_acknowledgement_ends_that() -> None:
    bench = Bench(kept=[(ticket(50), 3, 100)])
    bench.connect()
    bench.give(Sleep(0))
    bench.step(Drain())
    bench.hear(AckResults([Held(ticket(0), 1)]))
    assert not bench.did(Drained)
    bench.hear(AckResults([Held(ticket(50), 2)]))
    assert not bench.did(Drained), "that was another attempt"
    bench.hear(AckResults([Held(ticket(50), 3)]))
    assert bench.did(Drained)


def test_jobs_that_come_while_a_node_drains_go_straight_back() -> None:
    bench = Bench(slots=4)
    bench.connect()
    bench.give(Command("a"))
    bench.step(Drain())
    bench.give(Command("a"), Command("b"), Sleep(0))
    assert bench.sent(Returned) == [Returned([Held(ticket(1), 1), Held(ticket(2), 1)])]
    assert not bench.did(Spawn)
    assert not bench.sent(Result)
    assert not bench.core.executor.queue
    bench.hear(RequestOfRes([ticket(1)]))
    assert bench.sent(NotHere) == [NotHere([ticket(1)])]


def test_a_recall_is_answered_while_a_node_drains() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Command("a"), Command("b"))
    bench.step(Drain())
    bench.hear(Recall([Held(ticket(1), 1)]))
    assert bench.sent(Returned) == [Returned([])]


def test_a_stop_after_the_time_to_drain_ends_what_still_runs_and_says_goodbye_last() -> None:
    bench = Bench(slots=2)
    bench.connect()
    bench.give(Command("a"), Sleep(10_000), Command("c"))
    bench.step(Drain())
    out = bench.step(Stop())
    assert out.prompt == [Kill(ticket(0), 1)]
    assert out.actions == [Send(Bye())]
    bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, 143))
    assert not bench.sent(Result), "it runs again elsewhere"


def test_a_stop_keeps_the_results_that_nobody_acknowledged() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Sleep(0))
    (result,) = bench.sent(Result)
    bench.step(Drain())
    out = bench.step(Stop())
    assert out.records == [Kept(result.results[0])]


def test_a_welcome_while_a_node_drains_is_answered_with_drain() -> None:
    bench = Bench()
    bench.connect()
    assert not bench.sent(DrainMessage)
    bench.give(Command("a"))
    bench.step(Drain())
    bench.step(LinkDown())
    bench.step(LinkUp())
    (hello,) = bench.sent(Hello)
    assert hello.running == (Held(ticket(0), 1),)
    assert not bench.sent(DrainMessage), "nothing but hello is said before the welcome"
    bench.hear(Welcome("lb", 2, 3.0))
    assert bench.out.prompt[0] == Send(DrainMessage())
    bench.give(Command("b"))
    assert not bench.did(Spawn)


def test_a_node_without_a_balancer_is_drained_when_nothing_runs_and_keeps_its_results() -> None:
    bench = Bench()
    bench.connect()
    bench.give(Command("a"))
    bench.step(LinkDown())
    bench.step(Drain())
    assert not bench.sent(DrainMessage)
    assert not bench.did(Drained)
    out = bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, 0))
    assert [type(record) for record in out.records] == [Kept]
    assert out.actions == [Drained()], "not prompt: the result is on disk before"


def test_a_balancer_that_is_back_in_time_gets_the_results_of_a_node_that_drains() -> None:
    bench = Bench(slots=2)
    bench.connect()
    bench.give(Command("a"), Command("b"))
    bench.step(LinkDown())
    bench.step(Drain())
    bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, 0))
    bench.connect(epoch=2)
    assert bench.sent(DrainMessage)
    assert bench.did(SendKept) == [SendKept([ticket(0)], ())]
    bench.hear(AckResults([Held(ticket(0), 1)]))
    assert not bench.did(Drained), "one runs"
    bench.say(CommandEnded(ticket(1), 1, 1.0, 2.0, 0))
    assert not bench.did(Drained)
    bench.hear(AckResults([Held(ticket(1), 1)]))
    assert bench.did(Drained)


def test_a_node_that_drains_shows_it_when_it_alone_can_be_asked() -> None:
    bench = Bench()
    shown = []
    for event in (Tick(), Drain()):
        bench.step(event)
        bench.ask(Nodes())
        (reply,) = bench.replies()
        shown.append([node["draining"] for node in reply.nodes])
    assert shown == [[False], [True]]


# --- priorities --------------------------------------------------------------------------------------


def test_what_waits_here_goes_by_priority_and_then_by_its_coming() -> None:
    bench = Bench()
    bench.connect()

    def give(*jobs: tuple[int, int]) -> None:
        items = [
            JobItem(ticket(number), 1, 1.0, Sleep(1000).pack(), priority=priority)
            for number, priority in jobs
        ]
        bench.hear(Job(items))

    give((0, 0))
    give((1, 0), (2, 5), (3, 0))
    give((4, 5), (5, -1), (6, 9))
    assert list(bench.core.executor.queue) == [ticket(number) for number in (6, 2, 4, 1, 3, 5)]
    assert list(bench.core.executor.running) == [ticket(0)], "what runs is left alone"


def test_what_a_command_asks_for_reaches_its_helper() -> None:
    bench = Bench(slots=2)
    bench.connect()
    extras = Extras(3, "name", env=(("A", "b"),), stdin="x")
    bench.give(Command("a", extras=extras), Command("b", extras=Extras(3, "name")))
    assert [spawn.extras for spawn in bench.did(Spawn)] == [extras, None]


def test_of_very_many_jobs_as_many_are_handed_in_at_once_as_a_link_takes() -> None:
    line = Command("x" * 60_000)
    stored = [Stored(n, ticket(n), 1.0, line.pack(), n == 400) for n in range(1, 401)]
    bench = Bench(stored=stored)
    bench.connect()
    first = [item.ticket for message in bench.sent(Job) for item in message.jobs]
    assert first == [ticket(n) for n in range(1, 1 + len(first))]
    assert HAND_IN_WINDOW <= 60_000 * len(first) + 64 * len(first) < HAND_IN_WINDOW + 120_000
    assert not bench.sent(Cancel)
    bench.step(Tick(), 1.0)
    assert not bench.sent(Job), "none of them is acknowledged"
    bench.hear(AckJobs(first[:10]))
    assert [item.ticket for message in bench.sent(Job) for item in message.jobs] == [
        ticket(len(first) + n) for n in range(1, 11)
    ]
    bench.hear(AckJobs(first[10:]))
    assert bench.sent(Cancel) == [Cancel([Held(ticket(400), 0)])]
    assert bench.sent(Job)[-1].jobs[-1].ticket == ticket(400)


def test_a_new_link_has_room_for_all_again() -> None:
    stored = [Stored(n, ticket(n), 1.0, Command("x" * 60_000).pack(), False) for n in range(1, 401)]
    bench = Bench(stored=stored)
    bench.connect()
    first = bench.sent(Job)
    bench.step(LinkDown())
    bench.connect(epoch=2)
    assert bench.sent(Job) == first
