"""All connections of one client: each made when it is needed, and all closed together."""

from __future__ import annotations

import asyncio
import weakref

from evenly.client.errors import ClientClosed
from evenly.client.lane import Lane
from evenly.client.model import Address
from evenly.client.talk import Talk
from evenly.client.watch import Watcher


class Connections:
    """`timeout`, `patience`: as AsyncClient has them. After `close` all methods raise ClientClosed."""

    def __init__(self, nodes: list[Address], timeout: float, patience: float) -> None:
        self.nodes = nodes
        self.timeout = timeout
        self.patience = patience
        #: Those that were there once: they are waited for while they are away.
        self.reached: set[Address] = set()
        self.is_closed = False
        self._general: Lane | None = None
        self._direct: dict[Address, Lane] = {}
        self._watchers: dict[Address, Watcher] = {}
        self._waiting: set[Lane] = set()
        self._opening: set[asyncio.Task[Talk]] = set()
        self._talks: weakref.WeakSet[Talk] = weakref.WeakSet()

    async def close(self) -> None:
        """Who waits for any of them gets ClientClosed."""
        self.is_closed = True
        for opening in self._opening:
            opening.cancel()
        for talk in list(self._talks):
            talk.abort()
        general = [self._general] if self._general else []
        watching = [watcher.lane for watcher in self._watchers.values()]
        for lane in [*general, *self._direct.values(), *watching, *self._waiting]:
            await lane.close()
        for watcher in self._watchers.values():
            watcher.failed(ClientClosed("the client was closed before the job had ended"))

    def check(self) -> None:
        if self.is_closed:
            raise ClientClosed("the client is closed")

    @property
    def lane(self) -> Lane:
        """To whichever node answers."""
        self.check()
        if self._general is None:
            self._general = self._lane(self.nodes, self.timeout, self.patience)
        return self._general

    def lane_to(self, node: Address) -> Lane:
        """For what another node could do as well: it gives up sooner."""
        self.check()
        if node not in self._direct:
            self._direct[node] = self._lane([node], self.timeout, min(self.timeout, self.patience))
        return self._direct[node]

    def watcher(self, node: Address) -> Watcher:
        """For questions about jobs of that node."""
        self.check()
        if node not in self._watchers:
            self._watchers[node] = Watcher(
                node, timeout=self.timeout, patience=self.patience, reached=self.reached
            )
        return self._watchers[node]

    def waiting_lane(self, node: Address) -> Lane:
        """One more, whose replies may take for ever; who asked for it drops it."""
        self.check()
        lane = self._lane([node], None, self.patience)
        self._waiting.add(lane)
        return lane

    async def drop(self, lane: Lane) -> None:
        self._waiting.discard(lane)
        await lane.close()

    async def talk(self, node: Address) -> Talk:
        """One of its own. Raises ConnectionLost."""
        self.check()
        opening = asyncio.ensure_future(Talk.open(node, self.timeout))
        self._opening.add(opening)
        try:
            talk = await opening
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            self._opening.discard(opening)
        if self.is_closed:
            await talk.close()
            self.check()
        self._talks.add(talk)
        self.reached.add(node)
        return talk

    def patience_with(self, node: Address) -> float:
        """A node that never was there is not waited for."""
        self.check()
        return self.patience if node in self.reached else 0.0

    def in_turn(self) -> list[Address]:
        """All nodes, the one that answers first."""
        at = self.nodes.index(self.lane.node)
        return self.nodes[at:] + self.nodes[:at]

    def _lane(self, nodes: list[Address], timeout: float | None, patience: float) -> Lane:
        return Lane(nodes, timeout=timeout, patience=patience, reached=self.reached)
