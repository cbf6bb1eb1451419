"""The client for programs without asyncio, and for threads."""

from __future__ import annotations

import asyncio
import builtins
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack, overload

from evenly.client.aio import PATIENCE, TIMEOUT, WINDOW, AsyncClient, Objects, Statuses, Submission
from evenly.client.bridge import drained, through
from evenly.client.errors import ClientClosed
from evenly.client.model import Chunk, File, Job, Options, Result, Status
from evenly.client.waits import AHEAD

T = TypeVar("T")


class Client:
    """What `AsyncClient` does, blocking; any number of threads may use one. Its methods raise the same.

    An event loop runs in a thread of its own behind it, until `close` or the end of the `with` block.
    """

    def __init__(
        self,
        nodes: str | Iterable[str] | None = None,
        *,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
    ) -> None:
        self.asynchronous = AsyncClient(nodes, timeout=timeout, patience=patience)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="evenly-client", daemon=True)
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections; what other threads wait for raises ClientClosed. Jobs go on."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self.asynchronous.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where `asynchronous` lives. Raises ClientClosed."""
        if self._is_closed:
            raise ClientClosed("the client is closed")
        return self._loop

    @property
    def nodes_known(self) -> builtins.list[str]:
        return self.asynchronous.nodes_known

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
        except ClientClosed:
            work.close()
            raise
        try:
            return future.result()
        except BaseException:
            future.cancel()  # of no effect unless it was we who were interrupted
            raise

    # --- submitting ------------------------------------------------------------------------------

    def submit(
        self,
        run: str | None = None,
        *,
        task: str | None = None,
        payload: Mapping[str, Any] | None = None,
        sleep: int | None = None,
        **options: Unpack[Options],
    ) -> Job:
        return self._do(self.asynchronous.submit(run, task=task, payload=payload, sleep=sleep, **options))

    def submit_many(self, jobs: Iterable[Submission]) -> Iterator[Job]:
        """As `AsyncClient.submit_many`. The iterable is read in this thread, a window ahead."""
        return through(self.loop, jobs, self.asynchronous.submit_many, WINDOW)

    def map(
        self,
        run: str | None = None,
        items: Iterable[Any] = (),
        *,
        task: str | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Result]:
        def results(fed: Any) -> Any:
            return self.asynchronous.map(run, fed, task=task, **options)

        return through(self.loop, items, results, AHEAD)

    def upload(self, path: str | os.PathLike[str]) -> str:
        return self._do(self.asynchronous.upload(path))

    # --- waiting ---------------------------------------------------------------------------------

    @overload
    def wait(self, job: Job | str, timeout: float | None = None) -> Result: ...  # type: ignore[overload-overlap]

    @overload
    def wait(self, job: Iterable[Job | str], timeout: float | None = None) -> builtins.list[Result]: ...

    def wait(
        self, job: Job | str | Iterable[Job | str], timeout: float | None = None
    ) -> Result | builtins.list[Result]:
        if isinstance(job, Job | str):
            return self._do(self.asynchronous.wait(job, timeout))
        return self._do(self.asynchronous.wait(builtins.list(job), timeout))

    def results(self, jobs: Iterable[Job | str], timeout: float | None = None) -> Iterator[Result]:
        return through(self.loop, jobs, lambda fed: self.asynchronous.results(fed, timeout), AHEAD)

    def as_completed(self, jobs: Iterable[Job | str], timeout: float | None = None) -> Iterator[Result]:
        return drained(self.loop, self.asynchronous.as_completed(builtins.list(jobs), timeout))

    def result(self, job: Job | str) -> Result | None:
        return self._do(self.asynchronous.result(job))

    def status(self, job: Job | str) -> Status:
        return self._do(self.asynchronous.status(job))

    def jobs(self, array: Job | str) -> Iterator[Job]:
        return drained(self.loop, self.asynchronous.jobs(array))

    def cancel(self, job: Job | str) -> str:
        return self._do(self.asynchronous.cancel(job))

    def tail(self, job: Job | str) -> Iterator[Chunk]:
        return drained(self.loop, self.asynchronous.tail(job))

    def files(self, job: Job | str) -> tuple[File, ...]:
        return self._do(self.asynchronous.files(job))

    def fetch(
        self,
        job: Job | str,
        directory: str | os.PathLike[str],
        *,
        told: Callable[[File], None] | None = None,
    ) -> builtins.list[Path]:
        """As `AsyncClient.fetch`; `told` is called in the thread of the loop."""
        return self._do(self.asynchronous.fetch(job, directory, told=told))

    def partial(self, job: Job | str) -> builtins.list[Any]:
        return self._do(self.asynchronous.partial(job))

    def explain(self, job: Job | str) -> dict[str, Any]:
        return self._do(self.asynchronous.explain(job))

    # --- the cluster -----------------------------------------------------------------------------

    def nodes(self) -> Objects:
        return self._do(self.asynchronous.nodes())

    def stats(self) -> dict[str, Any]:
        return self._do(self.asynchronous.stats())

    def list(
        self,
        *,
        state: str | None = None,
        outcome: str | None = None,
        tag: str | None = None,
        name: str | None = None,
        since: float | None = None,
        limit: int = 100,
    ) -> Statuses:
        return self._do(
            self.asynchronous.list(state=state, outcome=outcome, tag=tag, name=name, since=since, limit=limit)
        )
