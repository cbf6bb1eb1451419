"""The node's shell: clients, the link, the store and the helpers around the core."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clusternode.core.events import (
    Action,
    Answer,
    CommandEnded,
    Disconnect,
    Drain,
    Drained,
    Event,
    Find,
    Forget,
    Found,
    FromBalancer,
    FromHelpers,
    Kill,
    LinkDown,
    LinkUp,
    Log,
    LookUp,
    Measured,
    Post,
    Record,
    Send,
    SendKept,
    Ship,
    Shipped,
    Spawn,
    SpawnTask,
    StatesAre,
    Stop,
    TakeBack,
    TasksKnown,
    Tell,
    Tick,
    Unship,
)
from clusternode.core.node import Identity, NodeCore
from clusternode.core.submissions import AT_START
from clusternode.desk import Desk
from clusternode.door import Door
from clusternode.executor.leftovers import empty_directory, kill_leftovers, mark_of
from clusternode.executor.pool import Pool
from clusternode.executor.tasks import TaskPool
from clusternode.executor.watching import Watching
from clusternode.files.home import Home
from clusternode.files.moving import Mover
from clusternode.files.stage import Stager
from clusternode.files.store import Files
from clusternode.following import Follower
from clusternode.link import Link
from clusternode.notifier import Notifier
from clusternode.relay import Refused, Relay
from clusternode.store.sqlite import SqliteStore
from protocol.job import JobState, Task
from protocol.limits import CACHE_BYTES, INFO_PERIOD
from protocol.messages import Message, RequestOfRes, ResReq, Result, Welcome, in_batches, result_size
from protocol.relay import Ask, Told
from protocol.replies import StatusOf
from runtime.connection import FrameConnection
from runtime.engine import Clock, Engine
from runtime.lifecycle import Background, end, listen, loading, until_stopped

log = logging.getLogger("clusternode")

#: Where jobs run, in the data directory.
WORK = "work"
#: How a job reaches its node that listens on all addresses.
EVERYWHERE, LOCAL = ("0.0.0.0", "::", ""), "127.0.0.1"
#: Kept results are read from the store so many at a time.
KEPT_AT_ONCE = 8
#: Seconds that the status of a task waits for what it says of itself on another node.
PROGRESS_PATIENCE = 1.0
#: Tickets that jobs come after are looked up so many at a time.
FOUND_AT_ONCE = 1000
#: Seconds that a node which starts waits for its task modules before it says that it is ready.
TASKS_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line and the environment say. `name` None: the one kept in the data directory."""

    host: str
    port: int
    bind: str
    client_port: int
    slots: int
    name: str | None
    #: Seconds that running jobs have to end once the node is asked to stop.
    drain_period: float
    #: Modules with tasks, separated by commas.
    tasks: str
    #: A worker process is replaced after so many.
    max_tasks_per_worker: int
    #: Seconds without a sign of life after which a worker counts as hung.
    task_hang_period: float
    #: What one job may leave in files.
    max_result_bytes: int
    #: Seconds from one checkpoint of a job to the next, beside those that it asks for.
    checkpoint_period: float
    #: What notices are signed with; empty for no signature.
    notify_secret: str = ""


