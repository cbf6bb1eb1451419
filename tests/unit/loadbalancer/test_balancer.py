"""The load balancer's core, one event at a time: no sockets, no clock but the numbers given."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from cluster import check_ledger
from loadbalancer.core.balancer import Balancer
from loadbalancer.core.dispatch import HUNGRY_PART, ROUND_PAUSE
from loadbalancer.core.events import (
    Close,
    Deliver,
    HelloReceived,
    LinkLost,
    Log,
    MessageReceived,
    Outcome,
    Send,
    Tick,
)
from loadbalancer.core.jobs import Forget, Row, State
from loadbalancer.core.jobs import Job as JobOfBalancer
from loadbalancer.core.ledger import LOST_REMEMBERED
from loadbalancer.core.nodes import DEPTH_A_SLOT, DEPTH_SECONDS, FIRST_DEPTH, MOST_DEPTH
from loadbalancer.core.settings import Settings
from protocol.job import Ended, Report, Sleep, unpack_report
from protocol.limits import INFO_PERIOD, LINK_TIMEOUT
from protocol.messages import (
    AckJobs,
    AckResults,
    Answer,
    Bye,
    Cancel,
    Drain,
    Drop,
    Error,
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

M = TypeVar("M")
BODY = Sleep(5).pack()


def ticket(number: int) -> str:
    return f"T{number:015d}"


def ended(number: int, attempt: int = 1, outcome: str = "succeeded") -> Ended:
    return Ended(ticket(number), attempt, outcome, Report("n", 1.0, 2.0).pack())


class Bench:
    """A balancer, its clock, every record so far and every job that it gave away."""

    def __init__(self, rows: list[Row] | None = None, now: float = 1000.0, **settings: Any) -> None:
        self.now = now
        self.core = Balancer(Settings(**settings), "lb", 1, rows or [], self.now)
        self.records: list[Any] = []
        self.actions: list[Any] = []
        self.dispatched: list[tuple[str, int]] = []

    def step(self, event: Any, after: float = 0.0) -> Outcome:
        self.now += after
        outcome = self.core.step(event, self.now)
        check_ledger(self.core)
        self.records += outcome.records
        self.actions = outcome.prompt + outcome.actions
        self.dispatched += [(item.ticket, item.attempt) for job in self.sent(Job) for item in job.jobs]
        return outcome

    def join(self, link: int, slots: int = 1, **hello: Any) -> Outcome:
        values = {"node_id": f"id{link}", "instance": f"i{link}", "name": f"n{link}", "slots": slots} | hello
        return self.step(HelloReceived(link, Hello(**values)))

    def say(self, link: int, message: Any, after: float = 0.0) -> Outcome:
        return self.step(MessageReceived(link, message), after)

    def submit(
        self, link: int, *numbers: int, retries: int = 0, at_most_once: bool = False, priority: int = 0
    ) -> Outcome:
        items = [JobItem(ticket(n), 0, self.now, BODY, retries, at_most_once, priority) for n in numbers]
        return self.say(link, Job(items))

    def tick(self, after: float) -> Outcome:
        return self.step(Tick(), after)

    def pass_time(self, seconds: float, *links: int) -> None:
        """So long, with every tick, while these nodes are heard of."""
        for _ in range(int(seconds / INFO_PERIOD)):
            for link in links:
                self.say(link, Info(0, 0, 1, 0.0, 0))
            self.tick(INFO_PERIOD)

    def tick_at(self, moment: float) -> Outcome:
        self.now = moment
        return self.tick(0.0)

    def rows(self) -> list[Row]:
        """What is in the store by now, as a restart loads it."""
        rows: dict[int, Row] = {}
        for record in self.records:
            if isinstance(record, Forget):
                del rows[record.seq]
                continue
            assert isinstance(record, Row)
            body = record.body if record.body is not None else rows[record.seq].body
            rows[record.seq] = record._replace(body=body, result=None)
        return list(rows.values())

    def restarted(self, after: float = 0.0, **settings: Any) -> Bench:
        return Bench(self.rows(), self.now + after, **settings)

    def job(self, number: int = 1) -> JobOfBalancer:
        return self.core.ledger.jobs[ticket(number)]

    def stale(self) -> int:
        return self.core.ledger.counters["stale"]

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


def test_rounds_gather_while_no_node_is_near_to_idle() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(400))
    bench.say(1, Result([ended(0)]))
    assert not bench.given(1), "it has enough to do"
    due = bench.core.next_deadline()
    assert due == pytest.approx(bench.now + ROUND_PAUSE)
    bench.tick_at(due)
    assert len(bench.given(1)) == 1
    most = FIRST_DEPTH - FIRST_DEPTH // HUNGRY_PART
    bench.say(1, Result([ended(number) for number in range(1, 1 + most)]))
    assert not bench.given(1)
    bench.say(1, Result([ended(1 + most)]))
    assert bench.given(1), "it is hungry, and that cannot wait"


def test_a_round_that_was_put_off_is_forgotten_when_nothing_waits_any_more() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(FIRST_DEPTH + 1))
    bench.say(1, Result([ended(0)]))
    assert bench.core.next_deadline() == pytest.approx(bench.now + ROUND_PAUSE)
    bench.say(1, Cancel([Held(ticket(FIRST_DEPTH), 0)]))
    bench.tick(ROUND_PAUSE)
    assert bench.core.next_deadline() > bench.now


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


def test_one_that_is_refused_again_and_again_is_logged_once_for_each_reason() -> None:
    bench = Bench(max_num_nodes=1)
    bench.join(1)
    logged = []
    for link, name in ((2, "n2"), (3, "n2"), (4, "n1"), (5, "n1"), (6, "n2")):
        bench.join(link, node_id="id2", name=name)
        logged += [action.text for action in bench.actions if isinstance(action, Log)]
    assert len(logged) == 3
    assert all("refused" in text for text in logged)
    # After it was let in, it is news again.
    bench.step(LinkLost(1))
    bench.join(7, node_id="id2", name="n2")
    bench.join(8, node_id="id8")
    bench.step(LinkLost(7))
    bench.join(9, node_id="id9")
    bench.join(10, node_id="id2", name="n2")
    assert any(isinstance(action, Log) and "refused" in action.text for action in bench.actions)


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


def test_nobody_is_silent_or_away_for_too_long_while_nothing_is_read() -> None:
    bench = Bench(node_grace_period=10.0)
    bench.join(1)
    bench.join(2)
    bench.submit(1, 1)
    (away,) = (link for link in (1, 2) if bench.given(link))
    bench.step(LinkLost(away))
    other = bench.core.ledger.nodes[f"id{3 - away}"]
    for _ in range(60):
        bench.step(Tick(deaf=True), INFO_PERIOD)
    assert other.link is not None
    assert bench.job().attempt == 1
    bench.pass_time(11.0)
    assert other.link is None
    assert bench.job().attempt == 2


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


def given_back(bench: Bench, link: int, number: int) -> Outcome:
    """What the job is to find could not be had on the node: it had a slot, and has not started."""
    held = [Held(ticket(number), bench.job(number).attempt)]
    bench.say(link, Started(held))
    return bench.say(link, Returned(held))


def test_a_job_whose_files_cannot_be_kept_on_a_node_is_given_away_again_and_nobody_crashed() -> None:
    bench = Bench(crash_limit=1)
    bench.join(1)
    bench.submit(1, 1, at_most_once=True)
    for _ in range(5):
        given_back(bench, 1, 1)
        assert bench.given(1) == [(ticket(1), 1)]
    job = bench.job()
    assert (job.losses, job.failures) == (0, 0)
    assert {told.how for told in job.story or ()} == {"not started: its files could not be kept there"}


def test_one_whose_origin_is_away_and_has_its_files_waits_for_it_in_no_slot() -> None:
    bench = Bench(node_grace_period=10.0)
    bench.join(1)
    bench.join(2)
    bench.submit(1, 1, 2)
    (number,) = (n for n in (1, 2) if bench.job(n).node == "id2")
    bench.step(LinkLost(1))
    given_back(bench, 2, number)
    assert bench.job(number).state is State.DELAYED
    bench.pass_time(400.0, 2)
    assert bench.job(number).state is State.DELAYED
    again = bench.restarted()
    again.join(2)
    assert again.job(number).state is State.DELAYED
    again.join(1, instance="i1 again")
    again.tick(INFO_PERIOD)
    assert again.job(number).state is not State.DELAYED
    assert again.job(number).attempt == 1


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
    bench.submit(1, *range(100))
    bench.say(1, Result([ended(0)]), after=ROUND_PAUSE)
    again = bench.restarted()
    ledger = again.core.ledger
    assert len(ledger.jobs) == 100
    assert len(ledger.nodes["id1"].jobs) == FIRST_DEPTH + 1, (
        "one has ended, and its executor still has the result"
    )
    assert ledger.waiting == 35
    again.join(2)
    assert len(again.given(2)) == 35, "what no node can hold is dispatched at once"
    assert len(ledger.nodes["id1"].jobs) == FIRST_DEPTH + 1, "the rest waits for its node"


def test_a_node_of_short_jobs_holds_more_of_them_and_one_of_long_jobs_fewer() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(2000))
    node = bench.core.ledger.nodes["id1"]
    assert len(node.jobs) == FIRST_DEPTH
    done = iter(range(2000))
    for _ in range(60):  # 16 jobs in 2 ms
        bench.say(1, Result([ended(next(done)) for _ in range(16)]), after=0.002)
    bench.tick(ROUND_PAUSE)
    assert len(node.jobs) == MOST_DEPTH
    for _ in range(300):
        bench.say(1, Result([ended(next(done))]), after=0.005)
    bench.tick(ROUND_PAUSE)
    assert len(node.jobs) == pytest.approx(DEPTH_SECONDS / 0.005, abs=1)
    for _ in range(300):
        bench.say(1, Result([ended(next(done))]), after=0.05)
    bench.tick(ROUND_PAUSE)
    assert len(node.jobs) == DEPTH_A_SLOT


def test_a_node_that_runs_dry_soon_gets_more_at_once() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 0)
    bench.say(1, Result([ended(0)]), after=60.0)
    node = bench.core.ledger.nodes["id1"]
    assert node.depth == DEPTH_A_SLOT
    bench.submit(1, *range(1, 1000))
    assert len(node.jobs) == DEPTH_A_SLOT
    for _ in range(3):
        bench.say(1, Result([Ended(each, 1, "succeeded", b"") for each in node.jobs]), after=0.002)
    assert len(node.jobs) == MOST_DEPTH


def test_all_nodes_may_hold_as_many_as_the_fastest() -> None:
    bench = Bench()
    bench.join(1)
    bench.join(2)
    bench.submit(1, *range(400))
    for number in range(0, 60, 2):  # node 1 does a job in 1 ms, node 2 none
        bench.say(1, Result([ended(number)]), after=0.001)
    bench.tick(ROUND_PAUSE)
    one, two = bench.held()
    assert abs(one - two) <= 1


def test_a_node_that_joins_gets_as_many_as_those_that_are_there_hold() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(300))
    bench.say(1, Result([ended(0)]), after=60.0)  # they take long: nothing more is dispatched
    bench.tick(ROUND_PAUSE)
    assert bench.held() == [FIRST_DEPTH - 1]
    bench.join(2)
    bench.tick(ROUND_PAUSE)
    assert bench.held() == [FIRST_DEPTH] * 2, "as many as a node of which nothing is known"


def test_a_higher_priority_goes_first_and_a_lower_one_last() -> None:
    bench = Bench(eager=False, max_num_jobs_dispatch=1000)
    bench.join(1)
    for number, priority in enumerate((0, -3, 5, 0, 100, -100, 5)):
        bench.submit(1, number, priority=priority)
    bench.tick(5.0)
    assert [given for given, _ in bench.given(1)] == [ticket(number) for number in (4, 2, 6, 0, 3, 1, 5)]
    assert [item.priority for item in bench.sent(Job, 1)[0].jobs] == [100, 5, 5, 0, 0, -3, -100]
    assert [row.priority for row in bench.rows()] == [0, -3, 5, 0, 100, -100, 5]


def test_each_origin_gets_its_turn() -> None:
    bench = Bench(eager=False, max_num_jobs_dispatch=1000)
    bench.join(1)
    bench.join(2)
    bench.submit(1, *range(5))
    bench.submit(2, 10, 11)
    bench.tick(5.0)
    given = [given for given, _ in bench.dispatched]
    order = sorted(given, key=lambda each: bench.core.ledger.jobs[each].node or "")
    assert {order.index(ticket(10)) % 4, order.index(ticket(11)) % 4} <= {0, 1}, "not behind the five"


# --- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["failed", "timed-out"])
def test_what_failed_is_tried_again_ever_later_and_the_last_failure_is_the_outcome(outcome: str) -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, retries=12)
    delays = []
    for attempt in range(1, 13):
        assert bench.given(1) == [(ticket(1), attempt)]
        out = bench.say(1, Result([ended(1, attempt, outcome)]))
        assert bench.sent(AckResults, 1) == [AckResults([Held(ticket(1), attempt)])]
        assert not bench.sent(Result), "its origin hears of the outcome alone"
        (row,) = out.records
        assert isinstance(row, Row)
        assert (row.state, row.attempt, row.failures) == (State.DELAYED, attempt + 1, attempt)
        assert (row.node, row.outcome, row.result) == (None, "", None)
        due = bench.core.ledger.next_retry()
        assert due is not None
        assert row.not_before == due
        assert bench.core.next_deadline() <= due
        delays.append(due - bench.now)
        bench.say(1, Info(0, 0, 1, 0.0, 0), after=delays[-1] - 0.001)
        assert not bench.sent(Job)
        assert bench.core.next_deadline() <= due
        bench.tick_at(due)
    assert delays == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300])
    assert bench.given(1) == [(ticket(1), 13)]
    last = ended(1, 13, outcome)
    bench.say(1, Result([last]))
    assert bench.sent(Result, 1) == [Result([last])]
    assert bench.sent(Result, 1) == [Result([last])]
    counters = bench.core.ledger.counters
    assert (counters["retried"], counters[outcome], counters["lost attempts"]) == (12, 1, 0)
    assert bench.stale() == 0


def test_a_retry_that_succeeds_is_the_outcome() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, retries=5)
    bench.say(1, Result([ended(1, outcome="failed")]))
    bench.tick(1.0)
    bench.say(1, Result([ended(1, 2)]))
    assert bench.sent(Result, 1) == [Result([ended(1, 2)])]
    assert (bench.job().outcome, bench.job().attempt) == ("succeeded", 2)
    bench.pass_time(10.0, 1)
    assert bench.dispatched == [(ticket(1), 1), (ticket(1), 2)]


@pytest.mark.parametrize("outcome", ["succeeded", "cancelled"])
def test_what_did_not_fail_is_not_tried_again(outcome: str) -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, retries=5)
    bench.say(1, Result([ended(1, outcome=outcome)]))
    assert bench.job().outcome == outcome


def test_a_job_that_is_to_be_cancelled_is_not_tried_again() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, retries=5)
    bench.say(1, Cancel([Held(ticket(1), 0)]))
    bench.say(1, Result([ended(1, outcome="failed")]))
    assert bench.job().outcome == "failed"


def test_a_retry_goes_to_whoever_is_least_loaded_behind_what_waits() -> None:
    bench = Bench(eager=False, dispatch_period=5.0)
    bench.join(1)
    bench.submit(1, 1, retries=1)
    bench.tick(5.0)
    bench.say(1, Result([ended(1, outcome="failed")]))
    bench.submit(1, 2)
    bench.pass_time(5.0, 1)
    assert bench.dispatched == [(ticket(1), 1), (ticket(2), 1), (ticket(1), 2)]


def test_a_repeated_result_of_a_failed_attempt_is_stale() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, retries=1)
    failed = Result([ended(1, outcome="failed")])
    bench.say(1, failed)
    due = bench.core.ledger.next_retry()
    out = bench.say(1, failed, after=0.5)
    assert not out.records
    assert bench.sent(AckResults, 1) == [AckResults([Held(ticket(1), 1)])]
    assert (bench.stale(), bench.core.ledger.next_retry()) == (1, due)
    bench.tick(0.5)
    assert bench.given(1) == [(ticket(1), 2)]
    assert not bench.say(1, failed).records
    assert bench.stale() == 2
    assert (bench.job().state, bench.job().attempt, bench.job().failures) == (State.ASSIGNED, 2, 1)


def test_a_delayed_job_is_cancelled_at_once() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, 2, retries=5)
    bench.say(1, Result([ended(1, outcome="failed"), ended(2, outcome="failed")]))
    assert bench.core.ledger.delayed == 2
    bench.say(1, Cancel([Held(ticket(1), 0)]))
    (result,) = bench.sent(Result, 1)
    assert [each[:3] for each in result.results] == [(ticket(1), 2, "cancelled")]
    assert bench.core.ledger.delayed == 1
    bench.pass_time(5.0, 1)
    assert bench.dispatched[2:] == [(ticket(2), 2)]
    assert bench.core.ledger.next_retry() is None


def test_a_delayed_job_is_queued_to_who_asks() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, retries=1)
    bench.say(1, Result([ended(1, outcome="failed")]))
    bench.say(1, Query(7, "status", (ticket(1),)))
    (answer,) = bench.sent(Answer, 1)
    assert json.loads(answer.text) == {ticket(1): ["queued", 2, None, None]}
    stats = bench.core.stats()
    assert (stats["delayed"], stats["queued"], stats["retried"]) == (1, 0, 1)


def test_a_restart_keeps_a_delayed_job_delayed_and_its_failures_counted() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, retries=2)
    bench.say(1, Result([ended(1, outcome="failed")]))
    bench.tick(1.0)
    bench.say(1, Result([ended(1, 2, "failed")]))
    due = bench.core.ledger.next_retry()
    assert due == pytest.approx(bench.now + 2.0)
    again = bench.restarted(after=0.5)
    assert (again.job().state, again.core.ledger.delayed) == (State.DELAYED, 1)
    assert again.core.ledger.next_retry() == due
    assert again.core.next_deadline() <= due
    again.join(1)
    assert not again.sent(Job)
    again.tick_at(due)
    assert again.given(1) == [(ticket(1), 3)]
    again.say(1, Result([ended(1, 3, "failed")]))
    assert again.job().outcome == "failed", "the two retries are used up"


def test_a_delay_that_ended_during_a_restart_is_over() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, retries=2)
    bench.say(1, Result([ended(1, outcome="failed")]))
    again = bench.restarted(after=60.0)
    again.join(1)
    assert again.given(1) == [(ticket(1), 2)]
    assert again.job().not_before == 0.0


def test_losses_use_up_no_retries_and_failures_are_no_crashes() -> None:
    bench = Bench(crash_limit=3)
    bench.join(1)
    bench.submit(1, 1, retries=2)
    for attempt, life in ((1, 2), (2, 3)):
        assert bench.job().attempt == attempt
        bench.step(LinkLost(life - 1))
        bench.join(life, node_id="id1", instance=str(life), name="n1")
    assert (bench.job().losses, bench.job().failures) == (2, 0)
    for attempt, delay in ((3, 1.0), (4, 2.0)):
        assert bench.given(3) == [(ticket(1), attempt)]
        bench.say(3, Result([ended(1, attempt, "failed")]))
        assert bench.job().state is State.DELAYED
        bench.tick(delay)
    assert (bench.job().losses, bench.job().failures) == (2, 2)
    assert bench.given(3) == [(ticket(1), 5)]
    bench.say(3, Result([ended(1, 5, "failed")]))
    assert bench.job().outcome == "failed"
    assert bench.core.ledger.counters["lost attempts"] == 2


def test_one_crash_too_many_ends_a_job_whatever_retries_it_has() -> None:
    bench = Bench(crash_limit=1)
    bench.join(1)
    bench.submit(1, 1, retries=5)
    bench.say(1, Result([ended(1, outcome="lost")]))
    assert bench.job().outcome == "lost"


# --- at most once --------------------------------------------------------------------------------


def reason_of(bench: Bench, number: int = 1) -> str:
    """Why the job ended, as it was recorded."""
    (body,) = [
        r.result for r in bench.records if isinstance(r, Row) and r.ticket == ticket(number) and r.result
    ]
    return unpack_report(body).reason


def away_for_too_long(bench: Bench) -> None:
    bench.step(LinkLost(1))
    bench.pass_time(9.0, 2)
    assert bench.job().outcome == "", "it may come back yet"
    bench.pass_time(3.0, 2)


def restarted_without_it(bench: Bench) -> None:
    bench.step(LinkLost(1))
    bench.join(3, node_id="id1", instance="new", name="n1")


def back_without_it(bench: Bench) -> None:
    bench.step(LinkLost(1))
    bench.join(3, node_id="id1", instance="i1", name="n1")


def worker_lost(bench: Bench) -> None:
    bench.say(1, Result([ended(1, outcome="lost")]))


def not_there_when_asked(bench: Bench) -> None:
    bench.tick(3.0)
    bench.say(1, NotHere([ticket(1)]))


def goodbye(bench: Bench) -> None:
    bench.say(1, Bye())


WAYS_TO_LOSE = [
    away_for_too_long,
    restarted_without_it,
    back_without_it,
    worker_lost,
    not_there_when_asked,
    goodbye,
]


@pytest.mark.parametrize("has_started", [False, True])
@pytest.mark.parametrize("lose", WAYS_TO_LOSE, ids=lambda way: way.__name__)
def test_a_job_that_runs_at_most_once_ends_as_lost_with_its_node(
    lose: Callable[[Bench], None], has_started: bool
) -> None:
    bench = Bench(node_grace_period=10.0)
    bench.join(1)
    bench.join(2)
    bench.submit(2, 1, at_most_once=True)
    assert bench.given(1) == [(ticket(1), 1)]
    if has_started:
        bench.say(1, Started([Held(ticket(1), 1)]))
    lose(bench)
    assert (bench.job().outcome, bench.job().attempt) == ("lost", 1)
    began = "it had started" if has_started else "whether it had started is not known"
    assert reason_of(bench).startswith("its ")
    assert reason_of(bench).endswith(f", and {began} (--at-most-once)")
    assert list(bench.core.ledger.nodes["id2"].undelivered) == [ticket(1)]
    bench.join(9)
    bench.pass_time(20.0, 2, 9)
    assert bench.dispatched == [(ticket(1), 1)]


def test_a_restart_of_the_balancer_keeps_a_job_at_most_once() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, at_most_once=True)
    again = bench.restarted()
    again.join(1, held=(Held(ticket(1), 1),))
    assert again.job().outcome == ""
    again.step(LinkLost(1))
    again.join(2, node_id="id1", instance="new", name="n1")
    assert again.job().outcome == "lost"
    assert not again.dispatched


def test_a_job_at_most_once_that_never_started_moves_on() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(4), at_most_once=True)
    bench.join(2)
    bench.tick(0.2)
    (recall,) = bench.sent(Recall, 1)
    bench.say(1, Returned(recall.jobs))
    assert sorted(bench.given(2)) == [(ticket(2), 1), (ticket(3), 1)]
    for link, number in ((1, 0), (1, 1), (2, 2), (2, 3)):
        bench.say(link, Result([ended(number)]))
        assert bench.job(number).outcome == "succeeded"


def test_a_job_at_most_once_that_is_cancelled_and_lost_is_cancelled() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, at_most_once=True)
    bench.say(1, Cancel([Held(ticket(1), 0)]))
    bench.step(LinkLost(1))
    assert bench.job().outcome == "cancelled"


# --- late results --------------------------------------------------------------------------------


def thought_lost(**job: Any) -> Bench:
    """Attempt 1 on node id1 was thought lost, attempt 2 is on node 2; id1 is back on link 4, done with it."""
    bench = Bench(node_grace_period=1.0)
    bench.join(1)
    bench.submit(1, 1, **job)
    bench.step(LinkLost(1))
    bench.join(2)
    bench.tick(INFO_PERIOD)
    assert bench.given(2) == [(ticket(1), 2)]
    bench.join(4, node_id="id1", instance="i1", name="n1", finished=(Held(ticket(1), 1),))
    assert not bench.sent(Drop)
    return bench


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "timed-out"])
def test_a_late_result_is_the_outcome_and_the_other_attempt_is_dropped(outcome: str) -> None:
    bench = thought_lost()
    late = ended(1, 1, outcome)
    (row,) = bench.say(4, Result([late])).records
    assert isinstance(row, Row)
    assert (row.state, row.outcome, row.attempt, row.node) == (State.DONE, outcome, 1, None)
    assert row.result == late.body
    assert bench.sent(Drop, 2) == [Drop([Held(ticket(1), 2)])]
    assert bench.sent(AckResults, 4) == [AckResults([Held(ticket(1), 1)])]
    assert bench.sent(Result, 4) == [Result([late])]
    assert (bench.core.ledger.counters["late results"], bench.stale()) == (1, 0)
    # It was too late to drop it: the second result is stale.
    assert not bench.say(2, Result([ended(1, 2)])).records
    assert bench.sent(AckResults, 2) == [AckResults([Held(ticket(1), 2)])]
    assert not bench.sent(Result)
    assert (bench.job().outcome, bench.stale()) == (outcome, 1)
    assert bench.core.ledger.counters["late results"] == 1


@pytest.mark.parametrize("outcome", ["lost", "cancelled"])
def test_a_late_result_of_what_did_not_really_end_is_stale(outcome: str) -> None:
    bench = thought_lost()
    assert not bench.say(4, Result([ended(1, 1, outcome)])).records
    assert not bench.sent(Drop)
    assert (bench.job().outcome, bench.job().attempt, bench.stale()) == ("", 2, 1)


def test_a_late_result_from_a_node_that_never_had_that_attempt_is_stale() -> None:
    bench = thought_lost()
    bench.join(3)
    for link in (2, 3):
        assert not bench.say(link, Result([ended(1, 1)])).records
        assert not bench.sent(Drop)
    assert not bench.say(4, Result([ended(1, 3)])).records, "nor an attempt that there never was"
    assert bench.stale() == 3
    assert bench.core.ledger.counters["late results"] == 0
    bench.say(2, Result([ended(1, 2)]))
    assert (bench.job().outcome, bench.job().attempt) == ("succeeded", 2)


def test_no_late_result_changes_an_outcome() -> None:
    bench = thought_lost()
    bench.say(2, Result([ended(1, 2, "failed")]))
    assert not bench.say(4, Result([ended(1, 1)])).records
    assert not bench.sent(Result)
    assert (bench.job().outcome, bench.job().attempt, bench.stale()) == ("failed", 2, 1)


def test_a_job_at_most_once_that_ended_as_lost_stays_lost() -> None:
    bench = Bench(node_grace_period=1.0)
    bench.join(1)
    bench.submit(1, 1, at_most_once=True)
    bench.step(LinkLost(1))
    bench.pass_time(2.0)
    assert bench.job().outcome == "lost"
    bench.join(4, node_id="id1", instance="i1", name="n1", finished=(Held(ticket(1), 1),))
    assert not bench.say(4, Result([ended(1)])).records
    assert (bench.job().outcome, bench.stale()) == ("lost", 1)


def test_a_late_result_of_a_job_that_is_to_be_cancelled_is_stale() -> None:
    bench = thought_lost()
    bench.say(4, Cancel([Held(ticket(1), 0)]))
    assert not bench.say(4, Result([ended(1, 1)])).records
    bench.say(2, Result([ended(1, 2, "cancelled")]))
    assert bench.job().outcome == "cancelled"


def test_a_late_failure_does_not_end_a_job_that_is_being_tried_again() -> None:
    bench = thought_lost(retries=1)
    assert not bench.say(4, Result([ended(1, 1, "failed")])).records
    assert not bench.sent(Drop)
    assert (bench.job().attempt, bench.job().failures, bench.stale()) == (2, 0, 1)
    bench.say(2, Result([ended(1, 2)]))
    assert bench.job().outcome == "succeeded"


def test_a_late_success_ends_a_job_that_is_delayed() -> None:
    bench = thought_lost(retries=1)
    bench.say(2, Result([ended(1, 2, "failed")]))
    assert bench.job().state is State.DELAYED
    bench.say(4, Result([ended(1, 1)]))
    assert (bench.job().outcome, bench.job().attempt) == ("succeeded", 1)
    assert not bench.sent(Drop)
    bench.pass_time(5.0, 2, 4)
    assert bench.dispatched == [(ticket(1), 1), (ticket(1), 2)]


def test_a_late_result_ends_a_job_that_waits() -> None:
    bench = Bench(node_grace_period=1.0, eager=False, dispatch_period=5.0)
    bench.join(1)
    bench.submit(1, 1)
    bench.tick(5.0)
    bench.step(LinkLost(1))
    bench.pass_time(2.0)
    assert (bench.job().state, bench.job().attempt) == (State.QUEUED, 2)
    bench.join(4, node_id="id1", instance="i1", name="n1", finished=(Held(ticket(1), 1),))
    bench.say(4, Result([ended(1, 1)]))
    assert bench.job().outcome == "succeeded"
    assert bench.core.ledger.waiting == 0
    bench.pass_time(10.0, 4)
    assert bench.dispatched == [(ticket(1), 1)]


def test_a_late_result_from_the_node_that_has_the_next_attempt_drops_that() -> None:
    bench = Bench(request_result_period=3.0)
    bench.join(1)
    bench.submit(1, 1)
    bench.tick(3.0)
    bench.say(1, NotHere([ticket(1)]))
    assert bench.given(1) == [(ticket(1), 2)]
    bench.say(1, Result([ended(1, 1)]))
    assert bench.sent(Drop, 1) == [Drop([Held(ticket(1), 2)])]
    assert bench.job().outcome == "succeeded"


@pytest.mark.parametrize(("attempt", "counts"), [(1, False), (2, False), (3, True), (10, True)])
def test_so_many_lost_attempts_are_remembered(attempt: int, counts: bool) -> None:
    bench = Bench(request_result_period=3.0)
    bench.join(1)
    bench.submit(1, 1)
    for _ in range(LOST_REMEMBERED + 2):
        bench.tick(3.0)
        bench.say(1, NotHere([ticket(1)]))
    assert bench.job().attempt == 11
    bench.say(1, Result([ended(1, attempt)]))
    assert bench.job().outcome == ("succeeded" if counts else "")


# --- draining ------------------------------------------------------------------------------------


@pytest.mark.parametrize("eager", [True, False])
def test_a_draining_node_gets_no_job(eager: bool) -> None:
    bench = Bench(eager=eager, dispatch_period=5.0)
    bench.join(1)
    bench.join(2)
    bench.say(1, Drain())
    bench.submit(2, *range(6))
    bench.tick(5.0)
    bench.submit(1, 6)
    bench.tick(5.0)
    assert bench.held() == [0, 7]
    assert len(bench.dispatched) == 7


def test_a_draining_node_has_no_share_in_evening_out() -> None:
    bench = Bench(dispatch_period=5.0)
    bench.join(1)
    bench.submit(1, *range(9))
    bench.say(1, Drain())
    for link in (2, 3):
        bench.join(link)
        for after in (0.2, 5.0):
            bench.tick(after)
            assert not bench.sent(Recall), "it gives back what waits on its own"
    bench.submit(2, *range(10, 20))
    bench.say(3, Drain())
    bench.join(4)
    bench.tick(0.2)
    (recall,) = bench.sent(Recall)
    assert len(recall.jobs) == 2, "the five of node 2 are evened out between it and node 4"
    bench.say(2, Returned(recall.jobs))
    assert bench.held() == [9, 3, 5, 2]


def test_what_a_draining_node_returns_goes_to_others_and_what_it_finishes_counts() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(5))
    bench.say(1, Drain())
    bench.say(1, Returned([Held(ticket(n), 1) for n in range(1, 5)]))
    assert not bench.sent(Job), "there is nobody else"
    assert bench.core.ledger.waiting == 4
    bench.join(2)
    assert bench.given(2) == [(ticket(n), 1) for n in range(1, 5)]
    bench.say(1, Result([ended(0)]))
    assert bench.job(0).outcome == "succeeded"
    assert bench.held() == [0, 4]


def test_a_node_that_drains_with_a_recall_on_its_way_is_not_waited_for() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(6))
    bench.join(2)
    bench.tick(0.2)
    assert bench.sent(Recall, 1)
    bench.say(1, Drain())
    bench.say(1, Returned([Held(ticket(n), 1) for n in range(1, 6)]))
    bench.say(1, Returned([]))
    bench.join(3)
    bench.tick(0.2)
    (recall,) = bench.sent(Recall, 2)
    assert len(recall.jobs) == 2


def test_nodes_are_shown_as_draining_until_they_say_hello_anew() -> None:
    bench = Bench()
    bench.join(1)
    bench.say(1, Drain())
    assert bench.core.ledger.nodes["id1"].fields()["draining"] is True
    bench.step(LinkLost(1))
    assert bench.core.ledger.nodes["id1"].fields()["draining"] is False
    bench.join(2, node_id="id1", instance="i1", name="n1")
    assert bench.core.ledger.nodes["id1"].fields()["draining"] is False
    bench.submit(2, 1)
    assert bench.given(2) == [(ticket(1), 1)]
