"""The data directory of a program: made, checked, and locked against a second process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import StartError


@contextlib.contextmanager
def locked_directory(path: Path) -> Iterator[Path]:
    """Makes `path` if need be and holds its lock; the kernel gives it back however the process ends.

    Raises:
        StartError: if it cannot be made or written, or another process has it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(
            f"the data directory {path} cannot be used: {error.strerror}; --data DIR names another"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StartError(
                f"the data directory {path} is in use by process {holder}; --data DIR names another"
            ) from None
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise StartError(f"the data directory {path} cannot be written: {error.strerror}") from None
        yield path
    finally:
        os.close(lock)
