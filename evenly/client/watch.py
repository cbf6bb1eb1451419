"""Which jobs of one node have ended: one subscription for all that are waited for.

`wait` would hold back all replies behind it until that one job has ended. So each job is asked for once,
after the subscription, and then a line comes when it ends. What may have been missed is asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from evenly.client.errors import EvenlyError
from evenly.client.lane import Lane, Question
from evenly.client.model import Address

#: Seconds that a subscription outlives the last job that was waited for.
LINGER = 1.0
DONE = b'{"done":{"ticket":"'
TICKET = slice(len(DONE), len(DONE) + 16)
IS_DONE = b'"state":"done"'


class Watcher:
    """For one node; `lane` is its connection, which takes questions as well."""

    def __init__(self, node: Address, *, timeout: float, patience: float, reached: set[Address]) -> None:
        self.lane = Lane([node], timeout=timeout, patience=patience, reached=reached, listener=self)
        self._watched: dict[str, list[asyncio.Future[None]]] = {}
        self._is_subscribed = False
        self._was_connected = False

    def watch(self, ticket: str) -> asyncio.Future[None]:
        """Done once the job is known to have ended: after this call, so it has to be asked for as well."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watched.setdefault(ticket, []).append(future)
        if not self._is_subscribed:
            self._is_subscribed = True
            self.lane.ask(b"subscribe *", _nothing, is_once=True)
        return future

    def unwatch(self, ticket: str, future: asyncio.Future[None]) -> None:
        future.cancel()
        futures = self._watched.get(ticket, [])
        if future in futures:
            futures.remove(future)
            if not futures:
                del self._watched[ticket]
        if not self._watched:
            asyncio.get_running_loop().call_later(LINGER, self._unsubscribe)

    def _unsubscribe(self) -> None:
        if self._is_subscribed and not self._watched:
            self._is_subscribed = False
            self.lane.ask(b"unsubscribe", _nothing, is_once=True)

    # --- the lane's listener -----------------------------------------------------------------------

    @property
    def is_needed(self) -> bool:
        return bool(self._watched)

    def greeting(self) -> Iterable[Question[Any]]:
        if not self._was_connected:  # all of it is on its way already
            self._was_connected = True
            return
        self._is_subscribed = bool(self._watched)
        if self._watched:
            yield Question(b"subscribe *", _nothing, asyncio.get_running_loop().create_future(), is_once=True)
            for ticket in self._watched:
                yield Question(
                    b"result " + ticket.encode(),
                    self._looked(ticket),
                    asyncio.get_running_loop().create_future(),
                    is_once=True,
                )

    def news(self, line: bytes) -> None:
        if line.startswith(DONE):
            self._ended(line[TICKET].decode("ascii", "replace"))
            return
        # Some lines were left out: any of these may have ended.
        for ticket in list(self._watched):
            question = b"result " + ticket.encode()
            self.lane.ask(question, self._looked(ticket), is_once=True)

    def failed(self, error: EvenlyError) -> None:
        self._is_subscribed = False
        watched, self._watched = self._watched, {}
        for futures in watched.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # read, as whoever waits may have gone

    def _looked(self, ticket: str) -> Any:
        def answer(reply: bytes, node: Address) -> None:
            # An error, too, is what the one who waits shall read.
            if IS_DONE in reply[:200] or reply.startswith(b'{"error"'):
                self._ended(ticket)

        return answer

    def _ended(self, ticket: str) -> None:
        for future in self._watched.pop(ticket, ()):
            if not future.done():
                future.set_result(None)


def _nothing(reply: bytes, node: Address) -> None:
    """Of a reply that says no more than that it was done."""
