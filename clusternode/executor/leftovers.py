"""Finds and ends processes of jobs that outlived both their node and their helper.

Jobs carry their node's mark in the environment, and every process they start inherits it. That is how a
node that was killed together with its helpers finds what still runs when it comes back.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from clusternode.executor.removal import remove_tree

NODE_VARIABLE = "EVENLY_NODE_ID"
TICKET_VARIABLE = "EVENLY_TICKET"
#: Looks at all processes: who was killed in one of them may have started others meanwhile.
LOOKS = 50


def mark_of(node_id: str, directory: Path) -> str:
    """The node's id, and which data directory it has: who starts a copy of that shall not end the jobs of the
    node that it was copied from. A directory that is renamed stays the same."""
    return f"{node_id}-{directory.stat().st_ino:x}"


def kill_leftovers(mark: str, ticket: str | None = None) -> int:
    """SIGKILLs every process of this node's jobs, or of one of them; returns how many there were."""
    wanted = [f"{NODE_VARIABLE}={mark}".encode()]
    if ticket is not None:
        wanted.append(f"{TICKET_VARIABLE}={ticket}".encode())
    killed: set[int] = set()
    for _ in range(LOOKS):
        found = list(_processes_with(wanted))
        if not found:
            break
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed.update(found)
    return len(killed)


def _processes_with(variables: list[bytes]) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                there = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
                if all(each in there for each in variables):
                    yield int(entry)


def empty_directory(directory: Path) -> None:
    """Makes `directory` if need be, and empties it."""
    remove_tree(str(directory))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def clear_directories(directory: Path, pid: int) -> None:
    """Removes the working directories that this helper has made there."""
    with contextlib.suppress(OSError):
        for entry in directory.iterdir():
            if entry.name.startswith(f"{pid}."):
                remove_tree(str(entry))
