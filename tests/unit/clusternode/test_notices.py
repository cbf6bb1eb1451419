"""`--notify`: who is told when, without a socket."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusternode.core.events import Done, Log, Noticed, NoticeOver, Outcome, Post, Posted, Tick
from clusternode.core.notices import DOUBTFUL_AT_ONCE, Notices, StoredNotice, receiver_of
from clusternode.core.openjob import Stored
from protocol.dialogue import CancelJob, Submit
from protocol.job import Command, Extras
from protocol.limits import (
    NOTICE_RETRY_MOST,
    NOTICE_RETRY_PERIOD,
    NOTICES_AT_ONCE,
    NOTICES_PER_RECEIVER,
    RECEIVERS_KNOWN,
)
from protocol.messages import Result

from .bench import Bench, ended, ticket

URL = "http://ci.example:8000/done?x=1"
DAY = 24 * 3600.0


class Teller:
    """Notices, a clock, and what is being sent."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.notices = Notices()
        self.out = Outcome()
        self.under_way: list[int] = []
        self.receiver: dict[int, str] = {}

    def add(self, seq: int, url: str = URL) -> None:
        self.receiver[seq] = receiver_of(url)
        self.notices.add(seq, url, self.now, self.out)

    def send(self) -> list[int]:
        """What is sent now, and what its records and log lines are."""
        self.out = Outcome()
        self.notices.send(self.now, self.out)
        sent = [action.seq for action in self.out.actions if isinstance(action, Post)]
        self.under_way += sent
        return sent

    def answer(self, seq: int, status: int | None = 200, why: str = "", hopeless: bool = False) -> Outcome:
        """Its receiver does; returns what followed from that alone."""
        self.out = Outcome()
        self.under_way.remove(seq)
        self.notices.posted(Posted(seq, ticket(seq), status, why, hopeless), self.now, self.out)
        return self.out

    @property
    def logged(self) -> list[str]:
        return [action.text for action in self.out.actions if isinstance(action, Log)]


def test_it_is_pending_in_the_commit_of_the_outcome_sent_after_that_and_over_when_delivered() -> None:
    bench = Bench()
    bench.connect()
    bench.ask(Submit(Command("x", extras=Extras(notify=URL))), ticket(1))
    out = bench.hear(Result([ended(1)]))
    assert out.records == [Done(1, ended(1)), Noticed(1, bench.now, 0, bench.now)]
    assert Post(1) in out.actions
    assert Post(1) not in out.prompt
    assert bench.step(Posted(1, ticket(1), 204, "")).records == [NoticeOver(1)]
    assert not bench.did(Log)
    assert len(bench.core.origin.notices) == 0


def test_a_job_without_it_has_none() -> None:
    bench = Bench()
    bench.connect()
    bench.ask(Submit(Command("x")), ticket(1))
    assert bench.hear(Result([ended(1)])).records == [Done(1, ended(1))]
    assert not bench.did(Post)


def test_of_a_chain_that_breaks_each_is_told() -> None:
    bench = Bench()
    bench.connect()
    bench.ask(Submit(Command("x", extras=Extras(notify=URL))), ticket(1))
    for number in (2, 3):
        extras = Extras(notify=URL, after=(ticket(number - 1),))
        bench.ask(Submit(Command("x", extras=extras)), ticket(number))
    out = bench.hear(Result([ended(1, "failed")]))
    assert {record.seq for record in out.records if isinstance(record, Noticed)} == {1, 2, 3}
    assert bench.did(Post) == [Post(1)], "one at a time, as long as nobody answers there"


def test_of_a_job_that_never_started_it_is_told() -> None:
    bench = Bench()
    bench.ask(Submit(Command("x")), ticket(1))
    bench.ask(Submit(Command("x", extras=Extras(notify=URL, after=(ticket(1),)))), ticket(2))
    out = bench.ask(CancelJob(ticket(2)))
    assert [type(record) for record in out.records] == [Done, Noticed]
    assert bench.did(Post) == [Post(2)]


