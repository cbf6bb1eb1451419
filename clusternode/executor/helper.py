"""The helper process of one slot: runs one command at a time and answers for all that comes of it.

Started by `pool.py` with the control socket's number as its argument, in isolated mode without site
packages: only the standard library here and beside. Both ends speak `marshal` behind a 4-byte length, as
they are the same interpreter; this is no wire of the protocol.

    node -> helper   ("set-up", variables of every job, directory for working directories), once
                     ("run", key, command line, time limit or None, wishes or None)
                     ("take", key)
                     ("kill", key)
                     ("watch", key), ("unwatch", key)
    helper -> node   ("output", key, 1 for stdout or 2, offset, bytes), while it is watched
                     ("ended", key, started, finished, exit code, timed out,
                      stdout, stderr, stdout bytes in all, stderr bytes in all, reason)
                     ("taken", key)

Wishes are those of `surroundings.py`.

A "run" that comes while a command runs waits here, and starts when those before it have ended, unless "take"
comes first: "taken" answers that. A "take" of what has started has no answer but the "ended" of the command
before it, which is always sent before the next one starts.

Times are of CLOCK_MONOTONIC, which all processes share. The invariant: when "ended" is sent, or this
process ends because the node has, no process of the job is left, not even one that made itself a daemon.
"""

from __future__ import annotations

import contextlib
import ctypes
import marshal
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from clusternode.executor.cpus import Claim
from clusternode.executor.memory import OomKills, Watch, limit_data
from clusternode.executor.surroundings import IGNORED, Surroundings, Wishes

OUTPUT_LIMIT = 1024 * 1024
#: Of output that is kept whole, as a file.
OUTPUT_FILE_LIMIT = 4 * 1024**3
KILL_GRACE = 2.0
#: The exit code of what SIGKILL has ended.
KILLED = 128 + signal.SIGKILL
READ_SIZE = 65536
#: What is still in the pipes after the end is read, up to so many reads: a survivor may write for ever.
LAST_READS = 32
#: A process that cannot be killed (waiting for a dead disk, say) is waited for so long, then named.
REAP_TIMEOUT = 5.0
PR_SET_CHILD_SUBREAPER = 36
#: Memory of large outputs serves the next one (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD): fresh pages cost as much
#: as all the rest of a job that writes 1 MiB.
KEPT_MEMORY = ((-3, 16 * 1024 * 1024), (-1, 32 * 1024 * 1024))


class NodeGone(Exception):
    """The node closed the control socket or died: end everything."""


class Control:
    """The socket to the node."""

    def __init__(self, number: int) -> None:
        self.socket = socket.socket(fileno=number)
        # No job may have it: one that outlived this process would hide its death from the node.
        self.socket.set_inheritable(False)
        self._buffer = b""
        self._messages: deque[tuple[Any, ...]] = deque()

    def send(self, *message: Any) -> None:
        body = marshal.dumps(message)
        try:
            self.socket.sendall(len(body).to_bytes(4, "big") + body)
        except OSError:
            raise NodeGone from None

    def read(self) -> None:
        """Takes in what has come; blocks for the first bytes."""
        try:
            data = self.socket.recv(READ_SIZE)
        except OSError:  # a node that died with something of ours unread
            raise NodeGone from None
        if not data:
            raise NodeGone
        self._buffer += data
        while len(self._buffer) >= 4:
            end = 4 + int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) < end:
                break
            self._messages.append(marshal.loads(self._buffer[4:end]))
            self._buffer = self._buffer[end:]

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """Those that have come, one by one: a job that is run for one of them finds its "kill" here."""
        while self._messages:
            yield self._messages.popleft()


