"""The embedded store: SQLite. Rows are keyed by order of arrival: inserts append, deletes are cheap."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgpack

from loadbalancer.core.events import Record
from loadbalancer.core.jobs import Forget, JobRecord, Row
from loadbalancer.core.keys import KeyRow, KeysGone
from loadbalancer.store import Fenced, Opened
from protocol.explain import Attempt
from runtime.database import Database, Migration, seal, sealed_value, unseal

_APPLICATION_ID = 0x45564C42  # "EVLB"

_VERSION_1 = """
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
#: `job` holds what never changes of a job, `state` what does; both are MessagePack, and sealed.
_JOBS = """
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY,
        version INTEGER NOT NULL,
        state BLOB NOT NULL,
        job BLOB NOT NULL
    )
    """


def _to_version_2(connection: sqlite3.Connection) -> None:
    """Every value of version 1 gets a seal: there it was optional, and only what never changes had one."""
    for balancer_id, epoch in connection.execute("SELECT id, epoch FROM balancer").fetchall():
        connection.execute("UPDATE balancer SET id = ?", (_sealed_id(balancer_id, epoch),))
    connection.execute("ALTER TABLE jobs RENAME TO jobs_1")
    connection.execute(_JOBS)
    for found in connection.execute("SELECT * FROM jobs_1"):
        *fields, found_body = found
        row = Row._make((*fields, 0, found_body, None, ()))
        constant = (row.ticket, row.origin, float(row.submitted_at), row.retries, bool(row.at_most_once))
        body = unseal(row.body or b"", *constant)
        connection.execute(_INSERT, _inserted(row._replace(body=body)))
    results = "SELECT result, seq, ticket, attempt, outcome FROM results JOIN jobs_1 USING (seq)"
    for result, seq, *sealed_with in connection.execute(results).fetchall():
        value = seal(unseal(result, *sealed_with), seq)
        connection.execute("UPDATE results SET result = ? WHERE seq = ?", (value, seq))
    connection.execute("DROP TABLE jobs_1")


#: Version 3 adds a priority to `job`: what was written before is read as it is, and an older program must not
#: meet it.
_TO_VERSION_3 = ""

#: Version 4 has keys, and in `state` what came of earlier attempts, where there were any. `claim`: (key,
#: ticket, origin, node, at) as MessagePack, sealed.
_VERSION_4 = "CREATE TABLE keys (seq INTEGER PRIMARY KEY, claim BLOB NOT NULL)"

_MIGRATIONS: list[Migration] = [_VERSION_1, _to_version_2, _TO_VERSION_3, _VERSION_4]

#: Keys are loaded so many at a time.
KEYS_AT_ONCE = 50_000

