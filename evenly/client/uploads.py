"""Which files were brought to which node: each once, however many jobs come with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from evenly.client import files
from evenly.client.errors import Refused
from evenly.client.model import Address
from evenly.client.talk import Talk

T = TypeVar("T")


class Uploads:
    def __init__(self, open_talk: Callable[[Address], Awaitable[Talk]]) -> None:
        self._open = open_talk
        #: (path, size, time of change, inode) -> its digest, and where that file is.
        self._digests: dict[tuple[str, int, int, int], str] = {}
        self._files: dict[str, tuple[Path, int]] = {}
        #: Also those that are under way: who comes second waits for the first.
        self._brought: dict[tuple[Address, str], asyncio.Task[None]] = {}

    async def digest(self, file: Path | str) -> str:
        """Of a path, its SHA-256; a text is one already. Raises OSError."""
        if isinstance(file, str):
            return file
        path = Path.cwd() / file
        stat = os.stat(path)
        seen = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if seen not in self._digests:
            digest, size = await asyncio.to_thread(files.digest_of, path)
            self._digests[seen] = digest
            self._files[digest] = (path, size)
        return self._digests[seen]

    async def bring(self, digest: str, node: Address) -> None:
        """The file is at that node afterwards; one that never was a path here is taken to be there."""
        if digest not in self._files:
            return
        key = node, digest
        task = self._brought.get(key)
        if task is None:
            task = self._brought[key] = asyncio.ensure_future(self._upload(digest, node))
            task.add_done_callback(lambda each: each.cancelled() or each.exception())  # all may have gone
        try:
            await asyncio.shield(task)
        except BaseException:
            if task.done() and self._brought.get(key) is task:
                del self._brought[key]
            raise

    async def using(self, digests: list[str], node: Address, submit: Callable[[], Awaitable[T]]) -> T:
        """Submits what needs these files at that node, and once more if the node no longer has them."""
        for is_last in (False, True):
            for digest in digests:
                await self.bring(digest, node)
            try:
                return await submit()
            except Refused:
                if is_last or not await self._forget_missing(digests, node):
                    raise
        raise AssertionError("the last turn returns or raises")

    async def _forget_missing(self, digests: list[str], node: Address) -> bool:
        """Whether one of them is not at that node, and could be brought there."""
        own = [digest for digest in digests if digest in self._files]
        if not own:
            return False
        async with await self._open(node) as talk:
            missing = [digest for digest in own if not (await talk.ask(f"has {digest}")).get("here")]
        for digest in missing:
            self._brought.pop((node, digest), None)
        return bool(missing)

    async def _upload(self, digest: str, node: Address) -> None:
        path, size = self._files[digest]
        async with await self._open(node) as talk:
            await files.upload(talk, path, digest, size)