class Output:
    """One output stream of the job: the first OUTPUT_LIMIT bytes are kept, all are counted.

    We hold the job's end too until it is over: that it was closed need not wake us.
    """

    def __init__(self, path: str = "") -> None:
        """`path`: a file that all of it goes to as well. Raises OSError."""
        self._file = open(path, "wb", 0) if path else None  # noqa: SIM115, open as long as the job runs
        #: Why that file does not hold all of it.
        self.fault = ""
        #: Who watches it: told of each piece, and where it begins.
        self.tell: Callable[[int, bytes], None] | None = None
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # The job's end must block, as programs expect of a pipe.
        os.set_blocking(self.write_end, True)
        self.total = 0
        self._kept: list[bytes] = []
        self._room = OUTPUT_LIMIT

    def read(self) -> bool:
        """Takes what is there; False at the end of the stream or where nothing is."""
        try:
            data = os.read(self.read_end, READ_SIZE)
        except BlockingIOError:  # something that would not die holds the other end
            return False
        if self.tell is not None and data:
            self.tell(self.total, data)
        if self._file is not None:
            self._write(data)
        self.total += len(data)
        if self._room and data:
            self._kept.append(data[: self._room])
            self._room -= len(self._kept[-1])
        return bool(data)

    def watch(self, tell: Callable[[int, bytes], None]) -> None:
        """From here on `tell` is told, and at once what is kept so far."""
        if (kept := self.kept()) and self.tell is None:
            tell(0, kept)
        self.tell = tell

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            if self.total + len(data) > OUTPUT_FILE_LIMIT:
                raise OSError(0, f"there are more than {OUTPUT_FILE_LIMIT} bytes of it")
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            self.fault = f"not all of its output is kept: {error.strerror}"
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Takes what is still there."""
        os.close(self.write_end)
        for _ in range(LAST_READS):
            if not self.read():
                break
        os.close(self.read_end)
        if self._file is not None:
            self._file.close()

    def kept(self) -> bytes:
        return b"".join(self._kept)


def watch_outputs(control: Control, key: tuple[str, int], stdout: Output, stderr: Output) -> None:
    """What is written goes to the node at once, too."""
    for number, stream in ((1, stdout), (2, stderr)):
        stream.watch(partial(control.send, "output", key, number))


def signal_group(leader: int, number: int) -> None:
    """The leader is not yet waited for, so its number, which is the group's, cannot be another's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


class Job:
    """One command from its start until nothing of it is left."""

    def __init__(
        self,
        key: tuple[str, int],
        line: str,
        limit: float | None,
        wishes: Wishes | None,
        surroundings: Surroundings,
    ) -> None:
        """Raises OSError if there is nothing to be had to start it."""
        self.key = key
        directory = wishes[3] if wishes is not None else ""
        self.stdout = Output(f"{directory}/stdout" if directory else "")
        try:
            self.stderr = Output(f"{directory}/stderr" if directory else "")
        except OSError:
            self.stdout.close()
            raise
        self.timed_out = False
        #: Processes of it that could not be killed.
        self.stuck = 0
        self.started = time.monotonic()
        self._term_at = None if limit is None else self.started + limit
        self._kill_at: float | None = None
        self._claim: Claim | None = None
        self._memory: Watch | None = None
        try:
            if wishes is None:
                self.pid = surroundings.spawn(key, line, self.stdout.write_end, self.stderr.write_end)
            else:
                self.pid = self._spawn_as_wished(key, line, wishes, surroundings)
        except OSError:
            self.stdout.close()
            self.stderr.close()
            raise
        self.pidfd = os.pidfd_open(self.pid)

    def _spawn_as_wished(
        self, key: tuple[str, int], line: str, wishes: Wishes, surroundings: Surroundings
    ) -> int:
        cpus, memory = wishes[4:]
        self._claim = Claim(cpus)
        try:
            with self._claim.applied():
                ends = self.stdout.write_end, self.stderr.write_end
                pid = surroundings.spawn_as_wished(key, line, wishes, *ends)
        except OSError:
            self._claim.release()
            raise
        if memory:
            limit_data(pid, memory, for_good=True)
            self._memory = Watch(memory, self.started)
        return pid

    def watch_output(self, control: Control) -> None:
        watch_outputs(control, self.key, self.stdout, self.stderr)

    def unwatch_output(self) -> None:
        self.stdout.tell = self.stderr.tell = None

    def terminate(self) -> None:
        """SIGTERM to the whole group, which goes on to hear it; SIGKILL follows after KILL_GRACE."""
        self._term_at = None
        if self._kill_at is None:
            self._kill_at = time.monotonic() + KILL_GRACE
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        signal_group(self.pid, number)

    def timeout(self) -> float | None:
        """Milliseconds until `on_time` wants to be called, None for never."""
        deadline = self._kill_at if self._kill_at is not None else self._term_at
        if self._memory is not None:
            deadline = self._memory.next_at if deadline is None else min(deadline, self._memory.next_at)
        return None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000 + 1)

    def on_time(self) -> None:
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + KILL_GRACE
            self.signal(signal.SIGKILL)
        elif self._term_at is not None and now >= self._term_at:
            self.timed_out = True
            self.terminate()
        if self._memory is not None and now >= self._memory.next_at and self._memory.look(now):
            self.signal(signal.SIGKILL)

    def watch(self, poll: select.poll, control: Control, obey: Callable[[Job], None]) -> None:
        """Returns when the command itself has ended; reads its output and the node's word meanwhile."""
        streams = {self.stdout.read_end: self.stdout, self.stderr.read_end: self.stderr}
        for number in (*streams, self.pidfd):
            poll.register(number, select.POLLIN)
        ended = False
        try:
            obey(self)
            while not ended:
                for number, _ in poll.poll(self.timeout()):
                    if number in streams:
                        streams[number].read()
                    elif number == self.pidfd:
                        ended = True
                    else:
                        control.read()
                        obey(self)
                self.on_time()
        finally:
            for number in (*streams, self.pidfd):
                poll.unregister(number)

    def end(self, ooms: OomKills | None = None) -> tuple[int, str]:
        """(exit code, reason) once nothing of the job is left."""
        self.signal(signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        stuck = self.stuck = reap_descendants()
        self.stdout.close()
        self.stderr.close()
        if self._claim is not None:
            self._claim.release()
        code, how = self._how(os.waitstatus_to_exitcode(status), ooms)
        left = f"{stuck} of its processes could not be killed" if stuck else ""
        return code, "; ".join(filter(None, (how, left, self.stdout.fault or self.stderr.fault)))

    def _how(self, code: int, ooms: OomKills | None) -> tuple[int, str]:
        """Its exit code as shells have it, and what ended it where the code does not tell."""
        memory, by_itself = self._memory, self._kill_at is None
        if memory is not None and memory.is_over:
            return KILLED, memory.verdict
        how = ""
        if code < 0:
            code, number = 128 - code, -code
            how = f"killed by {signal.Signals(number).name}" if number in signal.valid_signals() else "killed"
        if code == KILLED and by_itself and ooms is not None and ooms.since():
            how = f"{how or 'one of its processes was killed by SIGKILL'} as memory ran out"
        remark = memory.remark if memory is not None and code != 0 and by_itself else ""
        return code, "; ".join(filter(None, (how, remark)))


def reap_descendants() -> int:
    """Kills and waits for whatever the job left behind; returns how many processes would not die.

    As a subreaper this process is the parent of every orphan of its job, also of one in a session of its own.
    """
    deadline = time.monotonic() + REAP_TIMEOUT
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0
        if pid:
            continue
        children = own_children()
        if time.monotonic() > deadline:
            return len(children)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.001)


