"""Submissions with a key, at their origin: what is recorded, claimed, shown, handed in and taken back."""

from __future__ import annotations

from typing import Any

import pytest

from clusternode.core.events import (
    Answer,
    CancelAsked,
    Disconnect,
    Done,
    Find,
    Found,
    KeyFreed,
    LinkDown,
    LookUp,
    Submitted,
    Withdrawn,
)
from clusternode.core.keys import CLAIMS_AT_ONCE
from clusternode.core.openjob import Stored
from protocol.dialogue import CancelJob, Status, Submit, Wait
from protocol.job import Command, Extras, Sleep, Task, unpack_report
from protocol.limits import BATCH_ITEMS
from protocol.messages import AckJobs, Cancel, Held, Job, NotHere, Query, Result
from protocol.relay import Claim, Claimed, Claiming, Owner
from protocol.replies import CancelOf, Failure, ResultOf, StatusOf, TicketIssued

from .bench import Bench, ended, ticket

ELSEWHERE = Owner(ticket(900), "other")


def job(key: str = "k", **extras: Any) -> Command:
    return Command("x", extras=Extras(key=key, **extras))


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.connect()
    return made


@pytest.fixture
def alone() -> Bench:
    """The load balancer is away."""
    return Bench()


def found(bench: Bench, **known: str) -> None:
    """The store answers what it was asked last, with the tickets that it knows."""
    (find,) = bench.did(Find)
    outcomes = dict.fromkeys(find.tickets)
    bench.step(Found(find.number, outcomes, keys=known))


def submit(bench: Bench, number: int, spec: Any = None) -> None:
    """A submission up to its claim."""
    bench.ask(Submit(spec or job()), ticket(number))
    found(bench)


def claimed(bench: Bench, *owners: Owner, number: int = 1) -> None:
    bench.hear(Claimed(number, owners))


def own(number: int) -> Owner:
    return Owner(ticket(number), "n")


def handed_in(bench: Bench) -> list[str]:
    return [item.ticket for message in bench.sent(Job) for item in message.jobs]


def lines_answered(bench: Bench) -> list[int]:
    return [action.seq for action in bench.did(Answer)]


# --- the way of a submission ---------------------------------------------------------------------


def test_it_is_recorded_then_claimed_then_shown_and_handed_in(bench: Bench) -> None:
    bench.ask(Submit(job()), ticket(1))
    assert bench.did(Find) == [Find(1, (), ("k",))], "the store may have a ticket that is done"
    assert not bench.out.records
    found(bench)
    assert bench.out.records == [Submitted(1, ticket(1), bench.now, job().pack(), "k")]
    assert bench.sent(Claim) == [Claim(1, [Claiming("k", ticket(1))])]
    assert not bench.out.prompt, "nobody is asked before it is on the disk"
    assert not bench.replies()
    assert not handed_in(bench)
    claimed(bench, own(1))
    assert bench.replies() == [TicketIssued(ticket(1))]
    assert handed_in(bench) == [ticket(1)]
    assert not bench.out.records


def test_another_nodes_ticket_is_shown_and_what_was_recorded_is_taken_back(bench: Bench) -> None:
    submit(bench, 1)
    claimed(bench, ELSEWHERE)
    assert bench.replies() == [TicketIssued(ticket(900), "other")]
    assert bench.out.records == [KeyFreed("k", ticket(1)), Withdrawn(1, 1)]
    assert not handed_in(bench)
    assert not bench.core.origin.open
    assert not bench.core.origin.keys.open
    assert bench.core.origin.submitted == 0


def test_a_ticket_of_this_node_that_only_the_balancer_remembers_is_shown_without_a_node(bench: Bench) -> None:
    submit(bench, 1)
    claimed(bench, own(7))
    assert bench.replies() == [TicketIssued(ticket(7))]
    assert Withdrawn(1, 1) in bench.out.records


