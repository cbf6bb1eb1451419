"""Whose a key is: claimed once, kept for its period, forgotten in batches, the same after a restart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadbalancer.core.events import Log
from loadbalancer.core.keys import FORGET_AT_ONCE, KEY_GRAIN, KeyRow, Keys, KeysGone
from protocol.limits import KEY_PERIOD
from protocol.messages import Job, JobItem
from protocol.relay import Claim, Claimed, Claiming, Owner

from .test_balancer import BODY, Bench, ticket


def claiming(*numbers: int, offset: int = 0) -> list[Claiming]:
    """Keys of these numbers, for tickets of theirs."""
    return [Claiming(f"key-{number}", ticket(number + offset)) for number in numbers]


def on_disk(records: list[KeyRow | KeysGone]) -> list[KeyRow]:
    rows: list[KeyRow] = []
    for record in records:
        if isinstance(record, KeyRow):
            rows.append(record)
        else:
            rows = [row for row in rows if row.seq > record.seq]
    return rows


def test_a_key_belongs_to_the_ticket_that_claimed_it_first() -> None:
    keys = Keys()
    assert keys.claim("id1", "n1", claiming(1, 2), 5.0) == [Owner(ticket(1), "n1"), Owner(ticket(2), "n1")]
    assert keys.collect() == [
        KeyRow(1, "key-1", ticket(1), "id1", "n1", 5.0),
        KeyRow(2, "key-2", ticket(2), "id1", "n1", 5.0),
    ]
    again = keys.claim("id2", "n2", claiming(2, 3, offset=10), 6.0)
    assert again == [Owner(ticket(2), "n1"), Owner(ticket(13), "n2")]
    assert keys.collect() == [KeyRow(3, "key-3", ticket(13), "id2", "n2", 6.0)], (
        "what is known is not recorded"
    )


def test_the_same_key_twice_in_one_claim_has_one_owner() -> None:
    claims = [Claiming("key", ticket(1)), Claiming("key", ticket(2))]
    assert Keys().claim("id1", "n1", claims, 5.0) == [Owner(ticket(1), "n1")] * 2


def test_an_owner_is_named_as_it_is_called_now() -> None:
    keys = Keys()
    keys.claim("id1", "n1", claiming(1), 5.0)
    keys.claim("id1", "renamed", claiming(2), 6.0)
    assert keys.claim("id2", "n2", claiming(1), 7.0) == [Owner(ticket(1), "renamed")]


def test_a_key_is_free_again_after_its_period_and_not_before() -> None:
    keys = Keys()
    keys.claim("id1", "n1", claiming(1), 5.0)
    keys.collect()
    keys.expire(5.0 + KEY_PERIOD)
    assert not keys.collect()
    assert keys.claim("id2", "n2", claiming(1, offset=9), 5.0 + KEY_PERIOD) == [Owner(ticket(1), "n1")]
    keys.expire(5.0 + KEY_PERIOD + KEY_GRAIN)
    assert keys.collect() == [KeysGone(1)]
    assert keys.claim("id2", "n2", claiming(1, offset=9), 9e9) == [Owner(ticket(10), "n2")]


def test_many_that_are_over_go_in_batches() -> None:
    keys = Keys()
    count = 2 * FORGET_AT_ONCE + 1
    keys.claim("id1", "n1", claiming(*range(count)), 5.0)
    keys.claim("id1", "n1", claiming(count), 5.0 + KEY_PERIOD)
    keys.collect()
    for left in (FORGET_AT_ONCE + 2, 2, 1, 1):
        keys.expire(5.0 + KEY_PERIOD + KEY_GRAIN)
        assert len(keys) == left
    assert keys.collect() == [KeysGone(FORGET_AT_ONCE), KeysGone(2 * FORGET_AT_ONCE), KeysGone(count)]


def test_too_many_push_the_oldest_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadbalancer.core.keys.KEYS_LIMIT", 10)
    monkeypatch.setattr("loadbalancer.core.keys.FORGET_AT_ONCE", 4)
    keys = Keys()
    keys.claim("id1", "n1", claiming(*range(10)), 5.0)
    assert keys.early == 0
    keys.claim("id1", "n1", claiming(10), 6.0)
    assert (len(keys), keys.early) == (7, 4)
    assert keys.collect()[-1] == KeysGone(4)
    assert keys.claim("id2", "n2", claiming(3, 4, offset=50), 7.0) == [
        Owner(ticket(53), "n2"),
        Owner(ticket(4), "n1"),
    ]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.lists(st.integers(0, 12), max_size=5)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, KEY_GRAIN, KEY_PERIOD / 2, KEY_PERIOD])),
        st.tuples(st.just("restart"), st.integers(1, 4)),
    ),
    max_size=30,
)


@given(steps)
def test_whatever_comes_an_owner_stays_for_the_period_and_what_is_forgotten_is_so_on_disk(
    steps: list[tuple[str, object]],
) -> None:
    keys, now, number = Keys(), 1000.0, 0
    records: list[KeyRow | KeysGone] = []
    owners: dict[str, tuple[str, float]] = {}
    for what, value in steps:
        if what == "claim":
            assert isinstance(value, list)
            claims = [Claiming(f"key-{each}", ticket(100 + number + i)) for i, each in enumerate(value)]
            number += len(claims)
            for (key, mine), owner in zip(claims, keys.claim("id1", "n1", claims, now), strict=True):
                if key in owners and now < owners[key][1] + KEY_PERIOD:
                    assert owner.ticket == owners[key][0]
                elif owner.ticket == mine:
                    owners[key] = mine, now
                else:
                    assert owner.ticket == owners[key][0], "kept somewhat longer than it must be"
        elif what == "wait":
            assert isinstance(value, float)
            now += value
            keys.expire(now)
        else:
            assert isinstance(value, int)
            rows, keys = on_disk(records), Keys()
            for start in range(0, len(rows), value):
                keys.restore(rows[start : start + value])
        records += keys.collect()
        assert len(on_disk(records)) == len(keys)
    keys.expire(now + KEY_PERIOD + KEY_GRAIN)
    keys.expire(now + KEY_PERIOD + KEY_GRAIN)
    for _ in range(40):
        keys.expire(now + KEY_PERIOD + KEY_GRAIN)
    assert not len(keys)
    assert not on_disk(records + keys.collect())


# --- in the balancer -----------------------------------------------------------------------------


def test_a_node_hears_whose_keys_are_after_they_are_recorded() -> None:
    bench = Bench()
    bench.join(1)
    bench.join(2)
    out = bench.say(1, Claim(7, claiming(1, 2)))
    assert out.records == [
        KeyRow(1, "key-1", ticket(1), "id1", "n1", bench.now),
        KeyRow(2, "key-2", ticket(2), "id1", "n1", bench.now),
    ]
    assert not out.prompt
    assert bench.sent(Claimed, 1) == [Claimed(7, [Owner(ticket(1), "n1"), Owner(ticket(2), "n1")])]
    bench.say(2, Claim(3, claiming(2, offset=10)))
    assert bench.sent(Claimed, 2) == [Claimed(3, [Owner(ticket(2), "n1")])]
    assert bench.core.stats()["keys"] == 2


def test_a_key_outlives_its_job_and_goes_with_time() -> None:
    bench = Bench()
    bench.join(1)
    bench.say(1, Claim(1, claiming(1)))
    bench.say(1, Job([JobItem(ticket(1), 0, bench.now, BODY)]))
    assert bench.core.stats()["keys"] == 1
    bench.tick(KEY_PERIOD + KEY_GRAIN)
    assert bench.core.stats()["keys"] == 0
    assert KeysGone(1) in bench.records


def warnings(bench: Bench) -> list[Log]:
    return [action for action in bench.actions if isinstance(action, Log) and action.warning]


def test_too_many_keys_are_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadbalancer.core.keys.KEYS_LIMIT", 2)
    bench = Bench()
    bench.join(1)
    bench.say(1, Claim(1, claiming(1, 2)))
    assert not warnings(bench)
    bench.say(1, Claim(2, claiming(3)))
    assert len(warnings(bench)) == 1
    bench.say(1, Claim(3, claiming(4, 5, 6)))
    assert not warnings(bench)
