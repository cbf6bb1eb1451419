"""How long a wait may take."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator

from evenly.client.errors import EvenlyError, JobTimeout

#: Seconds that a question has, also past the deadline: a job that has ended is given whatever the timeout.
LAST_ASK = 1.0


class Deadline:
    """So many seconds from now on; None is never.

    Raises:
        EvenlyError: for what is no number of seconds.
    """

    def __init__(self, timeout: float | None) -> None:
        if timeout is not None and not (isinstance(timeout, int | float) and not math.isnan(timeout)):
            raise EvenlyError(f"a timeout is a number of seconds, or None for no limit: not {timeout!r}")
        self.seconds = math.inf if timeout is None else max(0.0, timeout)
        self._loop = asyncio.get_running_loop()
        self.at = None if math.isinf(self.seconds) else self._loop.time() + self.seconds

    def limit(self) -> asyncio.Timeout:
        """For the end of a job. Raises TimeoutError."""
        return asyncio.timeout_at(self.at)

    @contextlib.asynccontextmanager
    async def question(self, ticket: str) -> AsyncIterator[None]:
        """For what a node answers at once. Raises JobTimeout."""
        at = None if self.at is None else max(self.at, self._loop.time() + LAST_ASK)
        try:
            async with asyncio.timeout_at(at):
                yield
        except TimeoutError:
            said = f"no node told within {self.seconds:g} s whether {ticket} has ended"
            raise JobTimeout(ticket, said) from None
