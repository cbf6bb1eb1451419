"""How a program ends when it cannot go on: with one line, never a traceback."""

from __future__ import annotations

import traceback


class StartError(Exception):
    """The program cannot start; one line that says why and what would be right. Exit code 2."""


class InternalFault(Exception):
    """A core contradicted itself: a fault of ours. The process ends, exit code 1, before it does harm."""


class StorageError(Exception):
    """A commit failed. The process ends, exit code 1: it never goes on without storage."""


class Damaged(StorageError):
    """What was read is not what was written. The process ends, exit code 1, before it shows that."""


def one_line(error: BaseException) -> str:
    """What was raised, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}{where}".split())
