"""The load balancer's stable storage, behind one narrow interface."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from loadbalancer.core.events import Record
from loadbalancer.core.jobs import Row
from loadbalancer.core.keys import KeyRow
from runtime.errors import StorageError


class Fenced(StorageError):
    """Another balancer has taken over: this one must not write any more, and ends."""


class Opened(NamedTuple):
    """What `acquire` gives: the id of this balancer's state, and the epoch of this incarnation."""

    balancer_id: str
    epoch: int


class Store(Protocol):
    """A change is a whole row, applied only where its version is newer; so applying twice is harmless.

    Keys never change: they come, and the oldest go.
    """

    async def acquire(self, new_id: str) -> Opened:
        """Becomes the one writer, under the next epoch. `new_id` is taken by a store that has none yet."""

    async def load_open(self, epoch: int) -> list[Row]:
        """Every job that is not forgotten, in the order of submission, without results."""

    async def load_keys(self, epoch: int, after: int) -> list[KeyRow]:
        """The next keys in the order of their numbers, above `after`; empty at the end."""

    async def apply(self, epoch: int, changes: Sequence[Record]) -> None:
        """Durable, atomic and in order when it returns.

        Raises:
            Fenced: if the epoch is not the latest one.
            StorageError: if it failed.
        """

    async def results(self, keys: Iterable[int]) -> dict[int, bytes]:
        """Results by `seq`; those that were forgotten meanwhile are left out."""

    async def close(self) -> None: ...
