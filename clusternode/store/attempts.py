"""What came of the attempts of jobs before their last one, in a node's store."""

from __future__ import annotations

import sqlite3

import msgpack

from clusternode.core.events import Done
from protocol.explain import Attempt
from runtime.database import seal, sealed_value

#: `told`: rows of `Attempt` as MessagePack, sealed.
SCHEMA = "CREATE TABLE attempts (seq INTEGER PRIMARY KEY, told BLOB NOT NULL)"
INSERT = "INSERT OR IGNORE INTO attempts VALUES (?, ?)"


def row(done: Done) -> tuple[int, bytes]:
    return done.seq, seal(msgpack.packb(done.tried), done.seq)


def find(connection: sqlite3.Connection, seq: int) -> tuple[Attempt, ...]:
    """Those of the ticket at this place; none where there are none.

    Raises:
        BrokenSeal: if they have changed.
    """
    found = connection.execute("SELECT told FROM attempts WHERE seq = ?", (seq,)).fetchone()
    if found is None:
        return ()
    return tuple(Attempt(*each) for each in msgpack.unpackb(sealed_value(found[0], seq)))
