"""Removes what a job has left, whatever it made of it: nested beyond any recursion and any path's length,
closed to its owner, with names in no encoding.

Only the standard library: helpers run without site packages.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from itertools import islice

#: Entries of one directory that are looked at before any of them is removed.
AT_ONCE = 10_000


def remove_tree(path: str) -> None:
    """Removes it as far as it can be removed, and says nothing where it cannot. A link is not followed."""
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        top = _open(path, None)
        try:
            _empty(top)
        finally:
            os.close(top)
        os.rmdir(path)


def _empty(top: int) -> None:
    """Directories in directories are moved up to the top, so that none is deep when its turn comes."""
    moved = f".removed-{os.urandom(8).hex()}-"
    count = 0
    waiting: deque[str] = deque(_clear(top))
    while waiting:
        name = waiting.popleft()
        with contextlib.suppress(OSError):
            place = _open(name, top)
            try:
                for child in _clear(place):
                    count += 1
                    with contextlib.suppress(OSError):
                        _move(child, place, f"{moved}{count}", top)
                        waiting.append(f"{moved}{count}")
            finally:
                os.close(place)
            os.rmdir(name, dir_fd=top)


def _clear(place: int) -> list[str]:
    """Removes all that is no directory; returns the names of those that are."""
    directories: dict[str, None] = {}
    while True:
        removed, known = 0, len(directories)
        with os.scandir(place) as entries:
            for entry in list(islice(entries, known + AT_ONCE)):
                if entry.is_dir(follow_symlinks=False):
                    directories[entry.name] = None
                    continue
                with contextlib.suppress(OSError):
                    os.unlink(entry.name, dir_fd=place)
                    removed += 1
        if not removed and len(directories) == known:
            return list(directories)


def _move(name: str, place: int, new_name: str, top: int) -> None:
    try:
        os.rename(name, new_name, src_dir_fd=place, dst_dir_fd=top)
    except PermissionError:  # its ".." changes, which takes the right to write
        os.close(_open(name, place))
        os.rename(name, new_name, src_dir_fd=place, dst_dir_fd=top)


def _open(name: str, place: int | None) -> int:
    """A directory, for reading, with all that its owner may have."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    itself = os.open(name, os.O_PATH | flags, dir_fd=place)
    try:
        if os.fstat(itself).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{itself}", stat.S_IRWXU)
        return os.open(".", os.O_RDONLY | flags, dir_fd=itself)
    finally:
        os.close(itself)
