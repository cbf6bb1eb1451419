"""What a job has written into a directory: found, checked and hashed. Calls block: for threads."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from clusternode.files.store import copy_all
from protocol.fields import is_inside
from protocol.job import ResultFile
from protocol.limits import PATH_LIMIT, RESULT_FILES_LIMIT


class BadTree(Exception):
    """Why a directory is refused, in words that follow its name."""


class Found(NamedTuple):
    """A file of the tree: its path in it, and where its content is."""

    path: str
    at: Path
    size: int


def find(root: Path, most_bytes: int) -> list[Found]:
    """All files below `root`, in order.

    Raises:
        BadTree: where there is a name that is none, a link that leads out, what is no file, or too much.
        OSError: where it cannot be read.
    """
    found: list[Found] = []
    total = 0
    if not stat.S_ISDIR(os.lstat(root).st_mode):
        raise BadTree("it is no directory any more")
    inside = os.path.realpath(root)
    for number, (path, entry) in enumerate(_walk(root)):
        if number == RESULT_FILES_LIMIT:
            raise BadTree(f"it holds more than {RESULT_FILES_LIMIT} files and directories")
        if entry.is_dir(follow_symlinks=False):
            continue
        at = Path(entry.path)
        if entry.is_symlink():
            target = os.path.realpath(at)
            if not target.startswith(inside + "/"):
                raise BadTree(f"link {path} leads out of it")
            if not os.path.isfile(target):
                raise BadTree(f"link {path} leads to no file")
            at = Path(target)
        seen = at.stat()
        if not stat.S_ISREG(seen.st_mode):
            raise BadTree(f"{path} is neither a file nor a directory")
        found.append(Found(path, at, seen.st_size))
        total += seen.st_size
        if total > most_bytes:
            raise BadTree(f"it holds more than MAX_RESULT_BYTES={most_bytes}")
    return sorted(found)


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    waiting = [(root, "")]
    while waiting:
        place, before = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                path = f"{before}{entry.name}"
                if not is_inside(path):
                    shown = path.encode("utf-8", "backslashreplace").decode()[:PATH_LIMIT]
                    raise BadTree(f"{shown!r} is over {PATH_LIMIT} bytes, not printable, or ends in a space")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((Path(entry.path), path + "/"))
                yield path, entry


def hashed(found: list[Found]) -> list[ResultFile]:
    """Raises OSError."""
    files = []
    for path, at, size in found:
        with _open(at) as file:
            files.append(ResultFile(path, size, hashlib.file_digest(file, "sha256").hexdigest()))
    return files


def copied(found: list[Found], target: Path) -> list[Found]:
    """A copy of all of them, as they are now, in a directory that is made for it. Raises OSError."""
    target.mkdir(mode=0o700)
    copies = []
    for number, (path, at, size) in enumerate(found):
        copy = target / str(number)
        with _open(at) as source, copy.open("xb") as file:
            # No more than was there when it was found: who writes may be faster than a copy.
            copy_all(source.fileno(), file.fileno(), size)
        copies.append(Found(path, copy, copy.stat().st_size))
    return copies


def _open(at: Path) -> BufferedReader:
    """Also what a job has put in the place of the file meanwhile: a FIFO must not hold up a thread."""
    file = os.open(at, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no file any more", str(at))
    return open(file, "rb")
