"""SQLite through aiosqlite: one file, one connection, one call to its thread for a whole batch."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import aiosqlite

from runtime.errors import Damaged, StartError, StorageError
from runtime.failpoints import reach

T = TypeVar("T")

#: Pages of the WAL before it is folded into the file: rarer than SQLite's 1000, as each fold costs fsyncs.
_CHECKPOINT_PAGES = 4000
#: A file of up to so many pages (512 MB) is checked whole at start; a larger one would take seconds.
_CHECKED_PAGES = 131_072
#: The first byte of a sealed value; MessagePack, which all values are, never uses it.
_SEAL = b"\xc1"
#: That byte, and the checksum.
_SEAL_SIZE = 5
#: What leads from one schema version to the next: statements, or what cannot be said in them.
Migration = str | Callable[[sqlite3.Connection], None]
#: What SQLite raises where it meets damage itself.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class BrokenSeal(sqlite3.DatabaseError):
    """A stored value, or what it was sealed with, is not what was written."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def seal(value: bytes, *context: object) -> bytes:
    """`value` with a checksum of it and of `context`, which stands elsewhere in its row: SQLite has none."""
    return _seal_of(value, context) + value


def unseal(stored: bytes, *context: object) -> bytes:
    """The value that was sealed with the same `context`; one that was stored without a seal as it is.

    Raises:
        BrokenSeal: if either has changed.
    """
    if not stored.startswith(_SEAL):
        return stored
    return sealed_value(stored, *context)


def sealed_value(stored: object, *context: object) -> bytes:
    """As `unseal`, of what was never stored without a seal."""
    if not isinstance(stored, bytes):
        raise BrokenSeal("a stored value has lost its seal")
    value = stored[_SEAL_SIZE:]
    if stored[:_SEAL_SIZE] != _seal_of(value, context):
        what = "changed" if stored.startswith(_SEAL) else "lost its seal"
        raise BrokenSeal(f"a stored value has {what}")
    return value


def _seal_of(value: bytes, context: tuple[object, ...]) -> bytes:
    checksum = zlib.crc32(value, zlib.crc32("\0".join(map(str, context)).encode()))
    return _SEAL + checksum.to_bytes(4, "big")


class Database:
    """A durable store: what `write` has returned from survives kill -9 and power loss."""

    def __init__(self, connection: aiosqlite.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    @classmethod
    async def open(cls, path: Path, application_id: int, migrations: Sequence[Migration]) -> Database:
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
            self._raise_if_damaged(error)
            raise StorageError(f"cannot write {self._path}: {error}") from None
        except OSError as error:
            raise StorageError(f"cannot write {error.filename or self._path}: {error.strerror}") from None

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `query` in the connection's thread; it sees every write before it.

        Raises:
            StorageError: if the file cannot be read.
        """
        try:
            return await self._call(query)
        except sqlite3.Error as error:
            self._raise_if_damaged(error)
            raise StorageError(f"cannot read {self._path}: {error}") from None
        except OSError as error:
            raise StorageError(f"cannot read {error.filename or self._path}: {error.strerror}") from None

    def _raise_if_damaged(self, error: sqlite3.Error) -> None:
        if getattr(error, "sqlite_errorcode", None) in _DAMAGE:
            raise Damaged(f"{self._path} is damaged: {error}") from None

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


def _prepare(connection: sqlite3.Connection, application_id: int, migrations: Sequence[Migration]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and owner != application_id:
        raise _Refused("is a database of another program; --data names the directory to use")
    if version > len(migrations):
        raise _Refused(
            f"is of schema version {version}, this program knows {len(migrations)}: a later one wrote it"
        )
    # Damage that could hide a job is found now, not when it is asked for: 0.3 s for 200,000 jobs (100 MB).
    # In a larger file what is read is still checked, as it is sealed; its structure is, as SQLite meets it.
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    is_small = pages <= _CHECKED_PAGES
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone() if is_small else ("ok",)
    if verdict != "ok":
        raise _Refused(f"is damaged: {' '.join(verdict.split())}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute("PRAGMA cache_size = -16384")

    def migrate(connection: sqlite3.Connection) -> None:
        for migration in migrations[version:]:
            if callable(migration):
                migration(connection)
                continue
            for statement in filter(None, map(str.strip, migration.split(";"))):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")

    # Even where nothing is to migrate: a directory that cannot be written is found now, not by the first job.
    _transaction(connection, migrate)
