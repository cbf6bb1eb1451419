"""What a job has written into a directory: found, checked and hashed. Calls block: for threads."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clusternode.files.store import copy_all
from protocol.fields import is_inside
from protocol.job import ResultFile
from protocol.limits import MIB, PATH_LIMIT, RESULT_FILES_LIMIT


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
    inside = os.path.realpath(root)
    for path, entry in _walk(root, ""):
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
        if len(found) > RESULT_FILES_LIMIT:
            raise BadTree(f"it holds more than {RESULT_FILES_LIMIT} files")
        if total > most_bytes:
            raise BadTree(f"it holds more than {most_bytes / MIB:.0f} MiB")
    return sorted(found)


def _walk(directory: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    waiting = [(directory, prefix)]
    while waiting:
        place, before = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                path = f"{before}{entry.name}"
                if not is_inside(path):
                    shown = path.encode("utf-8", "backslashreplace").decode()[:PATH_LIMIT]
                    raise BadTree(f"{shown!r} is a name of over {PATH_LIMIT} characters, or not printable")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((Path(entry.path), path + "/"))
                else:
                    yield path, entry


def hashed(found: list[Found]) -> list[ResultFile]:
    """Raises OSError."""
    files = []
    for path, at, size in found:
        with at.open("rb") as file:
            files.append(ResultFile(path, size, hashlib.file_digest(file, "sha256").hexdigest()))
    return files


def copied(found: list[Found], target: Path) -> list[Found]:
    """A copy of all of them, as they are now, in a directory that is made for it. Raises OSError."""
    target.mkdir(mode=0o700)
    copies = []
    for number, (path, at, _) in enumerate(found):
        copy = target / str(number)
        with at.open("rb") as source, copy.open("xb") as file:
            copy_all(source.fileno(), file.fileno())
        copies.append(Found(path, copy, copy.stat().st_size))
    return copies
