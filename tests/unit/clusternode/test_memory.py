"""What the processes of a job have together, and what of it counts."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from clusternode.executor import memory as module
from clusternode.executor.memory import (
    COST,
    FIRST_LOOK,
    LOOK_PERIOD,
    MIB,
    PF_FORKNOEXEC,
    RESERVE,
    VFORK_PATIENCE,
    OomKills,
    Process,
    Watch,
    descendants,
    in_short,
    in_words,
    limit_data,
    unlimit_data,
)

LEADER, CHILD, OTHER = 10, 11, 12


class Machine:
    """Processes that are not there. Sizes in MiB: (anonymous, shared, swapped), shares of the same, flags."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}
        self._files: dict[str, str] = {}
        self.asked: list[str] = []

    def add(
        self,
        pid: int,
        parent: int,
        sizes: tuple[int, int, int],
        shares: tuple[int, int, int] | None = None,
        flags: int = 0,
    ) -> None:
        self.parents[pid] = parent
        names = ("RssAnon", "RssShmem", "VmSwap")
        rows = "".join(f"{name}:\t{size * 1024} kB\n" for name, size in zip(names, sizes, strict=True))
        self._files[f"{pid}/status"] = f"Name:\tRssAnon: 9999 kB\nRssFile:\t   99999 kB\n{rows}"
        if shares is not None:
            names = ("Pss_Anon", "Pss_Shmem", "SwapPss")
            rows = "".join(f"{name}: {size * 1024} kB\n" for name, size in zip(names, shares, strict=True))
            self._files[f"{pid}/smaps_rollup"] = f"5581-7ffc [rollup]\nPss: 9 kB\nPss_File: 999 kB\n{rows}"
        self._files[f"{pid}/stat"] = f"{pid} (a) 1 2) S {parent} 1 1 0 -1 {flags} 7 0 0\n"

    def watch(self, limit: int) -> Watch:
        return Watch(limit * MIB, 0.0, self._processes, self._read)

    def _processes(self) -> list[Process]:
        return [Process(*each) for each in self.parents.items()]

    def _read(self, path: str) -> bytes:
        self.asked.append(path)
        return self._files.get(path, "").encode()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_what_counts_is_what_would_have_to_be_written_elsewhere(machine: Machine) -> None:
    machine.add(LEADER, 1, (10, 20, 30))
    machine.add(CHILD, LEADER, (1, 2, 3))
    watch = machine.watch(100)
    assert not watch.look(1.0)
    assert watch.most == 66 * MIB


def test_a_look_that_finds_little_asks_no_more(machine: Machine) -> None:
    machine.add(LEADER, 1, (10, 0, 0), (10, 0, 0))
    machine.watch(100).look(1.0)
    assert machine.asked == [f"{LEADER}/status"]


def test_all_of_them_together_are_over_it(machine: Machine) -> None:
    machine.add(LEADER, 1, (60, 0, 0), (60, 0, 0))
    watch = machine.watch(100)
    assert not watch.look(1.0)
    machine.add(OTHER, 1, (41, 0, 0), (41, 0, 0))
    assert watch.look(1.1)
    assert watch.verdict == "killed: its processes had 101 MiB together, over --memory 100M"


def test_it_stays_over_whatever_comes(machine: Machine) -> None:
    machine.add(LEADER, 1, (101, 0, 0), (101, 0, 0))
    watch = machine.watch(100)
    assert watch.look(1.0)
    machine.parents.clear()
    assert watch.look(1.1)


def test_what_processes_share_counts_once(machine: Machine) -> None:
    machine.add(LEADER, 1, (60, 10, 0), (30, 5, 0))
    machine.add(CHILD, LEADER, (60, 10, 0), (30, 5, 0))
    watch = machine.watch(100)
    assert not watch.look(1.0)
    assert watch.most == 70 * MIB


def test_where_shares_are_not_told_all_of_it_counts(machine: Machine) -> None:
    machine.add(LEADER, 1, (60, 0, 0))
    machine.add(CHILD, LEADER, (60, 0, 0))
    assert machine.watch(100).look(1.0)


