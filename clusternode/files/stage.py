"""What jobs with files find and leave: their directories are made before they start, and emptied into their
origin's after they have ended.

    stage/TICKET.ATTEMPT/work         the working directory, with the files that come along
    stage/TICKET.ATTEMPT/results      EVENLY_RESULT_DIR
    stage/TICKET.ATTEMPT/checkpoint   EVENLY_CHECKPOINT_DIR

Jobs without files never come here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sysconfig
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

from clusternode.core.events import CommandEnded, FromHelpers, Shipped, Spawn, SpawnTask, TakenBack
from clusternode.executor.removal import remove_tree
from clusternode.files.home import CHECKPOINT, CONFLICT, RESULTS, WRONG
from clusternode.files.moving import Mover
from clusternode.files.tree import BadTree, Found, copied, find, hashed
from clusternode.relay import Refused
from protocol.job import NO_EXTRAS, Extras, ResultFile
from protocol.relay import AWAY, NOT_FOUND
from runtime.lifecycle import in_thread

log = logging.getLogger("clusternode")

Key = tuple[str, int]
#: As a shell has it, of a command that could not be started.
NOT_STARTED = 126
#: Takes a checkpoint from within a job.
COMMAND = "evenly-checkpoint"
#: Seconds that a job keeps its slot where its files cannot be kept: a node whose disk is full would else be
#: the one that is free soonest, and get one after the other.
FAULT_PAUSE = 1.0
#: A checkpoint whose files change while they are copied is taken again so often.
TAKES = 3


class Stage:
    """One attempt with files."""

    def __init__(self, root: Path, extras: Extras) -> None:
        self.root = root
        self.extras = extras
        self.preparing: asyncio.Task[None] | None = None
        self.shipping: asyncio.Task[None] | None = None
        self.periodic: asyncio.Task[None] | None = None
        #: One checkpoint at a time.
        self.lock = asyncio.Lock()
        #: What the last one was of: (path, size, time of change).
        self.taken: object = None

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def output(self) -> Path:
        """What it writes, under --keep-output: beside its results, where it could write to it as well."""
        return self.root / "output"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"


class Stager:
    def __init__(
        self,
        directory: Path,
        mover: Mover,
        spawn: Callable[[Spawn | SpawnTask], None],
        heard: Callable[[FromHelpers | Shipped], None],
        start: Callable[[Awaitable[None]], asyncio.Task[None]],
        now: Callable[[], float],
        *,
        address: str,
        most_bytes: int,
        checkpoint_period: float,
    ) -> None:
        """`spawn` starts what is ready; `heard` takes what becomes of it, and has `settle` told of ends.

        `address` is where jobs here reach this node; `most_bytes` of one job's results; `checkpoint_period`
        in seconds.
        """
        self._directory = directory.resolve()
        self._mover = mover
        self._spawn = spawn
        self._heard = heard
        self._start = start
        self._now = now
        self._address = address
        self._most_bytes = most_bytes
        self._period = checkpoint_period
        self._stages: dict[Key, Stage] = {}
        self._numbers = count(1)

    # --- before it starts ------------------------------------------------------------------------

    def begin(self, job: Spawn | SpawnTask) -> None:
        """Brings its files here and starts it; or ends it, where they cannot be had."""
        key = (job.ticket, job.attempt)
        assert job.extras is not None
        # A number of its own: the same attempt may come again while this one is still being removed.
        stage = Stage(self._directory / f"{key[0]}.{key[1]}.{next(self._numbers)}", job.extras)
        self._stages[key] = stage
        stage.preparing = self._start(self._prepare(job, stage))

    def kill(self, ticket: str, attempt: int) -> bool:
        """Ends it where it has not started; False where it has, or is not here."""
        stage = self._stages.get((ticket, attempt))
        if stage is None or stage.preparing is None or stage.preparing.done():
            return False
        stage.preparing.cancel()
        # Soon: the core is in the middle of a step.
        asyncio.get_running_loop().call_soon(self._end, (ticket, attempt), None, "before it started")
        return True

    async def _prepare(self, job: Spawn | SpawnTask, stage: Stage) -> None:
        key, extras = (job.ticket, job.attempt), stage.extras
        try:
            await in_thread(_make, stage)
            for path, digest in extras.files:
                await self._mover.copy(job.ticket, digest, stage.work / path)
            if extras.checkpoint and job.attempt > 1:
                await self._resume(job.ticket, stage)
        except Refused as refused:
            if refused.status == AWAY:  # it waits at the load balancer, and takes no slot
                self._give_back(key)
                return
            # Where the job is not open any more, its end is nobody's news.
            code = None if refused.status == NOT_FOUND and not extras.files else NOT_STARTED
            self._end(key, code, f"it could not be started: {refused.reason}")
            return
        except OSError as error:
            # This node's fault: it runs elsewhere. But not as fast as a queue is long.
            log.warning("the files of %s cannot be kept here: %s", job.ticket, _said(error))
            await asyncio.sleep(FAULT_PAUSE)
            self._give_back(key)
            return
        if extras.checkpoint:
            stage.periodic = self._start(self._take_for_ever(job.ticket, job.attempt, stage))
        self._spawn(self._staged(job, stage))

    async def _resume(self, ticket: str, stage: Stage) -> None:
        """Fetches its last checkpoint; anew where a late one of an earlier attempt takes its place."""
        known: object = None
        while True:
            files = await self._mover.resume(ticket)
            try:
                for file in files:
                    await self._mover.fetch_to(ticket, file, stage.checkpoint / file.path)
                return
            except Refused as refused:
                if refused.status != NOT_FOUND or files == known:
                    raise
            known = files
            await in_thread(remove_tree, str(stage.checkpoint))
            stage.checkpoint.mkdir(mode=0o700)

    def _staged(self, job: Spawn | SpawnTask, stage: Stage) -> Spawn | SpawnTask:
        """It, with what it is to find."""
        extras = stage.extras
        variables = {"EVENLY_NODE": self._address}
        if extras.checkpoint and (path := _with_scripts()):
            variables["PATH"] = path
        if extras.files:
            variables["EVENLY_FILES"] = str(stage.work)
        if extras.result_dir:
            variables["EVENLY_RESULT_DIR"] = str(stage.results)
        if extras.checkpoint:
            variables["EVENLY_CHECKPOINT_DIR"] = str(stage.checkpoint)
        extras = replace(extras, env=(*extras.env, *variables.items()), cwd=extras.cwd or str(stage.work))
        if isinstance(job, Spawn) and extras.keep_output:
            return replace(job, extras=extras, output=str(stage.output))
        return replace(job, extras=extras)

    def _give_back(self, key: Key) -> None:
        self._heard(FromHelpers([TakenBack(*key)]))

    def _end(self, key: Key, code: int | None, reason: str) -> None:
        now = self._now()
        self._heard(FromHelpers([CommandEnded(*key, now, now, code, reason=reason)]))

    # --- after it has ended ----------------------------------------------------------------------

    def settle(self, event: FromHelpers) -> None:
        """The core has heard this: what has ended and is not to be shipped leaves nothing here."""
        if not self._stages:
            return
        for news in event.news:
            if isinstance(news, CommandEnded | TakenBack):
                stage = self._stages.get((news.ticket, news.attempt))
                if stage is not None and stage.periodic is not None:
                    stage.periodic.cancel()
                if stage is not None and stage.shipping is None:
                    self._clear((news.ticket, news.attempt))

    def ship(self, ticket: str, attempt: int) -> None:
        """Brings home what it has left and handed out; Shipped follows."""
        key = (ticket, attempt)
        stage = self._stages.get(key)
        if stage is None:  # a task without files
            stage = self._stages[key] = Stage(self._directory / f"{ticket}.{attempt}", NO_EXTRAS)
        stage.shipping = self._start(self._ship(key, stage))

    def unship(self, ticket: str, attempt: int) -> None:
        """Nobody wants it any more."""
        stage = self._stages.get((ticket, attempt))
        if stage is not None and stage.shipping is not None:
            stage.shipping.cancel()
            self._clear((ticket, attempt))

    async def _ship(self, key: Key, stage: Stage) -> None:
        files: list[ResultFile] = []
        faults: list[str] = []
        if refused_ones := await self._mover.handed_in(*key):
            faults.append(f"{refused_ones} of its partial results were refused")
        try:
            if stage.extras.leaves_files:
                found = await asyncio.to_thread(_left, stage, self._most_bytes)
                files = await asyncio.to_thread(hashed, found)
                await self._mover.bring(RESULTS, *key, files, found)
        except (BadTree, Refused, OSError) as fault:
            said = _said(fault) if isinstance(fault, OSError) else str(fault)
            faults.append(f"its result files were refused: {said}")
            files = []
        self._heard(Shipped(*key, tuple(files), "; ".join(faults)))
        self._clear(key)

    def _clear(self, key: Key) -> None:
        stage = self._stages.pop(key, None)
        if stage is not None:
            self._start(_remove(stage))

    # --- while it runs ---------------------------------------------------------------------------

    async def take_checkpoint(self, ticket: str) -> tuple[int, int]:
        """(files, bytes) of the checkpoint of the job that runs here, now that it is at its origin.

        Raises:
            Refused: with the reason.
        """
        for (each, attempt), stage in self._stages.items():
            if each == ticket and stage.extras.checkpoint and stage.shipping is None:
                return await self._take(ticket, attempt, stage)
        raise Refused(NOT_FOUND, "no job with --checkpoint runs here under this ticket")

    async def _take_for_ever(self, ticket: str, attempt: int, stage: Stage) -> None:
        while True:
            await asyncio.sleep(self._period)
            try:
                await self._take(ticket, attempt, stage, only_changed=True)
            except Refused as refused:
                log.warning("the checkpoint of %s could not be taken: %s", ticket, refused.reason)

    async def _take(
        self, ticket: str, attempt: int, stage: Stage, only_changed: bool = False
    ) -> tuple[int, int]:
        async with stage.lock:
            for take in range(TAKES):
                copy = stage.root / f"copy-{next(self._numbers)}"
                try:
                    found = await asyncio.to_thread(find, stage.checkpoint, self._most_bytes)
                    seen = await asyncio.to_thread(_signature, found)
                    if only_changed and seen == stage.taken:
                        return 0, 0
                    found = await in_thread(copied, found, copy)
                    files = await asyncio.to_thread(hashed, found)
                    await self._mover.bring(CHECKPOINT, ticket, attempt, files, found)
                    stage.taken = seen
                    return len(files), sum(file.size for file in files)
                except BadTree as fault:
                    raise Refused(WRONG, f"its checkpoint is refused: {fault}") from None
                except FileNotFoundError as error:  # removed while it was copied
                    if take == TAKES - 1:
                        raise Refused(CONFLICT, f"{error.filename} came and went meanwhile") from None
                except OSError as error:
                    raise Refused(WRONG, _said(error)) from None
                finally:
                    await asyncio.to_thread(remove_tree, str(copy))
        raise AssertionError


async def _remove(stage: Stage) -> None:
    # Threads of what was cancelled may still make files in it.
    writers = [task for task in (stage.preparing, stage.periodic) if task is not None]
    await asyncio.gather(*writers, return_exceptions=True)
    await asyncio.to_thread(remove_tree, str(stage.root))


def _with_scripts() -> str:
    """The PATH with `evenly-checkpoint` on it; empty where it is on it, or not to be had."""
    scripts = sysconfig.get_path("scripts")
    if shutil.which(COMMAND) or not os.access(os.path.join(scripts, COMMAND), os.X_OK):
        return ""
    return f"{os.environ.get('PATH', os.defpath)}:{scripts}"


def _make(stage: Stage) -> None:
    remove_tree(str(stage.root))
    stage.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in (stage.root, stage.work, stage.results, stage.output, stage.checkpoint):
        place.mkdir(mode=0o700)


def _left(stage: Stage, most_bytes: int) -> list[Found]:
    """Its result files, and its output among them. Raises BadTree, OSError."""
    for output in list(stage.output.iterdir()):
        target = stage.results / output.name
        if os.path.lexists(target):
            raise BadTree(f"{output.name} is the name under which --keep-output keeps its own")
        output.rename(target)
    return find(stage.results, most_bytes)


def _said(error: OSError) -> str:
    return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)


def _signature(found: list[Found]) -> object:
    return [(each.path, each.size, os.stat(each.at).st_mtime_ns) for each in found]
