"""How results come home: through, or by the store; and what is asked before a lost attempt runs again."""

from __future__ import annotations

import pytest

from loadbalancer.core.events import Deliver, LinkLost, MessageReceived, Send, Together
from loadbalancer.core.jobs import Forget, Row, State
from loadbalancer.core.ledger import FORGET_AFTER, PASSING_BYTES
from protocol.delivery import DELIVERY_WINDOW
from protocol.job import Ended
from protocol.limits import INFO_PERIOD
from protocol.messages import AckResults, Cancel, Check, Checked, Drop, Held, Info, Job, RequestOfRes, Result

from .test_balancer import Bench, ended, ticket

GRACE = 10.0


def forgotten(bench: Bench) -> list[int]:
    return [record.seq for record in bench.records if isinstance(record, Forget)]


def apart(**settings: object) -> Bench:
    """Node 1 is the origin of job 1, node 2 its executor."""
    bench = Bench(**settings)
    bench.join(1)
    bench.submit(1, 90)  # node 1 has one already
    bench.join(2)
    bench.submit(1, 1)
    assert bench.given(2) == [(ticket(1), 1)]
    return bench


def test_a_result_passes_through_at_once_and_without_a_record() -> None:
    bench = apart()
    outcome = bench.say(2, Result([ended(1)]))
    assert not outcome.records
    assert outcome.prompt == [Send(1, Result([ended(1)]))]
    assert not bench.sent(AckResults), "nobody has it on disk yet"
    assert bench.job().state is State.PASSING
    assert ticket(1) not in bench.core.ledger.nodes["id2"].jobs, "its node has room for another"


def test_its_executor_may_forget_it_once_it_is_home_and_forgotten_here() -> None:
    bench = apart()
    bench.say(2, Result([ended(1)]))
    seq = bench.job().seq
    outcome = bench.say(1, AckResults([Held(ticket(1), 1)]))
    assert not outcome.records, "nobody waits for it"
    assert not bench.sent(AckResults)
    assert bench.core.next_deadline() <= bench.now + FORGET_AFTER
    outcome = bench.tick(FORGET_AFTER)
    assert outcome.records == [Forget(seq, has_result=False)]
    assert not outcome.prompt, "the ACK waits for the record"
    assert bench.sent(AckResults, 2) == [AckResults([Held(ticket(1), 1)])]
    assert ticket(1) not in bench.core.ledger.jobs
    assert not bench.core.ledger.passing


def test_a_repetition_while_it_passes_is_neither_used_nor_acknowledged() -> None:
    bench = apart()
    bench.say(2, Result([ended(1)]))
    outcome = bench.say(2, Result([ended(1)]))
    assert not outcome.records
    assert not bench.sent(Result)
    assert not bench.sent(AckResults)
    assert bench.stale() == 1


def test_a_stale_result_of_another_attempt_is_acknowledged_while_one_passes() -> None:
    bench = apart()
    bench.say(2, Result([ended(1)]))
    bench.say(1, Result([ended(1)]))
    assert bench.sent(AckResults, 1) == [AckResults([Held(ticket(1), 1)])]
    bench.say(2, Result([ended(1, attempt=2)]))
    assert bench.sent(AckResults, 2) == [AckResults([Held(ticket(1), 2)])]


def test_a_result_whose_origin_is_away_is_recorded_before_it_is_acknowledged() -> None:
    bench = apart()
    bench.step(LinkLost(1))
    (row,) = bench.say(2, Result([ended(1)])).records
    assert isinstance(row, Row)
    assert (row.state, row.outcome, row.result) == (State.DONE, "succeeded", ended(1).body)
    assert bench.sent(AckResults, 2) == [AckResults([Held(ticket(1), 1)])]
    bench.join(1)
    assert [action for action in bench.actions if isinstance(action, Deliver)]
    bench.say(1, AckResults([Held(ticket(1), 1)]))
    bench.say(2, Info(0, 0, 1, 0.0, 0))
    bench.tick(INFO_PERIOD)
    assert forgotten(bench) == [row.seq]