def test_all_of_a_step_are_claimed_in_one_message(bench: Bench) -> None:
    lines = [bench.line(Submit(job(f"k{number}")), ticket(number)) for number in range(3)]
    bench.receive(*lines)
    assert bench.did(Find) == [Find(1, (), ("k0", "k1", "k2"))]
    found(bench)
    assert bench.sent(Claim) == [Claim(1, [Claiming(f"k{n}", ticket(n)) for n in range(3)])]
    claimed(bench, own(0), ELSEWHERE, own(2))
    assert [reply.ticket for reply in bench.replies()] == [ticket(0), ticket(900), ticket(2)]
    assert handed_in(bench) == [ticket(0), ticket(2)]


def test_what_is_done_on_this_node_is_known_from_the_store(alone: Bench) -> None:
    alone.ask(Submit(job()), ticket(5))
    found(alone, k=ticket(1))
    assert alone.replies() == [TicketIssued(ticket(1))]
    assert not alone.out.records
    alone.connect()
    assert not alone.sent(Claim), "nothing of it is kept in memory"


def test_what_is_done_on_this_node_is_claimed_as_well_as_another_may_have_the_key(bench: Bench) -> None:
    bench.ask(Submit(job()), ticket(5))
    found(bench, k=ticket(1))
    assert bench.sent(Claim) == [Claim(1, [Claiming("k", ticket(1))])]
    bench.ask(Submit(job()), ticket(6))
    found(bench, k=ticket(1))
    assert not bench.sent(Claim), "that is under way"
    claimed(bench, ELSEWHERE)
    assert bench.replies() == [TicketIssued(ticket(900), "other")] * 2
    assert bench.out.records == [KeyFreed("k", ticket(1))], "the store knows it no more"
    assert not bench.core.origin.keys.unclaimed


# --- more submissions of the same key --------------------------------------------------------------


def test_those_that_come_while_the_store_is_asked_are_answered_with_the_first(bench: Bench) -> None:
    bench.receive(bench.line(Submit(job()), ticket(1)), bench.line(Submit(job()), ticket(2)))
    bench_find = bench.did(Find)
    assert bench_find == [Find(1, (), ("k",))]
    bench.ask(Submit(job()), ticket(3), client=2)
    assert not bench.did(Find)
    bench.step(Found(1, {}))
    assert len(bench.out.records) == 1
    claimed(bench, own(1))
    assert bench.replies() == [TicketIssued(ticket(1))] * 3
    assert [action.client for action in bench.did(Answer)] == [1, 1, 2]
    bench.ask(Submit(job()), ticket(4))
    assert bench.replies() == [TicketIssued(ticket(1))], "and at once from here on"


def test_those_that_come_while_the_key_is_claimed_wait_for_that_too(bench: Bench) -> None:
    submit(bench, 1)
    bench.ask(Submit(job()), ticket(2))
    assert not bench.replies()
    assert not bench.did(Find)
    claimed(bench, ELSEWHERE)
    assert bench.replies() == [TicketIssued(ticket(900), "other")] * 2


def test_when_the_first_is_refused_the_next_one_is_the_first(bench: Bench) -> None:
    bench.receive(
        bench.line(Submit(job(after=(ticket(77),))), ticket(1)), bench.line(Submit(job()), ticket(2))
    )
    found(bench)
    assert bench.did(Find) == [Find(2, (ticket(77),), ("k",))], "what it comes after may be in the store"
    found(bench)
    (reply,) = bench.replies()
    assert isinstance(reply, Failure)
    found(bench)
    claimed(bench, own(2))
    assert bench.replies() == [TicketIssued(ticket(2))]


def test_after_the_end_of_the_first_the_store_is_asked_again(bench: Bench) -> None:
    submit(bench, 1)
    claimed(bench, own(1))
    bench.hear(Result([ended(1)]))
    bench.ask(Submit(job()), ticket(2))
    assert bench.did(Find) == [Find(2, (), ("k",))]


# --- the load balancer is away ---------------------------------------------------------------------


