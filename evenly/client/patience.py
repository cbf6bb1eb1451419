"""How long a node whose connections are lost is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from evenly.client.errors import ConnectionLost, NodesUnreachable
from evenly.client.lane import BACKOFF_FIRST, BACKOFF_MOST


class Patience:
    """Of one question to one node. `seconds` says how long it is tried, from its first loss on."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._lost_at: float | None = None
        self._delay = BACKOFF_FIRST

    def heard(self) -> None:
        """It is there: the next loss is a first one."""
        self._lost_at, self._delay = None, BACKOFF_FIRST

    async def lost(self, error: ConnectionLost, what_of_it: str) -> None:
        """Returns when it is to be tried again. Raises NodesUnreachable once that was for long enough."""
        now = asyncio.get_running_loop().time()
        self._lost_at = now if self._lost_at is None else self._lost_at
        if now - self._lost_at >= self._seconds():
            raise NodesUnreachable(f"{error}; {what_of_it}") from None
        await asyncio.sleep(self._delay)
        self._delay = min(2 * self._delay, BACKOFF_MOST)
