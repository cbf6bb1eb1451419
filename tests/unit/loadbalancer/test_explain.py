"""Why a job waits, where it was, and what of that comes home with its result."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadbalancer.core.events import LinkLost
from loadbalancer.core.explain import LOOKED_AT
from loadbalancer.core.jobs import Job as JobOfBalancer
from loadbalancer.core.queue import JobQueue
from protocol.explain import Story, Tried
from protocol.limits import ATTEMPTS_TOLD, LINK_TIMEOUT
from protocol.messages import (
    AckResults,
    Answer,
    Bye,
    Cancel,
    Drain,
    Held,
    Leaving,
    NotHere,
    Query,
    Result,
    Started,
)

from .test_balancer import Bench, ended, ticket


def explained(bench: Bench, number: int = 1, link: int = 1) -> dict[str, Any]:
    bench.say(link, Query(7, "explain", (ticket(number),)))
    (answer,) = bench.sent(Answer)
    value = json.loads(answer.text)
    assert list(value) == [ticket(number)]
    return dict(value[ticket(number)])


def why(bench: Bench, number: int = 1, link: int = 1) -> str:
    return str(explained(bench, number, link)["why"])


def lose(bench: Bench, link: int) -> None:
    bench.step(LinkLost(link))


def test_a_job_that_waits_is_told_how_many_go_before_it_and_what_the_nodes_do() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(70))
    told = explained(bench, 69)
    assert told["state"] == "queued"
    assert told["why"] == "5 jobs go before it; 1 node holds as many jobs as they may"
    assert (told["before"], told["before_is_exact"], told["waiting"]) == (5, True, 6)
    assert told["attempts"] == []
    assert why(bench, 64).startswith("it is the next to go; ")
    assert why(bench, 65).startswith("1 job goes before it; ")


def test_those_of_a_higher_priority_count_and_those_of_a_lower_one_do_not() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(70))
    bench.submit(1, 100, 101, priority=5)
    bench.submit(1, 102, priority=-5)
    assert explained(bench, 64)["before"] == 2
    assert explained(bench, 101)["before"] == 1
    assert explained(bench, 102)["before"] == 8


def test_of_other_origins_as_many_count_as_get_their_turn() -> None:
    bench = Bench()
    bench.join(1)
    bench.join(2)
    bench.submit(1, *range(140))
    bench.submit(2, *range(200, 210))
    before = [explained(bench, number)["before"] for number in (128, 129, 139, 200, 209)]
    assert before[:2] in ([0, 2], [1, 3])
    assert before[2] == 21
    assert before[3] in (0, 1)
    assert before[4] in (18, 19)


def test_no_more_than_so_many_are_looked_at() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(900))
    bench.submit(1, *range(900, 1800))
    told = explained(bench, 1799)
    assert (told["before"], told["before_is_exact"]) == (LOOKED_AT, False)
    assert told["why"].startswith(f"more than {LOOKED_AT} jobs go before it; ")


def test_what_is_cancelled_in_the_queue_does_not_count() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(70))
    bench.say(1, Cancel([Held(ticket(n), 0) for n in (65, 66)]))
    assert explained(bench, 69)["before"] == 3


def test_where_no_node_takes_jobs_that_is_said() -> None:
    bench = Bench()
    bench.join(1)
    bench.say(1, Drain())
    bench.submit(1, 1)
    assert why(bench) == "it is the next to go; all nodes that are connected are about to stop"


def test_in_periodic_mode_it_waits_for_the_next_round() -> None:
    bench = Bench(eager=False, dispatch_period=5.0)
    bench.join(1)
    bench.submit(1, 1)
    assert why(bench) == "it is the next to go; every 5 s 30 jobs are handed out"


def test_a_job_that_a_node_has_is_told_what_came_before_it_there() -> None:
    bench = Bench()
    bench.join(1, slots=2)
    bench.submit(1, *range(5))
    assert why(bench, 1) == "n1 has it, and has room for it"
    told = explained(bench, 4)
    assert told["state"] == "assigned"
    assert told["why"] == "n1 has it, where 4 jobs came before it, and 2 run at once"
    assert told["attempts"] == [[1, "n1", bench.now, None, "waits there, or has just begun"]]


def test_a_job_that_runs_and_one_that_is_cancelled_meanwhile() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1)
    bench.say(1, Started([Held(ticket(1), 1)]))
    assert explained(bench)["attempts"] == [[1, "n1", bench.now, None, "runs"]]
    assert why(bench) == "it runs on n1"
    bench.say(1, Cancel([Held(ticket(1), 0)]))
    assert why(bench) == "it is cancelled, and n1 ends it"


def test_a_job_whose_node_is_away_waits_for_that() -> None:
    bench = Bench(node_grace_period=30.0)
    bench.join(1)
    bench.submit(1, 1)
    bench.join(2)
    lose(bench, 1)
    told = explained(bench, link=2)
    assert told["why"] == "n1, which has it, is away; if that does not come back, it goes to another node"
    assert told["until"] == bench.now + 30.0


def test_a_job_that_failed_is_told_when_it_is_tried_again_and_what_came_of_the_attempt() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, retries=2)
    began = bench.now
    bench.say(1, Result([ended(1, outcome="failed")]), after=1.0)
    told = explained(bench)
    assert (told["state"], told["why"]) == ("delayed", "its last attempt failed, and it is tried again")
    assert told["until"] == pytest.approx(bench.now + 1.0)
    assert told["attempts"] == [[1, "n1", began, bench.now, "failed"]]


def lost(bench: Bench) -> str:
    """How the last attempt that is told of ended."""
    job = bench.core.ledger.jobs[ticket(1)]
    assert job.story is not None
    return job.story[-1].how


def test_each_way_to_lose_an_attempt_has_its_words() -> None:
    bench = Bench(crash_limit=100)
    bench.join(1)
    bench.submit(1, 1)
    bench.say(1, Result([ended(1, outcome="lost")]))
    assert lost(bench) == "lost: its worker died with it"
    lose(bench, 1)
    bench.join(1, instance="another")
    assert lost(bench) == "lost: its node had died"
    lose(bench, 1)
    bench.join(1, instance="another")
    assert lost(bench) == "lost: its node came back without it"
    bench.pass_time(LINK_TIMEOUT, 1)
    assert bench.core.ledger.nodes["id1"].asked_at is not None
    bench.say(1, NotHere([ticket(1)]))
    assert lost(bench) == "lost: its node never got it, or has lost it"
    bench.say(1, Bye())
    assert lost(bench) == "lost: its node stopped"
    bench.join(1)
    lose(bench, 1)
    bench.join(2)
    bench.pass_time(30.0, 2)
    assert lost(bench) == "lost: its node did not come back within 10 s"


def test_the_last_attempts_are_told() -> None:
    bench = Bench(crash_limit=100)
    bench.join(1)
    bench.submit(1, 1)
    for attempt in range(1, 2 * ATTEMPTS_TOLD):
        bench.say(1, Result([ended(1, attempt, "lost")]))
    numbers = [each[0] for each in explained(bench)["attempts"]]
    assert numbers == list(range(ATTEMPTS_TOLD, 2 * ATTEMPTS_TOLD + 1))


def test_what_came_of_attempts_is_known_after_a_restart() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, 2, retries=2)
    bench.say(1, Result([ended(1, outcome="failed")]))
    told = explained(bench)["attempts"]
    again = bench.restarted()
    again.join(1)
    assert explained(again)["attempts"] == told


def test_it_comes_home_before_the_result_and_only_where_there_is_any() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, 2, retries=1)
    bench.say(1, Result([ended(1, outcome="failed")]))
    began = bench.job().story
    bench.tick(1.0)
    bench.say(1, Result([ended(1, 2), ended(2)]))
    messages = [type(message) for message in bench.sent(object, 1)]
    assert messages.index(Tried) < messages.index(Result)
    assert bench.sent(Tried) == [Tried([Story(ticket(1), began)])]
    bench.say(1, AckResults([Held(ticket(1), 2), Held(ticket(2), 1)]))


def test_it_comes_home_with_a_result_that_was_recorded_here() -> None:
    bench = Bench()
    bench.join(1)
    bench.join(2)
    bench.submit(1, 1, retries=1)
    executor = 1 if bench.job().node == "id1" else 2
    bench.say(executor, Result([ended(1, outcome="failed")]))
    lose(bench, 1)
    bench.pass_time(2.0, 2)
    assert bench.job().node == "id2"
    bench.say(2, Result([ended(1, 2)]))
    assert not bench.sent(Tried)
    bench.join(1)
    (tried,) = bench.sent(Tried, 1)
    assert [each.attempt for each in tried.stories[0].attempts] == [1]


def test_a_late_result_tells_what_became_of_the_attempt_that_it_overtook() -> None:
    bench = Bench()
    bench.join(1)
    bench.join(2)
    bench.submit(1, 1)
    first = bench.job().node
    link, other = (1, 2) if first == "id1" else (2, 1)
    lose(bench, link)
    bench.pass_time(30.0, other)
    assert bench.job().attempt == 2
    bench.join(link, held=(), running=(), finished=(Held(ticket(1), 1),))
    bench.say(link, Result([ended(1, 1)]))
    story = bench.job().story
    assert story is not None
    assert [each.how for each in story] == [
        "lost: its node did not come back within 10 s",
        "stopped: attempt 1 had ended after all",
    ]


def test_a_question_for_many_is_bounded() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, *range(30))
    bench.say(1, Query(7, "explain", tuple(map(ticket, range(30)))))
    assert len(json.loads(bench.sent(Answer)[0].text)) == 10


def test_in_a_long_queue_no_more_than_asked_for_is_looked_at() -> None:
    queue = JobQueue()
    jobs = [JobOfBalancer(n, ticket(n), f"id{n % 2}", 1.0, b"") for n in range(20_000)]
    for job in jobs:
        queue.append(job)
    assert queue.before(jobs[-1], 100) == (100, False)
    assert queue.before(jobs[20], 100) == (20, True)


def test_of_an_asked_origin_it_waits_for_the_word() -> None:
    bench = Bench()
    bench.join(1)
    bench.join(2)
    bench.submit(1, 1)
    link, other = (1, 2) if bench.job().node == "id1" else (2, 1)
    again = bench.restarted()
    again.join(other)
    again.join(link, instance="another")
    assert why(again, link=other) == (
        "its node was lost, and its origin is asked whether it has the result already"
    )


def test_one_that_has_ended_is_on_its_way_home() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1)
    bench.say(1, Result([ended(1)]))
    told = explained(bench)
    assert told["state"] == "passing"
    assert told["why"] == "it has ended, and its result is on its way to the node that it was submitted to"


def test_one_whose_files_are_on_their_way_has_ended_and_is_in_nobodys_way() -> None:
    bench = Bench()
    bench.join(1)
    bench.submit(1, 1, 2)
    assert why(bench, 2) == "n1 has it, where 1 job came before it, and 1 run at once"
    bench.say(1, Leaving([Held(ticket(1), 1)]))
    assert why(bench, 1) == "it has ended on n1, and its files are brought home"
    assert why(bench, 2) == "n1 has it, and has room for it"
