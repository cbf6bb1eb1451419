"""A limit on the memory that all processes of a job have together, and what the kernel kills for want of any.

Where control groups can be written they would do this; often they cannot. So two things hold a limit:

- A look at all processes of the job, every LOOK_PERIOD: what is over is killed as a whole. What counts is
  what a process would have to write elsewhere to give it back: anonymous and shared memory, and what of it is
  swapped out; not pages of files. What several processes share counts once.
- RLIMIT_DATA, for what one process takes faster than anybody looks. It counts addresses, not memory: each
  thread's stack of 8 MiB, of which it uses little, and what allocators reserve. So it is far above the limit,
  or it would end programs that keep to it.

Only the standard library: helpers run without site packages.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

KIB, MIB, GIB = 1024, 1024**2, 1024**3
#: Who fails with less of its limit than this part has not failed for want of memory.
REMARKED = 0.5
#: Seconds from one look to the next. The first ones come sooner: a job may be short.
LOOK_PERIOD = 0.05
FIRST_LOOK = 0.005
#: Looks take no more than one part in so many of a CPU's time, however many processes there are.
COST = 10
#: Until a child of vfork calls exec it has the very memory of its parent, which must not count twice. That
#: takes a millisecond, or so many seconds where the program comes from a slow disk.
VFORK_PATIENCE = 0.25
#: Beside twice the limit, what a process may reserve: see above.
RESERVE = 1 * GIB
#: Of /proc/PID/stat: forked, and exec not called since.
PF_FORKNOEXEC = 0x40
READ_SIZE = 8192


class Process(NamedTuple):
    """One of a job's, and who started it, or has it since."""

    pid: int
    parent: int


class Watch:
    """Looks at one job."""

    def __init__(
        self,
        limit: int,
        now: float,
        processes: Callable[[], list[Process]] | None = None,
        read: Callable[[str], bytes] | None = None,
    ) -> None:
        """`limit` in bytes. `processes` of the job: all that this process has started, unless given. `read`
        gives a file below /proc, empty where there is none."""
        self.limit = limit
        self.next_at = now + FIRST_LOOK
        #: Bytes that it was seen with at most.
        self.most = 0
        self.is_over = False
        self._processes = processes or descendants
        self._read = read or read_proc
        self._period = FIRST_LOOK
        #: When each process was first seen.
        self._seen: dict[int, float] = {}

    def look(self, now: float) -> bool:
        """Whether the job has more than it may."""
        began = time.thread_time()
        processes = self._processes()
        self._seen = {each.pid: self._seen.get(each.pid, now) for each in processes}
        # At least as much as there is: what forked processes share counts for each of them.
        total = sum(self._coarse(each.pid) for each in processes)
        if total > self.limit:
            total = self._fine(processes, now)
        self.most = max(self.most, total)
        self.is_over |= total > self.limit
        self._period = min(2 * self._period, LOOK_PERIOD)
        self.next_at = now + max(self._period, COST * (time.thread_time() - began))
        return self.is_over

    @property
    def verdict(self) -> str:
        """Why it was killed."""
        return (
            f"killed: its processes had {in_words(self.most)} together, over --memory {in_short(self.limit)}"
        )

    @property
    def remark(self) -> str:
        """For one that has failed by itself, perhaps for want of memory; empty where it had little."""
        if self.most < REMARKED * self.limit:
            return ""
        return f"it was seen with {in_words(self.most)} at most of the {in_words(self.limit)} allowed"

    def _coarse(self, pid: int) -> int:
        status = self._read(f"{pid}/status")
        return fields(status, b"RssAnon:", b"RssShmem:", b"VmSwap:")

    def _fine(self, processes: list[Process], now: float) -> int:
        """Shared by so many, a page counts a part for each."""
        sizes = {}
        vforked = set()
        for pid, _ in processes:
            # First this: what it has once it has called exec is its own.
            if self._may_be_vforked(pid, now):
                vforked.add(pid)
            shares = self._read(f"{pid}/smaps_rollup")
            # Not there for what has given up its user, nor in kernels without it.
            sizes[pid] = fields(shares, b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:") or self._coarse(pid)
        return sum(
            max(0, sizes[pid] - sizes.get(parent, 0)) if pid in vforked else sizes[pid]
            for pid, parent in processes
        )

    def _may_be_vforked(self, pid: int, now: float) -> bool:
        if now - self._seen[pid] >= VFORK_PATIENCE:
            return False
        words = self._read(f"{pid}/stat").rpartition(b")")[2].split()
        return len(words) > 6 and bool(int(words[6]) & PF_FORKNOEXEC)


def fields(text: bytes, *names: bytes) -> int:
    """The sum of these, in bytes: of lines `Name:  1234 kB`."""
    return sum(int(line.split()[1]) * KIB for line in text.splitlines() if line.startswith(names))


def read_proc(path: str) -> bytes:
    """Empty where it is not there any more, or not for us."""
    with contextlib.suppress(OSError), open(f"/proc/{path}", "rb", 0) as file:
        return file.read(READ_SIZE)
    return b""


def descendants() -> list[Process]:
    """All that this process has started, in any way: it is the subreaper of those that lost their parent."""
    found: list[Process] = []
    waiting = [os.getpid()]
    while waiting:
        parent = waiting.pop()
        for pid in children(parent):
            found.append(Process(pid, parent))
            waiting.append(pid)
    return found


def children(pid: int) -> Iterator[int]:
    """Of all its threads."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            # There is no bound to how many one has.
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as listing:
                yield from map(int, listing.read().split())


def limit_data(pid: int, limit: int, for_good: bool) -> int:
    """Lets a process, and what it starts, have as much address space for data as one with this limit may
    want; `for_good`: it cannot take that back. Returns what `unlimit_data` needs."""
    most = 2 * limit + RESERVE
    with contextlib.suppress(OSError):  # it has ended
        soft, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or most < hard:
            now = most if soft == resource.RLIM_INFINITY else min(soft, most)
            resource.prlimit(pid, resource.RLIMIT_DATA, (now, most if for_good else hard))
        return soft
    return resource.RLIM_INFINITY


def unlimit_data(pid: int, soft: int) -> None:
    with contextlib.suppress(OSError):
        hard = resource.prlimit(pid, resource.RLIMIT_DATA)[1]
        resource.prlimit(pid, resource.RLIMIT_DATA, (soft, hard))


def in_words(size: int) -> str:
    """As in `12 MiB`."""
    return f"{size / MIB:.0f} MiB" if size >= 10 * MIB else f"{size / MIB:.1f} MiB"


def in_short(size: int) -> str:
    """As it is given to `--memory`."""
    for unit, name in ((GIB, "G"), (MIB, "M"), (KIB, "K")):
        if size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def oom_kills() -> int:
    """Processes that this machine's kernel has killed for want of memory; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as lines:
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


class OomKills:
    """How many there were before: so that one job is not blamed for another's."""

    #: Seconds that a count serves: asking costs as much as a tenth of a short command.
    FRESH = 1.0

    def __init__(self) -> None:
        self._count = oom_kills()
        self._at = time.monotonic()

    def begin(self, now: float) -> None:
        """A job starts."""
        if now > self._at + self.FRESH:
            self._count, self._at = oom_kills(), now

    def since(self) -> bool:
        """Whether there was one since, as far as is known."""
        before, self._count = self._count, oom_kills()
        return self._count > before
