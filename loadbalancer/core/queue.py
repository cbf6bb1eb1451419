"""The jobs that wait here: higher priorities first, and among equals each origin in its turn.

So what is submitted to one node, however much, does not hold up what is submitted to others after it. The
jobs of one origin stay in the order of their arrival.
"""

from __future__ import annotations

from collections import deque

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
