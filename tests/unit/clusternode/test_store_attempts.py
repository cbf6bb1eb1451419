"""What came of earlier attempts, in a node's store."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusternode.core.events import Done
from clusternode.store.sqlite import SqliteStore
from protocol.explain import Attempt
from runtime.errors import Damaged

from .test_store_sqlite import FILE, ended, submitted

TRIED = (Attempt(1, "n1", 5.0, 6.5, "failed"), Attempt(2, "n2", 7.0, 8.0, "lost: its node had died"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path)
    yield opened
    await opened.close()


async def test_it_is_there_for_the_tickets_that_have_any(store: SqliteStore) -> None:
    await store.commit([submitted(1), submitted(2), Done(1, ended(1), TRIED), Done(2, ended(2))])
    assert await store.tried(1) == TRIED
    assert await store.tried(2) == ()
    assert await store.tried(3) == ()


async def test_no_byte_of_it_changes_unnoticed(store: SqliteStore, tmp_path: Path) -> None:
    await store.commit([submitted(1), Done(1, ended(1), TRIED)])
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    (told,) = connection.execute("SELECT told FROM attempts").fetchone()
    connection.execute("UPDATE attempts SET told = ?", (told[:-1] + bytes([told[-1] ^ 1]),))
    connection.close()
    with pytest.raises(Damaged, match="a stored value"):
        await store.tried(1)
