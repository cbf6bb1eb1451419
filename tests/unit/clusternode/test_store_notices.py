"""Pending notices in a node's store."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusternode.core.events import Done, Noticed, NoticeOver, Record, Submitted
from clusternode.core.notices import StoredNotice
from clusternode.core.openjob import Stored
from clusternode.store.sqlite import SqliteStore, TicketRow
from protocol.job import Command, Ended, Extras
from runtime.errors import Damaged

from .test_store_keys import VERSION_3
from .test_store_sqlite import FILE

URL = "http://127.0.0.1:7/x"
BODY = Command("true", extras=Extras(notify=URL)).pack()


#: A file as version 4 made it. Not to be changed.
VERSION_4 = f"""
    {VERSION_3}
    CREATE TABLE keys (key TEXT PRIMARY KEY, ticket BLOB NOT NULL) WITHOUT ROWID;
    INSERT INTO keys VALUES ('nightly', x'c1ee04ec9754303030303030303030303030303032');
    PRAGMA user_version = 4;
"""


async def test_a_file_of_version_4_is_read_and_takes_notices(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript(VERSION_4)
    connection.close()
    store = await SqliteStore.open(tmp_path)
    assert await store.load() == ([Stored(2, ticket(2), 6.5, b"\2", True)], 3, [(ticket(9), 3, 3)])
    assert await store.tickets_of(["nightly"]) == {"nightly": ticket(2)}
    assert await store.pending_notices() == []
    await store.commit(ended(3))
    assert await store.pending_notices() == [StoredNotice(3, URL, 6.5, 0, 6.5)]
    await store.close()


def ticket(seq: int) -> str:
    return f"T{seq:015d}"


def ended(seq: int) -> list[Record]:
    """A job, its end, and the notice of that."""
    return [
        Submitted(seq, ticket(seq), 5.0, BODY),
        Done(seq, Ended(ticket(seq), 1, "failed", b"report")),
        Noticed(seq, 6.5, 0, 6.5),
    ]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path)
    yield opened
    await opened.close()


async def test_what_is_pending_is_there_after_a_crash_with_how_far_it_is(
    store: SqliteStore, tmp_path: Path
) -> None:
    await store.commit([*ended(3), *ended(1), *ended(2)])
    await store.commit([Noticed(1, 6.5, 3, 14.25), NoticeOver(2)])
    after_crash = await SqliteStore.open(tmp_path)
    assert await after_crash.pending_notices() == [
        StoredNotice(1, URL, 6.5, 3, 14.25),
        StoredNotice(3, URL, 6.5, 0, 6.5),
    ]
    await after_crash.close()


@pytest.mark.parametrize(
    ("batch", "left"),
    [
        ([Noticed(1, 6.5, 1, 7.5), Noticed(1, 6.5, 2, 9.5)], [(2, 9.5)]),
        ([Noticed(1, 6.5, 1, 7.5), NoticeOver(1)], []),
        ([NoticeOver(1)], []),
    ],
)
async def test_in_one_batch_the_last_word_counts(
    store: SqliteStore, batch: list[Record], left: list[tuple[int, float]]
) -> None:
    await store.commit([*ended(1), *batch])
    assert [(each.tries, each.due) for each in await store.pending_notices()] == left


async def test_a_ticket_is_found_by_its_place(store: SqliteStore) -> None:
    await store.commit(ended(2))
    report = Ended(ticket(2), 1, "failed", b"report")
    assert await store.at(2) == TicketRow(2, ticket(2), 5.0, BODY, report)
    assert await store.at(1) is None


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE notices SET seq = 2",
        "UPDATE notices SET progress = x'c100000000'",
        "UPDATE notices SET progress = 5",
        "DELETE FROM tickets",
    ],
)
async def test_a_damaged_notice_is_none(store: SqliteStore, tmp_path: Path, sql: str) -> None:
    await store.commit(ended(1))
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute(sql)
    connection.close()
    with pytest.raises(Damaged, match="a stored value"):
        await store.pending_notices()
