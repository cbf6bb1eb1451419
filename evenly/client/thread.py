"""An event loop in a thread of its own, which other threads give work."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from evenly.client.errors import ClientClosed, EvenlyError

T = TypeVar("T")


class LoopThread:
    """From its making until `close`. It is of one process: where that forks, the child has no such thread."""

    def __init__(self, name: str) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        #: What was begun under it is begun before the end.
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    @property
    def is_here(self) -> bool:
        """Whether this process has it."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raises ClientClosed after `close`, EvenlyError in a process that has it not. It takes no lock: in a
        forked process one may be held for ever."""
        if not self.is_here:
            made = f"process {self._pid} that made it"
            raise EvenlyError(f"this client belongs to the {made}: after a fork another one has to be made")
        if self._is_closed:
            raise closed()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        self.check()
        return self._loop

    def spawn(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begins it there. The future is cancelled where the end comes first."""
        try:
            self.check()
            with self._lock:
                self.check()
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        except EvenlyError:
            work.close()
            raise

    def call_soon(self, function: Callable[..., None], *args: Any) -> None:
        self.check()
        with self._lock:
            self.check()
            self._loop.call_soon_threadsafe(function, *args)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Does it there while this thread waits."""
        future = self.spawn(work)
        try:
            return future.result()
        except CancelledError:
            raise closed() from None
        except BaseException:
            future.cancel()  # of no effect unless it was we who were interrupted
            raise

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Does that, cancels what is left and ends the thread. In a process that has it not: nothing, as what
        it holds is shared with the one that has."""
        if not self.is_here:
            return
        with self._lock:
            is_first, self._is_closed = not self._is_closed, True
            if is_first:
                end = asyncio.run_coroutine_threadsafe(self._end(last), self._loop)
        if not is_first:
            if threading.current_thread() is not self._thread:
                self._thread.join()
            return
        try:
            end.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await last()
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)


def closed() -> ClientClosed:
    return ClientClosed("the client is closed")