class Node:
    """Runs the engine and performs what the core decides."""

    def __init__(
        self, core: NodeCore, options: Options, store: SqliteStore, clock: Clock, directory: Path, home: Home
    ) -> None:
        """`directory` is the node's data directory, `home` what it has of files. Raises StartError."""
        work = directory / WORK
        self.engine: Engine[Event, Record, Action] = Engine(core, Tick, store.commit, self._release, clock)
        self._core = core
        self._store = store
        self._drained = asyncio.Event()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._background = Background(self._fail)
        submit = self.engine.submit
        offset = clock.now() - time.monotonic()
        mark = mark_of(core.identity.node_id, directory)
        common = (options.slots, work, mark, offset, self._heard, self._background.start)
        self._pool = Pool(*common)
        self._tasks = TaskPool(
            *common,
            modules=options.tasks,
            most_tasks=options.max_tasks_per_worker,
            hang_period=options.task_hang_period,
        )
        self._notifier = Notifier(options.notify_secret, store, submit, self._background.start)
        self._link = Link(options.host, options.port, self._on_up, self._on_message, self._on_down)
        start = self._background.start
        self._relay = Relay(core.identity.node_id, self._send, self._is_mine, start, self._link.has_room)
        home.serve(self._relay)
        self._home = home
        core.origin.has_file = home.files.__contains__
        self._watching = Watching(self._watch)
        self._tasks.partial = self._hand_in
        self._relay.serve("progress", self._progress)
        self._pool.output = self._tasks.output = self._watching.came
        self._mover = mover = Mover(self._relay, home.files, Files(directory / "cache", CACHE_BYTES))
        self._stager = Stager(
            work / "stage",
            mover,
            self._spawn,
            self._heard,
            self._background.start,
            clock.now,
            address=f"{LOCAL if options.bind in EVERYWHERE else options.bind}:{options.client_port}",
            most_bytes=options.max_result_bytes,
            checkpoint_period=options.checkpoint_period,
        )
        follower = Follower(core.identity.node_id, self._relay, store, core.executor, self._watching)
        desk = Desk(home, store, self._stager, follower, self._background.start)
        self.door = Door(submit, store, self._background.start, desk)
        self.engine.attach(self.door)

    async def run(self, ready: str) -> None:
        """Until cancelled; `ready` is said in the log. Raises StorageError."""
        tasks = [
            asyncio.ensure_future(self.engine.run()),
            asyncio.ensure_future(self._join(ready)),
            asyncio.ensure_future(self._measure()),
        ]
        self._background.start(self._tasks.start_ahead())
        try:
            done, _ = await asyncio.wait({*tasks, self._failure}, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            self._notifier.close()
            await end(*tasks)
            self._watching.close()
            await asyncio.gather(self._pool.close(), self._tasks.close())
            await self._background.end()

    async def _join(self, ready: str) -> None:
        """Takes part once clients find the tasks, or after TASKS_PATIENCE without them."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._tasks.known.wait(), TASKS_PATIENCE)
        log.info("%s", ready)
        await self._link.run()

    async def stop(self, drain_period: float) -> None:
        """Takes nothing more, lets what runs end for so long, and returns when all is durable."""
        self.door.draining = True
        self.engine.submit(Drain())
        try:
            async with asyncio.timeout(drain_period):
                await self._drained.wait()
        except TimeoutError:
            log.warning("what still runs after %g s is ended; it runs again elsewhere", drain_period)
        self.engine.submit(Stop())
        await self.engine.settle()
        self.door.close()
        self._link.leave()

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    # --- the link --------------------------------------------------------------------------------

    def _on_up(self, connection: FrameConnection) -> None:
        self.engine.attach(connection)
        self.engine.submit(LinkUp())

    def _on_message(self, message: Message) -> None:
        if isinstance(message, Ask | Told):
            if self._core.connected:
                self._relay.received(message)
            return
        if isinstance(message, Welcome):
            self._link.welcomed()
        self.engine.submit(FromBalancer(message))

    def _on_down(self, connection: FrameConnection) -> None:
        self.engine.detach(connection)
        self.engine.submit(LinkDown())
        self._relay.link_down()

    # --- what jobs and other nodes have to do with it ---------------------------------------------

    def _send(self, message: Ask | Told) -> bool:
        """False while there is no load balancer to pass it on."""
        if self._core.connected:
            self._link.send(message)
        return self._core.connected

    def _is_mine(self, whom: str, name: str) -> bool:
        if whom == "node":
            return name == self._core.identity.node_id
        return name in (self._core.origin.open if whom == "origin" else self._core.executor.running)

    def _heard(self, event: FromHelpers | TasksKnown | Shipped) -> None:
        self.engine.submit(event)
        if isinstance(event, FromHelpers):
            for news in event.news:
                if isinstance(news, CommandEnded):
                    self._watching.ended(news)
            self._stager.settle(event)

    def _watch(self, what: str, key: tuple[str, int]) -> None:
        for pool in (self._pool, self._tasks):  # one of them has it
            pool.watch(what, key)

    def _spawn(self, job: Spawn | SpawnTask) -> None:
        if isinstance(job, Spawn):
            self._pool.spawn(job)
        else:
            self._tasks.run(job)

    # --- what tasks say before their end ----------------------------------------------------------

    def _hand_in(self, key: tuple[str, int], number: int, value: str) -> None:
        self._background.start(self._hand_in_partial(*key, number, value))

    async def _hand_in_partial(self, ticket: str, attempt: int, number: int, value: str) -> None:
        try:
            await self._mover.hand_in(ticket, attempt, number, value)
        except Refused as refused:
            log.warning("a partial result of %s is not kept: %s", ticket, refused.reason)

    async def _progress(self, asker: str, asked: Any) -> Any:
        return self._core.executor.progress_of(str(asked))

    async def _answer_with_progress(self, action: Answer, reply: StatusOf) -> None:
        """What a task says of itself, where another node runs it."""
        ticket = reply.job.ticket
        with contextlib.suppress(Refused, TimeoutError, TypeError, ValueError):
            async with asyncio.timeout(PROGRESS_PATIENCE):
                part, words = await self._relay.ask("executor", ticket, "progress", ticket)
            reply = replace(reply, progress=(float(part), str(words)))
        session = self.door.get(action.client)
        if session is not None:
            session.answer(action.seq, reply)

    # --- actions ---------------------------------------------------------------------------------

    def _release(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Answer(_, _, StatusOf() as reply) if _may_progress(reply):
                    self._background.start(self._answer_with_progress(action, reply))
                case Answer(client, seq, reply):
                    session = self.door.get(client)
                    if session is not None:
                        session.answer(seq, reply)
                case StatesAre(client, seq):
                    session = self.door.get(client)
                    if session is not None:
                        session.hear(seq, action)
                case Tell(clients, news):
                    self.door.tell(clients, news)
                case Send(message):
                    self._link.send(message)
                case Spawn() | SpawnTask():
                    if action.extras is not None and action.extras.has_files:
                        self._stager.begin(action)
                    else:
                        self._spawn(action)
                case Ship(ticket, attempt):
                    self._stager.ship(ticket, attempt)
                case Unship(ticket, attempt):
                    self._stager.unship(ticket, attempt)
                case Forget(ticket):
                    self._background.start(asyncio.to_thread(self._home.forget, ticket))
                case LookUp(client):
                    session = self.door.get(client)
                    if session is not None:
                        session.look_up(action)
                case Find(number, tickets, keys):
                    self._background.start(self._find(number, tickets, keys))
                case SendKept(kept, tickets):
                    self._background.start(self._send_kept(list(kept), list(tickets)))
                case TakeBack(ticket, attempt):
                    self._pool.take_back(ticket, attempt)
                case Kill(ticket, attempt):
                    # One of them has it.
                    if not self._stager.kill(ticket, attempt):
                        self._pool.kill(ticket, attempt)
                        self._tasks.kill(ticket, attempt)
                case Post(seq):
                    self._notifier.post(seq)
                case Disconnect(reason):
                    self._link.disconnect(reason)
                case Drained():
                    self._drained.set()
                case Log(text, warning):
                    log.log(logging.WARNING if warning else logging.INFO, "%s", text)

    async def _find(self, number: int, tickets: Sequence[str], keys: Sequence[str]) -> None:
        known = await self._store.tickets_of(keys) if keys else {}
        self.engine.submit(Found(number, await found_in(self._store, tickets), keys=known))

    async def _send_kept(self, kept: list[str], asking: list[str]) -> None:
        for start in range(0, len(kept), KEPT_AT_ONCE):
            results = await self._store.kept(kept[start : start + KEPT_AT_ONCE])
            for batch in in_batches(results, result_size):
                self._link.send(ResReq(batch, asking) if asking else Result(batch))
                asking = []
        if asking:
            self._link.send(RequestOfRes(asking))

    async def _measure(self) -> None:
        """Load and memory of this machine, for INFO."""
        while True:
            self.engine.submit(Measured(os.getloadavg()[0], available_memory()))
            await asyncio.sleep(INFO_PERIOD)


def _may_progress(reply: StatusOf) -> bool:
    is_running = reply.job.state is JobState.RUNNING and reply.job.node is not None
    return is_running and reply.progress is None and isinstance(reply.job.spec, Task)


async def found_in(store: SqliteStore, tickets: Sequence[str]) -> dict[str, str | None]:
    """How these tickets ended, piece by piece: commits get their turn in between."""
    outcomes: dict[str, str | None] = {}
    for start in range(0, len(tickets), FOUND_AT_ONCE):
        outcomes |= await store.outcomes(tickets[start : start + FOUND_AT_ONCE])
    return outcomes


def available_memory() -> int:
    """Bytes of memory that this machine could still give; 0 where the kernel does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


async def serve(stop: asyncio.Event, options: Options, directory: Path) -> None:
    """The whole program inside a locked data directory, until `stop` is set."""
    store = await SqliteStore.open(directory)
    try:
        new_id = secrets.token_hex(8)
        node_id, name = await store.identity(new_id, options.name, f"node-{new_id[:4]}")
        killed = kill_leftovers(mark_of(node_id, directory))
        if killed:
            log.warning("%d processes of jobs had outlived this node and were killed", killed)
        await asyncio.to_thread(empty_directory, directory / WORK)
        clock = Clock()
        identity = Identity(node_id, secrets.token_hex(8), name, options.slots)
        with loading():
            open_jobs, next_seq, kept = await store.load()
            found = len(open_jobs)
            core = NodeCore(identity, open_jobs, next_seq, kept, clock.now())
            core.origin.notices.restore(await store.pending_notices(), clock.now())
            awaited = await found_in(store, core.origin.to_find())
            counts = {
                ticket: (await store.array(*place, 0, 0))[0]
                for ticket, place in core.origin.to_count().items()
            }
            del open_jobs, kept  # or they would stay as well
        home = Home(directory, options.max_result_bytes, core.origin.spec_of, store.knows)
        await asyncio.to_thread(home.forget_all_but, core.origin.open)
        node = Node(core, options, store, clock, directory, home)
        node.engine.submit(Found(AT_START, awaited, counts))
        listening = await listen(node.door.connect, options.bind, options.client_port, "--client-port")
        ready = (
            f"node {name} ready for clients on {options.bind}:{options.client_port}, {options.slots} slots, "
            f"{found} tickets open, data in {directory}"
        )
        running = asyncio.ensure_future(node.run(ready))
        try:
            await until_stopped(stop, running)
            log.info("stopping: no new jobs, %g s for those that run", options.drain_period)
            listening.close()
            await node.stop(options.drain_period)
            if running.done():
                running.result()
        finally:
            listening.close()
            await end(running)
    finally:
        await store.close()
