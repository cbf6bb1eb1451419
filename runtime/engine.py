"""The loop between a core and the world: step at once, commit in groups, release after the commit.

Events are stepped the moment they come, so the core's memory may run ahead of the disk; their actions
wait until the records of all events before them are durable. Only what the core names as `prompt`, as it
follows from no record, is released at once. While one group is being committed the next
one gathers: the slower the disk, the larger the groups.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from runtime.errors import InternalFault, one_line
from runtime.failpoints import reach

E = TypeVar("E")
R = TypeVar("R")
A = TypeVar("A")
Event = TypeVar("Event", contravariant=True)

#: Records gathered behind a slow disk at which sources are asked to pause, and at which to go on.
CONGESTED = 20_000
RELIEVED = 5_000


class Stepped(Protocol[R, A]):
    """What a step gives: records to commit, actions to release after that, and prompt ones."""

    records: list[R]
    actions: list[A]
    prompt: list[A]


class Core(Protocol[Event, R, A]):
    def step(self, event: Event, now: float) -> Stepped[R, A]: ...
    def next_deadline(self) -> float | None: ...


class Source(Protocol):
    """Something that brings events and can be asked to pause."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Clock:
    """Seconds since the epoch that never go back: the wall clock at the start, monotonic from there."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self._offset


class Engine(Generic[E, R, A]):
    """Runs one core."""

    def __init__(
        self,
        core: Core[E, R, A],
        tick: Callable[[bool], E],
        commit: Callable[[list[R]], Awaitable[None]],
        release: Callable[[list[A]], None],
        clock: Clock,
    ) -> None:
        """`tick` makes the event of a deadline; it is told whether sources are paused.

        `commit` makes records durable or raises StorageError; `release` performs actions, in order.
        """
        self._core = core
        self._tick = tick
        self._commit = commit
        self._release = release
        self._clock = clock
        self._records: list[R] = []
        self._actions: list[A] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._sources: set[Source] = set()
        self._congested = False
        self._fault: InternalFault | None = None

    def submit(self, event: E) -> None:
        """Steps the core with `event`. What comes of it follows when it is durable."""
        if self._fault is not None:
            return
        try:
            outcome = self._core.step(event, self._clock.now())
        except Exception as error:
            # The core's memory can no longer be trusted; the disk can. `run` ends the process.
            self._fault = InternalFault(one_line(error))
            self._wake.set()
            return
        self._records += outcome.records
        self._actions += outcome.actions
        if outcome.prompt:
            self._release(outcome.prompt)
        if self._records or self._actions:
            self._wake.set()
            self._idle.clear()
        if len(self._records) > CONGESTED and not self._congested:
            self._congested = True
            for source in list(self._sources):
                source.pause()
        self._set_timer()

    def attach(self, source: Source) -> None:
        """`source` is paused while the disk is far behind."""
        self._sources.add(source)
        if self._congested:
            source.pause()

    def detach(self, source: Source) -> None:
        self._sources.discard(source)

    async def run(self) -> None:
        """Commits and releases until cancelled.

        Raises:
            StorageError: if a commit failed; nothing of it was released.
            InternalFault: if the core raised.
        """
        self._set_timer()
        try:
            await self._run()
        finally:
            self._idle.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._fault is not None:
                raise self._fault
            records, self._records = self._records, []
            actions, self._actions = self._actions, []
            if records:
                reach("commit.before")
                await self._commit(records)
                reach("commit.after")
            if self._congested and len(self._records) < RELIEVED:
                self._congested = False
                for source in list(self._sources):
                    source.resume()
            self._release(actions)
            if records:
                reach("release.after")
            if not self._wake.is_set():
                self._idle.set()

    async def settle(self) -> None:
        """Returns when all that was submitted is durable and released, or `run` has ended."""
        await self._idle.wait()

    def _set_timer(self) -> None:
        deadline = self._core.next_deadline()
        if deadline is None:
            deadline = float("inf")
        # A timer that is early is harmless (nothing is due); re-arming for each event is not cheap.
        if self._timer is not None and self._timer_at <= deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline < float("inf"):
            self._timer_at = deadline
            delay = max(0.0, deadline - self._clock.now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.submit(self._tick(self._congested))
