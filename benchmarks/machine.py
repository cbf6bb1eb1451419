"""The machine that all runs on, what runs, and what a process takes of it."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("aiosqlite", "msgpack", "uvloop")
#: File systems that live in memory: an fsync costs nothing there, and says nothing.
IN_MEMORY = ("tmpfs", "ramfs")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: Fields of /proc/PID/stat behind the name: user and system time, in ticks.
_TIMES = slice(11, 13)
_ROOT = Path(__file__).resolve().parent.parent


def machine() -> dict[str, Any]:
    """Hardware and versions, for the JSON."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * _PAGE,
        "file_system": _mount(Path(tempfile.gettempdir()))[1],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{library: metadata.version(library) for library in LIBRARIES},
    }


def commit() -> str | None:
    """The commit that runs, with a "+" if files differ from it; None outside a git checkout."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def data_in_memory() -> str | None:
    """What is wrong with the place of temporary files, in words; None if it is on a disk."""
    directory = Path(tempfile.gettempdir())
    kind = _mount(directory)[1]
    if kind not in IN_MEMORY:
        return None
    return f"{directory} is in memory ({kind}), where an fsync costs nothing; set TMPDIR to a place on a disk"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, in steps of a tick (10 ms on most systems)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[_TIMES])) / _TICKS


def wake_ups(pid: int) -> int:
    """How often a process's threads have slept so far."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def children(pid: int) -> list[int]:
    """Processes that this one started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _mount(directory: Path) -> tuple[Path, str]:
    """(mount point, kind of file system) that holds `directory`."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    # Of two at the same point the later one is seen.
    points = {Path(fields[1]): fields[2] for fields in mounts}
    for place in (directory.resolve(), *directory.resolve().parents):
        if place in points:
            return place, points[place]
    return Path("/"), "unknown"
