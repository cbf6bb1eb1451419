"""Keys of submissions in a node's store."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusternode.core.events import Done, KeyFreed, Submitted, Withdrawn
from clusternode.core.openjob import Stored
from clusternode.store.sqlite import SqliteStore, TicketRow
from runtime.errors import Damaged

from .test_store_sqlite import FILE, VERSION_2, ended, submitted, ticket

#: A file as version 3 made it. Not to be changed.
VERSION_3 = f"""
    {VERSION_2}
    ALTER TABLE reports ADD COLUMN segment INTEGER;
    ALTER TABLE kept ADD COLUMN segment INTEGER;
    CREATE INDEX kept_segments ON kept (segment) WHERE segment IS NOT NULL;
    PRAGMA user_version = 3;
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def after_crash(store: SqliteStore, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Another store on the same directory, while the first was never closed."""
    other = await SqliteStore.open(tmp_path)
    yield other
    await other.close()


def keyed(seq: int, key: str = "") -> Submitted:
    return submitted(seq)._replace(key=key or f"key-{seq}")


async def test_a_file_of_version_3_is_read_and_takes_keys(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript(VERSION_3)
    connection.close()
    store = await SqliteStore.open(tmp_path)
    assert await store.load() == ([Stored(2, ticket(2), 6.5, b"\2", True)], 3, [(ticket(9), 3, 3)])
    assert await store.page(0) == [
        TicketRow(1, ticket(1), 5.5, b"\1", ended(1, 2, "failed", b"\3\4")),
        TicketRow(2, ticket(2), 6.5, b"\2", None),
    ]
    await store.commit([keyed(3)])
    assert await store.tickets_of(["key-2", "key-3"]) == {"key-3": ticket(3)}
    await store.close()


async def test_the_keys_of_tickets_are_known_also_when_these_are_done(
    store: SqliteStore, after_crash: SqliteStore
) -> None:
    await store.commit([keyed(1), submitted(2), keyed(3)])
    await store.commit([Done(1, ended(1))])
    asked = ["key-3", "key-2", "key-1", ""]
    assert await store.tickets_of(asked) == {"key-3": ticket(3), "key-1": ticket(1)}
    assert await after_crash.tickets_of(asked) == await store.tickets_of(asked)
    assert await store.tickets_of([]) == {}


async def test_what_is_withdrawn_is_gone_with_its_key(store: SqliteStore) -> None:
    await store.commit([keyed(1), keyed(2), submitted(3), submitted(4), submitted(5)])
    await store.commit([KeyFreed("key-2", ticket(2)), Withdrawn(2, 3)])
    assert [row.seq for row in await store.page(0)] == [1, 5]
    assert await store.tickets_of(["key-1", "key-2"]) == {"key-1": ticket(1)}


async def test_a_key_that_is_freed_may_come_again_in_the_same_batch(store: SqliteStore) -> None:
    await store.commit([keyed(1, "k")])
    await store.commit([KeyFreed("k", ticket(1)), Withdrawn(1, 1), keyed(2, "k")])
    assert await store.tickets_of(["k"]) == {"k": ticket(2)}
    assert [row.seq for row in await store.page(0)] == [2]


async def test_no_key_leads_to_another_ticket_by_damage(store: SqliteStore, tmp_path: Path) -> None:
    await store.commit([keyed(1), keyed(2)])
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute(
        "UPDATE keys SET ticket = (SELECT ticket FROM keys WHERE key = 'key-1') WHERE key = 'key-2'"
    )
    connection.close()
    with pytest.raises(Damaged, match="a stored value"):
        await store.tickets_of(["key-2"])
