"""Iterables of both kinds, read by a task of their own where they may have nothing for a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

#: Items of a plain iterable that are read before others of the loop have their turn.
TURN = 500


async def each_of(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for number, item in enumerate(items):
        if number % TURN == TURN - 1:
            await asyncio.sleep(0)
        yield item


async def map_async(function: Callable[[T], U], items: AsyncIterable[T]) -> AsyncIterator[U]:
    async for item in items:
        yield function(item)


async def fed(items: AsyncIterable[T], ahead: int) -> AsyncIterator[T]:
    """The items, read by a task so far ahead. What reading raises is raised here, after all before it."""
    queue: asyncio.Queue[T | _End] = asyncio.Queue(ahead)

    async def feed() -> None:
        try:
            async for item in items:
                await queue.put(item)
        except Exception as error:
            await queue.put(_End(error))
        else:
            await queue.put(_End(None))

    feeder = asyncio.ensure_future(feed())
    try:
        while not isinstance(item := await queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        feeder.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeder


class _End:
    def __init__(self, error: Exception | None) -> None:
        self.error = error
