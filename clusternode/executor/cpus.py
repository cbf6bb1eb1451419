"""The CPUs that a command with `--cpus` is confined to: so many that no other such command has.

Who has which is told by sockets in the abstract namespace: they need no file, are there for all nodes on the
machine, and go with the process that holds them. Where not so many are free the command may use all of them,
as any other: the scheduler shares them better than a choice that is made once.

Only the standard library: helpers run without site packages.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator


class Claim:
    """`cpus` is what one command has, empty for all, until `release`."""

    def __init__(self, count: int) -> None:
        """`count` 0: not asked for."""
        self.cpus: list[int] = []
        self._sockets: list[socket.socket] = []
        available = sorted(os.sched_getaffinity(0)) if count else []
        if not 0 < count < len(available):
            return
        for cpu in available:
            if len(self.cpus) < count and self._claim(cpu):
                self.cpus.append(cpu)
        if len(self.cpus) < count:
            self.release()

    def _claim(self, cpu: int) -> bool:
        try:
            ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError:
            return False
        try:
            ours.bind(f"\0evenly-cpu-{cpu}")
        except OSError:  # another has it
            ours.close()
            return False
        self._sockets.append(ours)
        return True

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """What is started meanwhile is confined."""
        if not self.cpus:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cpus)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def release(self) -> None:
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        self.cpus.clear()
