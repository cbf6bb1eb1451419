"""The tickets that keys of submissions stand for, in a node's store: as long as it has those tickets."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from clusternode.core.events import KeyFreed, Record, Submitted
from runtime.database import seal, sealed_value

#: `ticket`: sealed.
SCHEMA = "CREATE TABLE keys (key TEXT PRIMARY KEY, ticket BLOB NOT NULL) WITHOUT ROWID"

#: So many at once in one statement: for each statement the thread of the store has to wait for its turn, and
#: other work of the node may hold that up for milliseconds.
AT_ONCE = 250
_INSERT = "INSERT OR REPLACE INTO keys VALUES "
_DELETE = "DELETE FROM keys WHERE key = ? AND ticket = ?"
_FIND = "SELECT key, ticket FROM keys WHERE key IN "


class Changes:
    """What records change: made beforehand, applied within the transaction."""

    def __init__(self, records: Sequence[Record]) -> None:
        # The last one of a key counts, as a key may be freed and used again in one batch.
        used = {r.key: r.ticket for r in records if isinstance(r, Submitted) and r.key}
        self._used = [value for row in used.items() for value in _row(*row)]
        self._freed = [_row(r.key, r.ticket) for r in records if isinstance(r, KeyFreed)]

    def apply(self, connection: sqlite3.Connection) -> None:
        for start in range(0, len(self._used), 2 * AT_ONCE):
            values = self._used[start : start + 2 * AT_ONCE]
            connection.execute(_INSERT + ", ".join(["(?, ?)"] * (len(values) // 2)), values)
        connection.executemany(_DELETE, self._freed)


def find(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, str]:
    """The tickets that these keys stand for, of those that are known.

    Raises:
        BrokenSeal: if one of them has changed.
    """
    found = {}
    for start in range(0, len(keys), AT_ONCE):
        some = keys[start : start + AT_ONCE]
        for key, ticket in connection.execute(f"{_FIND}({', '.join('?' * len(some))})", some):
            found[key] = sealed_value(ticket, key).decode()
    return found


def _row(key: str, ticket: str) -> tuple[str, bytes]:
    return key, seal(ticket.encode(), key)