@pytest.mark.parametrize("restarted", [False, True])
def test_of_an_array_the_array_is_told_and_not_its_jobs(restarted: bool) -> None:
    bench = Bench()
    bench.connect()
    spec = Command("x", extras=Extras(notify=URL, array=2))
    out = bench.receive(bench.line(Submit(spec), ticket(1))._replace(tickets=[ticket(2), ticket(3)]))
    if restarted:
        bench = Bench(stored=[Stored(*record[:4], False) for record in out.records])
        bench.connect()
    assert not any(isinstance(r, Noticed) for r in bench.hear(Result([ended(2)])).records)
    out = bench.hear(Result([ended(3)]))
    assert [record.seq for record in out.records if isinstance(record, Noticed)] == [1]


def test_what_is_pending_at_the_start_is_tried_when_it_is_due() -> None:
    bench = Bench()
    now = bench.now
    stored = [StoredNotice(1, URL, now - 50, 3, now - 40), StoredNotice(2, URL, now - 50, 3, now + 7)]
    bench.core.origin.notices.restore(stored, now)
    bench.step(Tick())
    assert bench.did(Post) == [Post(1)]
    assert bench.core.next_deadline() == now + 7
    assert bench.step(Posted(1, ticket(1), None, "x")).records == [Noticed(1, now - 50, 4, now + 8)]


def test_a_clock_that_was_set_back_holds_nothing_back() -> None:
    teller = Teller()
    teller.notices.restore([StoredNotice(1, URL, teller.now + 5 * DAY, 1, teller.now + 6 * DAY)], teller.now)
    assert teller.notices.next_deadline() == teller.now + NOTICE_RETRY_MOST
    teller.now += NOTICE_RETRY_MOST
    assert teller.send() == [1]
    (record,) = teller.answer(1, 500).records
    assert isinstance(record, Noticed)
    assert record.since == 1000.0


def test_it_is_tried_ever_later_and_given_up_after_a_day() -> None:
    teller = Teller()
    teller.add(1)
    delays = []
    while len(teller.notices):
        assert teller.send() == [1]
        out = teller.answer(1, None, "no answer in time")
        due = teller.notices.next_deadline()
        if due is not None:
            assert out.records == [Noticed(1, 1000.0, len(delays) + 1, due)]
            delays.append(due - teller.now)
            teller.now = due
    assert out.records == [NoticeOver(1)]
    assert delays[:13] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600]
    assert set(delays[13:]) == {NOTICE_RETRY_MOST}
    assert NOTICE_RETRY_PERIOD - NOTICE_RETRY_MOST < teller.now - 1000.0 <= NOTICE_RETRY_PERIOD
    assert teller.logged == [
        f"the notice of {ticket(1)} to http://ci.example:8000 is given up: "
        f"no answer in time, {len(delays) + 1} tries"
    ]


@pytest.mark.parametrize(
    ("status", "is_over"),
    [
        *((status, True) for status in (200, 202, 299, 410)),
        *((status, False) for status in (None, 100, 301, 304, 400, 404, 429, 500, 503)),
    ],
)
def test_which_answers_end_it(status: int | None, is_over: bool) -> None:
    teller = Teller()
    teller.add(1)
    teller.send()
    (record,) = teller.answer(1, status, "why").records
    assert isinstance(record, NoticeOver) == is_over
    assert bool(teller.logged) == (status == 410)
    assert len(teller.notices) == (not is_over)


def test_what_cannot_be_said_is_given_up_at_once() -> None:
    teller = Teller()
    teller.add(1)
    teller.send()
    assert teller.answer(1, None, "its result cannot be read", hopeless=True).records == [NoticeOver(1)]
    said = "is given up: its result cannot be read"
    assert teller.logged == [f"the notice of {ticket(1)} to http://ci.example:8000 {said}"]


def test_a_receiver_has_one_place_until_it_has_taken_something_and_a_few_then() -> None:
    teller = Teller()
    for seq in range(1, 20):
        teller.add(seq)
    assert teller.send() == [1]
    teller.answer(1)
    assert teller.send() == list(range(2, 2 + NOTICES_PER_RECEIVER))
    teller.answer(2)
    assert teller.send() == [6]
    teller.answer(3, 500)
    assert teller.send() == [], "the others are still there, and it has one place again"
    for seq in (4, 5, 6):
        teller.answer(seq, 500)
    assert teller.send() == [7]


