"""The node's side of its helper processes: at most one for each slot, started when first needed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import marshal
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from clusternode.core.events import CommandEnded, FromHelpers, Progressed, Spawn, SpawnTask, TakenBack
from clusternode.executor.leftovers import NODE_VARIABLE, clear_directories, kill_leftovers
from protocol.job import Extras
from runtime.lifecycle import SOFT_FILE_LIMIT

log = logging.getLogger("clusternode")

#: A helper finds this package without the site's: those cost more than all else of its start.
BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from clusternode.executor.{} import main; main()"
SOURCES = str(Path(__file__).parents[2])
READ_SIZE = 65536
CPUS_VARIABLE = "EVENLY_CPUS"
#: A helper that has more commands than this need not be heard at once: what it says gathers for so long.
BUSY = 8
HEAR_LATER = 0.004
#: Seconds that helpers have to end all that they run when the node stops: more than they take for what can be
#: ended. A stop must not hang on what cannot.
CLOSE_PATIENCE = 8.0


def program(module: str) -> tuple[str, ...]:
    """What starts `main` of this module here; its arguments follow."""
    return (sys.executable, "-I", "-S", "-c", BOOT.format(module), SOURCES)


class Key(NamedTuple):
    ticket: str
    attempt: int


class Helper(asyncio.Protocol):
    """One helper process, and the commands that it has: the first of them runs."""

    def __init__(self, pool: Pool) -> None:
        self.jobs: deque[Key] = deque()
        self.pid = 0
        self._pool = pool
        self._buffer = bytearray()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        #: A second hand on the socket: what came before the end is read, even where writing failed first.
        self._rest: socket.socket | None = None

    async def start(self, soft_limit: int) -> None:
        """Raises OSError if there is no process to be had."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: ASYNC220, a few ms, once a slot
                [*self._pool.PROGRAM, str(theirs.fileno()), str(soft_limit)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # A session of its own: what is meant for the node's group must leave it alive to clean up.
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._rest = ours.dup()
        self._rest.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)

    def send(self, *message: Any) -> None:
        """With all else of this turn of the loop: each call of the kernel costs more than a message."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        body = marshal.dumps(message)
        self._unsent += (len(body).to_bytes(4, "big"), body)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))

    def close(self) -> None:
        if self._rest is not None:
            self._rest.close()
        if self._transport is not None:
            self._transport.close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def wake(self) -> None:
        """Its job may have stopped it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    async def wait(self) -> None:
        """Until the process is gone; by then its job is too."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    def last_words(self) -> list[tuple[Any, ...]]:
        """What it said before it died."""
        if self._rest is None:
            return []
        with self._rest as rest, contextlib.suppress(OSError):
            while data := rest.recv(READ_SIZE):
                self._buffer += data
        return self._messages()

    # --- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        messages = self._messages()
        if not messages:
            return
        self._pool.heard(self, messages)
        transport = self._transport
        if len(self.jobs) > BUSY and transport is not None and not transport.is_closing():
            transport.pause_reading()
            asyncio.get_running_loop().call_later(HEAR_LATER, self._hear_again)

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.lost(self)

    def _hear_again(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _messages(self) -> list[tuple[Any, ...]]:
        messages, start, buffer = [], 0, self._buffer
        while len(buffer) >= start + 4:
            end = start + 4 + int.from_bytes(buffer[start : start + 4], "big")
            if len(buffer) < end:
                break
            messages.append(marshal.loads(buffer[start + 4 : end]))
            start = end
        del buffer[:start]
        return messages


class Pool:
    """Runs commands in helpers; each ends in one CommandEnded, or is TakenBack, whatever happens."""

    #: What a helper is: the number of its socket and a limit of open files follow.
    PROGRAM: Sequence[str] = program("helper")

    def __init__(
        self,
        slots: int,
        directory: Path,
        mark: str,
        offset: float,
        tell: Callable[[FromHelpers], None],
        start: Callable[[Any], object],
    ) -> None:
        """`directory` holds the jobs' working directories. `offset` turns monotonic seconds into the
        node's clock, `start` runs a coroutine in the background."""
        self._slots = slots
        self._directory = directory.resolve()
        self._mark = mark
        self._offset = offset
        self._tell = tell
        self._start = start
        self._environment = dict(os.environ) | {NODE_VARIABLE: mark}
        self._helpers: set[Helper] = set()
        self._idle: list[Helper] = []
        #: Commands that wait for a helper, each with those behind it.
        self._backlog: deque[deque[Spawn | SpawnTask]] = deque()
        self._by_key: dict[Key, Helper] = {}
        #: Who is told of what a job that is watched writes: (key, stream, offset, bytes).
        self.output: Callable[[tuple[str, int], int, int, bytes], None] = lambda *_: None
        #: Jobs that are watched and that no helper has, or never one of this pool.
        self._to_watch: set[Key] = set()
        #: What the core has not been told yet.
        self._news: list[CommandEnded | TakenBack | Progressed] = []
        self._closing = False

    def spawn(self, job: Spawn) -> None:
        """Runs the command as soon as a helper is free, or where it is `behind` another, after that one."""
        if job.behind is not None:
            helper = self._by_key.get(Key(*job.behind))
            if helper is not None:
                self._give(helper, job)
                return
            line = self._line_of(Key(*job.behind))
            if line is not None:
                line.append(job)
                return
        self._serve(deque([job]))

    def kill(self, ticket: str, attempt: int) -> None:
        """SIGTERM to the job's processes, SIGKILL later; its CommandEnded tells when they are gone."""
        key = Key(ticket, attempt)
        helper = self._by_key.get(key)
        if helper is not None:
            helper.wake()
            helper.send("kill", tuple(key))
        elif self._forget(key):
            self._report(self._lost(key, "before it started"))

    def take_back(self, ticket: str, attempt: int) -> None:
        """A command that is behind another: TakenBack follows if it has not started."""
        key = Key(ticket, attempt)
        helper = self._by_key.get(key)
        if helper is not None:
            helper.send("take", tuple(key))
        elif self._forget(key):
            self._report(TakenBack(*key))

    async def close(self) -> None:
        """Ends all helpers, and with them their jobs, and waits until they are gone."""
        self._closing = True
        helpers = list(self._helpers)
        for helper in helpers:
            helper.close()
        ends = asyncio.gather(*(helper.wait() for helper in helpers))
        try:
            async with asyncio.timeout(CLOSE_PATIENCE):
                await asyncio.shield(ends)
        except TimeoutError:
            log.warning("a worker process did not end within %g s and is killed", CLOSE_PATIENCE)
            for helper in helpers:
                helper.kill()
            kill_leftovers(self._mark)
            await ends

    # --- what helpers say ------------------------------------------------------------------------

    def heard(self, helper: Helper, messages: list[tuple[Any, ...]]) -> None:
        for message in messages:
            self._take_in(helper, message)
        # The next job first: the helper need not wait for what becomes of these.
        if not helper.jobs:
            self._next(helper)
        self._report_now()

    def watch(self, what: str, key: tuple[str, int]) -> None:
        """What is "watch" or "unwatch" goes to the helper that has this job, now or when one gets it."""
        helper = self._by_key.get(Key(*key))
        if helper is not None:
            helper.send(what, key)
        elif what == "watch":
            self._to_watch.add(Key(*key))
        else:
            self._to_watch.discard(Key(*key))

    def _take_in(self, helper: Helper, message: tuple[Any, ...]) -> None:
        key = Key(*message[1])
        if message[0] == "output":
            self.output(key, *message[2:])
            return
        self._by_key.pop(key, None)
        helper.jobs.remove(key)
        if message[0] == "taken":
            self._news.append(TakenBack(*key))
            return
        started, finished = message[2] + self._offset, message[3] + self._offset
        self._news.append(CommandEnded(*key, started, finished, *message[4:]))

    def lost(self, helper: Helper) -> None:
        """The helper died, and what it ran with it: that is lost. What was behind that has not started."""
        self._helpers.discard(helper)
        if helper in self._idle:
            self._idle.remove(helper)
        self._start(self._bury(helper))
        for message in helper.last_words():
            self._take_in(helper, message)
        jobs, helper.jobs = helper.jobs, deque()
        for key in jobs:
            self._by_key.pop(key, None)
        if self._closing:
            return
        # The last one first, so that they stand in order again at the head of the queue.
        while len(jobs) > 1:
            self._news.append(TakenBack(*jobs.pop()))
        if jobs:
            kill_leftovers(self._mark, jobs[0].ticket)
            self._news.append(self._lost(jobs[0], "its worker process was killed"))
        if self._backlog:
            self._serve(self._backlog.popleft())
        self._report_now()

    # --- inside ----------------------------------------------------------------------------------

    async def _bury(self, helper: Helper) -> None:
        """Waits until it is gone, and removes its directories; while it is still there none is another's."""
        await asyncio.to_thread(clear_directories, self._directory, helper.pid)
        await helper.wait()

    async def _bring_up(self, helper: Helper) -> None:
        try:
            await helper.start(SOFT_FILE_LIMIT)
        except OSError as error:
            self._helpers.discard(helper)
            if not self._helpers:
                # Nobody would ever take these; another node may.
                self._give_up(f"no worker process could be started: {error.strerror}")
            return
        if self._closing:
            helper.close()  # `close` came too early for it
            return
        helper.send("set-up", *self._set_up())
        self._next(helper)

    def _set_up(self) -> tuple[Any, ...]:
        return self._environment, str(self._directory)

    def _give_up(self, reason: str) -> None:
        for line in self._backlog:
            self._news += [TakenBack(job.ticket, job.attempt) for job in reversed(line) if job is not line[0]]
            self._news.append(self._lost(Key(line[0].ticket, line[0].attempt), reason))
        self._backlog.clear()
        self._report_now()

    def _serve(self, line: deque[Spawn | SpawnTask]) -> None:
        """Gives these to a helper as soon as one is free."""
        self._backlog.append(line)
        if self._idle:
            self._next(self._idle.pop())
        elif len(self._helpers) < self._slots:
            helper = Helper(self)
            self._helpers.add(helper)
            self._start(self._bring_up(helper))

    def _next(self, helper: Helper) -> None:
        if not self._backlog:
            self._idle.append(helper)
            return
        for job in self._backlog.popleft():
            self._give(helper, job)

    def _give(self, helper: Helper, job: Spawn | SpawnTask) -> None:
        key = Key(job.ticket, job.attempt)
        helper.jobs.append(key)
        self._by_key[key] = helper
        if key in self._to_watch:
            self._to_watch.discard(key)
            helper.send("watch", tuple(key))
        helper.send("run", tuple(key), *self._how(job))

    def _how(self, job: Any) -> tuple[Any, ...]:
        """What a helper is told of a job, beside its key."""
        extras = job.extras
        if extras is None:
            return job.line, job.time_limit, None
        cpus, variables = self._cpus_of(extras)
        more = (extras.stdin.encode(), job.output, cpus, extras.memory)
        return job.line, job.time_limit, (variables, extras.cwd, *more)

    def _cpus_of(self, extras: Extras) -> tuple[int, dict[str, str]]:
        """The slots that it takes if it asked for any, else 0; and its variables, where it finds them."""
        cpus = min(extras.cpus, self._slots)
        return cpus, dict(extras.env) | ({CPUS_VARIABLE: str(cpus)} if cpus else {})

    def _line_of(self, key: Key) -> deque[Spawn | SpawnTask] | None:
        for line in self._backlog:
            if any((job.ticket, job.attempt) == key for job in line):
                return line
        return None

    def _forget(self, key: Key) -> bool:
        """Takes a command out that no helper has yet; False if there is none."""
        line = self._line_of(key)
        if line is None:
            return False
        line.remove(next(job for job in line if (job.ticket, job.attempt) == key))
        if not line:
            self._backlog.remove(line)
        return True

    def _lost(self, key: Key, reason: str) -> CommandEnded:
        now = self._offset + time.monotonic()
        return CommandEnded(*key, now, now, None, reason=reason)

    def _report(self, news: CommandEnded | TakenBack | Progressed) -> None:
        """Soon: the core is in the middle of a step."""
        if not self._news:
            asyncio.get_running_loop().call_soon(self._report_now)
        self._news.append(news)

    def _report_now(self) -> None:
        news, self._news = self._news, []
        if news:
            self._tell(FromHelpers(news))
