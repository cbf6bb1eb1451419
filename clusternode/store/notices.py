"""Pending notices in a node's database: of which tickets, and how far the trying is."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence

from clusternode.core.events import Noticed, NoticeOver, Record
from clusternode.core.notices import StoredNotice
from protocol.job import Sleep, unpack_spec
from runtime.database import BrokenSeal, seal, sealed_value

#: `progress`: sealed, see `_PROGRESS`. A notice that is over has no row.
SCHEMA = "CREATE TABLE notices (seq INTEGER PRIMARY KEY, progress BLOB NOT NULL)"
#: Since when it is pending, how often it was tried, when it is tried next.
_PROGRESS = struct.Struct(">dId")


def changes(records: Sequence[Record]) -> tuple[list[tuple[int, bytes]], list[tuple[int]]]:
    """(rows to write, rows to delete): the last word on each notice."""
    last = {record.seq: record for record in records if isinstance(record, Noticed | NoticeOver)}
    rows = [
        (seq, seal(_PROGRESS.pack(*progress), seq))
        for seq, *progress in (record for record in last.values() if isinstance(record, Noticed))
    ]
    return rows, [(record.seq,) for record in last.values() if isinstance(record, NoticeOver)]


def load(connection: sqlite3.Connection) -> list[StoredNotice]:
    """All that are pending, in order of submission.

    Raises:
        BrokenSeal: if one of them is damaged.
        ProtocolError: if a job is of another version.
    """
    rows = connection.execute(
        "SELECT seq, progress, ticket, submitted_at, body"
        " FROM notices LEFT JOIN tickets USING (seq) ORDER BY seq"
    )
    notices = []
    for seq, progress, ticket, submitted_at, body in rows:
        value = sealed_value(progress, seq)
        spec = unpack_spec(sealed_value(body, ticket, submitted_at))
        if isinstance(spec, Sleep) or len(value) != _PROGRESS.size:
            raise BrokenSeal("a stored notice is of no job")
        notices.append(StoredNotice(seq, spec.extras.notify, *_PROGRESS.unpack(value)))
    return notices