def test_a_child_of_vfork_has_the_memory_of_its_parent_until_it_calls_exec(machine: Machine) -> None:
    machine.add(LEADER, 1, (60, 0, 0), (60, 0, 0))
    watch = machine.watch(100)
    watch.look(1.0)
    machine.add(CHILD, LEADER, (60, 0, 0), (60, 0, 0), PF_FORKNOEXEC)
    assert not watch.look(1.05)
    assert not watch.look(1.05 + VFORK_PATIENCE - 0.01)
    assert watch.look(1.05 + VFORK_PATIENCE), "it was no vfork"


def test_whether_it_has_called_exec_is_asked_before_what_it_has(machine: Machine) -> None:
    """Or it might call it in between."""
    machine.add(LEADER, 1, (101, 0, 0), (60, 0, 0))
    machine.watch(100).look(1.0)
    assert machine.asked == [f"{LEADER}/{name}" for name in ("status", "stat", "smaps_rollup")]


def test_what_a_forked_child_has_beyond_its_parent_counts_at_once(machine: Machine) -> None:
    machine.add(LEADER, 1, (60, 0, 0), (60, 0, 0))
    machine.add(CHILD, LEADER, (101, 0, 0), (101, 0, 0), PF_FORKNOEXEC)
    assert machine.watch(100).look(1.0)


def test_another_process_of_the_same_number_is_seen_anew(machine: Machine) -> None:
    machine.add(LEADER, 1, (60, 0, 0), (60, 0, 0))
    machine.add(CHILD, LEADER, (1, 0, 0), (1, 0, 0))
    watch = machine.watch(100)
    watch.look(1.0)
    del machine.parents[CHILD]
    watch.look(2.0)
    machine.add(CHILD, LEADER, (60, 0, 0), (60, 0, 0), PF_FORKNOEXEC)
    assert not watch.look(3.0)


def test_looks_come_sooner_at_the_start(machine: Machine) -> None:
    watch = machine.watch(100)
    now, gaps = 0.0, []
    for _ in range(8):
        gaps.append(watch.next_at - now)
        now = watch.next_at
        watch.look(now)
    assert gaps[0] == FIRST_LOOK
    assert gaps[-1] == pytest.approx(LOOK_PERIOD)
    assert all(later >= sooner - 1e-9 for sooner, later in pairwise(gaps))


