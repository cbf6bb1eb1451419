"""The node's side of its task workers: a supervisor for each slot, its worker started ahead."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clusternode.core.events import FromHelpers, Progressed, SpawnTask, TasksKnown
from clusternode.executor.pool import Helper, Pool, program
from clusternode.executor.worker import SetUp
from protocol.tasks import unpack_signature

log = logging.getLogger("clusternode")

#: A name, not an import: what a worker runs is not this program's.
WORKER = "evenly.worker"
#: Workers started ahead at most, however many slots there are: each takes the memory of its modules.
AHEAD_MOST = 16
#: Supervisors that may die at the start before no more are started ahead.
SPARE_TRIES = 2


class TaskPool(Pool):
    """Runs tasks; each ends in one CommandEnded, whatever happens."""

    PROGRAM = program("supervisor")

    def __init__(
        self,
        slots: int,
        directory: Path,
        mark: str,
        offset: float,
        tell: Callable[[FromHelpers | TasksKnown], None],
        start: Callable[[Any], object],
        *,
        modules: str,
        most_tasks: int,
        hang_period: float,
    ) -> None:
        """`modules`, separated by commas, beside the entry points; the rest as in `Pool` and `SetUp`."""
        super().__init__(slots, directory, mark, offset, tell, start)
        self._tell_tasks = tell
        command = [sys.executable, "-m", WORKER]
        self._worker = SetUp(
            *(command, modules, self._environment, os.getcwd(), str(self._directory)),
            *(most_tasks, hang_period),
        )
        #: Who takes partial results: (key, number, value as JSON text).
        self.partial: Callable[[tuple[str, int], int, str], None] = lambda *_: None
        #: Set once it is known which tasks there are.
        self.known = asyncio.Event()
        self._came_up = asyncio.Event()
        self._packed: dict[str, tuple[Any, ...]] = {}
        #: What could not be loaded, and was said.
        self._said: set[str] = set()

    async def start_ahead(self) -> None:
        """One after the other, so that a node that starts has the machine for its clients, too."""
        wanted = min(self._slots, AHEAD_MOST)
        # Not for ever: there may be one that dies each time.
        for _ in range(wanted + SPARE_TRIES):
            if len(self._helpers) >= wanted or self._closing:
                return
            self._came_up.clear()
            helper = Helper(self)
            self._helpers.add(helper)
            await self._bring_up(helper)
            if helper not in self._helpers:
                break  # there is no process to be had
            if helper in self._idle:
                # It takes a while to be ready: those that are go first.
                self._idle.insert(0, self._idle.pop())
            await self._came_up.wait()
        if not self.known.is_set():
            self._learn({}, ["evenly.worker: its supervisor could not be started"])

    def run(self, job: SpawnTask) -> None:
        """As soon as a supervisor is free."""
        self._serve(deque([job]))

    def heard(self, helper: Helper, messages: list[tuple[Any, ...]]) -> None:
        ended = [message for message in messages if not self._is_word_of_worker(message)]
        if ended:
            super().heard(helper, ended)
        else:
            self._report_now()

    def lost(self, helper: Helper) -> None:
        self._came_up.set()
        super().lost(helper)

    def _take_in(self, helper: Helper, message: tuple[Any, ...]) -> None:
        if not self._is_word_of_worker(message):
            super()._take_in(helper, message)

    def _is_word_of_worker(self, message: tuple[Any, ...]) -> bool:
        """Takes in what is no end of a task."""
        if message[0] == "ready":
            self._learn(*message[1:])
        elif message[0] == "partial":
            self.partial(tuple(message[1]), *message[2:])
        elif message[0] == "progress":
            self._news.append(Progressed(*message[1], *message[2:]))
        else:
            return False
        return True

    def _learn(self, packed: dict[str, tuple[Any, ...]], failures: list[str]) -> None:
        for failure in failures:
            if failure not in self._said:
                self._said.add(failure)
                log.warning("task module %s; its tasks are not served here", failure)
        self._came_up.set()
        if not self.known.is_set() or packed != self._packed:
            self.known.set()
            self._packed = packed
            log.info("tasks: %s", ", ".join(sorted(packed)) or "none")
            self._tell_tasks(TasksKnown({name: unpack_signature(each) for name, each in packed.items()}))

    def _set_up(self) -> tuple[Any, ...]:
        return (tuple(self._worker),)

    def _how(self, job: Any) -> tuple[Any, ...]:
        extras = job.extras
        more = ({}, "", 0) if extras is None else (self._cpus_of(extras)[1], extras.cwd, extras.memory)
        return job.name, job.payload, job.time_limit, job.at_most_once, *more