_INSERT = """
    INSERT INTO jobs VALUES (?, ?, ?, ?)
    ON CONFLICT (seq) DO UPDATE SET version = excluded.version, state = excluded.state
    WHERE excluded.version > version
"""
_UPDATE = "UPDATE jobs SET version = ?, state = ? WHERE seq = ? AND version < ?"


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
            found = connection.execute("SELECT id, epoch FROM balancer").fetchone()
            balancer_id, epoch = (
                (sealed_value(found[0], found[1]).decode(), found[1]) if found else (new_id, 0)
            )
            opened = Opened(balancer_id, epoch + 1)
            sealed = _sealed_id(*opened)
            connection.execute("INSERT OR REPLACE INTO balancer VALUES (1, ?, ?)", (sealed, opened.epoch))
            return opened

        return await self._database.write(change)

    async def load_open(self, epoch: int) -> list[Row]:
        def query(connection: sqlite3.Connection) -> list[Row]:
            _check_epoch(connection, epoch)
            return [_row(*found) for found in connection.execute("SELECT * FROM jobs ORDER BY seq")]

        return await self._database.read(query)

    async def load_keys(self, epoch: int, after: int) -> list[KeyRow]:
        def query(connection: sqlite3.Connection) -> list[KeyRow]:
            _check_epoch(connection, epoch)
            found = connection.execute(
                "SELECT seq, claim FROM keys WHERE seq > ? ORDER BY seq LIMIT ?", (after, KEYS_AT_ONCE)
            )
            return [KeyRow(seq, *_unpack(sealed_value(claim, seq))) for seq, claim in found]

        return await self._database.read(query)

    async def apply(self, epoch: int, changes: Sequence[Record]) -> None:
        jobs = [each for each in changes if isinstance(each, JobRecord)]
        keys = [_claimed(each) for each in changes if isinstance(each, KeyRow)]
        gone = max((each.seq for each in changes if isinstance(each, KeysGone)), default=None)
        inserts, updates, results, deletes, results_deleted = _sort(coalesce(jobs))

        def change(connection: sqlite3.Connection) -> None:
            _check_epoch(connection, epoch)
            connection.executemany(_INSERT, inserts)
            connection.executemany(_UPDATE, updates)
            connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", results)
            connection.executemany("DELETE FROM jobs WHERE seq = ?", deletes)
            connection.executemany("DELETE FROM results WHERE seq = ?", results_deleted)
            connection.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?)", keys)
            if gone is not None:
                connection.execute("DELETE FROM keys WHERE seq <= ?", (gone,))

        await self._database.write(change)

    async def results(self, keys: Iterable[int]) -> dict[int, bytes]:
        wanted = list(keys)

        def query(connection: sqlite3.Connection) -> dict[int, bytes]:
            found = {}
            for key in wanted:
                row = connection.execute("SELECT result FROM results WHERE seq = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = sealed_value(row[0], key)
            return found

        return await self._database.read(query)

    async def close(self) -> None:
        await self._database.close()


def _check_epoch(connection: sqlite3.Connection, epoch: int) -> None:
    if connection.execute("SELECT epoch FROM balancer").fetchone() != (epoch,):
        raise Fenced(f"another balancer has taken this store over since epoch {epoch}")


def _sealed_id(balancer_id: str, epoch: int) -> bytes:
    return seal(balancer_id.encode(), epoch)


def _row(seq: int, version: int, state: object, job: object) -> Row:
    """A row as it is stored.

    Raises:
        BrokenSeal: if anything of it has changed.
    """
    ticket, origin, submitted_at, retries, at_most_once, body, *more = _unpack(sealed_value(job, seq))
    priority = more[0] if more else 0  # version 2 had none
    place, attempt, losses, node, outcome, result_size, failures, not_before, *told = _unpack(
        sealed_value(state, seq, version)
    )
    story = tuple(Attempt(*each) for each in told[0]) if told else ()
    what = (origin, attempt, losses, node, submitted_at, outcome, result_size, failures, not_before)
    return Row(seq, ticket, version, place, *what, retries, at_most_once, priority, body, None, story)


def _unpack(value: bytes) -> Any:
    return msgpack.unpackb(value, use_list=False)


def _inserted(row: Row) -> tuple[int, int, bytes, bytes]:
    job = (row.ticket, row.origin, row.submitted_at, row.retries, row.at_most_once, row.body, row.priority)
    return row.seq, row.version, _state(row), seal(msgpack.packb(job), row.seq)


def _state(r: Row) -> bytes:
    what = (r.state, r.attempt, r.losses, r.node, r.outcome, r.result_size, r.failures, r.not_before)
    return seal(msgpack.packb((*what, r.story) if r.story else what), r.seq, r.version)


def _claimed(row: KeyRow) -> tuple[int, bytes]:
    return row.seq, seal(msgpack.packb(row[1:]), row.seq)


def coalesce(changes: Sequence[JobRecord]) -> list[JobRecord]:
    """At most one change a job: the last row, with the body and result of those before it.

    Nothing is left of a job that was accepted and forgotten in the same batch but a delete, which is
    harmless where there is nothing to delete.
    """
    latest: dict[int, JobRecord] = {}
    for record in changes:
        before = latest.get(record.seq)
        if isinstance(record, Row) and isinstance(before, Row):
            body = before.body if record.body is None else record.body
            result = before.result if record.result is None else record.result
            record = record._replace(body=body, result=result)
        latest[record.seq] = record
    return list(latest.values())


def _sort(
    changes: Iterable[JobRecord],
) -> tuple[
    list[tuple[int, int, bytes, bytes]],
    list[tuple[int, bytes, int, int]],
    list[tuple[int, bytes]],
    list[tuple[int]],
    list[tuple[int]],
]:
    """(inserts, updates, results, deletes of jobs, deletes of results), as the statements take them."""
    inserts, updates, results, deletes, results_deleted = [], [], [], [], []
    for record in changes:
        if isinstance(record, Forget):
            deletes.append((record.seq,))
            if record.has_result:
                results_deleted.append((record.seq,))
            continue
        if record.body is not None:
            inserts.append(_inserted(record))
        else:
            updates.append((record.version, _state(record), record.seq, record.version))
        if record.result is not None:
            results.append((record.seq, seal(record.result, record.seq)))
    return inserts, updates, results, deletes, results_deleted
