"""Large values beside a database: in files that only grow, durable before the row that names them commits.

SQLite would write each page of such a value twice, with checksums of its own. A segment is the values and
nothing else: where one begins, how long it is and its checksum (`Place`) stand in its row. A crash leaves
at most bytes that no row names, at what was the end of a segment then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import zlib
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from protocol.limits import MIB
from runtime.database import BrokenSeal
from runtime.errors import StartError
from runtime.failpoints import reach

#: What the disk says itself where it has lost something: that concerns its reader alone.
_LOSS = (errno.ENOENT, errno.EIO, errno.ESTALE)
#: What was written last stays in the kernel's memory, for whoever waits for it. What is before that gives
#: its pages to what comes next: new ones cost more than the writing, and a history would take them all.
_CACHED_BYTES = 64 * MIB


class Place(NamedTuple):
    """Where a value is. `checksum`: its CRC-32."""

    segment: int
    offset: int
    length: int
    checksum: int


class Segments:
    """The files `NAME-1`, `NAME-2`, … of a directory; all calls come from the database's thread.

    Numbers only grow, as long as one of the files is there.
    """

    def __init__(self, directory: Path, name: str, size: int) -> None:
        """Finds what is there. A file that has reached `size` is followed by another.

        Raises:
            StartError: if the directory cannot be made or read.
        """
        self._directory = directory
        self._name = name
        self._size = size
        self._file: int | None = None
        self._end = 0
        pattern = re.compile(re.escape(name) + "-([1-9][0-9]{0,17})")
        try:
            if not directory.is_dir():
                directory.mkdir(mode=0o700)
                sync_directory(directory.parent)
            found = map(pattern.fullmatch, os.listdir(directory))
        except OSError as error:
            raise StartError(f"{directory} cannot be used: {error.strerror}") from None
        self._numbers = {int(match[1]) for match in found if match}
        self._last = max(self._numbers, default=0)

    @property
    def is_empty(self) -> bool:
        return not self._numbers

    def append(self, values: Sequence[bytes]) -> list[Place]:
        """The places of these values, which are durable when it returns. Raises OSError."""
        places = []
        for value in values:
            if self._file is not None and self._end >= self._size:
                self._sync()
                self.close()
            file = self._opened()
            with self._named():
                _write(file, value, self._end)
            places.append(Place(self._last, self._end, len(value), zlib.crc32(value)))
            self._end += len(value)
        reach("blobs.inside")
        self._sync()
        reach("blobs.after")
        return places

    def read(self, place: Place) -> bytes:
        """The value there.

        Raises:
            BrokenSeal: if it is not what was written, or not there any more.
            OSError: if that cannot be told.
        """
        path = self._path(place.segment)
        try:
            file = os.open(path, os.O_RDONLY)
            try:
                # The size first: damage costs no memory.
                is_there = os.fstat(file).st_size >= place.offset + place.length
                value = os.pread(file, place.length, place.offset) if is_there else b""
            finally:
                os.close(file)
        except OSError as error:
            if error.errno not in _LOSS:
                raise
            raise BrokenSeal(f"{path} cannot be read: {error.strerror}") from None
        if len(value) != place.length:
            raise BrokenSeal(f"{path} ends too early")
        if zlib.crc32(value) != place.checksum:
            raise BrokenSeal(f"a value in {path} has changed")
        return value

    def keep(self, segments: Container[int]) -> None:
        """Removes all others. What a crash brings back of them, the same call removes again.

        Raises:
            OSError: if one cannot be removed.
        """
        for number in [number for number in self._numbers if number not in segments]:
            if number == self._last:
                self.close()
            with contextlib.suppress(FileNotFoundError):
                self._path(number).unlink()
            self._numbers.discard(number)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    # --- inside ----------------------------------------------------------------------------------

    def _path(self, number: int) -> Path:
        return self._directory / f"{self._name}-{number}"

    def _opened(self) -> int:
        """The file to append to."""
        if self._file is not None:
            return self._file
        is_new = self._last not in self._numbers or self._path(self._last).stat().st_size >= self._size
        if is_new:
            self._last += 1
            self._numbers.add(self._last)
        file = self._file = os.open(self._path(self._last), os.O_WRONLY | os.O_CREAT, 0o600)
        self._end = os.fstat(file).st_size
        if is_new:
            sync_directory(self._directory)
        return file

    def _sync(self) -> None:
        if self._file is not None:
            with self._named():
                os.fdatasync(self._file)
            if self._end > _CACHED_BYTES:
                with contextlib.suppress(OSError):  # an advice, no more
                    os.posix_fadvise(self._file, 0, self._end - _CACHED_BYTES, os.POSIX_FADV_DONTNEED)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """An error inside names the file."""
        try:
            yield
        except OSError as error:
            error.filename = self._path(self._last)
            raise


def _write(file: int, value: bytes, offset: int) -> None:
    rest = memoryview(value)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written


def sync_directory(directory: Path) -> None:
    """What was named in it is there after a power loss. Raises OSError."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
