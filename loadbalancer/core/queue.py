"""The jobs that wait here: higher priorities first, and among equals in the order of arrival."""

from __future__ import annotations

from collections import deque

from loadbalancer.core.jobs import Job, State


class JobQueue:
    """Jobs that are no longer QUEUED may stay in it; `pop` passes them over."""

    __slots__ = ("_by_priority", "_top")

    def __init__(self) -> None:
        self._by_priority: dict[int, deque[Job]] = {}
        self._top = 0

    def append(self, job: Job) -> None:
        self._of(job.priority).append(job)

    def append_left(self, job: Job) -> None:
        """To the head of those of its priority: it has waited longest."""
        self._of(job.priority).appendleft(job)

    def pop(self) -> Job:
        """The next one. There must be one."""
        while True:
            queue = self._by_priority[self._top]
            while queue:
                job = queue.popleft()
                if job.state is State.QUEUED:
                    return job
            del self._by_priority[self._top]
            self._top = max(self._by_priority)

    def _of(self, priority: int) -> deque[Job]:
        queue = self._by_priority.get(priority)
        if queue is None:
            queue = self._by_priority[priority] = deque()
            self._top = max(self._by_priority)
        return queue
