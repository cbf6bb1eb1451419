"""The keys that submissions carried, and the ticket that each of them stands for.

A key is claimed once and then belongs to that ticket for KEY_PERIOD, whatever becomes of the job: whoever
claims it meanwhile is told of that one. Keys are numbered as they come, so that the oldest are forgotten by
a number alone, here and in the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from protocol.limits import KEY_PERIOD, KEYS_LIMIT, TICKET_LENGTH
from protocol.relay import Claiming, Owner

#: Keys that were claimed within so many seconds are forgotten together.
KEY_GRAIN = 60.0
#: But so many at once: 10 ms of work here.
FORGET_AT_ONCE = 20_000


class KeyRow(NamedTuple):
    """A key as it is recorded: whose ticket it stands for, by that node's id and name, and since when."""

    seq: int
    key: str
    ticket: str
    origin: str
    node: str
    at: float


class KeysGone(NamedTuple):
    """All keys up to this number are forgotten."""

    seq: int


KeyRecord = KeyRow | KeysGone


class Keys:
    """What it changes is in the records of the next `collect`."""

    def __init__(self) -> None:
        #: By key, in the order of their numbers, the ticket and behind it its origin's id: one text, as there
        #: are millions of them (some 250 bytes each in all, with keys of 36 characters).
        self._owners: dict[str, str] = {}
        #: What the nodes were called last that own any.
        self._names: dict[str, str] = {}
        self._first = self._next = 1
        #: (number, time): keys from this number on were claimed within KEY_GRAIN from this time.
        self._ages: deque[tuple[int, float]] = deque()
        self._records: list[KeyRecord] = []
        #: Keys that had to go before their time.
        self.early = 0

    def __len__(self) -> int:
        return len(self._owners)

    def restore(self, rows: Iterable[KeyRow]) -> None:
        """At the start: what is in the store, in order, in as many calls as it takes."""
        for row in rows:
            if not self._owners:
                self._first = row.seq
            self._add(row)

    def claim(self, origin: str, node: str, claims: Iterable[Claiming], now: float) -> list[Owner]:
        """Whose these keys are, in their order: the claimed ticket's where nobody has claimed it before."""
        owners = []
        self._names[origin] = node
        for key, ticket in claims:
            known = self._owners.get(key)
            if known is None:
                row = KeyRow(self._next, key, ticket, origin, node, now)
                self._add(row)
                self._records.append(row)
                owners.append(Owner(ticket, node))
            else:
                owners.append(Owner(known[:TICKET_LENGTH], self._names[known[TICKET_LENGTH:]]))
        if len(self._owners) > KEYS_LIMIT:
            self.early += self._forget(FORGET_AT_ONCE)
        return owners

    def _add(self, row: KeyRow) -> None:
        self._owners[row.key] = row.ticket + row.origin
        self._names[row.origin] = row.node
        self._next = row.seq + 1
        if not self._ages or row.at >= self._ages[-1][1] + KEY_GRAIN:
            self._ages.append((row.seq, row.at))

    def expire(self, now: float) -> None:
        """Forgets some of those whose time is over; those that remain go with the next calls."""
        if self._ages and now >= self._ages[0][1] + KEY_GRAIN + KEY_PERIOD:
            until = self._ages[1][0] if len(self._ages) > 1 else self._next
            self._forget(min(until - self._first, FORGET_AT_ONCE))

    def _forget(self, count: int) -> int:
        """The oldest ones."""
        for key in list(islice(self._owners, count)):
            del self._owners[key]
        self._first += count
        while len(self._ages) > 1 and self._ages[1][0] <= self._first:
            self._ages.popleft()
        if not self._owners:
            self._ages.clear()
        self._records.append(KeysGone(self._first - 1))
        return count

    def collect(self) -> list[KeyRecord]:
        """The records of all that changed since the last time."""
        records, self._records = self._records, []
        return records
