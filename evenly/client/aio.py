"""The client for programs that use asyncio."""

from __future__ import annotations

import asyncio
import builtins
import functools
import heapq
import itertools
import os
import secrets
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar, Unpack, overload

from evenly.client import files
from evenly.client.addresses import addresses
from evenly.client.connections import Connections
from evenly.client.errors import ConnectionLost, EvenlyError, NodesUnreachable, Refused
from evenly.client.feed import each_of, fed, map_async
from evenly.client.homes import Homes
from evenly.client.lane import object_of
from evenly.client.lines import (
    check,
    job_of,
    line_of,
    quoted,
    result_if_done,
    seconds,
    status_from,
    submission,
    ticket_of,
)
from evenly.client.model import Address, Chunk, File, Job, Options, Result, Status, files_of, status_of
from evenly.client.tail import tail
from evenly.client.talk import Talk
from evenly.client.template import compile_template
from evenly.client.uploads import Uploads
from evenly.client.waits import as_completed, in_order, one

T = TypeVar("T")
Many: TypeAlias = Iterable[T] | AsyncIterable[T]
#: A submission: a command line, or an object as in docs/client-protocol.md.
Submission: TypeAlias = "str | Mapping[str, Any]"
Statuses: TypeAlias = list[Status]
Objects: TypeAlias = list[dict[str, Any]]

#: Seconds without any reply after which the next node is taken.
TIMEOUT = 10.0
#: Seconds that a node which was there before is tried again.
PATIENCE = 60.0
#: Submissions on their way at once in `submit_many`, and the bytes of their lines.
WINDOW = 5000
WINDOW_BYTES = 4 * 1024 * 1024
#: Tickets of one page of `list`.
PAGE = 1000


