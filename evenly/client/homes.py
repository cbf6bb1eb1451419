"""Which node answers for a job."""

from __future__ import annotations

import asyncio
import logging

from evenly.client.connections import Connections
from evenly.client.errors import NodesUnreachable, UnknownTicket
from evenly.client.lane import object_of
from evenly.client.lines import ticket_of
from evenly.client.model import Address, Job

#: Of what takes its time.
log = logging.getLogger("evenly.client")
#: Tickets whose node was looked for and is remembered.
HOMES = 10_000


class Homes:
    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._found: dict[str, Address] = {}
        #: Of which it was last said that it takes its time.
        self._told = ""

    async def of(self, job: Job | str) -> Address:
        """The node that answers for it.

        Raises:
            UnknownTicket: if none of the nodes does.
            NodesUnreachable: if one that could not be asked might.
        """
        ticket, nodes = ticket_of(job), self._connections.nodes
        node, name = (job.node, job.node_name) if isinstance(job, Job) else ("", "")
        if node and (node in self._connections.reached or node not in nodes or len(nodes) == 1):
            return node
        if len(nodes) == 1 and not name:
            return nodes[0]
        if ticket not in self._found:
            try:
                home = await self._look_for(ticket)
            except UnknownTicket:
                if not name:
                    raise
                said = f"{ticket} is a ticket of node {name}, which is not among these nodes"
                raise UnknownTicket(ticket, said) from None
            while len(self._found) >= HOMES:
                del self._found[next(iter(self._found))]
            self._found[ticket] = home
        return self._found[ticket]

    async def _look_for(self, ticket: str) -> Address:
        nodes, reached = self._connections.nodes, self._connections.reached
        home, away = await self._ask(ticket, nodes)
        unknown = [node for node in away if node not in reached]
        if home is None and unknown and len(away) < len(nodes):
            # The cluster is there and does not know it: a node of it may be about to come back.
            if ticket != self._told:
                names, patience = ", ".join(unknown), self._connections.patience
                said = "no node that answers knows %s; trying %s for up to %g s"
                log.warning(said, ticket, names, patience)
                self._told = ticket
            lanes = [self._connections.watcher(node).lane for node in unknown]
            for lane in lanes:
                lane.expected_by += 1
            try:
                home, again = await self._ask(ticket, unknown)
            finally:
                for lane in lanes:
                    lane.expected_by -= 1
            away = {node: why for node, why in away.items() if node not in unknown} | again
        if home is not None:
            return home
        if away:
            others = "; ".join(away.values())
            raise NodesUnreachable(f"no node that answers knows {ticket}, and not all do: {others}")
        raise UnknownTicket(ticket)

    async def _ask(self, ticket: str, nodes: list[Address]) -> tuple[Address | None, dict[Address, str]]:
        """(the one that knows it, why which of the others could not be asked)."""
        away: dict[Address, str] = {}

        async def ask(node: Address) -> Address | None:
            try:
                await self._connections.watcher(node).lane.ask(f"status {ticket}".encode(), object_of)
            except UnknownTicket:
                return None
            except NodesUnreachable as error:
                away[node] = str(error)
                return None
            return node

        tasks = [asyncio.ensure_future(ask(node)) for node in nodes]
        try:
            for task in asyncio.as_completed(tasks):
                if (home := await task) is not None:
                    return home, away
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return None, away
