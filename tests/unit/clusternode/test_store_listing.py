"""The look through a store from the newest ticket on."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusternode.core.events import Done, Record, Submitted
from clusternode.store import listing
from clusternode.store.listing import PIECE_BYTES, Wanted
from clusternode.store.sqlite import BLOB_BYTES, SqliteStore
from protocol.job import Command, Ended, Extras, Report, Sleep, Task

NEWEST = 2**62


def ticket(seq: int) -> str:
    return f"T{seq:015d}"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path)
    yield opened
    await opened.close()


def submitted(seq: int, tag: str = "", name: str = "") -> Submitted:
    spec = Command("x", extras=Extras(tag=tag, name=name)) if tag or name else Sleep(5)
    return Submitted(seq, ticket(seq), 10.0 * seq, spec.pack())


def done(seq: int, outcome: str = "succeeded", report: bytes | None = None) -> Done:
    body = Report("n", 1.0, 2.0, 0).pack() if report is None else report
    return Done(seq, Ended(ticket(seq), 1, outcome, body))


async def found_by(store: SqliteStore, wanted: Wanted, most: int = 1000) -> list[int]:
    return [seq for piece in await all_of(store, wanted, most) for seq in piece]


async def all_of(store: SqliteStore, wanted: Wanted, most: int = 1000) -> list[list[int]]:
    """The seqs that were found, piece by piece."""
    pieces = []
    before = NEWEST
    while before:
        rows, before = await store.older(before, wanted, most)
        pieces.append([row.seq for row in rows])
    return pieces


async def test_the_newest_comes_first_and_its_end_with_it(store: SqliteStore) -> None:
    assert await all_of(store, Wanted()) == [[]]
    await store.commit([submitted(1), submitted(2), done(1), done(2, report=bytes(BLOB_BYTES + 1))])
    (second, first), before = await store.older(NEWEST, Wanted(), 10)
    assert before == 0
    assert (first.seq, first.ticket, first.submitted_at) == (1, ticket(1), 10.0)
    assert first.ended == done(1).ended
    assert second.ended is not None
    assert second.ended.body == bytes(BLOB_BYTES + 1)


async def test_pieces_follow_one_another_and_end_exactly(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit([submitted(seq) for seq in range(1, 7)])
    assert await all_of(store, Wanted(), 2) == [[6, 5], [4, 3], [2, 1]]
    assert await all_of(store, Wanted(), 4) == [[6, 5, 4, 3], [2, 1]]
    monkeypatch.setattr(listing, "PIECE_ROWS", 3)
    assert await all_of(store, Wanted()) == [[6, 5, 4], [3, 2, 1]]
    monkeypatch.setattr(listing, "PIECE_ROWS", 4)
    assert await all_of(store, Wanted(tag="none")) == [[], []]


async def test_a_piece_ends_after_so_many_bytes(store: SqliteStore) -> None:
    for seq in range(1, 5):
        await store.commit([submitted(seq), done(seq, report=bytes(PIECE_BYTES // 2))])
    assert await all_of(store, Wanted()) == [[4, 3], [2, 1]]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(), [7, 6, 5, 4, 3, 2, 1]),
        (Wanted(is_open=True), [7, 4, 2]),
        (Wanted(is_open=False), [6, 5, 3, 1]),
        (Wanted(is_open=False, outcome="failed"), [5, 1]),
        (Wanted(tag="ci"), [6, 4, 1]),
        (Wanted(name="nightly"), [5, 4]),
        (Wanted(tag="ci", name="nightly"), [4]),
        (Wanted(is_open=True, tag="ci"), [4]),
        (Wanted(since=50.0), [7, 6, 5]),
        (Wanted(since=50.1), [7, 6]),
        (Wanted(since=1000.0), []),
    ],
)
async def test_what_fits_is_found(store: SqliteStore, wanted: Wanted, found: list[int]) -> None:
    await store.commit(
        [
            *(submitted(1, tag="ci"), submitted(2), submitted(3), submitted(4, "ci", "nightly")),
            *(submitted(5, name="nightly"), submitted(6, tag="ci"), submitted(7, tag="cix")),
            *(done(1, "failed"), done(3), done(5, "failed"), done(6, "lost")),
        ]
    )
    assert await found_by(store, wanted) == found


async def test_a_task_is_found_by_its_tag_and_a_word_elsewhere_finds_nothing(store: SqliteStore) -> None:
    task = Task("ci", '{"tag": "ci"}', extras=Extras(tag="other"))
    await store.commit([Submitted(1, ticket(1), 1.0, task.pack()), submitted(2, name="ci")])
    assert await all_of(store, Wanted(tag="other")) == [[1]]
    assert await all_of(store, Wanted(tag="ci")) == [[]]


async def test_a_damaged_ticket_is_there_and_has_no_tag(store: SqliteStore, tmp_path: Path) -> None:
    await store.commit([submitted(1, tag="ci"), submitted(2, tag="ci")])
    connection = sqlite3.connect(tmp_path / "clusternode.sqlite3", isolation_level=None)
    connection.execute("UPDATE tickets SET submitted_at = 11.0 WHERE seq = 1")
    connection.close()
    assert await all_of(store, Wanted()) == [[2, 1]]
    assert await all_of(store, Wanted(tag="ci")) == [[2]]


@pytest.mark.parametrize("seed", range(10))
async def test_no_ticket_is_left_out_or_comes_twice(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(listing, "PIECE_ROWS", chance.randint(1, 9))
    records: list[Record] = []
    count = chance.randint(0, 40)
    tags, outcomes = {}, {}
    for seq in range(1, count + 1):
        tags[seq] = chance.choice(("", "a", "b"))
        records.append(submitted(seq, tag=tags[seq]))
        if chance.random() < 0.6:
            outcomes[seq] = chance.choice(("failed", "succeeded"))
            records.append(done(seq, outcomes[seq]))
    await store.commit(records)
    for _ in range(10):
        wanted = Wanted(
            chance.choice((None, True, False)), chance.choice(("", "failed")), chance.choice(("", "a"))
        )
        expected = [
            seq
            for seq in range(count, 0, -1)
            if wanted.is_open in (None, seq not in outcomes)
            and wanted.outcome in ("", outcomes.get(seq))
            and wanted.tag in ("", tags[seq])
        ]
        assert await found_by(store, wanted, chance.randint(1, 5)) == expected
