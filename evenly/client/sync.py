"""The client for programs without asyncio, and for threads."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack, overload

from evenly.client.aio import PATIENCE, TIMEOUT, WINDOW, AsyncClient, Objects, Statuses, Submission
from evenly.client.bridge import drained, through
from evenly.client.model import Chunk, File, Job, Options, Result, Status
from evenly.client.thread import LoopThread
from evenly.client.waits import AHEAD

T = TypeVar("T")


class Client:
    """What `AsyncClient` does, blocking; any number of threads may use one. Its methods raise the same.

    An event loop runs in a thread of its own behind it, until `close` or the end of the `with` block. It
    belongs to the process that made it: after a fork the child makes another one.
    """

    def __init__(
        self,
        nodes: str | Iterable[str] | None = None,
        *,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
    ) -> None:
        self.asynchronous = AsyncClient(nodes, timeout=timeout, patience=patience)
        #: Where `asynchronous` lives.
        self.thread = LoopThread("evenly-client")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections; what other threads wait for raises ClientClosed. Jobs go on."""
        self.thread.close(self.asynchronous.close)

    @property
    def nodes_known(self) -> builtins.list[str]:
        return self.asynchronous.nodes_known

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.thread.run(work)

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
        return through(self.thread, jobs, self.asynchronous.submit_many, WINDOW)

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

        return through(self.thread, items, results, AHEAD)

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
        return through(self.thread, jobs, lambda fed: self.asynchronous.results(fed, timeout), AHEAD)

    def as_completed(self, jobs: Iterable[Job | str], timeout: float | None = None) -> Iterator[Result]:
        return drained(self.thread, self.asynchronous.as_completed(builtins.list(jobs), timeout))

    def result(self, job: Job | str) -> Result | None:
        return self._do(self.asynchronous.result(job))

    def status(self, job: Job | str) -> Status:
        return self._do(self.asynchronous.status(job))

    def jobs(self, array: Job | str) -> Iterator[Job]:
        return drained(self.thread, self.asynchronous.jobs(array))

    def cancel(self, job: Job | str) -> str:
        return self._do(self.asynchronous.cancel(job))

    def tail(self, job: Job | str) -> Iterator[Chunk]:
        return drained(self.thread, self.asynchronous.tail(job))

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

    def cluster(self) -> dict[str, Any]:
        return self._do(self.asynchronous.cluster())

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
        missed: Callable[[str], None] | None = None,
    ) -> Statuses:
        told: builtins.list[str] = []
        found = self._do(
            self.asynchronous.list(
                state=state,
                outcome=outcome,
                tag=tag,
                name=name,
                since=since,
                limit=limit,
                missed=told.append,
            )
        )
        if missed is not None:
            for each in told:
                missed(each)
        return found
