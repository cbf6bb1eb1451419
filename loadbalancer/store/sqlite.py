"""The embedded store: SQLite. Rows are keyed by order of arrival: inserts append, deletes are cheap."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from loadbalancer.core.jobs import Forget, Record, Row
from loadbalancer.store import Fenced, Opened
from runtime.database import Database, seal, unseal

_APPLICATION_ID = 0x45564C42  # "EVLB"

_MIGRATIONS = [
    """
    CREATE TABLE balancer (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, epoch INTEGER NOT NULL);
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY,
        ticket TEXT NOT NULL,
        version INTEGER NOT NULL,
        state INTEGER NOT NULL,
        origin TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        losses INTEGER NOT NULL,
        node TEXT,
        submitted_at REAL NOT NULL,
        outcome TEXT NOT NULL,
        result_size INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        not_before REAL NOT NULL,
        retries INTEGER NOT NULL,
        at_most_once INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    CREATE TABLE results (seq INTEGER PRIMARY KEY, result BLOB NOT NULL)
    """
]

_INSERT = """
    INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (seq) DO UPDATE SET
        version = excluded.version, state = excluded.state, attempt = excluded.attempt,
        losses = excluded.losses, node = excluded.node, outcome = excluded.outcome,
        result_size = excluded.result_size, failures = excluded.failures, not_before = excluded.not_before
    WHERE excluded.version > version
"""
_UPDATE = """
    UPDATE jobs SET version = ?, state = ?, attempt = ?, losses = ?, node = ?, outcome = ?, result_size = ?,
        failures = ?, not_before = ?
    WHERE seq = ? AND version < ?
"""
_SELECT_RESULT = "SELECT result, ticket, attempt, outcome FROM results JOIN jobs USING (seq) WHERE seq = ?"


class SqliteStore:
    """See `Store`. The directory's lock keeps other processes out; the epoch is checked all the same."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    async def open(cls, directory: Path) -> SqliteStore:
        """Raises StartError if the file cannot be used."""
        path = directory / "loadbalancer.sqlite3"
        return cls(await Database.open(path, _APPLICATION_ID, _MIGRATIONS))

    async def acquire(self, new_id: str) -> Opened:
        def change(connection: sqlite3.Connection) -> Opened:
            connection.execute(
                "INSERT INTO balancer VALUES (1, ?, 1) ON CONFLICT (one) DO UPDATE SET epoch = epoch + 1",
                (new_id,),
            )
            return Opened(*connection.execute("SELECT id, epoch FROM balancer").fetchone())

        return await self._database.write(change)

    async def load_open(self, epoch: int) -> list[Row]:
        def query(connection: sqlite3.Connection) -> list[Row]:
            _check_epoch(connection, epoch)
            rows = connection.execute("SELECT * FROM jobs ORDER BY seq")
            found = [Row._make((*row, None)) for row in rows]
            return [row._replace(body=unseal(row.body or b"", *_sealed_with(row))) for row in found]

        return await self._database.read(query)

    async def apply(self, epoch: int, changes: Sequence[Record]) -> None:
        inserts, updates, results, deletes = _sort(coalesce(changes))

        def change(connection: sqlite3.Connection) -> None:
            _check_epoch(connection, epoch)
            connection.executemany(_INSERT, inserts)
            connection.executemany(_UPDATE, updates)
            connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", results)
            connection.executemany("DELETE FROM jobs WHERE seq = ?", deletes)
            connection.executemany("DELETE FROM results WHERE seq = ?", deletes)

        await self._database.write(change)

    async def results(self, keys: Iterable[int]) -> dict[int, bytes]:
        wanted = list(keys)

        def query(connection: sqlite3.Connection) -> dict[int, bytes]:
            found = {}
            for key in wanted:
                row = connection.execute(_SELECT_RESULT, (key,)).fetchone()
                if row is not None:
                    result, *sealed_with = row
                    found[key] = unseal(result, *sealed_with)
            return found

        return await self._database.read(query)

    async def close(self) -> None:
        await self._database.close()


def _check_epoch(connection: sqlite3.Connection, epoch: int) -> None:
    if connection.execute("SELECT epoch FROM balancer").fetchone() != (epoch,):
        raise Fenced(f"another balancer has taken this store over since epoch {epoch}")


def _sealed_with(row: Row) -> tuple[object, ...]:
    """What a row's body is sealed with: all that never changes."""
    return row.ticket, row.origin, float(row.submitted_at), row.retries, bool(row.at_most_once)


def coalesce(changes: Sequence[Record]) -> list[Record]:
    """At most one change a job: the last row, with the body and result of those before it.

    Nothing is left of a job that was accepted and forgotten in the same batch but a delete, which is
    harmless where there is nothing to delete.
    """
    latest: dict[int, Record] = {}
    for record in changes:
        before = latest.get(record.seq)
        if isinstance(record, Row) and isinstance(before, Row):
            body = before.body if record.body is None else record.body
            result = before.result if record.result is None else record.result
            record = record._replace(body=body, result=result)
        latest[record.seq] = record
    return list(latest.values())


def _sort(
    changes: Iterable[Record],
) -> tuple[
    list[Row | tuple[object, ...]], list[tuple[object, ...]], list[tuple[int, bytes]], list[tuple[int]]
]:
    inserts: list[Row | tuple[object, ...]] = []
    updates: list[tuple[object, ...]] = []
    results: list[tuple[int, bytes]] = []
    deletes: list[tuple[int]] = []
    for record in changes:
        if isinstance(record, Forget):
            deletes.append((record.seq,))
            continue
        if record.body is not None:
            inserts.append((*record[:15], seal(record.body, *_sealed_with(record))))
        else:
            r = record
            what = (r.version, r.state, r.attempt, r.losses, r.node, r.outcome, r.result_size)
            updates.append((*what, r.failures, r.not_before, r.seq, r.version))
        if record.result is not None:
            result = seal(record.result, record.ticket, record.attempt, record.outcome)
            results.append((record.seq, result))
    return inserts, updates, results, deletes
