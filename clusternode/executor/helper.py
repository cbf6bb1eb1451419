"""The helper process of one slot: runs one command at a time and answers for all that comes of it.

Started by `pool.py` with the control socket's number as its argument, in isolated mode without site
packages: only the standard library here. Both ends speak `marshal` behind a 4-byte length, as they are the
same interpreter; this is no wire of the protocol.

    node -> helper   ("environment", variables of every job), once
                     ("run", key, command line, time limit or None, working directory)
                     ("kill", key)
    helper -> node   ("ended", key, started, finished, exit code, timed out,
                      stdout, stderr, stdout bytes in all, stderr bytes in all, reason)

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
import shutil
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

OUTPUT_LIMIT = 1024 * 1024
KILL_GRACE = 2.0
READ_SIZE = 65536
#: What is still in the pipes after the end is read, up to so many reads: a survivor may write for ever.
LAST_READS = 32
#: A process that cannot be killed (waiting for a dead disk, say) is waited for so long, then named.
REAP_TIMEOUT = 5.0
PR_SET_CHILD_SUBREAPER = 36
SHELL = "/bin/sh"
#: The node decides when this process ends, by closing the socket.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        data = self.socket.recv(READ_SIZE)
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
    """One output stream of the job: the first OUTPUT_LIMIT bytes are kept, all are counted."""

    def __init__(self) -> None:
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
        except BlockingIOError:
            return False
        self.total += len(data)
        if self._room and data:
            self._kept.append(data[: self._room])
            self._room -= len(self._kept[-1])
        return bool(data)

    def kept(self) -> bytes:
        return b"".join(self._kept)


class Job:
    """One command from its start until nothing of it is left."""

    def __init__(self, key: object, line: str, limit: float | None, environment: dict[str, str]) -> None:
        self.key = key
        self.stdout, self.stderr = Output(), Output()
        self.timed_out = False
        self.started = time.monotonic()
        self._term_at = None if limit is None else self.started + limit
        self._kill_at: float | None = None
        try:
            self.pid = self._spawn(line, environment)
        except OSError:
            os.close(self.stdout.read_end)
            os.close(self.stderr.read_end)
            raise
        finally:
            os.close(self.stdout.write_end)
            os.close(self.stderr.write_end)
        self.pidfd = os.pidfd_open(self.pid)

    def _spawn(self, line: str, environment: dict[str, str]) -> int:
        return os.posix_spawn(
            SHELL,
            # "--": a command line may begin with a dash of its own.
            (SHELL, "-c", "--", line),
            environment,
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, self.stdout.write_end, 1),
                (os.POSIX_SPAWN_DUP2, self.stderr.write_end, 2),
            ),
            setsid=True,
            setsigmask=(),
            # Python ignores the first two, `main` the others; a job must not.
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, *IGNORED),
        )

    def terminate(self) -> None:
        """SIGTERM to the whole group; SIGKILL follows after KILL_GRACE."""
        self._term_at = None
        if self._kill_at is None:
            self._kill_at = time.monotonic() + KILL_GRACE
            self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        # The leader is not yet waited for, so its number, which is the group's, cannot be another's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def timeout(self) -> float | None:
        """Milliseconds until `on_time` wants to be called, None for never."""
        deadline = self._kill_at if self._kill_at is not None else self._term_at
        return None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000 + 1)

    def on_time(self) -> None:
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + KILL_GRACE
            self.signal(signal.SIGKILL)
        elif self._term_at is not None and now >= self._term_at:
            self.timed_out = True
            self.terminate()

    def watch(self, control: Control) -> None:
        """Returns when the command itself has ended; reads its output and the node's word meanwhile."""
        poll = select.poll()
        streams = {self.stdout.read_end: self.stdout, self.stderr.read_end: self.stderr}
        for number in (*streams, self.pidfd, control.socket.fileno()):
            poll.register(number, select.POLLIN)
        self._obey(control)
        while True:
            ended = False
            for number, _ in poll.poll(self.timeout()):
                if number in streams:
                    if not streams[number].read():
                        poll.unregister(number)
                elif number == self.pidfd:
                    ended = True
                else:
                    control.read()
                    self._obey(control)
            if ended:
                return
            self.on_time()

    def _obey(self, control: Control) -> None:
        for message in control.messages():
            if message[0] == "kill" and message[1] == self.key:
                self.terminate()

    def end(self) -> tuple[int, str]:
        """(exit code, reason) once nothing of the job is left."""
        self.signal(signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        stuck = reap_descendants()
        for stream in (self.stdout, self.stderr):
            for _ in range(LAST_READS):
                if not stream.read():
                    break
            os.close(stream.read_end)
        reason = f"{stuck} of its processes could not be killed" if stuck else ""
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return code, reason
        killed = f"killed by {signal.Signals(-code).name}" if -code in signal.valid_signals() else "killed"
        return 128 - code, f"{killed}; {reason}" if reason else killed


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


def run(
    control: Control,
    key: tuple[str, int],
    line: str,
    limit: float | None,
    where: str,
    variables: dict[str, str],
) -> None:
    """One job, from its directory to its report."""
    began = time.monotonic()
    try:
        os.mkdir(where, 0o700)
        # posix_spawn cannot change the directory; the child takes ours.
        os.chdir(where)
        job = Job(key, line, limit, variables | {"EVENLY_TICKET": key[0], "EVENLY_ATTEMPT": str(key[1])})
    except OSError as error:
        reason = f"it could not be started: {error.strerror}"
        control.send("ended", key, began, time.monotonic(), 126, False, b"", b"", 0, 0, reason)
        remove(where)
        return
    try:
        job.watch(control)
    except NodeGone:
        job.end()
        raise
    code, reason = job.end()
    out, err = job.stdout, job.stderr
    control.send(
        *("ended", key, job.started, time.monotonic(), code, job.timed_out),
        *(out.kept(), err.kept(), out.total, err.total, reason),
    )
    remove(where)


def remove(where: str) -> None:
    os.chdir("/")
    try:
        os.rmdir(where)
    except OSError:
        shutil.rmtree(where, ignore_errors=True)


def main() -> None:
    control = Control(int(sys.argv[1]))
    # The node raised its own limit of open files; a job gets the one that its user set.
    soft, hard = int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    variables: dict[str, str] = {}
    with contextlib.suppress(NodeGone, OSError):
        while True:
            control.read()
            for message in control.messages():
                if message[0] == "run":
                    _, key, line, limit, where = message
                    run(control, key, line, limit, where, variables)
                elif message[0] == "environment":
                    variables = message[1]


if __name__ == "__main__":
    main()
