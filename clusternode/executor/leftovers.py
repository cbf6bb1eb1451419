"""Finds and ends processes of jobs that outlived both their node and their helper.

Jobs carry their node's id in the environment, and every process they start inherits it. That is how a
node that was killed together with its helpers finds what still runs when it comes back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

NODE_VARIABLE = "EVENLY_NODE_ID"
TICKET_VARIABLE = "EVENLY_TICKET"


def kill_leftovers(node_id: str, ticket: str | None = None) -> int:
    """SIGKILLs every process of this node's jobs, or of one of them; returns how many there were."""
    wanted = [f"{NODE_VARIABLE}={node_id}".encode()]
    if ticket is not None:
        wanted.append(f"{TICKET_VARIABLE}={ticket}".encode())
    killed = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            if all(each in variables for each in wanted):
                os.kill(int(entry), signal.SIGKILL)
                killed += 1
    return killed


def empty_directory(directory: Path) -> None:
    """Makes `directory` if need be, and empties it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
