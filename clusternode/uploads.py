"""What comes from a client: lines, and files between them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from clusternode.files.store import Files, Incoming, Mismatch
from protocol.dialogue import Upload, parse_line
from protocol.file_replies import Uploaded
from protocol.limits import CLIENT_BUFFER_LIMIT, UPLOADS_PENDING
from protocol.lines import LineDecoder
from protocol.replies import Failure, Reply


class Uploading:
    """A file from a client: its pieces go to the disk in a thread, in order."""

    def __init__(
        self, files: Files, asked: Upload, changed: Callable[[], None], before: Uploading | None
    ) -> None:
        """`before`: of the same client, written first: it has one file open, however many it sends."""
        self._files = files
        self._before = before
        self._asked = asked
        self._changed = changed
        self._missing = asked.size
        self._waiting: list[bytes] = []
        self.waiting_bytes = 0
        self._is_aborted = False
        self._came = asyncio.Event()
        self._ended = asyncio.Event()
        #: What its client is told; None until that is known.
        self.reply: Reply | None = None

    @property
    def is_whole(self) -> bool:
        """All of it has come."""
        return self._missing == 0

    def feed(self, data: bytes) -> bytes:
        """Takes what is of it; returns what follows."""
        mine, rest = data[: self._missing], data[self._missing :]
        self._missing -= len(mine)
        if self.reply is None:  # else it is refused already
            self._waiting.append(mine)
            self.waiting_bytes += len(mine)
            self._came.set()
        return rest

    def abort(self) -> None:
        """No more of it will come."""
        if not self.is_whole:
            self._is_aborted = True
            self._came.set()

    async def write(self) -> None:
        """To the disk, as it comes, to its end."""
        incoming: Incoming | None = None
        asked = self._asked
        if self._before is not None:
            await self._before._ended.wait()
            self._before = None
        try:
            incoming = self._files.begin(asked.digest, asked.size)
            while incoming.received < asked.size:
                await self._came.wait()
                self._came.clear()
                if self._is_aborted:
                    self._end(Failure("That upload ended too early: nothing of it was kept."))
                    return
                data, self._waiting, self.waiting_bytes = b"".join(self._waiting), [], 0
                self._changed()
                await asyncio.to_thread(incoming.write, data)
            await asyncio.to_thread(incoming.finish)
            self._end(Uploaded(asked.digest, asked.size))
        except Mismatch as fault:
            self._end(Failure(f"That upload is not what was announced: {fault}. Nothing of it was kept."))
        except OSError as error:
            said = error.strerror or os.strerror(error.errno or 0)
            self._end(Failure(f"That upload could not be kept: {said}. Nothing of it was."))
        finally:
            if incoming is not None:
                incoming.abort()

    def _end(self, reply: Reply) -> None:
        self.reply = reply
        self._ended.set()
        self._waiting, self.waiting_bytes = [], 0
        self._changed()


#: A line, None for one that is too long, or a file.
Item = bytes | Uploading | None


class Intake:
    """Cuts what one client sends into lines and files."""

    def __init__(self, receive: Callable[[Upload, Uploading | None], Uploading]) -> None:
        """`receive(asked, before)`: takes a file, and writes it when the one before it has been."""
        self._receive = receive
        self._decoder = LineDecoder()
        #: The file that comes now, in the place of lines.
        self._upload: Uploading | None = None
        #: Those whose fate is not known.
        self._pending: list[Uploading] = []
        #: What comes is not read any more.
        self.is_deaf = False

    @property
    def in_file(self) -> bool:
        """What comes next is not a line."""
        return self._upload is not None

    @property
    def is_full(self) -> bool:
        """As much of its files waits for the disk as may."""
        if not self._pending:
            return False
        self._pending = [each for each in self._pending if each.reply is None]
        waiting = sum(each.waiting_bytes for each in self._pending)
        return waiting > CLIENT_BUFFER_LIMIT or len(self._pending) > UPLOADS_PENDING

    def feed(self, data: bytes) -> list[Item]:
        items: list[Item] = []
        while data and not self.is_deaf:
            if self._upload is not None:
                data = self._upload.feed(data)
                if self._upload.is_whole:
                    self._upload = None
                continue
            lines, rest = self._decoder.feed_to_upload(data)
            items += lines
            if rest is None:
                break
            data = rest
            items += self._begin(items.pop())
        return items

    def _begin(self, line: Item) -> list[Item]:
        """What follows this line is a file."""
        asked = parse_line(line) if isinstance(line, bytes) else None
        if not isinstance(asked, Upload):
            # How many bytes are no lines cannot be told: there will be none.
            self.is_deaf = True
            return [line, b"exit"]
        upload = self._receive(asked, self._pending[-1] if self._pending else None)
        self._pending.append(upload)
        self._upload = None if upload.is_whole else upload
        return [upload]

    def end(self) -> list[Item]:
        """Nothing more comes: what is left."""
        if self.is_deaf:
            return []
        self.abort()
        return [*self._decoder.end(), b"exit"]

    def abort(self) -> None:
        """The file that comes now will not become whole."""
        self.is_deaf = True
        if self._upload is not None:
            self._upload.abort()
