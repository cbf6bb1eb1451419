"""The load balancer's core, one event at a time: no sockets, no clock but the numbers given."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from cluster import check_ledger
from loadbalancer.core.balancer import Balancer
from loadbalancer.core.events import (
    Close,
    Deliver,
    HelloReceived,
    LinkLost,
    MessageReceived,
    Outcome,
    Send,
    Tick,
)
from loadbalancer.core.jobs import Forget, Row, State
from loadbalancer.core.settings import Settings
from protocol.job import Ended, Report, Sleep, unpack_report
from protocol.limits import INFO_PERIOD, LINK_TIMEOUT
from protocol.messages import (
    AckJobs,
    AckResults,
    Bye,
    Cancel,
    Drop,
    Error,
    Held,
    Hello,
    Info,
    Job,
    JobItem,
    NotHere,
    Recall,
    Refuse,
    RequestOfRes,
    ResReq,
    Result,
    Returned,
    Started,
    Welcome,
)

M = TypeVar("M")
BODY = Sleep(5).pack()


def ticket(number: int) -> str:
    return f"T{number:015d}"


def ended(number: int, attempt: int = 1, outcome: str = "succeeded") -> Ended:
    return Ended(ticket(number), attempt, outcome, Report("n", 1.0, 2.0).pack())


class Bench:
    """A balancer, its clock, and every record so far."""

    def __init__(self, rows: list[Row] | None = None, **settings: Any) -> None:
        self.now = 1000.0
        self.core = Balancer(Settings(**settings), "lb", 1, rows or [], self.now)
        self.records: list[Any] = []
        self.actions: list[Any] = []

    def step(self, event: Any, after: float = 0.0) -> Outcome:
        self.now += after
        outcome = self.core.step(event, self.now)
        check_ledger(self.core)
        self.records += outcome.records
        self.actions = outcome.prompt + outcome.actions
        return outcome

    def join(self, link: int, slots: int = 1, **hello: Any) -> Outcome:
        values = {"node_id": f"id{link}", "instance": f"i{link}", "name": f"n{link}", "slots": slots} | hello
        return self.step(HelloReceived(link, Hello(**values)))

    def say(self, link: int, message: Any, after: float = 0.0) -> Outcome:
        return self.step(MessageReceived(link, message), after)

    def submit(self, link: int, *numbers: int) -> Outcome:
        return self.say(link, Job([JobItem(ticket(n), 0, self.now, BODY) for n in numbers]))

    def tick(self, after: float) -> Outcome:
        return self.step(Tick(), after)

    def sent(self, kind: type[M], link: int | None = None) -> list[M]:
        """What the last step sent of that kind."""
        return [
            action.message
            for action in self.actions
            if isinstance(action, Send) and isinstance(action.message, kind) and link in (None, action.link)
        ]

    def given(self, link: int) -> list[tuple[str, int]]:
        return [(item.ticket, item.attempt) for job in self.sent(Job, link) for item in job.jobs]

    def held(self) -> list[int]:
        return [len(node.jobs) for node in self.core.ledger.nodes.values()]


def test_a_submission_is_acknowledged_and_dispatched_after_one_record() -> None:
    bench = Bench()
    bench.join(1)
    outcome = bench.submit(1, 1)
    assert bench.sent(AckJobs, 1) == [AckJobs([ticket(1)])]
    assert bench.given(1) == [(ticket(1), 1)]
    (row,) = outcome.records
    assert isinstance(row, Row)
    assert (row.state, row.node, row.origin, row.body) == (State.ASSIGNED, "id1", "id1", BODY)
    assert not outcome.prompt


def test_a_repeated_submission_is_acknowledged_and_not_run_twice() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1)
    outcome = bench.submit(1, 1)
    assert bench.sent(AckJobs) == [AckJobs([ticket(1)])]
    assert not bench.sent(Job)
    assert not outcome.records


def test_jobs_go_to_the_least_loaded() -> None:
    bench = Bench()
    for link in (1, 2, 3):
        bench.join(link)
    bench.submit(1, *range(10))
    assert sorted(bench.held()) == [3, 3, 4]
    bench.submit(2, *range(10, 12))
    assert bench.held() == [4, 4, 4]


def test_periodic_mode_dispatches_on_the_timer_alone_and_at_most_so_many() -> None:
    bench = Bench(eager=False, dispatch_period=5.0, max_num_jobs_dispatch=4)
    bench.join(1)
    bench.submit(1, *range(10))
    assert not bench.sent(Job)
    counts = []
    for _ in range(3):
        bench.tick(5.0)
        counts.append(len(bench.given(1)))
        bench.say(1, Info(0, 0, 1, 0.0, 0))
    assert counts == [4, 4, 2]


def test_a_result_is_recorded_before_it_goes_home_and_forgotten_when_it_is_there() -> None:
    bench = Bench()
    bench.join(1)
    bench.join(2)
    bench.submit(1, 1)
    executor = next(link for link in (1, 2) if bench.given(link))
    outcome = bench.say(executor, Result([ended(1)]))
    (row,) = outcome.records
    assert isinstance(row, Row)
    assert (row.state, row.outcome, row.result) == (State.DONE, "succeeded", ended(1).body)
    assert bench.sent(Result, 1) == [Result([ended(1)])]
    assert bench.sent(AckResults, executor) == [AckResults([Held(ticket(1), 1)])]
    bench.say(1, AckResults([Held(ticket(1), 1)]))
    assert not bench.core.ledger.jobs
    bench.tick(INFO_PERIOD)
    assert bench.records[-1] == Forget(row.seq)


@pytest.mark.parametrize(
    "stale",
    [ended(1, attempt=2), ended(1, attempt=0), ended(99)],
    ids=["later attempt", "no attempt", "unknown"],
)
def test_a_result_that_is_not_of_the_current_attempt_is_dropped_counted_and_acknowledged(
    stale: Ended,
) -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1)
    outcome = bench.say(1, Result([stale]))
    assert not outcome.records
    assert bench.core.ledger.counters["stale"] == 1
    assert bench.sent(AckResults) == [AckResults([Held(stale.ticket, stale.attempt)])]


def test_a_forged_result_from_another_node_is_dropped() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1)
    bench.join(2)
    assert not bench.say(2, Result([ended(1)])).records
    assert bench.core.ledger.jobs[ticket(1)].state is State.ASSIGNED


def test_a_message_that_no_node_sends_ends_that_link_alone() -> None:
    bench = Bench()
    bench.join(1)
    bench.join(2)
    bench.say(1, Welcome("x", 1, 1.0))
    assert bench.sent(Error, 1)
    assert Close(1) in bench.actions
    bench.submit(2, 1)
    assert bench.given(2)


def test_jobs_of_a_node_that_is_away_wait_for_the_grace_period_and_then_go_to_another() -> None:
    bench = Bench(node_grace_period=10.0)
    bench.join(1)
    bench.submit(1, 1)
    bench.join(2)
    bench.step(LinkLost(1))
    for _ in range(9):
        bench.say(2, Info(0, 0, 1, 0.0, 0), after=0.5)
        bench.tick(0.5)
        assert not bench.given(2)
    bench.tick(1.0)
    assert bench.given(2) == [(ticket(1), 2)]


def test_a_node_that_comes_back_in_time_keeps_what_it_still_has() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, 2, 3)
    bench.step(LinkLost(1))
    outcome = bench.join(
        4,
        node_id="id1",
        held=(Held(ticket(2), 1),),
        running=(Held(ticket(1), 1),),
        finished=(Held(ticket(3), 1),),
    )
    assert not outcome.records
    assert not bench.sent(Job)
    assert bench.core.ledger.jobs[ticket(1)].state is State.RUNNING


def test_a_node_that_lost_its_jobs_gets_them_again_under_the_next_attempt() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, 2)
    bench.step(LinkLost(1))
    bench.join(4, node_id="id1", instance="new")
    assert sorted(bench.given(4)) == [(ticket(1), 2), (ticket(2), 2)]
    # One slot: only the first may have been running when the node died.
    assert bench.core.ledger.jobs[ticket(1)].losses == 1
    assert bench.core.ledger.jobs[ticket(2)].losses == 0


def test_what_a_node_holds_and_should_not_is_dropped() -> None:
    bench = Bench(node_grace_period=1.0)
    bench.join(1)
    bench.submit(1, 1)
    bench.step(LinkLost(1))
    bench.join(2)
    bench.tick(INFO_PERIOD)
    assert bench.given(2) == [(ticket(1), 2)]
    bench.join(4, node_id="id1", running=(Held(ticket(1), 1),))
    assert bench.sent(Drop, 4) == [Drop([Held(ticket(1), 1)])]


def test_a_job_that_keeps_losing_its_node_ends_as_lost_and_says_so() -> None:
    bench = Bench(crash_limit=3)
    for life in range(3):
        bench.join(10 + life, node_id="id1", instance=str(life))
        if life == 0:
            bench.submit(10, 1)
        bench.say(10 + life, Started([Held(ticket(1), life + 1)]))
        bench.step(LinkLost(10 + life))
    bench.join(20, node_id="id1", instance="last")
    (result,) = bench.sent(Result, 20)
    assert result.results[0].outcome == "lost"
    assert "CRASH_LIMIT=3" in unpack_report(result.results[0].body).reason


def test_a_goodbye_moves_jobs_at_once_and_counts_no_crash() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1)
    bench.join(2)
    bench.say(1, Bye())
    # The goodbye is still connected, so it may be given the job again; its link's end follows at once.
    assert bench.core.ledger.jobs[ticket(1)].losses == 0
    assert bench.core.ledger.jobs[ticket(1)].attempt == 2


def test_a_node_that_joins_is_given_its_share_by_recall() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(9))
    bench.join(2)
    bench.join(3)
    bench.tick(0.2)
    (recall,) = bench.sent(Recall, 1)
    assert [held.ticket for held in recall.jobs] == [ticket(n) for n in (8, 7, 6, 5, 4, 3)]
    bench.say(1, Returned(recall.jobs))
    assert bench.held() == [3, 3, 3]
    moved = bench.given(2) + bench.given(3)
    assert {attempt for _, attempt in moved} == {1}, "a job that was moved was not tried"


def test_what_started_before_the_recall_came_stays() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(4))
    bench.join(2)
    bench.tick(0.2)
    (recall,) = bench.sent(Recall, 1)
    bench.say(1, Returned(recall.jobs[:1]))
    assert bench.held() == [3, 1]


def test_a_recall_is_not_repeated_while_it_is_unanswered() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(4))
    bench.join(2)
    bench.tick(0.2)
    assert bench.sent(Recall)
    bench.tick(6.0)
    assert not bench.sent(Recall)


def test_a_queued_job_is_cancelled_at_once_and_a_running_one_by_its_executor() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1)
    bench.say(1, Cancel([Held(ticket(1), 0)]))
    assert bench.sent(Cancel, 1) == [Cancel([Held(ticket(1), 1)])]
    bench.say(1, Result([ended(1, outcome="cancelled")]))
    assert bench.core.ledger.jobs[ticket(1)].outcome == "cancelled"

    idle = Bench(eager=False)
    idle.join(1)
    idle.submit(1, 1)
    idle.say(1, Cancel([Held(ticket(1), 0)]))
    (result,) = idle.sent(Result, 1)
    assert result.results[0].outcome == "cancelled"
    idle.tick(10.0)
    assert not idle.sent(Job)


def test_a_cancelled_job_whose_node_is_lost_is_cancelled_not_dispatched_again() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1)
    bench.join(2)
    bench.say(1, Cancel([Held(ticket(1), 0)]))
    bench.step(LinkLost(1))
    assert bench.core.ledger.jobs[ticket(1)].outcome == "cancelled"


def test_only_the_origin_can_cancel() -> None:
    bench = Bench()
    bench.join(1)
    bench.join(2)
    bench.submit(1, 1)
    bench.say(2, Cancel([Held(ticket(1), 0)]))
    assert not bench.sent(Cancel)
    assert bench.core.ledger.jobs[ticket(1)].outcome == ""


def test_one_node_more_than_the_limit_is_refused_with_the_reason_and_gets_no_job() -> None:
    bench = Bench(max_num_nodes=1)
    bench.join(1)
    bench.join(2)
    (refusal,) = bench.sent(Refuse, 2)
    assert (refusal.status, "MAX_NUM_NODES=1" in refusal.reason) == (503, True)
    assert Close(2) in bench.actions
    bench.submit(1, *range(5))
    assert not bench.given(2)


def test_a_name_that_is_taken_and_a_copied_data_directory_are_refused() -> None:
    bench = Bench()
    bench.join(1)
    bench.join(2, name="n1")
    assert bench.sent(Refuse, 2)
    bench.join(3, node_id="id1", name="n3")
    assert "copied" in bench.sent(Refuse, 3)[0].reason
    assert len(bench.core.ledger.nodes) == 1


def test_the_same_instance_takes_its_dead_link_over() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1)
    bench.join(2, node_id="id1", instance="i1", name="n1", held=(Held(ticket(1), 1),))
    assert Close(1, at_once=True) in bench.actions
    assert bench.sent(Welcome, 2)
    bench.step(LinkLost(1))
    assert bench.held() == [1]
    assert bench.core.ledger.nodes["id1"].link == 2


def test_a_silent_node_loses_its_link_but_not_for_the_time_that_we_slept() -> None:
    bench = Bench()
    bench.join(1)
    bench.tick(INFO_PERIOD)
    bench.tick(60.0)  # we were stopped, not the node
    assert Close(1, at_once=True) not in bench.actions
    for _ in range(int(LINK_TIMEOUT / INFO_PERIOD) + 1):
        bench.tick(INFO_PERIOD)
    assert bench.core.ledger.nodes["id1"].link is None


def test_heartbeats_do_not_wait_for_the_disk() -> None:
    bench = Bench()
    bench.join(1)
    outcome = bench.tick(INFO_PERIOD)
    assert [type(action.message) for action in outcome.prompt if isinstance(action, Send)] == [Info]


def test_the_exchange_asks_for_what_is_open_and_a_node_without_it_loses_it() -> None:
    bench = Bench(request_result_period=3.0)
    bench.join(1)
    bench.submit(1, 1)
    bench.tick(3.0)
    assert bench.sent(RequestOfRes, 1) == [RequestOfRes([ticket(1)])]
    bench.say(1, NotHere([ticket(1)]))
    assert bench.given(1) == [(ticket(1), 2)]


def test_what_was_dispatched_after_the_question_is_not_taken_as_lost() -> None:
    bench = Bench(request_result_period=3.0)
    bench.join(1)
    bench.submit(1, 1)
    bench.tick(3.0)
    bench.say(1, Returned([Held(ticket(1), 1)]), after=0.1)
    assert bench.given(1) == [(ticket(1), 1)]
    bench.say(1, NotHere([ticket(1)]))
    assert bench.core.ledger.jobs[ticket(1)].attempt == 1


def test_a_result_that_was_not_acknowledged_is_delivered_again() -> None:
    bench = Bench(request_result_period=3.0)
    bench.join(1)
    bench.submit(1, 1)
    bench.say(1, Result([ended(1)]))
    bench.say(1, Info(0, 0, 1, 0.0, 0), after=2.0)
    bench.tick(2.0)
    bench.say(1, Info(0, 0, 1, 0.0, 0), after=2.0)
    bench.tick(1.1)
    (delivery,) = [action for action in bench.actions if isinstance(action, Deliver)]
    assert [stored.ticket for stored in delivery.results] == [ticket(1)]


def test_an_origin_that_asks_for_an_unknown_ticket_is_told_so() -> None:
    bench = Bench()
    bench.join(1)
    bench.say(1, ResReq([], [ticket(5)]))
    assert bench.sent(NotHere, 1) == [NotHere([ticket(5)])]


def test_a_restart_finds_every_job_where_it_was() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(300))
    bench.say(1, Result([ended(0)]))
    rows: dict[int, Row] = {}
    for row in bench.records:
        assert isinstance(row, Row)
        body = row.body if row.body is not None else rows[row.seq].body
        rows[row.seq] = row._replace(body=body, result=None)
    again = Bench(list(rows.values()))
    ledger = again.core.ledger
    assert len(ledger.jobs) == 300
    assert len(ledger.nodes["id1"].jobs) == 256
    assert ledger.waiting == 43
    assert list(ledger.nodes["id1"].undelivered) == [ticket(0)]
    again.join(2)
    assert len(again.given(2)) == 43, "what no node can hold is dispatched at once"
    assert len(ledger.nodes["id1"].jobs) == 256, "the rest waits for its node"
