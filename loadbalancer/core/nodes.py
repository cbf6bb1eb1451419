"""A node as the load balancer knows it: executor of jobs, and origin that is owed results."""

from __future__ import annotations

from typing import Any

from loadbalancer.core.jobs import Job, State
from protocol.delivery import Delivery
from protocol.limits import LEAVING_LIMIT
from protocol.messages import Info

#: A node may hold work for so many seconds, as fast as the fastest node does it: more than the way to and
#: fro takes, so that none waits for it. What waits beyond that waits here, where it can still go anywhere,
#: and where what others submit gets its turn.
DEPTH_SECONDS = 0.06
#: That in jobs: as long as nothing is known, and at most (20,000 jobs of 0 ms a second).
FIRST_DEPTH, MOST_DEPTH = 64, 256
#: And at least, for each slot: what a node has to do while the balancer is away for a moment.
DEPTH_A_SLOT = 8
#: Seconds over which the pace of a node is taken, unless it runs dry before; and the shortest of a job.
PACE_SECONDS = 0.05
SHORTEST_PACE = 1e-5


class Node:
    """`link` is None while it is away; `deadline` then says until when its jobs wait for it."""

    __slots__ = (
        "_ended",
        "_since",
        "asked_at",
        "deadline",
        "done",
        "draining",
        "heard_at",
        "info",
        "instance",
        "jobs",
        "leaving",
        "link",
        "name",
        "node_id",
        "order",
        "owed",
        "pace",
        "recalled",
        "slots",
        "undelivered",
    )

    def __init__(self, node_id: str, deadline: float) -> None:
        self.node_id = node_id
        self.name = node_id
        self.instance = ""
        self.slots = 1
        self.link: int | None = None
        self.deadline: float | None = deadline
        #: Assigned and running here, in the order of dispatch.
        self.jobs: dict[str, Job] = {}
        #: Those of them that have ended, and whose files are on their way home.
        self.leaving: set[str] = set()
        #: Asked to give these back, no answer yet.
        self.recalled: set[str] = set()
        #: Done jobs whose result this node, their origin, has not acknowledged.
        self.undelivered: dict[str, Job] = {}
        self.owed = Delivery()
        self.info: Info | None = None
        self.heard_at = 0.0
        #: When the one REQUEST_OF_RES was sent that it has not answered yet.
        self.asked_at: float | None = None
        self.order = 0
        self.done = 0
        #: It is about to stop: nothing more goes to it.
        self.draining = False
        #: Seconds from the end of one job to the end of the next, while it has any; None until that is known.
        self.pace: float | None = None
        self._since, self._ended = 0.0, 0

    def count_from(self, now: float) -> None:
        """Its pace is counted anew from here: before, it was away, or had nothing to do."""
        self._since, self._ended = now, 0

    def give(self, job: Job, now: float) -> None:
        """One more to hold."""
        if not self.jobs:
            self.count_from(now)
        self.jobs[job.ticket] = job

    def ended(self, now: float) -> None:
        """A job is about to leave that has ended here.

        A node that got few jobs and had done them before more came was faster than that tells, never slower:
        so a shorter time counts at once, a longer one by half.
        """
        self.done += 1
        self._ended += 1
        took = now - self._since
        if took >= PACE_SECONDS or len(self.jobs) == 1:
            pace = max(took / self._ended, SHORTEST_PACE)
            slower = self.pace is not None and pace > self.pace
            self.pace = (self.pace + pace) / 2 if slower and self.pace is not None else pace
            self.count_from(now)

    @property
    def load(self) -> int:
        """Jobs that it holds to be run. What only waits for a way home, which may be long, is none."""
        return len(self.jobs) - min(len(self.leaving), LEAVING_LIMIT)

    @property
    def depth(self) -> int:
        """Jobs that it should hold at most, for itself alone."""
        depth = FIRST_DEPTH if self.pace is None else int(DEPTH_SECONDS / self.pace)
        return min(MOST_DEPTH, max(depth, DEPTH_A_SLOT * self.slots))

    @property
    def running(self) -> int:
        """Executors start jobs as long as they have slots, so what they hold tells what runs.

        But for jobs of more than one slot: of these only INFO tells, a second late.
        """
        info = self.info
        extra = max(0, self.slots - info.free_slots - info.running) if info is not None else 0
        return min(self.slots - extra, self.load) if self.link is not None else 0

    @property
    def is_idle(self) -> bool:
        return self.load < self.slots

    def recallable(self, count: int) -> list[Job]:
        """Up to `count` jobs that have not started as far as we know, the last dispatched first."""
        found: list[Job] = []
        for job in reversed(self.jobs.values()):
            if len(found) == count:
                break
            if job.state is State.ASSIGNED and not job.cancelled:
                found.append(job)
        return found

    def fields(self) -> dict[str, Any]:
        """The object of `nodes`."""
        info = self.info
        return {
            "name": self.name,
            "connected": self.link is not None,
            "draining": self.draining and self.link is not None,
            "slots": self.slots,
            "running": self.running,
            "queued": self.load - self.running,
            "done": self.done,
            "load": info.load if info else None,
            "memory": info.memory if info else None,
            "reported_queue": info.queue if info else None,
            "id": self.node_id,
        }
