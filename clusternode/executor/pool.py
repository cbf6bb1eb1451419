"""The node's side of its helper processes: at most one for each slot, started when first needed."""

from __future__ import annotations

import asyncio
import marshal
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

from clusternode.core.events import CommandEnded, Spawn
from clusternode.executor.leftovers import NODE_VARIABLE, kill_leftovers
from runtime.lifecycle import SOFT_FILE_LIMIT

HELPER = Path(__file__).with_name("helper.py")


class Key(NamedTuple):
    ticket: str
    attempt: int


class Helper(asyncio.Protocol):
    """One helper process and the job it has, if any."""

    def __init__(self, pool: Pool) -> None:
        self.job: Key | None = None
        self.pid = 0
        self._pool = pool
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, soft_limit: int) -> None:
        """Raises OSError if there is no process to be had."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-S", str(HELPER), str(theirs.fileno()), str(soft_limit)]
            self._process = subprocess.Popen(  # noqa: ASYNC220, a few ms, once a slot
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # A session of its own: what is meant for the node's group must leave it alive to clean up.
                start_new_session=True,
            )
        self.pid = self._process.pid
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)

    def send(self, *message: Any) -> None:
        if self._transport is not None:
            body = marshal.dumps(message)
            self._transport.write(len(body).to_bytes(4, "big") + body)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def wait(self) -> None:
        """Until the process is gone; by then its job is too."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    # --- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            end = 4 + int.from_bytes(buffer[:4], "big")
            if len(buffer) < end:
                return
            message = marshal.loads(buffer[4:end])
            del buffer[:end]
            self._pool.ended(self, message)

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.lost(self)


class Pool:
    """Runs commands in helpers; each ends in one CommandEnded, whatever happens."""

    def __init__(
        self,
        slots: int,
        directory: Path,
        node_id: str,
        offset: float,
        ended: Callable[[CommandEnded], None],
        start: Callable[[Any], None],
    ) -> None:
        """`directory` holds the jobs' working directories. `offset` turns monotonic seconds into the
        node's clock, `start` runs a coroutine in the background."""
        self._slots = slots
        self._directory = directory.resolve()
        self._node_id = node_id
        self._offset = offset
        self._ended = ended
        self._start = start
        self._environment = dict(os.environ) | {NODE_VARIABLE: node_id}
        self._helpers: set[Helper] = set()
        self._idle: list[Helper] = []
        self._backlog: deque[Spawn] = deque()
        self._by_key: dict[Key, Helper] = {}
        self._closing = False

    def spawn(self, job: Spawn) -> None:
        """Runs the command as soon as a helper is free."""
        if self._idle:
            self._give(self._idle.pop(), job)
            return
        self._backlog.append(job)
        if len(self._helpers) < self._slots:
            helper = Helper(self)
            self._helpers.add(helper)
            self._start(self._bring_up(helper))

    def kill(self, ticket: str, attempt: int) -> None:
        """SIGTERM to the job's processes, SIGKILL later; its CommandEnded tells when they are gone."""
        key = Key(ticket, attempt)
        helper = self._by_key.get(key)
        if helper is not None:
            helper.send("kill", tuple(key))
            return
        for job in self._backlog:
            if Key(job.ticket, job.attempt) == key:
                self._backlog.remove(job)
                self._report_lost(key, "before it started")
                return

    async def close(self) -> None:
        """Ends all helpers, and with them their jobs, and waits until they are gone."""
        self._closing = True
        helpers = list(self._helpers)
        for helper in helpers:
            helper.close()
        await asyncio.gather(*(helper.wait() for helper in helpers))

    # --- what helpers say ------------------------------------------------------------------------

    def ended(self, helper: Helper, message: tuple[Any, ...]) -> None:
        _, key, started, finished, code, timed_out, out, err, out_total, err_total, reason = message
        self._by_key.pop(Key(*key), None)
        helper.job = None
        # The next job first: the helper need not wait for what becomes of this one.
        self._next(helper)
        self._ended(
            CommandEnded(
                key[0],
                key[1],
                started + self._offset,
                finished + self._offset,
                code,
                timed_out,
                out,
                err,
                out_total,
                err_total,
                reason,
            )
        )

    def lost(self, helper: Helper) -> None:
        """The helper died. Its job is ended with it, and reported as lost."""
        self._helpers.discard(helper)
        if helper in self._idle:
            self._idle.remove(helper)
        self._start(helper.wait())
        key = helper.job
        if key is not None:
            self._by_key.pop(key, None)
            kill_leftovers(self._node_id, key.ticket)
            if not self._closing:
                self._report_lost(key, "its worker process was killed")
        if self._backlog and not self._closing:
            self.spawn(self._backlog.popleft())

    # --- inside ----------------------------------------------------------------------------------

    async def _bring_up(self, helper: Helper) -> None:
        try:
            await helper.start(SOFT_FILE_LIMIT)
        except OSError as error:
            self._helpers.discard(helper)
            if not self._helpers:
                # Nobody would ever take these; another node may.
                for job in self._backlog:
                    reason = f"no worker process could be started: {error.strerror}"
                    self._report_lost(Key(job.ticket, job.attempt), reason)
                self._backlog.clear()
            return
        if self._closing:
            helper.close()  # `close` came too early for it
            return
        helper.send("environment", self._environment)
        self._next(helper)

    def _next(self, helper: Helper) -> None:
        if self._backlog:
            self._give(helper, self._backlog.popleft())
        else:
            self._idle.append(helper)

    def _give(self, helper: Helper, job: Spawn) -> None:
        key = helper.job = Key(job.ticket, job.attempt)
        self._by_key[key] = helper
        where = str(self._directory / f"{job.ticket}.{job.attempt}")
        helper.send("run", tuple(key), job.line, job.time_limit, where)

    def _report_lost(self, key: Key, reason: str) -> None:
        now = self._offset + time.monotonic()
        self._ended(CommandEnded(*key, now, now, None, reason=reason))
