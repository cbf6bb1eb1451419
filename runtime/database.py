"""SQLite through aiosqlite: one file, one connection, one call to its thread for a whole batch."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import aiosqlite

from runtime.errors import StartError, StorageError
from runtime.failpoints import reach

T = TypeVar("T")

#: Pages of the WAL before it is folded into the file: rarer than SQLite's 1000, as each fold costs fsyncs.
_CHECKPOINT_PAGES = 4000


class Database:
    """A durable store: what `write` has returned from survives kill -9 and power loss."""

    def __init__(self, connection: aiosqlite.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    async def open(cls, path: Path, application_id: int, migrations: Sequence[str]) -> Database:
        """Opens or makes the file and brings its schema forward, `migrations[n]` leading to version n + 1.

        Raises:
            StartError: if it cannot be opened, is no such database, or is of a later version.
        """
        connection = aiosqlite.connect(path, isolation_level=None)
        try:
            await connection
            self = cls(connection, path)
            await self._call(_prepare, application_id, migrations)
        except _Refused as error:
            await connection.close()
            raise StartError(f"{path} {error}") from None
        except sqlite3.Error as error:
            await connection.close()
            # `close` waits for nothing that never connected: its thread would report to a loop that is gone.
            connection._thread.join()
            raise StartError(f"{path} cannot be used: {error}") from None
        return self

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `change` in the connection's thread as one durable transaction.

        It is never cancelled half-way: where the caller is, it completes in that thread, before `close` does.

        Raises:
            StorageError: if it failed; nothing of it is there.
        """
        try:
            return await self._call(_transaction, change)
        except sqlite3.Error as error:
            raise StorageError(f"cannot write {self._path}: {error}") from None

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `query` in the connection's thread; it sees every write before it.

        Raises:
            StorageError: if the file cannot be read.
        """
        try:
            return await self._call(query)
        except sqlite3.Error as error:
            raise StorageError(f"cannot read {self._path}: {error}") from None

    async def close(self) -> None:
        await self._connection.close()

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        # aiosqlite's public calls take one statement each; a batch in one call needs this one, which all of
        # them are made of. The version is bounded in pyproject.toml, and a test would notice its end.
        connection = self._connection
        result: T = await connection._execute(function, connection._conn, *args)  # type: ignore[no-untyped-call]
        return result


class _Refused(Exception):
    pass


def _transaction(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = change(connection)
        reach("commit.inside")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _prepare(connection: sqlite3.Connection, application_id: int, migrations: Sequence[str]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and owner != application_id:
        raise _Refused("is a database of another program; --data names the directory to use")
    if version > len(migrations):
        raise _Refused(
            f"is of schema version {version}, this program knows {len(migrations)}: a later one wrote it"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute("PRAGMA cache_size = -16384")

    def migrate(connection: sqlite3.Connection) -> None:
        for script in migrations[version:]:
            for statement in filter(None, map(str.strip, script.split(";"))):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")

    # Even where nothing is to migrate: a directory that cannot be written is found now, not by the first job.
    _transaction(connection, migrate)
