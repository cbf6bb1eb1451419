"""The jobs that wait here: higher priorities first, and among equals each origin in its turn.

So what is submitted to one node, however much, does not hold up what is submitted to others after it. The
jobs of one origin stay in the order of their arrival.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain, islice, takewhile

from loadbalancer.core.jobs import Job, State


class JobQueue:
    """Jobs that are no longer QUEUED may stay in it; `pop` passes them over."""

    __slots__ = ("_levels", "_top")

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        self._top = 0

    def append(self, job: Job) -> None:
        self._level(job.priority).of(job.origin).append(job)

    def append_left(self, job: Job) -> None:
        """To the head of those of its origin and priority: it has waited longest."""
        self._level(job.priority).of(job.origin).appendleft(job)

    def pop(self) -> Job:
        """The next one. There must be one."""
        while True:
            level = self._levels[self._top]
            while level.turns:
                job = level.pop()
                if job.state is State.QUEUED:
                    return job
            del self._levels[self._top]
            self._top = max(self._levels)

    def before(self, job: Job, most: int) -> tuple[int, bool]:
        """How many go before a job that waits, as things are, and whether that is all of them.

        No more than `most` are looked at, however many wait.
        """
        count = 0
        for priority, level in self._levels.items():
            if priority >= job.priority:
                for each in level.before(job, most) if priority == job.priority else level.all():
                    if most == 0:
                        return count, False
                    most -= 1
                    count += each.state is State.QUEUED
        return count, True

    def _level(self, priority: int) -> _Level:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level()
            self._top = max(self._levels)
        return level


class _Level:
    """Jobs of one priority, by origin. `turns`: the origins that have any, the next one first."""

    __slots__ = ("_by_origin", "turns")

    def __init__(self) -> None:
        self._by_origin: dict[str, deque[Job]] = {}
        self.turns: deque[str] = deque()

    def of(self, origin: str) -> deque[Job]:
        jobs = self._by_origin.get(origin)
        if jobs is None:
            jobs = self._by_origin[origin] = deque()
            self.turns.append(origin)
        return jobs

    def all(self) -> Iterator[Job]:
        return chain.from_iterable(self._by_origin.values())

    def before(self, job: Job, most: int) -> Iterator[Job]:
        """Those of its origin that came before it, and of each other origin as many as get their turn."""
        own = islice(self._by_origin[job.origin], most + 1)  # one more tells that there are more
        sooner = list(takewhile(lambda each: each is not job, own))
        yield from sooner
        turns = len(sooner) + 1
        for origin in self.turns:
            if origin == job.origin:
                turns -= 1  # those behind it in their turn
            else:
                yield from islice(self._by_origin[origin], turns)

    def pop(self) -> Job:
        origin = self.turns[0]
        jobs = self._by_origin[origin]
        job = jobs.popleft()
        if jobs:
            self.turns.rotate(-1)
        else:
            self.turns.popleft()
            del self._by_origin[origin]
        return job
