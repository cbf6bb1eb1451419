"""From within a job that was submitted with `--checkpoint`: what is in EVENLY_CHECKPOINT_DIR now is kept.

As a function, for tasks and Python programs, and as the command `evenly-checkpoint`. Where neither is there:
`printf 'checkpoint %s\\n' $EVENLY_TICKET | nc -N ${EVENLY_NODE%:*} ${EVENLY_NODE##*:}`.
"""

from __future__ import annotations

import json
import os
import sys

#: Seconds until a connection is there; the answer may take as long as the files take.
CONNECT_TIMEOUT = 10.0


class CheckpointError(Exception):
    """Why no checkpoint was taken; the one before stands."""


def checkpoint() -> tuple[int, int]:
    """Returns (files, bytes) once all of EVENLY_CHECKPOINT_DIR is safe at the job's origin.

    A later attempt of the job, wherever it starts, finds these files there.

    Raises:
        CheckpointError: if they are not safe, with the reason.
    """
    node, ticket = os.environ.get("EVENLY_NODE", ""), os.environ.get("EVENLY_TICKET", "")
    host, colon, port = node.rpartition(":")
    if not (ticket and colon and port.isdecimal() and "EVENLY_CHECKPOINT_DIR" in os.environ):
        raise CheckpointError("this is no job that was submitted with --checkpoint")
    import socket  # most tasks take none, and workers are to start fast

    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT) as connection:
            connection.settimeout(None)
            connection.sendall(f"json\ncheckpoint {ticket}\n".encode())
            with connection.makefile("rb") as replies:
                replies.readline()
                said = json.loads(replies.readline() or b"{}")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"its node at {node} does not answer: {error}") from None
    taken = said.get("checkpoint")
    if not isinstance(taken, dict):
        raise CheckpointError(said.get("error", f"its node at {node} closed the connection"))
    return taken["files"], taken["bytes"]


def main() -> int:
    """`evenly-checkpoint`: exit code 0 once it is safe, else 1 and a line that says why."""
    try:
        files, size = checkpoint()
    except CheckpointError as error:
        print(f"evenly-checkpoint: {error}", file=sys.stderr)
        return 1
    print(f"{files} {'file' if files == 1 else 'files'}, {size} bytes")
    return 0