def test_alone_a_node_gives_its_ticket_and_claims_the_key_later(alone: Bench) -> None:
    alone.ask(Submit(job()), ticket(1))
    found(alone)
    assert alone.replies() == [TicketIssued(ticket(1))]
    alone.ask(Submit(job()), ticket(2))
    assert alone.replies() == [TicketIssued(ticket(1))]
    alone.connect()
    assert alone.sent(Claim) == [Claim(1, [Claiming("k", ticket(1))])]
    assert not handed_in(alone)
    claimed(alone, own(1))
    assert handed_in(alone) == [ticket(1)]


def test_a_ticket_that_was_shown_and_lost_its_key_ends_as_cancelled_and_names_the_other(alone: Bench) -> None:
    alone.ask(Submit(job()), ticket(1))
    found(alone)
    alone.ask(Wait(ticket(1)))
    alone.connect()
    claimed(alone, ELSEWHERE)
    freed, done = alone.out.records
    assert freed == KeyFreed("k", ticket(1))
    assert isinstance(done, Done)
    assert done.ended.outcome == "cancelled"
    assert unpack_report(done.ended.body).reason == (
        f"not started: its key was submitted before, as {ticket(900)} of other"
    )
    (reply,) = alone.replies()
    assert isinstance(reply, ResultOf)
    assert not handed_in(alone)


def test_when_the_link_breaks_whoever_waits_gets_the_ticket_that_is_there(bench: Bench) -> None:
    submit(bench, 1)
    bench.ask(Submit(job()), ticket(2))
    bench.step(LinkDown())
    assert bench.replies() == [TicketIssued(ticket(1))] * 2
    bench.connect(epoch=2)
    assert bench.sent(Claim) == [Claim(2, [Claiming("k", ticket(1))])]
    claimed(bench, own(1), number=2)
    assert not bench.replies()
    assert handed_in(bench) == [ticket(1)]


def test_when_the_link_breaks_a_done_tickets_claim_is_forgotten(bench: Bench) -> None:
    bench.ask(Submit(job()), ticket(5))
    found(bench, k=ticket(1))
    bench.step(LinkDown())
    assert bench.replies() == [TicketIssued(ticket(1))]
    bench.connect(epoch=2)
    assert not bench.sent(Claim)


def test_after_a_restart_the_key_is_claimed_again_before_the_job_is_handed_in() -> None:
    stored = [
        Stored(1, ticket(1), 1.0, job().pack(), False),
        Stored(2, ticket(2), 1.0, Task("t", "{}", extras=Extras(key="t")).pack(), True),
        Stored(3, ticket(3), 1.0, Sleep(5).pack(), False),
    ]
    bench = Bench(stored=stored)
    bench.ask(Submit(job()), ticket(9))
    assert bench.replies() == [TicketIssued(ticket(1))]
    bench.connect()
    assert handed_in(bench) == [ticket(3)]
    assert bench.sent(Claim) == [Claim(1, [Claiming("k", ticket(1)), Claiming("t", ticket(2))])]
    assert not bench.sent(Cancel)
    claimed(bench, own(1), own(2))
    assert handed_in(bench) == [ticket(1), ticket(2)]
    assert bench.sent(Cancel) == [Cancel([Held(ticket(2), 0)])]


def test_a_result_may_come_home_before_the_key_is_claimed_again() -> None:
    bench = Bench(stored=[Stored(1, ticket(1), 1.0, job().pack(), False)])
    bench.connect()
    bench.hear(Result([ended(1)]))
    assert len(bench.out.records) == 1
    claimed(bench, own(1))
    assert not bench.actions
    assert not bench.core.origin.keys.open
    assert not bench.core.origin.keys.unclaimed


def test_what_the_balancer_has_lost_is_claimed_again_and_handed_in_again(bench: Bench) -> None:
    submit(bench, 1)
    claimed(bench, own(1))
    bench.hear(AckJobs([ticket(1)]))
    bench.hear(NotHere([ticket(1)]))
    assert not handed_in(bench)
    assert bench.sent(Claim) == [Claim(2, [Claiming("k", ticket(1))])]
    bench.hear(NotHere([ticket(1)]))
    claimed(bench, own(1), number=2)
    assert handed_in(bench) == [ticket(1)]
    claimed(bench, own(1), number=3)
    assert not bench.actions, "asked twice, and answered twice"