@pytest.mark.parametrize("comes_again", [False, True], ids=["link lost", "a new link of the same instance"])
def test_what_was_passing_is_recorded_when_its_origin_goes_away(comes_again: bool) -> None:
    bench = apart()
    bench.say(2, Result([ended(1)]))
    outcome = (
        bench.join(3, node_id="id1", instance="i1", name="n1") if comes_again else bench.step(LinkLost(1))
    )
    (row,) = [record for record in outcome.records if isinstance(record, Row) and record.ticket == ticket(1)]
    assert (row.state, row.outcome, row.result) == (State.DONE, "succeeded", ended(1).body)
    assert bench.sent(AckResults, 2) == [AckResults([Held(ticket(1), 1)])]
    assert not bench.core.ledger.passing


def test_a_result_that_comes_in_the_turn_in_which_its_origin_goes_is_recorded_and_not_sent() -> None:
    bench = apart()
    outcome = bench.step(Together([MessageReceived(2, Result([ended(1)])), LinkLost(1)]))
    assert not bench.sent(Result)
    assert [record.state for record in outcome.records if isinstance(record, Row) and record.result] == [
        State.DONE
    ]
    assert bench.sent(AckResults, 2) == [AckResults([Held(ticket(1), 1)])]


def test_what_its_origin_does_not_acknowledge_in_time_is_recorded_and_sent_again() -> None:
    bench = apart(request_result_period=2.0)
    bench.say(2, Result([ended(1)]))
    sent_again = []
    for _ in range(4):
        for link in (1, 2):
            bench.say(link, Info(0, 0, 1, 0.0, 0))
        bench.tick(1.0)
        sent_again += [action for action in bench.actions if isinstance(action, Deliver)]
    assert [(stored.ticket, stored.outcome) for stored in sent_again[0].results] == [(ticket(1), "succeeded")]
    assert bench.job().state is State.DONE
    (row,) = [record for record in bench.records if isinstance(record, Row) and record.result is not None]
    assert row.result == ended(1).body


def test_a_cancelled_job_is_on_record_before_that_is_shown() -> None:
    bench = apart()
    bench.say(1, Cancel([Held(ticket(1), 0)]))
    outcome = bench.say(2, Result([ended(1, outcome="cancelled")]))
    assert [record.state for record in outcome.records if isinstance(record, Row)] == [State.DONE]
    assert not outcome.prompt
    assert bench.sent(Result, 1)


def test_a_cancel_that_comes_while_the_result_passes_changes_nothing() -> None:
    bench = apart()
    bench.say(2, Result([ended(1)]))
    bench.say(1, Cancel([Held(ticket(1), 0)]))
    assert not bench.sent(Cancel)
    assert bench.job().outcome == "succeeded"


def large(number: int, size: int) -> Ended:
    return Ended(ticket(number), 1, "succeeded", b"x" * size)