def test_receivers_that_hang_have_half_of_the_places_and_the_others_the_rest() -> None:
    teller = Teller()
    for seq in range(1, 3 * NOTICES_AT_ONCE):
        teller.add(seq, f"http://hangs{seq}/")
    assert teller.send() == list(range(1, 1 + DOUBTFUL_AT_ONCE))
    for seq in range(1, 1 + DOUBTFUL_AT_ONCE):
        teller.answer(seq, None)
    teller.now += 1
    for seq in range(1000, 1100):
        teller.add(seq, "http://good/")
    told = teller.send()
    assert len(told) == DOUBTFUL_AT_ONCE
    assert len([seq for seq in told if seq < 1 + DOUBTFUL_AT_ONCE]) == len(told) // 2, "every other turn"
    while 1000 not in teller.under_way:
        teller.answer(teller.under_way[0], None)
        teller.send()
    teller.answer(1000)
    teller.send()
    delivered = 1
    while good := [seq for seq in teller.under_way if seq >= 1000]:
        assert len(good) == min(NOTICES_PER_RECEIVER, 100 - delivered), "though all other places hang"
        teller.answer(good[0])
        delivered += 1
        teller.send()
    assert delivered == 100


def test_one_that_took_the_last_one_is_remembered_and_so_many_are() -> None:
    teller = Teller()
    for seq in range(1, RECEIVERS_KNOWN + 2):
        teller.add(seq, f"http://host{seq}/")
        assert teller.send() == [seq]
        teller.answer(seq)
    assert len(teller.notices._receivers) == RECEIVERS_KNOWN
    for seq in range(5001, 5001 + NOTICES_AT_ONCE):
        teller.add(seq, f"http://hangs{seq}/")
    assert len(teller.send()) == DOUBTFUL_AT_ONCE
    teller.add(9001, "http://host1/")
    teller.add(9002, "http://host2/")
    assert teller.send() == [9002], "the first one was forgotten"


def test_receivers_take_turns() -> None:
    teller = Teller()
    for seq in range(1, 9):
        teller.add(seq, "http://one/")
    for seq in range(11, 15):
        teller.add(seq, f"http://other{seq}/")
    assert teller.send() == [1, 11, 12, 13, 14]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://Host/x", "http://host:80"),
        ("https://host/x?y", "https://host:443"),
        ("https://me:secret@host:8443", "https://host:8443"),
        ("http://[::1]:90/", "http://[::1]:90"),
    ],
)
def test_a_receiver_is_known_by_host_and_port_and_its_password_by_nobody(url: str, name: str) -> None:
    assert receiver_of(url) == name


@given(st.integers(0, 2**32))
def test_whatever_receivers_do_bounds_hold_and_each_notice_ends(seed: int) -> None:
    """Some take all, some hang for a while, some never take anything."""
    chance = random.Random(seed)
    teller = Teller()
    count = chance.randint(1, 120)
    for seq in range(1, count + 1):
        teller.add(seq, f"http://host{chance.randint(1, 40) ** 2 // 40}/")
    ended_at = {}
    tries: Counter[int] = Counter()
    while len(teller.notices):
        for seq in teller.send():
            tries[seq] += 1
        at = Counter(teller.receiver[seq] for seq in teller.under_way)
        assert len(teller.under_way) <= NOTICES_AT_ONCE
        assert max(at.values(), default=0) <= NOTICES_PER_RECEIVER
        assert len(teller.under_way) == len(set(teller.under_way))
        if not teller.under_way:
            due = teller.notices.next_deadline()
            assert due is not None, "nothing is forgotten"
            assert due > teller.now
            teller.now = due
            teller.out = Outcome()
            continue
        seq = chance.choice(teller.under_way)
        is_bad = teller.receiver[seq] == "http://host1:80" or chance.random() < 0.3
        out = teller.answer(seq, chance.choice((None, 500, 302)) if is_bad else 200)
        if any(isinstance(record, NoticeOver) for record in out.records):
            ended_at[seq] = teller.now
        teller.now += chance.choice((0.0, 0.01, 10.0))
    assert set(ended_at) == set(range(1, count + 1))
    assert teller.notices._receivers.keys() == teller.notices._idle.keys()
    assert not teller.notices._under_way
    assert not teller.notices._later
    assert not any(teller.notices._turns.values())
    assert teller.notices._doubtful == 0
