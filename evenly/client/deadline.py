"""How long a wait may take."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

from evenly.client.errors import EvenlyError, JobTimeout

T = TypeVar("T")

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

    async def answer(self, ticket: str, question: Awaitable[T]) -> T:
        """What a node says at once. Raises JobTimeout."""
        if self.at is None:
            return await question
        try:
            async with asyncio.timeout_at(max(self.at, self._loop.time() + LAST_ASK)):
                return await question
        except TimeoutError:
            said = f"no node told within {self.seconds:g} s whether {ticket} has ended"
            raise JobTimeout(ticket, said) from None