def own_children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", "rb") as listing:
        return [int(word) for word in listing.read().split()]


class Worker:
    """Runs what the node sends, one after the other."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._surroundings: Surroundings | None = None
        #: "run" messages whose turn has not come.
        self._ahead: deque[tuple[Any, ...]] = deque()
        #: Commands whose output somebody watches.
        self._watched: set[tuple[str, int]] = set()
        self._ooms = OomKills()
        self._poll = select.poll()
        self._poll.register(control.socket.fileno(), select.POLLIN)

    def work(self) -> None:
        """Until NodeGone."""
        while True:
            for message in self._control.messages():
                self._obey(message)
                # What comes with the first command may be about it: the rest is read while it runs.
                while self._ahead:
                    self._run(*self._ahead.popleft()[1:])
            self._control.read()

    def _obey(self, message: tuple[Any, ...], job: Job | None = None) -> None:
        what, key = message[0], message[1]
        if what == "run":
            self._ahead.append(message)
        elif what == "take":
            for waiting in self._ahead:
                if waiting[1] == key:
                    self._ahead.remove(waiting)
                    self._control.send("taken", key)
                    break
        elif what == "kill":
            if job is not None and job.key == key:
                job.terminate()
        elif what == "watch":
            self._watched.add(key)
            if job is not None and job.key == key:
                job.watch_output(self._control)
        elif what == "unwatch":
            self._watched.discard(key)
            if job is not None and job.key == key:
                job.unwatch_output()
        elif what == "set-up":
            self._surroundings = Surroundings(*message[1:])

    def _obey_all(self, job: Job) -> None:
        for message in self._control.messages():
            self._obey(message, job)

    def _run(
        self,
        key: tuple[str, int],
        line: str,
        limit: float | None,
        wishes: Wishes | None,
    ) -> None:
        """One job, from its directory to its report."""
        began = time.monotonic()
        self._ooms.begin(began)
        assert self._surroundings is not None
        place = self._surroundings.place
        try:
            place.enter()
            job = Job(key, line, limit, wishes, self._surroundings)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            reason = f"it could not be started: {error.strerror}{where}"
            self._control.send("ended", key, began, time.monotonic(), 126, False, b"", b"", 0, 0, reason)
            place.leave()
            return
        if key in self._watched:
            job.watch_output(self._control)
        try:
            job.watch(self._poll, self._control, self._obey_all)
        except BaseException:  # whatever ends us ends the job
            job.end()
            raise
        code, reason = job.end(self._ooms)
        self._watched.discard(key)
        out, err = job.stdout, job.stderr
        self._control.send(
            *("ended", key, job.started, time.monotonic(), code, job.timed_out),
            *(out.kept(), err.kept(), out.total, err.total, reason),
        )
        place.leave(is_shared=job.stuck > 0)


def main() -> None:
    control = Control(int(sys.argv[1]))
    # The node raised its own limit of open files; a job gets the one that its user set.
    soft, hard = int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for parameter, size in KEPT_MEMORY:
        libc.mallopt(parameter, size)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(NodeGone, OSError):
        Worker(control).work()
