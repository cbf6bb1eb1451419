"""Iterables of both kinds, read by a task of their own where they may have nothing for a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, TypeAlias, TypeVar

from evenly.client.errors import ClientClosed

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


#: Begins a task and keeps it, as AsyncClient.keep.
Keep: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, None]]], "asyncio.Task[None]"]


async def fed(items: AsyncIterable[T], ahead: int, keep: Keep) -> AsyncIterator[T]:
    """The items, read by a task so far ahead, which `keep` begins. What reading raises is raised here, after
    all before it; ClientClosed where the task is ended first."""
    queue: asyncio.Queue[T | _End] = asyncio.Queue(ahead)

    async def feed() -> None:
        try:
            async for item in items:
                await queue.put(item)
        except Exception as error:
            await queue.put(_End(error))
        else:
            await queue.put(_End(None))

    def ended(task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is not None:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(_End(ClientClosed("the client is closed")))

    feeder = keep(feed)
    feeder.add_done_callback(ended)
    try:
        while not isinstance(item := await queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        feeder.cancel()
        with contextlib.suppress(asyncio.CancelledError, ClientClosed):
            await feeder


class _End:
    def __init__(self, error: Exception | None) -> None:
        self.error = error
