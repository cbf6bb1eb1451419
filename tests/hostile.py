"""`python hostile.py NAME MARK [NUMBER]`: a program that no node likes to run. MARK is in the command line of
all its processes, so that a test finds those that are left.

Each bounds itself: what no node ends is over after LONGEST seconds, and there are never more than some
hundred processes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable

LONGEST = 60.0
MIB = 1024 * 1024
began = time.monotonic()


def linger() -> None:
    """Until somebody ends it."""
    while time.monotonic() < began + LONGEST:
        time.sleep(1.0)


def ignore() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def say(text: str) -> None:
    """That it is there, in one write."""
    os.write(1, f"{text}\n".encode())


# --- processes -----------------------------------------------------------------------------------


def hundred(number: int) -> None:
    """So many children, which stay when their parent ends."""
    for _ in range(number):
        if not os.fork():
            linger()
            return
    say("all there")


def bomb(depth: int) -> None:
    """Each starts two others, to that depth, and none listens."""
    ignore()
    for level in range(depth, 0, -1):
        if not os.fork():
            return bomb(level - 1)
    if depth == int(sys.argv[3]):
        say("all there")
    linger()


def hop(number: int) -> None:
    """So many that are never there for long: each lives only to start the next, in a session of its own."""
    for _ in range(number):
        if not os.fork():
            while time.monotonic() < began + LONGEST:
                os.setsid()
                if os.fork():
                    os._exit(0)
    say("all there")
    linger()


def phoenix(_: int) -> None:
    """Two that watch each other: who sees the other die starts it again."""
    ignore()
    ours, theirs = socket.socketpair()
    if os.fork():
        say("all there")
    else:
        os.setsid()
        ours, theirs = theirs, ours
    while time.monotonic() < began + LONGEST:
        theirs.close()
        with contextlib.suppress(OSError):
            ours.recv(1)
        ours, theirs = socket.socketpair()
        if not os.fork():
            os.setsid()
            ours, theirs = theirs, ours


def daemons(_: int) -> None:
    """One in a session of its own that has lost its parent, and one that has changed its environment."""
    if not os.fork():
        os.setsid()
        if not os.fork():
            ignore()
            linger()
        return
    if not os.fork():
        ignore()
        command = [sys.executable, *sys.argv[:1], "stay", *sys.argv[2:]]
        os.execve(sys.executable, command, {})
    say("all there")


def stay(_: int) -> None:
    ignore()
    say("all there")
    linger()


def stop(_: int) -> None:
    """Itself, with all of its group."""
    if not os.fork():
        linger()
        return
    say("all there")
    os.killpg(0, signal.SIGSTOP)
    linger()


def kill_parent(_: int) -> None:
    """Its helper, and stays."""
    ignore()
    if not os.fork():
        os.setsid()
        linger()
        return
    os.kill(os.getppid(), signal.SIGKILL)
    linger()


def stop_parent(_: int) -> None:
    say("all there")
    os.kill(os.getppid(), signal.SIGSTOP)
    linger()


# --- output and files ----------------------------------------------------------------------------


def write(_: int) -> None:
    """Without end, to both."""
    ignore()
    other = os.fork()
    while time.monotonic() < began + LONGEST:
        os.write(2 if other else 1, b"x" * 65536)


def mute(_: int) -> None:
    """It closes all that it has."""
    ignore()
    os.closerange(0, 100)
    linger()


def files(_: int) -> None:
    """All that it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        while True:
            os.dup(0)
    except OSError as error:
        say(f"{error.errno}, the limit was {soft}")
    sys.exit(3)


def litter(depth: int) -> None:
    """A directory deeper than any path, names in no encoding, nothing that may be read."""
    os.mkdir(b"\xff\xfe")
    os.mkfifo(b"\xc3\x28")
    os.symlink("/etc", "link")
    os.mkdir("closed")
    os.mkdir("closed/inside")
    os.chmod("closed", 0)
    for _ in range(depth):
        os.mkdir("nested")
        os.chdir("nested")
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY))


# --- memory --------------------------------------------------------------------------------------


def eat(size: int) -> None:
    """So many MiB, and then there is peace."""
    eaten = [b"x" * MIB for _ in range(size)]
    say(f"{len(eaten)} MiB")
    linger()


def reserve(size: int) -> None:
    """So many MiB, which it does not touch."""
    reserved = mmap.mmap(-1, size * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    say(f"{len(reserved) // MIB} MiB")


def eat_together(size: int) -> None:
    """So many MiB between four, one of them a daemon."""
    for number in range(4):
        if not os.fork():
            if number == 3:
                os.setsid()
            return eat(size // 4)
    linger()


def eat_shared(size: int) -> None:
    """So many MiB that four processes have in common, and half as many that are no file's: once each."""
    shared = mmap.mmap(-1, size * MIB)
    shared.write(b"x" * (size * MIB))
    own = b"y" * (size * MIB // 2)
    for _ in range(4):
        if not os.fork():
            time.sleep(0.5)
            os._exit(len(own) == 0)
    for _ in range(4):
        os.wait()
    say("fed")


def start_often(size: int) -> None:
    """It has so many MiB and starts one program after the other, which has them too until it calls exec."""
    eaten = b"x" * (size * MIB)
    for _ in range(200):
        pid = os.posix_spawn("/bin/true", ["true"], {})
        os.waitpid(pid, 0)
    say(f"{len(eaten) // MIB} MiB")


def eat_and_fail(size: int) -> None:
    eaten = b"x" * (size * MIB)
    time.sleep(0.3)
    sys.exit(3 if eaten else 4)


def raise_limits(size: int) -> None:
    """As far as it may, and eats all the same."""
    for what in (resource.RLIMIT_DATA, resource.RLIMIT_AS, resource.RLIMIT_NPROC):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    eat(size)


def lower_limits(_: int) -> None:
    """So that nothing of it can do anything."""
    for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CPU):
        resource.setrlimit(what, (1, 1))
    say("all there")
    while True:
        pass


def main() -> None:
    hostile: Callable[[int], None] = globals()[sys.argv[1]]
    hostile(int(sys.argv[3]) if len(sys.argv) > 3 else 0)


if __name__ == "__main__":
    main()
