"""What a node must not forget: its tickets with their results, and results that the load balancer lacks."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clusternode.core.events import (
    CancelAsked,
    Done,
    Kept,
    Record,
    Released,
    Submitted,
    Withdrawn,
)
from clusternode.core.notices import StoredNotice
from clusternode.core.openjob import Stored
from clusternode.store import attempts, keys, listing, notices
from protocol.explain import Attempt
from protocol.job import Ended
from protocol.limits import KIB, MIB
from runtime.blobs import Place, Segments
from runtime.database import BrokenSeal, Database, Migration, seal, sealed_value, unseal

_APPLICATION_ID = 0x45564E44  # "EVND"

_VERSION_1 = """
    CREATE TABLE node (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, name TEXT NOT NULL);
    CREATE TABLE tickets (
        seq INTEGER PRIMARY KEY,
        ticket TEXT NOT NULL UNIQUE,
        submitted_at REAL NOT NULL,
        cancelled INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        outcome TEXT,
        body BLOB NOT NULL
    );
    CREATE INDEX open_tickets ON tickets (seq) WHERE outcome IS NULL;
    CREATE TABLE reports (seq INTEGER PRIMARY KEY, report BLOB NOT NULL);
    CREATE TABLE kept (
        ticket TEXT PRIMARY KEY,
        attempt INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        report BLOB NOT NULL
    )
    """


def _to_version_2(connection: sqlite3.Connection) -> None:
    """Seals on what had none: the node's id, whether a job is cancelled; and on all values, not on some.

    Each row is changed in place behind the cursor: a node's history may be larger than its memory.
    """
    for node_id, name in connection.execute("SELECT id, name FROM node").fetchall():
        connection.execute("UPDATE node SET id = ?", (seal(node_id.encode(), name),))
    tickets = "SELECT seq, ticket, submitted_at, cancelled, body FROM tickets"
    for seq, ticket, submitted_at, cancelled, body in connection.execute(tickets):
        value = unseal(body, ticket, submitted_at)
        connection.execute(
            "UPDATE tickets SET cancelled = ?, body = ? WHERE seq = ?",
            (_cancelled(seq) if cancelled else 0, seal(value, ticket, submitted_at), seq),
        )
    reports = "SELECT report, ticket, attempt, outcome, seq FROM reports JOIN tickets USING (seq)"
    for report, *context, seq in connection.execute(reports):
        value = seal(unseal(report, *context), *context)
        connection.execute("UPDATE reports SET report = ? WHERE seq = ?", (value, seq))
    for ticket, *context, report in connection.execute("SELECT * FROM kept").fetchall():
        value = seal(unseal(report, ticket, *context), ticket, *context)
        connection.execute("UPDATE kept SET report = ? WHERE ticket = ?", (value, ticket))


#: `segment`: None, or the file in which the report is; `report` then says where in it, sealed as well.
_VERSION_3 = """
    ALTER TABLE reports ADD COLUMN segment INTEGER;
    ALTER TABLE kept ADD COLUMN segment INTEGER;
    CREATE INDEX kept_segments ON kept (segment) WHERE segment IS NOT NULL
    """
_MIGRATIONS: list[Migration] = [
    _VERSION_1,
    _to_version_2,
    _VERSION_3,
    keys.SCHEMA,
    notices.SCHEMA,
    attempts.SCHEMA,
]

#: A report above this is written into a segment file, not into the database: what SQLite does with its pages
#: costs more than one file more to make durable.
BLOB_BYTES = 64 * KIB
#: Reports of tickets stay for ever: few files, for whoever copies them. Kept results are released soon, and
#: a file of them is removed when the last one is: one that is not holds back so much, at most.
REPORTS_SEGMENT_BYTES = 256 * MIB
KEPT_SEGMENT_BYTES = 8 * MIB
#: What the row of a report in a segment has in its place: offset, length, checksum.
_PLACE = struct.Struct(">QII")

#: A page of `getall` ends after so many bytes of reports, so that its memory does not depend on them.
PAGE_BYTES = 2 * MIB
PAGE_ROWS = 500

_SELECT = """
    SELECT seq, ticket, submitted_at, body, attempt, outcome, report, segment
    FROM tickets LEFT JOIN reports USING (seq)
