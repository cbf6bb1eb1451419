"""The tickets that keys of submissions stand for, in a node's store: as long as it has those tickets."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from clusternode.core.events import KeyFreed, Record, Submitted
from runtime.database import seal, sealed_value

#: `ticket`: sealed.
SCHEMA = "CREATE TABLE keys (key TEXT PRIMARY KEY, ticket BLOB NOT NULL) WITHOUT ROWID"

#: In this order: a key that is freed and used again in one batch stands for the new ticket.
INSERT = "INSERT OR REPLACE INTO keys VALUES (?, ?)"
DELETE = "DELETE FROM keys WHERE key = ? AND ticket = ?"


def changes(records: Sequence[Record]) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
    """What INSERT and DELETE take."""
    used = [_row(r.key, r.ticket) for r in records if isinstance(r, Submitted) and r.key]
    return used, [_row(r.key, r.ticket) for r in records if isinstance(r, KeyFreed)]


def find(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, str]:
    """The tickets that these keys stand for, of those that are known.

    Raises:
        BrokenSeal: if one of them has changed.
    """
    found = {}
    for key in keys:
        row = connection.execute("SELECT ticket FROM keys WHERE key = ?", (key,)).fetchone()
        if row is not None:
            found[key] = sealed_value(row[0], key).decode()
    return found


def _row(key: str, ticket: str) -> tuple[str, bytes]:
    return key, seal(ticket.encode(), key)