def test_above_the_window_of_its_origin_results_wait_in_memory() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(3))
    for number in range(2):
        bench.say(1, Result([large(number, DELIVERY_WINDOW // 2)]))
        assert bench.sent(Result)
    outcome = bench.say(1, Result([large(2, 10)]))
    assert not outcome.records
    assert bench.job(2).state is State.PASSING
    assert not bench.sent(Result), "it waits until the window opens"
    bench.say(1, AckResults([Held(ticket(0), 1)]))
    assert bench.sent(Result, 1) == [Result([large(2, 10)])]


def test_memory_for_what_passes_has_a_bound_over_all_origins() -> None:
    origins = PASSING_BYTES // DELIVERY_WINDOW + 1
    bench = Bench(max_num_nodes=origins)
    for link in range(1, origins + 1):
        bench.join(link)
        bench.submit(link, link)
        where = next(node for node in bench.core.ledger.nodes.values() if ticket(link) in node.jobs)
        assert where.link is not None
        bench.say(where.link, Result([large(link, DELIVERY_WINDOW)]))
    states = [bench.job(link).state for link in range(1, origins + 1)]
    assert states == [State.PASSING] * (origins - 1) + [State.DONE]


# --- after a restart ---------------------------------------------------------------------------------


def killed(before: Bench) -> Bench:
    bench = before.restarted(node_grace_period=GRACE)
    bench.records = list(before.records)
    return bench


def origin_comes(bench: Bench) -> None:
    bench.join(1, running=(Held(ticket(90), 1),))


def restarted() -> Bench:
    """The result of job 1 passed through; then the balancer was killed, and its executor."""
    before = apart(node_grace_period=GRACE)
    before.say(2, Result([ended(1)]))
    bench = killed(before)
    bench.join(2, instance="another")
    assert not bench.dispatched, "its origin is to be asked first"
    return bench


def test_a_lost_attempt_whose_result_is_home_does_not_run_again() -> None:
    bench = restarted()
    origin_comes(bench)
    assert bench.sent(Check, 1) == [Check([ticket(1)])]
    seq = bench.job().seq
    bench.say(1, AckResults([Held(ticket(1), 0)]))
    assert ticket(1) not in bench.core.ledger.jobs
    bench.say(1, Checked([]))
    bench.pass_time(2 * GRACE, 1, 2)
    assert ticket(1) not in [given for given, _ in bench.dispatched]
    assert seq in forgotten(bench)


def test_a_lost_attempt_whose_result_is_not_home_runs_again_at_the_origins_word() -> None:
    bench = restarted()
    origin_comes(bench)
    bench.say(1, Checked([ticket(1)]))
    assert (ticket(1), 2) in bench.dispatched
    bench.pass_time(2 * GRACE, 1, 2)
    assert [attempt for given, attempt in bench.dispatched if given == ticket(1)] == [2]


def test_an_origin_that_is_connected_is_asked_at_once() -> None:
    before = apart(node_grace_period=GRACE)
    before.say(2, Result([ended(1)]))
    bench = killed(before)
    origin_comes(bench)
    bench.join(2, instance="another")
    assert bench.sent(Check, 1) == [Check([ticket(1)])]


def test_an_origin_that_stays_away_is_waited_for_as_long_as_any_node() -> None:
    bench = restarted()
    bench.pass_time(GRACE - 2, 2)
    assert not bench.dispatched
    bench.pass_time(4, 2)
    assert (ticket(1), 2) in bench.dispatched


def test_an_attempt_in_vain_ends_when_the_origin_is_back_and_has_the_result() -> None:
    bench = restarted()
    bench.pass_time(GRACE + 2, 2)
    assert (ticket(1), 2) in bench.dispatched
    origin_comes(bench)
    assert ticket(1) in bench.sent(Check, 1)[0].tickets
    bench.say(1, AckResults([Held(ticket(1), 0)]))
    assert bench.sent(Drop, 2) == [Drop([Held(ticket(1), 2)])]
    assert ticket(1) not in bench.core.ledger.jobs


def test_a_second_restart_asks_again() -> None:
    bench = killed(restarted())
    bench.join(2, instance="a third")
    origin_comes(bench)
    assert bench.sent(Check, 1) == [Check([ticket(1)])]
    assert not bench.sent(Job, 2)


def test_what_its_executor_still_holds_needs_no_question() -> None:
    bench = killed(apart(node_grace_period=GRACE))
    origin_comes(bench)
    bench.join(2, held=(Held(ticket(1), 1),))
    bench.step(LinkLost(2))
    bench.join(2, instance="another")
    assert not bench.sent(Check)
    assert (ticket(1), 2) in bench.dispatched


def test_another_node_cannot_acknowledge_for_the_origin() -> None:
    bench = restarted()
    bench.say(2, AckResults([Held(ticket(1), 0)]))
    assert ticket(1) in bench.core.ledger.jobs


# --- together ----------------------------------------------------------------------------------------


def test_what_came_together_is_answered_together() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(4))
    outcome = bench.step(Together([MessageReceived(1, Result([ended(number)])) for number in range(4)]))
    assert [action.message for action in outcome.prompt if isinstance(action, Send)] == [
        Result([ended(number) for number in range(4)])
    ]
    acks = [MessageReceived(1, AckResults([Held(ticket(number), 1)])) for number in range(4)]
    bench.step(Together(acks))
    bench.tick(FORGET_AFTER)
    assert bench.sent(AckResults, 1) == [AckResults([Held(ticket(number), 1) for number in range(4)])]


def test_a_link_that_ends_in_a_turn_is_not_heard_after_that() -> None:
    bench = apart()
    bench.step(Together([LinkLost(2), MessageReceived(2, Result([ended(1)]))]))
    assert bench.job().state is State.ASSIGNED
    assert not bench.sent(RequestOfRes)
