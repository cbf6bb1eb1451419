"""Those to whom the nodes of a simulated cluster send notices."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from clusternode.core.events import Posted
from machinery import Process
from protocol.job import Command, unpack_spec
from protocol.limits import NOTICE_TIMEOUT

if TYPE_CHECKING:
    from cluster import SimNode, World

#: What they answer as long as there are faults; None: nothing, until the node hangs up.
ANSWERS = (200, 200, 200, 204, 302, 410, 500, None)
HOSTS = 5


class Receivers:
    """Chance of their own: runs without notices are what they were before there were any."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = random.Random(world.seed)
        self._next = 0
        #: The faults are over: they take what comes.
        self.is_calm = False
        #: How often each notice came, and those that a receiver refused for good.
        self.came: Counter[str] = Counter()
        self.refused: set[str] = set()

    def next_url(self) -> str:
        self._next += 1
        return f"http://host{self._next % HOSTS}/"

    def post(self, node: SimNode, process: Process, seq: int) -> None:
        """Of what is told, the outcome and that it is pending are on the disk of the node."""
        disk, where = node.disk, f"seed {self._world.seed}: the notice of {seq}"
        assert seq in disk.done, f"{where} is sent too early"
        assert seq in disk.notices, f"{where} is sent, though it was delivered"
        ticket = disk.tickets[seq].ticket
        self._world.seen["notices"] += 1
        answer = 200 if self.is_calm else self._random.choice(ANSWERS)
        delay = self._random.uniform(0.001, 0.3) if answer is not None else NOTICE_TIMEOUT
        if answer is not None:
            self.came[ticket] += 1
        if answer == 410:
            self.refused.add(ticket)
        posted = Posted(seq, ticket, answer, "no answer in time")
        self._world.after(delay, lambda: process.submit(posted))

    def check(self) -> None:
        """All is over: each job that was to be told of was, or nobody wanted to hear of it."""
        for node in self._world.nodes:
            if node.gone:
                continue
            assert not node.disk.notices, f"seed {self._world.seed}: notices are left"
            for seq, row in node.disk.tickets.items():
                spec = unpack_spec(row.body)
                if isinstance(spec, Command) and spec.extras.notify and seq in node.disk.done:
                    assert self.came[row.ticket], f"seed {self._world.seed}: nobody is told of {row.ticket}"