@pytest.mark.parametrize("message", [Claimed(1, []), Claimed(9, [own(1)]), Claimed(1, [own(1), own(1)])])
def test_an_answer_to_a_claim_that_was_not_made_ends_the_link(bench: Bench, message: Claimed) -> None:
    submit(bench, 1)
    bench.hear(message)
    assert len(bench.did(Disconnect)) == 1


# --- with cancels, dependants and arrays -------------------------------------------------------------


def test_a_cancel_goes_with_the_job_once_its_key_is_claimed(bench: Bench) -> None:
    submit(bench, 1)
    bench.ask(CancelJob(ticket(1)))
    assert bench.out.records == [CancelAsked(1)]
    assert not bench.sent(Cancel)
    claimed(bench, own(1))
    assert handed_in(bench) == [ticket(1)]
    assert bench.sent(Cancel) == [Cancel([Held(ticket(1), 0)])]


def test_whoever_has_learned_of_it_and_cancels_it_is_answered_also_where_it_is_refused(bench: Bench) -> None:
    submit(bench, 1)
    bench.ask(CancelJob(ticket(1)))
    claimed(bench, ELSEWHERE)
    issued, cancel = bench.replies()
    assert issued == TicketIssued(ticket(900), "other")
    assert isinstance(cancel, CancelOf)
    assert cancel.job.outcome == "cancelled"


def test_a_status_is_answered_while_the_key_is_claimed(bench: Bench) -> None:
    submit(bench, 1)
    bench.ask(Status(ticket(1)))
    assert [query.tickets for query in bench.sent(Query)] == [(ticket(1),)]
    bench.step(LinkDown())
    status = bench.replies()[0]
    assert isinstance(status, StatusOf)
    assert (status.job.state, status.note) == ("queued", "the ReverseProxy is away")


def test_a_dependant_is_claimed_at_once_and_handed_in_when_it_is_ready(bench: Bench) -> None:
    bench.ask(Submit(Sleep(5)), ticket(1))
    submit(bench, 2, job(after=(ticket(1),)))
    claimed(bench, own(2))
    assert bench.replies() == [TicketIssued(ticket(2))]
    assert not handed_in(bench)
    bench.hear(Result([ended(1)]))
    assert handed_in(bench) == [ticket(2)]


def test_a_dependant_that_is_ready_before_its_key_is_claimed_waits_for_that(bench: Bench) -> None:
    bench.ask(Submit(Sleep(5)), ticket(1))
    submit(bench, 2, job(after=(ticket(1),)))
    bench.hear(Result([ended(1)]))
    assert not handed_in(bench)
    claimed(bench, own(2))
    assert handed_in(bench) == [ticket(2)]


def test_a_dependant_that_is_refused_leaves_nothing_behind(bench: Bench) -> None:
    bench.ask(Submit(Sleep(5)), ticket(1))
    submit(bench, 2, job(after=(ticket(1),)))
    claimed(bench, ELSEWHERE)
    assert bench.out.records == [KeyFreed("k", ticket(2)), Withdrawn(2, 1)]
    assert not bench.core.origin.after
    bench.hear(Result([ended(1)]))
    assert not handed_in(bench)


def test_a_dependant_that_fails_before_its_key_is_claimed_is_shown_then(bench: Bench) -> None:
    bench.ask(Submit(Sleep(5)), ticket(1))
    submit(bench, 2, job(after=(ticket(1),)))
    bench.hear(Result([ended(1, "failed")]))
    assert [type(record) for record in bench.out.records] == [Done, Done]
    assert not bench.replies()
    claimed(bench, own(2))
    assert bench.replies() == [TicketIssued(ticket(2))]