def test_looks_that_cost_much_come_less_often(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((1.0, 3.0))
    monkeypatch.setattr(module.time, "thread_time", lambda: next(times))
    watch = machine.watch(100)
    watch.look(10.0)
    assert watch.next_at == pytest.approx(10.0 + COST * 2.0)


def test_one_that_fails_is_told_what_it_had(machine: Machine) -> None:
    watch = machine.watch(100)
    for size in (5, 49):
        machine.add(LEADER, 1, (size, 0, 0))
        watch.look(1.0)
    assert watch.remark == "", "that little is not why"
    for size in (98, 50):
        machine.add(LEADER, 1, (size, 0, 0))
        watch.look(1.0)
    assert watch.remark == "it was seen with 98 MiB at most of the 100 MiB allowed"


@pytest.mark.parametrize(
    ("size", "words", "short"),
    [
        (100 * MIB, "100 MiB", "100M"),
        (1 * MIB, "1.0 MiB", "1M"),
        (1536 * MIB, "1536 MiB", "1536M"),
        (2048 * MIB, "2048 MiB", "2G"),
        (1500 * 1024, "1.5 MiB", "1500K"),
        (1500001, "1.4 MiB", "1500001"),
    ],
)
def test_sizes_are_shown_as_they_are_given(size: int, words: str, short: str) -> None:
    assert (in_words(size), in_short(size)) == (words, short)


# --- real processes ------------------------------------------------------------------------------


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a Python program, which says something when it is ready, and ends all at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def run(program: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield run
    for process in started:
        with process:
            process.kill()


def test_what_a_real_process_has_is_seen(start: Callable[[str], subprocess.Popen[bytes]]) -> None:
    size = 50 * MIB
    program = f"import sys; x = b'x' * {size}; print('there', flush=True); sys.stdin.read()"
    process = start(program)
    watch = Watch(size // 2, 0.0)
    assert watch.look(1.0)
    assert size <= watch.most < 2 * size
    process.kill()
    process.wait()


def test_memory_that_is_shared_is_seen_once(start: Callable[[str], subprocess.Popen[bytes]]) -> None:
    """Anonymous, in a fork, and explicitly so."""
    size = 40 * MIB
    process = start(
        "import mmap, os, sys\n"
        f"x, y = b'x' * {size}, mmap.mmap(-1, {size})\n"
        f"y.write(b'y' * {size})\n"
        "os.fork(), os.fork()\n"
        "os.write(1, b'there\\n')\n"
        "sys.stdin.read()"
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == [b"there\n"] * 3
    watch = Watch(3 * size, 0.0)
    watch.look(1.0)
    assert not watch.look(2.0)
    assert 2 * size <= watch.most < 3 * size


def test_all_that_comes_of_a_process_is_found(start: Callable[[str], subprocess.Popen[bytes]]) -> None:
    process = start(
        "import os, subprocess, sys, threading\n"
        "child = []\n"
        "def run(): child.append(subprocess.Popen(['sleep', '600'], start_new_session=True)); done.wait()\n"
        "done = threading.Event()\n"
        "thread = threading.Thread(target=run, daemon=True); thread.start()\n"
        "while not child: pass\n"
        "print(child[0].pid, flush=True)\n"
        "sys.stdin.read(); child[0].kill(); done.set()"
    )
    found = descendants()
    assert Process(process.pid, os.getpid()) in found
    assert [each.parent for each in found if each.parent == process.pid] == [process.pid], "of a thread"
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def test_a_process_cannot_take_back_what_limits_it(
    start: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    process = start("import sys; print('there', flush=True); sys.stdin.read()")
    limit_data(process.pid, 50 * MIB, for_good=True)
    most = 2 * 50 * MIB + RESERVE
    assert resource.prlimit(process.pid, resource.RLIMIT_DATA) == (most, most)
    before = limit_data(process.pid, 500 * MIB, for_good=True)
    assert before == most
    assert resource.prlimit(process.pid, resource.RLIMIT_DATA) == (most, most), "what is less stays"


def test_a_worker_is_given_back_what_it_had(start: Callable[[str], subprocess.Popen[bytes]]) -> None:
    process = start("import sys; print('there', flush=True); sys.stdin.read()")
    limits = resource.prlimit(process.pid, resource.RLIMIT_DATA)
    before = limit_data(process.pid, 50 * MIB, for_good=False)
    assert resource.prlimit(process.pid, resource.RLIMIT_DATA)[0] == 2 * 50 * MIB + RESERVE
    unlimit_data(process.pid, before)
    assert resource.prlimit(process.pid, resource.RLIMIT_DATA) == limits


def test_one_that_has_ended_needs_no_limit() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert limit_data(process.pid, 50 * MIB, for_good=True) == resource.RLIM_INFINITY
    unlimit_data(process.pid, 5)


def test_the_limit_is_for_what_is_reserved_and_far_above(
    start: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    """As for the stacks of a hundred threads."""
    process = start(
        "import mmap, sys; print('there', flush=True); sys.stdin.read(1)\n"
        f"mmap.mmap(-1, {900 * MIB}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "print('kept', flush=True); sys.stdin.read()"
    )
    limit_data(process.pid, 10 * MIB, for_good=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    assert process.stdout.readline() == b"kept\n"


# --- what the kernel kills -----------------------------------------------------------------------


def test_the_kernel_counts_what_it_kills_for_memory() -> None:
    assert module.oom_kills() >= 0


def test_a_kill_before_a_job_is_not_blamed_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 5
    monkeypatch.setattr(module, "oom_kills", lambda: count)
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    kills = OomKills()
    count = 6
    kills.begin(100.5)
    assert kills.since(), "as it may have been in that job's time"
    assert not kills.since(), "the next one is not blamed for it"
    count = 7
    kills.begin(102.0)
    assert not kills.since()
    count = 8
    assert kills.since()