"""


class TicketRow(NamedTuple):
    """A ticket of this node; `ended` is None while it is open."""

    seq: int
    ticket: str
    submitted_at: float
    body: bytes
    ended: Ended | None


class SqliteStore:
    def __init__(self, database: Database, reports: Segments, kept: Segments) -> None:
        self._database = database
        self._reports = reports
        self._kept = kept

    @classmethod
    async def open(cls, directory: Path) -> SqliteStore:
        """Raises StartError if the files cannot be used."""
        blobs = directory / "blobs"
        reports = Segments(blobs, "reports", REPORTS_SEGMENT_BYTES)
        kept = Segments(blobs, "kept", KEPT_SEGMENT_BYTES)
        path = directory / "clusternode.sqlite3"
        return cls(await Database.open(path, _APPLICATION_ID, _MIGRATIONS), reports, kept)

    async def identity(self, new_id: str, name: str | None, default_name: str) -> tuple[str, str]:
        """(id, name) of this node, kept from its first start; a given `name` replaces the kept one."""

        def change(connection: sqlite3.Connection) -> tuple[str, str]:
            found = connection.execute("SELECT id, name FROM node").fetchone()
            if found is None:
                node_id, kept_name = new_id, default_name
            else:
                node_id, kept_name = sealed_value(found[0], found[1]).decode(), found[1]
            row = (node_id, name or kept_name)
            sealed = seal(node_id.encode(), row[1])
            connection.execute("INSERT OR REPLACE INTO node VALUES (1, ?, ?)", (sealed, row[1]))
            return row

        return await self._database.write(change)

    async def load(self) -> tuple[list[Stored], int, list[tuple[str, int, int]]]:
        """(open tickets in order of submission, the next seq, kept results as (ticket, attempt, size))."""

        def query(
            connection: sqlite3.Connection,
        ) -> tuple[list[Stored], int, list[tuple[str, int, int]]]:
            rows = connection.execute(
                "SELECT seq, ticket, submitted_at, body, cancelled FROM tickets"
                " WHERE outcome IS NULL ORDER BY seq"
            )
            stored = [
                Stored(seq, ticket, at, sealed_value(body, ticket, at), _is_cancelled(cancelled, seq))
                for seq, ticket, at, body, cancelled in rows
            ]
            (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM tickets").fetchone()
            kept = [
                (ended.ticket, ended.attempt, len(ended.body))
                for ended in map(self._kept_row, connection.execute("SELECT * FROM kept"))
            ]
            # Not before all rows have been found undamaged: they say what may go.
            self._remove_released(connection)
            return stored, last + 1, kept

        return await self._database.read(query)

    async def commit(self, records: Sequence[Record]) -> None:
        """Durable, atomic and in order when it returns. Raises StorageError."""
        submitted = [
            (r.seq, r.ticket, r.submitted_at, seal(r.body, r.ticket, float(r.submitted_at)))
            for r in records
            if isinstance(r, Submitted)
        ]
        cancelled = [(_cancelled(r.seq), r.seq) for r in records if isinstance(r, CancelAsked)]
        done = [r for r in records if isinstance(r, Done)]
        outcomes = [(r.ended.attempt, r.ended.outcome, r.seq) for r in done]
        withdrawn = [(r.seq, r.seq + r.size) for r in records if isinstance(r, Withdrawn)]
        of_keys = keys.Changes(records)
        kept, released = _kept_and_released(records)
        tried = [attempts.row(r) for r in done if r.tried]
        noticed, over = notices.changes(records)

        def change(connection: sqlite3.Connection) -> None:
            # First of all: no row may name what is not durable.
            reports = _written(self._reports, [r.ended for r in done])
            kept_reports = _written(self._kept, kept)
            # In this order a ticket that was submitted, cancelled and done in one batch ends as done.
            connection.executemany("INSERT INTO tickets VALUES (?, ?, ?, 0, 0, NULL, ?)", submitted)
            connection.executemany("DELETE FROM tickets WHERE seq >= ? AND seq < ?", withdrawn)
            of_keys.apply(connection)
            connection.executemany("UPDATE tickets SET cancelled = ? WHERE seq = ?", cancelled)
            connection.executemany(
                "UPDATE tickets SET attempt = ?, outcome = ? WHERE seq = ? AND outcome IS NULL", outcomes
            )
            connection.executemany(
                "INSERT OR IGNORE INTO reports VALUES (?, ?, ?)",
                [(r.seq, *report) for r, report in zip(done, reports, strict=True)],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)",
                [(*ended[:3], *report) for ended, report in zip(kept, kept_reports, strict=True)],
            )
            connection.executemany("DELETE FROM kept WHERE ticket = ?", released)
            connection.executemany(attempts.INSERT, tried)
            connection.executemany("INSERT OR REPLACE INTO notices VALUES (?, ?)", noticed)
            connection.executemany("DELETE FROM notices WHERE seq = ?", over)

        await self._database.write(change)
        if (kept or released) and not self._kept.is_empty:
            await self._database.read(self._remove_released)

    def _remove_released(self, connection: sqlite3.Connection) -> None:
        """Removes the files of kept results that hold none any more."""
        named = connection.execute("SELECT DISTINCT segment FROM kept WHERE segment IS NOT NULL")
        self._kept.keep({segment for (segment,) in named})

    async def tickets(self, tickets: Sequence[str]) -> list[TicketRow | None]:
        """The rows of these tickets, in order, as many as PAGE_BYTES of reports allow, at least one.

        None stands for a ticket that is not of this node.
        """

        def query(connection: sqlite3.Connection) -> list[TicketRow | None]:
            rows: list[TicketRow | None] = []
            size = 0
            for ticket in tickets:
                found = connection.execute(
                    f"{_SELECT} WHERE ticket = ?",
                    (ticket,),
                ).fetchone()
                row = self._row(found) if found is not None else None
                rows.append(row)
                size += len(row.ended.body) if row is not None and row.ended is not None else 0
                if size > PAGE_BYTES:
                    break
            return rows

        return await self._database.read(query)

    async def tried(self, seq: int) -> tuple[Attempt, ...]:
        """What came of the attempts of this ticket before the last one."""
        return await self._database.read(lambda connection: attempts.find(connection, seq))

    async def pending_notices(self) -> list[StoredNotice]:
        """Those that are pending. Raises ProtocolError if a job in the store is of another version."""
        return await self._database.read(notices.load)

    async def at(self, seq: int) -> TicketRow | None:
        """The row with this place in the order of submission."""

        def query(connection: sqlite3.Connection) -> TicketRow | None:
            found = connection.execute(f"{_SELECT} WHERE seq = ?", (seq,)).fetchone()
            return None if found is None else self._row(found)

        return await self._database.read(query)

    async def tickets_of(self, used: Sequence[str]) -> dict[str, str]:
        """The tickets that these keys stand for, of those that are known here."""
        return await self._database.read(lambda connection: keys.find(connection, used))

    async def knows(self, ticket: str) -> bool:
        """Whether it is of this node."""

        def query(connection: sqlite3.Connection) -> bool:
            found = connection.execute("SELECT 1 FROM tickets WHERE ticket = ?", (ticket,))
            return found.fetchone() is not None

        return await self._database.read(query)

    async def outcomes(self, tickets: Sequence[str]) -> dict[str, str | None]:
        """How these tickets ended; None for one that is not of this node, is open, or is damaged."""

        def query(connection: sqlite3.Connection) -> dict[str, str | None]:
            rows = (
                connection.execute(
                    "SELECT ticket, attempt, outcome, report, segment"
                    " FROM tickets JOIN reports USING (seq) WHERE ticket = ?",
                    (ticket,),
                ).fetchone()
                for ticket in tickets
            )
            return dict(zip(tickets, map(_outcome, rows), strict=True))

        return await self._database.read(query)

    async def array(
        self, seq: int, size: int, first: int, most: int
    ) -> tuple[dict[str, int], list[tuple[str, str | None]]]:
        """Of the array at `seq`: how many ended how; (ticket, outcome) of `most` from `first` on."""

        def query(connection: sqlite3.Connection) -> tuple[dict[str, int], list[tuple[str, str | None]]]:
            counts = connection.execute(
                "SELECT outcome, count(*) FROM tickets"
                " WHERE seq > ? AND seq <= ? AND outcome IS NOT NULL GROUP BY outcome",
                (seq, seq + size),
            )
            jobs = connection.execute(
                "SELECT ticket, outcome FROM tickets WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
                (seq + first, seq + size, most),
            )
            return dict(counts.fetchall()), jobs.fetchall()

        return await self._database.read(query)

    async def page(self, after: int) -> list[TicketRow]:
        """The next rows in order of submission, of all tickets with `seq` above `after`; empty at the end."""

        def query(connection: sqlite3.Connection) -> list[TicketRow]:
            rows = []
            size = 0
            for found in connection.execute(
                f"{_SELECT} WHERE seq > ? ORDER BY seq LIMIT ?",
                (after, PAGE_ROWS),
            ):
                row = self._row(found)
                rows.append(row)
                size += len(row.ended.body) if row.ended is not None else 0
                if size > PAGE_BYTES:
                    break
            return rows

        return await self._database.read(query)

    async def older(self, before: int, wanted: listing.Wanted, most: int) -> listing.Piece:
        """A piece of the look through all tickets with `seq` below `before`, from the newest on."""
        return await self._database.read(
            lambda connection: listing.scan(connection, before, wanted, most, self._row)
        )

    async def kept(self, tickets: Sequence[str]) -> list[Ended]:
        """The kept results of these tickets; those released meanwhile are left out."""

        def query(connection: sqlite3.Connection) -> list[Ended]:
            results = []
            for ticket in tickets:
                row = connection.execute("SELECT * FROM kept WHERE ticket = ?", (ticket,)).fetchone()
                if row is not None:
                    results.append(self._kept_row(row))
            return results

        return await self._database.read(query)

    async def close(self) -> None:
        await self._database.close()
        self._reports.close()
        self._kept.close()

    def _row(self, found: tuple[Any, ...]) -> TicketRow:
        seq, ticket, submitted_at, body, attempt, outcome, report, segment = found
        ended = None
        try:
            body = sealed_value(body, ticket, submitted_at)
            if outcome is not None:
                ended = Ended(ticket, attempt, outcome, b"")
                ended = _read(self._reports, ended, report, segment)
        except BrokenSeal:
            # Its reader finds nothing that can be read, and says that of this ticket alone.
            ended = Ended(ticket, attempt, outcome or "", b"")
        return TicketRow(seq, ticket, submitted_at, body, ended)

    def _kept_row(self, found: tuple[Any, ...]) -> Ended:
        ticket, attempt, outcome, report, segment = found
        return _read(self._kept, Ended(ticket, attempt, outcome, b""), report, segment)


def _written(segments: Segments, results: Sequence[Ended]) -> list[tuple[bytes, int | None]]:
    """What the rows of these results hold: (report, segment). The large ones are durable already."""
    large = [ended.body for ended in results if len(ended.body) > BLOB_BYTES]
    places = iter(segments.append(large) if large else ())
    rows: list[tuple[bytes, int | None]] = []
    for ended in results:
        context = ended[:3]
        if len(ended.body) > BLOB_BYTES:
            segment, *where = next(places)
            rows.append((seal(_PLACE.pack(*where), *context, segment), segment))
        else:
            rows.append((seal(ended.body, *context), None))
    return rows


def _read(segments: Segments, ended: Ended, report: object, segment: object) -> Ended:
    """`ended` with the body that its row names.

    Raises:
        BrokenSeal: if that, or what it is sealed with, has changed or is gone.
    """
    context = ended[:3]
    if segment is None:
        return ended._replace(body=sealed_value(report, *context))
    where = sealed_value(report, *context, segment)
    if not isinstance(segment, int) or len(where) != _PLACE.size:
        raise BrokenSeal("a stored value has lost its place")
    return ended._replace(body=segments.read(Place(segment, *_PLACE.unpack(where))))


def _outcome(row: tuple[Any, ...] | None) -> str | None:
    if row is None:
        return None
    ticket, attempt, outcome, report, segment = row
    try:  # its report is sealed with it
        sealed_value(report, ticket, attempt, outcome, *(() if segment is None else (segment,)))
    except BrokenSeal:
        return None
    return str(outcome)


def _cancelled(seq: int) -> bytes:
    """What `cancelled` holds of a cancelled job, in place of 0: no change of some bits cancels another."""
    return seal(b"", seq)


def _is_cancelled(value: object, seq: int) -> bool:
    return value != 0 and sealed_value(value, seq) == b""


def _kept_and_released(records: Sequence[Record]) -> tuple[list[Ended], list[tuple[str]]]:
    """The last word on each kept result."""
    last: dict[str, Kept | Released] = {}
    for record in records:
        if isinstance(record, Kept):
            last[record.ended.ticket] = record
        elif isinstance(record, Released):
            last[record.ticket] = record
    kept = [record.ended for record in last.values() if isinstance(record, Kept)]
    released = [(record.ticket,) for record in last.values() if isinstance(record, Released)]
    return kept, released
