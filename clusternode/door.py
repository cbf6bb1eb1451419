"""All clients of a node, and what each of them may reach in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from clusternode.clients import Client, News
from clusternode.core.events import ClientGone, Event
from clusternode.desk import Desk
from clusternode.store.sqlite import SqliteStore
from protocol.limits import CLIENTS_LIMIT
from protocol.replies import Reply


class Door:
    """All clients of this node."""

    def __init__(
        self,
        submit: Callable[[Event], None],
        store: SqliteStore,
        background: Callable[[Awaitable[None]], asyncio.Task[None]],
        desk: Desk,
    ) -> None:
        self.desk = desk
        self.submit = submit
        self.store = store
        self.background = background
        self._clients: dict[int, Client] = {}
        self._next_number = 1
        #: The node is about to stop: submissions are refused, questions are answered.
        self.draining = False
        #: The disk is far behind: no client is read until it has caught up.
        self.congested = False

    def connect(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        client = Client(self, self._next_number)
        self._next_number += 1
        return client

    def admit(self, client: Client) -> bool:
        if len(self._clients) >= CLIENTS_LIMIT:
            return False
        self._clients[client.number] = client
        return True

    def leave(self, client: Client) -> None:
        if self._clients.pop(client.number, None) is not None:
            self.submit(ClientGone(client.number))

    def get(self, number: int) -> Client | None:
        return self._clients.get(number)

    def tell(self, clients: Iterable[int], reply: Reply) -> None:
        """A line for those of them that are there."""
        news = News(reply)
        for number in clients:
            client = self._clients.get(number)
            if client is not None:
                client.tell(news)

    def pause(self) -> None:
        self._set_congested(True)

    def resume(self) -> None:
        self._set_congested(False)

    def _set_congested(self, congested: bool) -> None:
        self.congested = congested
        for client in self._clients.values():
            client.go_on()

    def close(self) -> None:
        """The node stops: connections end, what was answered is written."""
        for client in list(self._clients.values()):
            client.close()