def test_one_that_others_come_after_is_not_taken_back(bench: Bench) -> None:
    submit(bench, 1)
    bench.ask(Submit(Command("x", extras=Extras(after=(ticket(1),)))), ticket(2))
    claimed(bench, ELSEWHERE)
    assert [record.ended.ticket for record in bench.out.records if isinstance(record, Done)] == [
        ticket(1),
        ticket(2),
    ]


def array(bench: Bench) -> None:
    """Job 1 of two jobs, 2 and 3, up to its claim."""
    line = bench.line(Submit(job(array=2)), ticket(1))._replace(tickets=(ticket(2), ticket(3)))
    bench.receive(line)
    found(bench)


def test_the_jobs_of_an_array_wait_for_its_key(bench: Bench) -> None:
    array(bench)
    keys = [record.key for record in bench.out.records if isinstance(record, Submitted)]
    assert keys == ["k", "", ""]
    assert bench.sent(Claim) == [Claim(1, [Claiming("k", ticket(1))])]
    assert not handed_in(bench)
    claimed(bench, own(1))
    assert bench.replies() == [TicketIssued(ticket(1))]
    assert handed_in(bench) == [ticket(2), ticket(3)]


def test_an_array_that_is_refused_is_taken_back_as_a_whole(bench: Bench) -> None:
    array(bench)
    claimed(bench, ELSEWHERE)
    assert bench.out.records == [KeyFreed("k", ticket(1)), Withdrawn(1, 3)]
    assert not bench.core.origin.open
    assert bench.core.origin.submitted == 0


def test_an_array_that_was_shown_and_is_refused_ends_with_all_its_jobs(bench: Bench) -> None:
    array(bench)
    bench.step(LinkDown())
    bench.connect(epoch=2)
    claimed(bench, ELSEWHERE, number=2)
    done = [record.ended for record in bench.out.records if isinstance(record, Done)]
    assert {each.ticket: each.outcome for each in done} == dict.fromkeys(map(ticket, (1, 2, 3)), "cancelled")
    why = f"not started: its key was submitted before, as {ticket(900)} of other"
    reasons = {each.ticket: unpack_report(each.body).reason for each in done}
    assert reasons == {ticket(1): f"{why}; 2 jobs: 2 cancelled", ticket(2): why, ticket(3): why}


def test_an_array_of_which_a_job_was_cancelled_is_not_taken_back(bench: Bench) -> None:
    array(bench)
    bench.ask(CancelJob(ticket(2)))
    claimed(bench, ELSEWHERE)
    assert len([record for record in bench.out.records if isinstance(record, Done)]) == 3


def test_a_job_of_an_array_that_the_balancer_lost_has_its_arrays_key_claimed(bench: Bench) -> None:
    array(bench)
    claimed(bench, own(1))
    bench.hear(AckJobs([ticket(2), ticket(3)]))
    bench.hear(NotHere([ticket(2)]))
    assert bench.sent(Claim) == [Claim(2, [Claiming("k", ticket(1))])]
    claimed(bench, own(1), number=2)
    assert handed_in(bench) == [ticket(2)], "the other one is there"


def test_one_that_has_no_key_is_not_held_up(bench: Bench) -> None:
    bench.ask(Submit(Command("x")), ticket(1))
    assert bench.replies() == [TicketIssued(ticket(1))]
    assert not bench.did(Find)
    assert not bench.did(LookUp)


def test_of_very_many_keys_so_many_are_claimed_at_once_as_a_link_takes() -> None:
    count = CLAIMS_AT_ONCE * BATCH_ITEMS + 1
    stored = [Stored(n, ticket(n), 1.0, job(f"k{n}").pack(), False) for n in range(1, count + 1)]
    bench = Bench(stored=stored)
    bench.connect()
    claims = bench.sent(Claim)
    assert [len(claim.claims) for claim in claims] == [BATCH_ITEMS] * CLAIMS_AT_ONCE
    owners = [Owner(ticket, "n") for _, ticket in claims[0].claims]
    bench.hear(Claimed(claims[0].number, owners))
    assert handed_in(bench) == [ticket for _, ticket in claims[0].claims]
    assert [len(claim.claims) for claim in bench.sent(Claim)] == [1]