class AsyncClient:
    """Submits jobs to the nodes of a cluster, waits for them and fetches what they leave.

    `nodes`: "host:port,host2:port" or a list; else EVENLY_NODES; else 127.0.0.1:9000. The first one is used;
    the next one when it is away or gives no reply for `timeout` seconds. A submission carries a key, so that
    one which is sent again is no second job. A node that was there and is away is tried again for `patience`
    seconds; then NodesUnreachable is raised, and at once where none of them was ever there.

    One event loop only; `Client` is for everything else. All methods raise EvenlyError's classes.
    """

    #: Nodes without keys refuse them: tests switch this off.
    _sends_keys = True

    def __init__(
        self,
        nodes: str | Iterable[str] | None = None,
        *,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
    ) -> None:
        self.connections = Connections(addresses(nodes), timeout, patience)
        self._uploads = Uploads(self.connections.talk)
        self._homes = Homes(self.connections)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._key = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    @property
    def nodes_known(self) -> builtins.list[Address]:
        """`host:port` of each, in the order given."""
        return self.connections.nodes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections; what is still waited for raises ClientClosed. Jobs go on."""
        await self.connections.close()
        await asyncio.sleep(0)  # what was just begun has its first turn, and can say how it ends
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- submitting ------------------------------------------------------------------------------

    async def submit(
        self,
        run: str | None = None,
        *,
        task: str | None = None,
        payload: Mapping[str, Any] | None = None,
        sleep: int | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Submits a command line, a task with its payload, or a sleep of so many ms.

        Raises:
            Refused: with what the node says is wrong.
            NodesUnreachable: if none of the nodes answers.
        """
        return await self.start(submission(run, task, payload, sleep, options))

    async def submit_many(self, jobs: Many[Submission]) -> AsyncIterator[Job]:
        """Submits all of them, many at once, and gives their jobs in the same order; of any number of them
        only some thousand are in memory.

        Each is a command line, or an object as `{"run": "make", "time": 60}` or `{"task": …, "payload": …}`.

        Raises:
            Refused: for the first one that is refused; the ones on their way are submitted all the same.
        """
        async for job in self.try_submit_many(jobs):
            if isinstance(job, EvenlyError):
                raise job
            yield job

    async def try_submit_many(self, jobs: Many[Submission]) -> AsyncIterator[Job | Refused]:
        """As `submit_many`; what is refused gives its error in its place, and the others go on."""
        if isinstance(jobs, AsyncIterable):
            # It may have nothing for a long time, and what is submitted is wanted meanwhile.
            async for future in fed(map_async(self.start, jobs), WINDOW, self.keep):
                yield await _or_refused(future)
            return
        window: deque[asyncio.Future[Job]] = deque()
        for item in jobs:
            window.append(self.start(item))
            while window and (window[0].done() or self._is_full(window)):
                yield await _or_refused(window.popleft())
        while window:
            yield await _or_refused(window.popleft())

    def _is_full(self, window: deque[asyncio.Future[Job]]) -> bool:
        return len(window) >= WINDOW or (
            not self.connections.is_closed and self.connections.lane.owed_bytes > WINDOW_BYTES
        )

    def start(self, job: Submission) -> asyncio.Future[Job]:
        """Puts a submission on its way; the future has its job, or raises as `submit`."""
        try:
            check(job)
            item: Mapping[str, Any] = {"run": job} if isinstance(job, str) else job
            if self._sends_keys and "key" not in item:
                item = {**item, "key": f"{self._key}-{next(self._numbers)}"}
            if "after" in item or "file" in item:
                self.connections.check()
                return self.keep(functools.partial(self._submit_to_one, dict(item)))
            line = line_of(item)
        except EvenlyError as error:
            future: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
            future.set_exception(error)
            future.exception()  # who asked may not look
            return future
        return self.connections.lane.ask(line, job_of, is_once=not self._sends_keys)

    async def _submit_to_one(self, item: dict[str, Any]) -> Job:
        """One that is bound to a node: by jobs that it comes after, or by files that have to be there."""
        home = None
        if "after" in item:
            jobs = [item["after"]] if isinstance(item["after"], Job | str) else list(item["after"])
            item["after"] = [ticket_of(job) for job in jobs]
            homes = {await self.home(job) for job in jobs}
            if len(homes) > 1:
                raise Refused(
                    f"a job comes after jobs of one node: these are of {' and '.join(sorted(homes))}"
                )
            home = homes.pop() if homes else None
        wanted: dict[str, str | Path] = item.pop("file", {})
        paths = {name: await self._uploads.digest(file) for name, file in wanted.items()}
        if paths:
            item["file"] = paths
        line = line_of(item)

        def send(node: Address) -> Awaitable[Job]:
            lane = self.connections.watcher(node).lane if home else self.connections.lane_to(node)
            return self._uploads.using(list(paths.values()), node, lambda: lane.ask(line, job_of))

        return await self._first([home] if home else self.connections.in_turn(), send)

    async def upload(self, path: str | os.PathLike[str]) -> str:
        """Brings a file to the nodes, unless they have it, and gives its SHA-256 for `file={name: digest}`.

        Raises:
            OSError: if it cannot be read.
            Refused: if there is no room.
        """
        digest = await self._uploads.digest(Path(path))

        async def bring(node: Address) -> str:
            await self._uploads.bring(digest, node)
            return digest

        return await self._first(self.connections.in_turn(), bring)

    async def _first(self, nodes: Iterable[Address], work: Callable[[Address], Awaitable[T]]) -> T:
        """What the first of these nodes says that can be reached."""
        fault: EvenlyError | None = None
        for node in nodes:
            try:
                return await work(node)
            except (NodesUnreachable, ConnectionLost) as error:
                fault = error
        raise NodesUnreachable(str(fault))

    async def map(
        self,
        run: str | None = None,
        items: Many[Any] = (),
        *,
        task: str | None = None,
        **options: Unpack[Options],
    ) -> AsyncIterator[Result]:
        """A job for each item, and their results in the order of the items, whatever came of them.

        `run`: a command line in which `{}` stands for the item, quoted for the shell (also `{.}`, `{/}`,
        `{/.}`, `{//}` and `{#}`; see `template.py`). `task`: a task's name; the items are its payloads.
        """
        for option in {"key", "array"} & options.keys():
            raise Refused(f"map makes one job for each item: {option} cannot be of all of them")
        fill = compile_template(run) if run is not None else None

        async def jobs() -> AsyncIterator[Submission]:
            number = 0
            async for item in each_of(items):
                number += 1
                line = (
                    fill(os.fspath(item) if isinstance(item, os.PathLike) else str(item), number)
                    if fill
                    else None
                )
                yield submission(line, task, item if task else None, None, options)

        async for result in self.results(self.submit_many(jobs())):
            yield result

    # --- waiting ---------------------------------------------------------------------------------

    @overload  # a text is an iterable of texts as well, and never meant as one
    async def wait(self, job: Job | str, timeout: float | None = None) -> Result: ...  # type: ignore[overload-overlap]

    @overload
    async def wait(self, job: Iterable[Job | str], timeout: float | None = None) -> list[Result]: ...

    async def wait(
        self, job: Job | str | Iterable[Job | str], timeout: float | None = None
    ) -> Result | list[Result]:
        """Its result when it has ended, however it ended; of many, a list in the order given.

        Raises:
            JobTimeout: if that takes more than `timeout` seconds. The job goes on.
            UnknownTicket, NodesUnreachable: if nobody can tell.
        """
        if not isinstance(job, Job | str):
            return [result async for result in self.results(job, timeout)]
        return await one(self, job, timeout)

    async def results(self, jobs: Many[Job | str], timeout: float | None = None) -> AsyncIterator[Result]:
        """Their results in the order of the jobs, each when it has ended. Only some are in memory at once."""
        async for result in in_order(self, jobs, timeout):
            yield result

    async def as_completed(
        self, jobs: Iterable[Job | str], timeout: float | None = None
    ) -> AsyncIterator[Result]:
        """Their results, whichever has ended first. Raises JobTimeout, where not all have ended in time."""
        async for result in as_completed(self, jobs, timeout):
            yield result

    async def result(self, job: Job | str) -> Result | None:
        """Its result; None where it has not ended yet."""
        return await self._ask(job, "result", result_if_done)

    async def status(self, job: Job | str) -> Status:
        """Where it is."""
        return await self._ask(job, "status", status_from)

    async def jobs(self, array: Job | str) -> AsyncIterator[Job]:
        """The jobs of an array, in the order of their numbers; what is none has itself alone."""
        node = await self.home(array)
        if (await self.status(array)).raw.get("array"):
            async for row in self.rows(array):
                yield Job(row["ticket"], node)
        else:
            yield Job(ticket_of(array), node)

    async def rows(self, array: Job | str, first: int = 0) -> AsyncIterator[dict[str, Any]]:
        """`ticket` and `outcome` (None before the end) of the jobs of an array, from number `first` on."""
        size = first + 1
        while first < size:
            said = await self._ask(array, "result", object_of, str(first))
            size = said["array"]["size"]
            for row in said["jobs"]:
                yield row
            first += len(said["jobs"])

    async def cancel(self, job: Job | str) -> str:
        """`done`: nothing of it runs any more. `requested`: it is noted, and done once the cluster is whole.
        `too late`: it had ended."""
        return str((await self._ask(job, "cancel", object_of))["cancel"])

    async def tail(self, job: Job | str) -> AsyncIterator[Chunk]:
        """What it writes, from the start, as it comes, until it has ended; also over a lost connection."""
        node = await self.home(job)
        open_talk, patience = self._talks_with(node)
        async for chunk in tail(ticket_of(job), open_talk, patience):
            yield chunk

    async def files(self, job: Job | str) -> tuple[File, ...]:
        """What it left, for `fetch`; of an array what all its jobs left, as `7/path`."""
        return files_of(await self._ask(job, "fetch", object_of))

    async def fetch(
        self,
        job: Job | str,
        directory: str | os.PathLike[str],
        *,
        told: Callable[[File], None] | None = None,
    ) -> list[Path]:
        """Writes the files that it left below a directory, each whole and checked; returns where they are.

        `told` is called after each.

        Raises:
            TransferFailed: if a file is not what it was, or would leave the directory.
        """
        node = await self.home(job)
        return await files.fetch_all(ticket_of(job), Path(directory), told, *self._talks_with(node))

    async def partial(self, job: Job | str) -> builtins.list[Any]:
        """What a task has handed out so far: objects of `attempt` and `value`."""
        return builtins.list((await self._ask(job, "partial", object_of))["partial"])

    async def explain(self, job: Job | str) -> dict[str, Any]:
        """Why it waits or how it ended, and each attempt."""
        return await self._ask(job, "explain", object_of)

    # --- the cluster -----------------------------------------------------------------------------

    async def cluster(self) -> dict[str, Any]:
        """`nodes`, as below, and `note` where a node knows itself alone, as the ReverseProxy is away."""
        return await self.connections.lane.ask(b"nodes", object_of)

    async def nodes(self) -> Objects:
        """The nodes as the cluster knows them: name, connected, slots, running, queued, done, load, …"""
        return Objects((await self.cluster())["nodes"])

    async def stats(self) -> dict[str, Any]:
        """Counters of the node that answers and of the balancer (None while it is away)."""
        return await self.connections.lane.ask(b"stats", object_of)

    async def list(
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
        """Jobs of all nodes that can be asked, the newest first. `state`: open, queued, running or done;
        `since`: submitted in the last so many seconds. `raw` of each has its name, its tag and the job.

        `missed` is called with a line for each node that could not be asked, which says why.

        Raises:
            NodesUnreachable: where that is none of them.
        """
        given: dict[str, Any] = {"state": state, "outcome": outcome, "tag": tag, "name": name}
        given["since"] = None if since is None else seconds(since)
        words = [f"--{key} {quoted(value)}" for key, value in given.items() if value is not None]
        pages = [self._list_of(node, words, limit) for node in self.nodes_known]
        found = await asyncio.gather(*pages, return_exceptions=True)
        lists = [each for each in found if not isinstance(each, BaseException)]
        faults = [each for each in found if isinstance(each, BaseException)]
        others = [fault for fault in faults if not isinstance(fault, NodesUnreachable)]
        if others or not lists:
            raise (others or faults)[0]
        if missed is not None:
            for node, each in zip(self.nodes_known, found, strict=True):
                if isinstance(each, NodesUnreachable):
                    missed(f"{node} is left out: {each.faults.get(node) or each}")
        merged = heapq.merge(*lists, key=lambda each: each.submitted_at or 0.0, reverse=True)
        # A node with two names among those given has each job twice.
        jobs = {each.ticket: each for each in merged}.values()
        return builtins.list(itertools.islice(jobs, limit))

    async def _list_of(self, node: Address, words: builtins.list[str], limit: int) -> Statuses:
        found: Statuses = []
        before: builtins.list[str] = []
        while len(found) < limit:
            page = [f"--limit {min(PAGE, limit - len(found))}", *before]
            line = " ".join(["list", *words, *page])
            said = await self.connections.watcher(node).lane.ask(line.encode(), object_of)
            found += [status_of(each) for each in said["jobs"]]
            if not said.get("next"):
                break
            before = [f"--before {said['next']}"]
        return found

    # --- nodes and tickets -----------------------------------------------------------------------

    def keep(self, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Begins it; what has not ended when the client is closed ends with ClientClosed. The loop itself
        would forget it, and complain of an error that nobody reads."""

        async def kept() -> T:
            try:
                return await work()
            except asyncio.CancelledError:
                self.connections.check()
                raise

        def ended(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()

        task = asyncio.ensure_future(kept())
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    def _talks_with(self, node: Address) -> tuple[Callable[[], Awaitable[Talk]], Callable[[], float]]:
        connections = self.connections
        return functools.partial(connections.talk, node), functools.partial(connections.patience_with, node)

    async def _ask(self, job: Job | str, verb: str, answer: Callable[[bytes, Address], T], *words: str) -> T:
        lane = self.connections.watcher(await self.home(job)).lane
        return await lane.ask(" ".join([verb, ticket_of(job), *words]).encode(), answer)

    async def home(self, job: Job | str) -> Address:
        """The node that answers for a job.

        Raises:
            UnknownTicket: if none of the nodes does.
            NodesUnreachable: if one that could not be asked might.
        """
        return await self._homes.of(job)


async def _or_refused(future: asyncio.Future[Job]) -> Job | Refused:
    try:
        return await future
    except Refused as error:
        return error
