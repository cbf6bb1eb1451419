"""Files by their SHA-256, in one directory: whole and durable, or not there. Calls block: for threads."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

from protocol.fields import is_digest
from protocol.limits import MIB
from runtime.blobs import sync_directory
from runtime.errors import StartError

#: What is not whole yet; removed at the start.
UNFINISHED = "unfinished-"
#: Each try fails only where the file is replaced within it.
LINK_TRIES = 10
#: A file has as many names as it can have (65,000, say, of the empty one), or file systems have no links.
NO_LINKS = (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS)
#: Kernels and file systems that do not copy by themselves.
NO_RANGES = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)


class Mismatch(Exception):
    """What came is not what was announced."""


class Files:
    """Files named by their digest. Safe from several threads."""

    def __init__(self, directory: Path, most_bytes: int | None = None) -> None:
        """Finds what is there, and removes what never became whole.

        `most_bytes`: above that in all, the least recently used files go; None: they stay.

        Raises:
            StartError: if the directory cannot be made or read.
        """
        self.directory = directory
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._numbers = count(1)
        #: By digest, the least recently used first.
        self._sizes: dict[str, int] = {}
        try:
            if not directory.is_dir():
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(directory.parent)
            for entry in sorted(os.scandir(directory), key=lambda each: each.stat().st_mtime):
                if is_digest(entry.name):
                    self._sizes[entry.name] = entry.stat().st_size
                elif entry.name.startswith(UNFINISHED):
                    os.unlink(entry.path)
        except OSError as error:
            raise StartError(f"{directory} cannot be used: {error.strerror}") from None

    def __contains__(self, digest: object) -> bool:
        return digest in self._sizes

    def size(self, digest: str) -> int:
        """Raises KeyError if it is not there."""
        return self._sizes[digest]

    def path(self, digest: str) -> Path:
        return self.directory / digest

    def begin(self, digest: str, size: int | None) -> Incoming:
        """A file that comes in pieces; `size` None: as many as come. Raises OSError."""
        return Incoming(self, self.directory / f"{UNFINISHED}{next(self._numbers)}", digest, size)

    def piece(self, digest: str, offset: int, length: int) -> bytes:
        """Raises OSError."""
        with self._open(digest) as file:
            return os.pread(file.fileno(), length, offset)

    def copy(self, digest: str, target: Path) -> None:
        """A copy of its own, executable, in directories that are made. Raises OSError."""
        with self._open(digest) as source:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as copy:
                copy_all(source.fileno(), copy.fileno(), os.fstat(source.fileno()).st_size)
        target.chmod(0o755)

    def link(self, digest: str, target: Path) -> None:
        """Another name for it, in the place of what has that name. Raises OSError."""
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{UNFINISHED}{os.getpid()}-{next(self._numbers)}")
        try:
            try:
                self._link(digest, unfinished)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                self._copy_durably(digest, unfinished)
            os.replace(unfinished, target)
        finally:
            # Also where both are names of one file already: to replace one by the other leaves them both.
            unfinished.unlink(missing_ok=True)

    def _link(self, digest: str, target: Path) -> None:
        """Where the same content comes in once more, the kernel finds a file that is being replaced, and then
        says that there is none."""
        for _ in range(LINK_TRIES):
            with contextlib.suppress(FileNotFoundError):
                os.link(self.path(digest), target)
                return
        os.link(self.path(digest), target)

    def _copy_durably(self, digest: str, target: Path) -> None:
        with self._open(digest) as source, target.open("xb") as copy:
            copy_all(source.fileno(), copy.fileno(), os.fstat(source.fileno()).st_size)
            os.fsync(copy.fileno())
        target.chmod(0o400)

    def _open(self, digest: str) -> BinaryIO:
        """Raises OSError; who finds that it is not there any more has it fetched again."""
        self._used(digest)
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            with self._lock:
                self._sizes.pop(digest, None)
            raise

    def keep_only(self, digests: set[str]) -> None:
        """Removes all others. Raises OSError."""
        with self._lock:
            for digest in [each for each in self._sizes if each not in digests]:
                del self._sizes[digest]
                self.path(digest).unlink(missing_ok=True)

    def added(self, digest: str, size: int) -> None:
        with self._lock:
            self._sizes.pop(digest, None)
            self._sizes[digest] = size
            if self._most_bytes is None:
                return
            total = sum(self._sizes.values())
            for each in list(self._sizes):
                if total <= self._most_bytes or each == digest:
                    break
                total -= self._sizes.pop(each)
                self.path(each).unlink(missing_ok=True)

    def _used(self, digest: str) -> None:
        if self._most_bytes is not None:
            with self._lock:
                if digest in self._sizes:
                    self._sizes[digest] = self._sizes.pop(digest)
            with contextlib.suppress(OSError):
                os.utime(self.path(digest))


class Incoming:
    """A file on its way in; nobody sees it before it is whole, right and durable."""

    def __init__(self, files: Files, path: Path, digest: str, size: int | None) -> None:
        self._files = files
        self._path = path
        self.digest = digest
        self.size = size
        self.received = 0
        self._hash = hashlib.sha256()
        self._lock = threading.Lock()
        self._is_busy = False
        self._is_over = False
        self._file: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        """The file, which is not closed under a thread that is at it: its number may soon be another's."""
        with self._lock:
            if self._file is None:
                raise OSError(errno.EBADF, "it was given up")
            self._is_busy = True
        try:
            yield self._file
        except (OSError, Mismatch):
            self._is_over = True
            raise
        finally:
            with self._lock:
                self._is_busy = False
                if self._is_over:
                    self._remove()

    def write(self, data: bytes) -> None:
        """The next piece.

        Raises:
            OSError: and it is over.
            Mismatch: as well, where that is more than was announced.
        """
        with self._open() as file:
            if self.size is not None and self.received + len(data) > self.size:
                raise Mismatch(f"more than the {self.size} bytes that were announced")
            _write_all(file, data)
            self._hash.update(data)
            self.received += len(data)

    def finish(self) -> None:
        """It is whole: from here on it is there, after a power loss as well. Raises as `write`."""
        with self._open() as file:
            if self.size not in (None, self.received):
                raise Mismatch(f"{self.received} bytes and not the {self.size} that were announced")
            if self._hash.hexdigest() != self.digest:
                raise Mismatch(f"what came has the SHA-256 {self._hash.hexdigest()}")
            os.fsync(file)
            os.replace(self._path, self._files.path(self.digest))
            sync_directory(self._files.directory)
            self._is_over = True
        self._files.added(self.digest, self.received)

    def abort(self) -> None:
        """It will not become whole. Never blocks: a thread that is at it ends it when it is done."""
        with self._lock:
            self._is_over = True
            if not self._is_busy:
                self._remove()

    def _remove(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def copy_all(source: int, target: int, size: int) -> None:
    """At most `size` bytes; by the file system itself, where it can share what is equal. Raises OSError."""
    missing = size
    while missing:
        try:
            count = os.copy_file_range(source, target, missing)
        except OSError as error:
            if error.errno not in NO_RANGES:
                raise
            data = os.read(source, min(missing, MIB))
            count = len(data)
            _write_all(target, data)
        if count == 0:
            return
        missing -= count


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
