"""A node as the load balancer knows it: executor of jobs, and origin that is owed results."""

from __future__ import annotations

from typing import Any

from loadbalancer.core.jobs import Job, State
from protocol.delivery import Delivery
from protocol.messages import Info

#: Jobs that a node may hold at once. Deep enough that a node of 0 ms jobs never waits for the round trip
#: (5,000 jobs a second at 20 ms need 100), shallow enough that what waits is mostly here, where it can
#: still go anywhere.
NODE_QUEUE_DEPTH = 256


class Node:
    """`link` is None while it is away; `deadline` then says until when its jobs wait for it."""

    __slots__ = (
        "asked_at",
        "deadline",
        "done",
        "draining",
        "heard_at",
        "info",
        "instance",
        "jobs",
        "link",
        "name",
        "node_id",
        "order",
        "owed",
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

    @property
    def room(self) -> int:
        return NODE_QUEUE_DEPTH - len(self.jobs)

    @property
    def running(self) -> int:
        """Executors start jobs as long as they have slots, so what they hold tells what runs."""
        return min(self.slots, len(self.jobs)) if self.link is not None else 0

    @property
    def is_idle(self) -> bool:
        return len(self.jobs) < self.slots

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
            "queued": len(self.jobs) - self.running,
            "done": self.done,
            "load": info.load if info else None,
            "memory": info.memory if info else None,
            "reported_queue": info.queue if info else None,
            "id": self.node_id,
        }
