"""Between threads and the event loop: items in, items out, many at a time, and a bound on how many wait."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

from evenly.client.thread import LoopThread, closed

T = TypeVar("T")
U = TypeVar("U")

#: Items out that wait for the thread to take them.
OUT_HIGH = 1000


class Inlet(Generic[T]):
    """An asynchronous iterable that a thread fills."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[T] = deque()
        self._is_over = False
        #: The loop sleeps, or will, and has to be woken.
        self._is_asleep = False
        self._lock = threading.Lock()
        self._wake = asyncio.Event()

    def put(self, item: T) -> None:
        with self._lock:
            self._items.append(item)
            self._rouse()

    def end(self) -> None:
        with self._lock:
            self._is_over = True
            self._rouse()

    def _rouse(self) -> None:
        if self._is_asleep:
            self._is_asleep = False
            self._loop.call_soon_threadsafe(self._wake.set)

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            with self._lock:
                items, self._items = self._items, deque()
                is_over = self._is_over
                self._is_asleep = not items and not is_over
            for item in items:
                yield item
            if is_over:
                return
            if not items:
                await self._wake.wait()
                self._wake.clear()


class Outlet(Generic[T]):
    """Runs an asynchronous iterator on the loop; a thread takes what it gives."""

    def __init__(self, thread: LoopThread, source: AsyncIterator[T]) -> None:
        self._thread = thread
        self._loop = thread.loop
        self._ready = threading.Condition()
        self._items: deque[T] = deque()
        self._is_over = False
        self._room = asyncio.Event()
        self._future: Future[None] = thread.spawn(self._run(source))
        self._future.add_done_callback(self._end)

    async def _run(self, source: AsyncIterator[T]) -> None:
        async with contextlib.aclosing(source) as items:  # type: ignore[type-var]
            async for item in items:
                with self._ready:
                    self._items.append(item)
                    if len(self._items) == 1:
                        self._ready.notify()
                    is_full = len(self._items) >= OUT_HIGH
                    if is_full:
                        self._room.clear()
                if is_full:
                    await self._room.wait()

    def _end(self, future: Future[None]) -> None:
        with self._ready:
            self._is_over = True
            self._ready.notify()

    def take(self, wait: bool) -> list[T]:
        """What is there; empty at the end, or where it shall not wait. Raises what the iterator raised, and
        ClientClosed where the end of the loop came first."""
        if not self._thread.is_here:
            self._thread.check()  # nobody would ever fill it
        with self._ready:
            while wait and not self._items and not self._is_over:
                self._ready.wait()
            was_full = len(self._items) >= OUT_HIGH
            items = list(self._items)
            self._items.clear()
        if was_full:
            with contextlib.suppress(RuntimeError):  # the loop is over: what is here is given all the same
                self._loop.call_soon_threadsafe(self._room.set)
        if not items and self._is_over:
            try:
                self._future.result()
            except CancelledError:
                raise closed() from None
        return items

    def close(self) -> None:
        """Ends the iterator, unless it has ended. In a forked process it is not ours to end."""
        if self._thread.is_here:
            self._future.cancel()


def drained(thread: LoopThread, source: AsyncIterator[T]) -> Iterator[T]:
    outlet = Outlet(thread, source)
    try:
        while items := outlet.take(wait=True):
            yield from items
    finally:
        outlet.close()


def through(
    thread: LoopThread,
    items: Iterable[T],
    function: Callable[[AsyncIterable[T]], AsyncIterator[U]],
    ahead: int,
) -> Iterator[U]:
    """What `function` gives for the items, one each. The items are read in this thread, each when the
    caller asks for the next value and less than `ahead` are on their way."""
    inlet: Inlet[Any] = Inlet(thread.loop)
    outlet = Outlet(thread, function(inlet))
    on_the_way = 0
    try:
        for item in items:
            _tell(thread, inlet.put, item)
            on_the_way += 1
            ready = outlet.take(wait=on_the_way >= ahead)
            on_the_way -= len(ready)
            yield from ready
        _tell(thread, inlet.end)
        while values := outlet.take(wait=True):
            yield from values
    finally:
        outlet.close()


def _tell(thread: LoopThread, function: Callable[..., None], *args: Any) -> None:
    """Raises ClientClosed, also where the loop ends meanwhile."""
    thread.check()
    try:
        function(*args)
    except RuntimeError:
        raise closed() from None
