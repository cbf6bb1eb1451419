"""The worker process of a slot for tasks, and the task that it has, as their supervisor sees them.

Only the standard library and what helpers have is here: supervisors run without site packages.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from typing import NamedTuple

from clusternode.executor.helper import (
    LAST_READS,
    OUTPUT_LIMIT,
    Control,
    Output,
    own_children,
    reap_descendants,
    signal_group,
)
from clusternode.executor.memory import Watch, children
from clusternode.executor.surroundings import RESTORED


class SetUp(NamedTuple):
    """`command` runs a worker, in `home`; `work` is for working directories. After `most_tasks` a worker is
    replaced, after `hang_period` seconds without a sign of life it is killed."""

    command: list[str]
    modules: str
    variables: dict[str, str]
    home: str
    work: str
    most_tasks: int
    hang_period: float


class Stream(Output):
    """One output stream of all workers: what a task wrote lies between its beginning and its end."""

    def begin(self) -> None:
        """What came since the last task is nobody's."""
        self.drain()
        self.total, self._kept, self._room, self.tell = 0, [], OUTPUT_LIMIT, None

    def drain(self) -> None:
        """Takes what is there, and no more than a survivor could write for ever."""
        for _ in range(LAST_READS):
            if not self.read():
                break


class Task:
    """One task, however often it is started."""

    def __init__(
        self,
        key: tuple[str, int],
        name: str,
        payload: str,
        limit: float | None,
        is_once: bool,
        variables: dict[str, str],
        directory: str,
        memory: int,
    ) -> None:
        """`variables`, `directory`: beside what every task finds, and in the place of its directory.
        `memory`: bytes that it may have, with all that its worker has, or 0."""
        self.key = key
        self.name = name
        self.payload = payload
        self.limit = limit
        self.is_once = is_once
        self.variables = variables
        self.directory = directory
        self.memory = memory
        #: While a worker has it.
        self.watch: Watch | None = None
        #: A worker has it.
        self.is_running = False
        self.starts = 0
        #: Partial results that it has handed out.
        self.partials = 0
        self.began = 0.0
        self.timed_out = False
        #: How its worker died last, and that it was we who wanted it.
        self.died = ""
        self.is_ending = False
        self.term_at: float | None = None
        self.kill_at: float | None = None

    def started(self, now: float) -> None:
        if self.starts == 0:
            self.began = now
            self.term_at = None if self.limit is None else now + self.limit
        self.starts += 1
        self.is_running = True

    @property
    def verdict(self) -> str:
        """Why it was killed for its memory; empty if it was not."""
        return self.watch.verdict if self.watch is not None and self.watch.is_over else ""


class Worker:
    """One worker process, from its start until nothing of it is left."""

    def __init__(self, set_up: SetUp, skipped: list[str], stdout: int, stderr: int) -> None:
        """Raises OSError if there is no process to be had."""
        self.is_ready = False
        #: What it is importing.
        self.loading = ""
        self.tasks = 0
        self.heard_at = time.monotonic()
        #: It was killed because it hung.
        self.hung = False
        #: It is to be replaced.
        self.is_worn = False
        #: What `unlimit_data` is to give back.
        self.data_limit: int | None = None
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            # posix_spawn cannot change the directory; the child takes ours.
            os.chdir(set_up.home)
            words = [*set_up.command, str(theirs.fileno()), str(os.getpid()), set_up.modules]
            self.pid = os.posix_spawn(
                words[0],
                [*words, json.dumps(skipped)],
                set_up.variables,
                file_actions=(
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, stdout, 1),
                    (os.POSIX_SPAWN_DUP2, stderr, 2),
                ),
                setsid=True,
                setsigmask=(),
                setsigdef=RESTORED,
            )
        self.pidfd = os.pidfd_open(self.pid)
        self.control = Control(ours.detach())

    def signal(self, number: int) -> None:
        signal_group(self.pid, number)

    def left_behind(self) -> bool:
        """Whether there are processes beside it that it, or what it started, has started."""
        return own_children() != [self.pid] or any(True for _ in children(self.pid))

    def end(self) -> int:
        """Kills it with all that it started; returns its exit code, negative for a signal."""
        self.signal(signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.control.socket.close()
        reap_descendants()
        return os.waitstatus_to_exitcode(status)
