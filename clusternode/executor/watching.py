"""The output of jobs that run here, while somebody watches it: as a rule nobody does, and it costs nothing.

Watchers ask for what comes after the bytes that they have, and are answered when there is some. So a slow
one holds up nobody: what it does not ask for in time is gone for it, and the next answer begins later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from clusternode.core.events import CommandEnded
from protocol.limits import OUTPUT_LIMIT, PIECE_BYTES

Key = tuple[str, int]
#: Of each stream, what was written last is held for watchers.
WINDOW = OUTPUT_LIMIT
#: Seconds that an answer is held back for something to come; and that nobody asks before nobody watches.
HOLD = 10.0
IDLE = 20.0
#: Jobs watched at once here: each costs two windows.
WATCHED_LIMIT = 250


class Piece(NamedTuple):
    """Output of stream 1, stdout, or 2, stderr, that begins at byte `at`."""

    stream: int
    at: int
    data: bytes


class Seen(NamedTuple):
    """What a watcher is answered; `code`: the exit code, -1 for none, where `is_over`."""

    pieces: list[Piece]
    is_over: bool
    code: int
    reason: str


class _Stream:
    def __init__(self) -> None:
        self.base = 0
        self.data = bytearray()

    @property
    def end(self) -> int:
        return self.base + len(self.data)

    def add(self, at: int, data: bytes) -> None:
        if at != self.end:  # what lies between was not kept
            self.base = at
            self.data.clear()
        self.data += data
        if len(self.data) > WINDOW:
            cut = len(self.data) - WINDOW
            del self.data[:cut]
            self.base += cut

    def after(self, offset: int) -> tuple[int, bytes]:
        at = max(offset, self.base)
        return at, bytes(self.data[at - self.base : at - self.base + PIECE_BYTES])


class _Watched:
    def __init__(self) -> None:
        self.streams = {1: _Stream(), 2: _Stream()}
        self.news = asyncio.Event()
        self.ended: CommandEnded | None = None
        self.idle: asyncio.TimerHandle | None = None


class Watching:
    """All jobs here that somebody watches."""

    def __init__(self, tell: Callable[[str, Key], None]) -> None:
        """`tell("watch", key)` and `tell("unwatch", key)` go to whoever runs the job."""
        self._tell = tell
        self._watched: dict[Key, _Watched] = {}

    def has(self, key: Key) -> bool:
        return key in self._watched

    async def after(self, key: Key, offsets: tuple[int, int]) -> Seen | None:
        """What this job wrote after these bytes of stdout and stderr; empty after HOLD seconds without any.

        None where as many jobs are watched as may be.
        """
        watched = self._watched.get(key)
        if watched is None:
            if len(self._watched) >= WATCHED_LIMIT:
                return None
            watched = self._watched[key] = _Watched()
            self._tell("watch", key)
        self._set_idle(key, watched, HOLD + IDLE)
        pieces = self._pieces(watched, offsets)
        if not pieces and watched.ended is None:
            try:
                async with asyncio.timeout(HOLD):
                    await watched.news.wait()
            except TimeoutError:
                pass
            pieces = self._pieces(watched, offsets)
        self._set_idle(key, watched, IDLE)
        ended = watched.ended
        ends = {piece.stream: piece.at + len(piece.data) for piece in pieces}
        if ended is None or any(watched.streams[stream].end > end for stream, end in ends.items()):
            return Seen(pieces, False, -1, "")
        return Seen(pieces, True, -1 if ended.exit_code is None else ended.exit_code, ended.reason)

    def came(self, key: Key, stream: int, at: int, data: bytes) -> None:
        watched = self._watched.get(key)
        if watched is not None and stream in watched.streams:
            watched.streams[stream].add(at, data)
            self._wake(watched)

    def ended(self, news: CommandEnded) -> None:
        """All that it wrote has come before."""
        watched = self._watched.get((news.ticket, news.attempt))
        if watched is not None:
            watched.ended = news
            self._wake(watched)

    def _wake(self, watched: _Watched) -> None:
        news, watched.news = watched.news, asyncio.Event()
        news.set()

    def _pieces(self, watched: _Watched, offsets: tuple[int, int]) -> list[Piece]:
        found = [(n, *stream.after(offsets[n - 1])) for n, stream in watched.streams.items()]
        return [Piece(*each) for each in found if each[2]]

    def _set_idle(self, key: Key, watched: _Watched, seconds: float) -> None:
        if watched.idle is not None:
            watched.idle.cancel()
        watched.idle = asyncio.get_running_loop().call_later(seconds, self._forget, key)

    def _forget(self, key: Key) -> None:
        if self._watched.pop(key, None) is not None:
            self._tell("unwatch", key)

    def close(self) -> None:
        for watched in self._watched.values():
            if watched.idle is not None:
                watched.idle.cancel()
        self._watched.clear()
