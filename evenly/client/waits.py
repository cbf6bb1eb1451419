"""Results of jobs: of one, of many in the order of the jobs, or whichever has ended first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from evenly.client.deadline import Deadline
from evenly.client.errors import JobTimeout
from evenly.client.feed import each_of, fed
from evenly.client.lines import result_from, result_if_done, result_line, ticket_of
from evenly.client.model import Address, Job, Result
from evenly.client.watch import Watcher

if TYPE_CHECKING:
    from evenly.client.aio import AsyncClient

#: Jobs that are waited for at once in `in_order`.
AHEAD = 10_000
#: Bytes of results that nobody has taken yet: above the one the node is left unread, below the other not.
HELD_HIGH, HELD_LOW = 8 * 1024 * 1024, 4 * 1024 * 1024
#: Results that are fetched at once.
BATCH = 200


async def one(client: AsyncClient, job: Job | str, timeout: float | None) -> Result:
    deadline = Deadline(timeout)
    try:
        async with deadline.limit():
            return await _end_of(client, job)
    except TimeoutError:
        ticket = ticket_of(job)
        said = f"{ticket} has not ended within {deadline.seconds:g} s; it goes on"
        return await _last_look(client, job, deadline, said)


async def _end_of(client: AsyncClient, job: Job | str) -> Result:
    ticket, watcher = ticket_of(job), client.connections.watcher(await client.home(job))
    ended = watcher.watch(ticket)
    try:
        result = await watcher.lane.ask(result_line(ticket), result_if_done)
        while result is None:
            await ended
            result = await watcher.lane.ask(result_line(ticket), result_if_done)
        return result
    finally:
        watcher.unwatch(ticket, ended)


async def _last_look(client: AsyncClient, job: Job | str, deadline: Deadline, said: str) -> Result:
    """What is known of it when time is over. Raises JobTimeout with these words where it has not ended."""
    ticket = ticket_of(job)
    result = await deadline.answer(ticket, client.result(job))
    if result is None:
        raise JobTimeout(ticket, said)
    return result


class Waits:
    """`wait` after `wait` over a connection of its own, to one node: its replies come in their order."""

    def __init__(self, client: AsyncClient, node: Address) -> None:
        self._connections = client.connections
        self._lane = self._connections.waiting_lane(node)
        self._held = 0
        self._is_paused = False

    def wait(self, ticket: str) -> asyncio.Future[tuple[Result, int]]:
        return self._lane.ask(f"wait {ticket}".encode(), self._answer)

    def _answer(self, reply: bytes, node: Address) -> tuple[Result, int]:
        self._held += len(reply)
        if self._held > HELD_HIGH and not self._is_paused:
            self._is_paused = True
            self._lane.pause()
        return result_from(reply, node), len(reply)

    async def take(self, future: asyncio.Future[tuple[Result, int]]) -> Result:
        # It is the first of its node that was not taken: what is left unread is behind it.
        result, size = await future
        self._held -= size
        if self._is_paused and self._held < HELD_LOW:
            self._is_paused = False
            self._lane.resume()
        return result

    async def close(self) -> None:
        await self._connections.drop(self._lane)


async def in_order(
    client: AsyncClient, jobs: Iterable[Job | str] | AsyncIterable[Job | str], timeout: float | None
) -> AsyncIterator[Result]:
    waits: dict[Address, Waits] = {}
    deadline = Deadline(timeout)

    async def asked() -> AsyncIterator[tuple[Job | str, Waits, asyncio.Future[tuple[Result, int]]]]:
        async for job in each_of(jobs):
            ticket = ticket_of(job)
            node = await deadline.answer(ticket, client.home(job))
            if node not in waits:
                waits[node] = Waits(client, node)
            yield job, waits[node], waits[node].wait(ticket)

    try:
        async for job, lane, future in fed(asked(), AHEAD, client.keep):
            if future.done() or deadline.at is None:
                yield await lane.take(future)
                continue
            try:
                async with deadline.limit():
                    result = await lane.take(future)
            except TimeoutError:
                said = (
                    f"not all have ended within {deadline.seconds:g} s: the first that has not is"
                    f" {ticket_of(job)}; they go on"
                )
                result = await _last_look(client, job, deadline, said)
            yield result
    finally:
        for each in waits.values():
            await each.close()


class _Group:
    """Jobs that are waited for together; `ready` has those that ended."""

    def __init__(self) -> None:
        self.ready: asyncio.Queue[tuple[str, Watcher]] = asyncio.Queue()
        self.open: dict[str, tuple[Watcher, asyncio.Future[None]]] = {}

    def add(self, ticket: str, watcher: Watcher) -> None:
        if ticket in self.open:
            return
        ended = watcher.watch(ticket)
        self.open[ticket] = watcher, ended
        ended.add_done_callback(lambda _: self.ready.put_nowait((ticket, watcher)))

    def drop(self, ticket: str) -> None:
        watcher, ended = self.open.pop(ticket)
        watcher.unwatch(ticket, ended)

    def close(self) -> None:
        for ticket in list(self.open):
            self.drop(ticket)


async def as_completed(
    client: AsyncClient, jobs: Iterable[Job | str], timeout: float | None
) -> AsyncIterator[Result]:
    deadline, group, given = Deadline(timeout), _Group(), iter(jobs)
    try:
        # Each is asked for once after it is watched; most results are there already where there are many.
        while batch := list(islice(given, BATCH)):
            homes: dict[str, Watcher] = {}
            for job in batch:
                ticket = ticket_of(job)
                home = await deadline.answer(ticket, client.home(job))
                homes[ticket] = client.connections.watcher(home)
                group.add(ticket, homes[ticket])
            for result in await _results(homes, deadline):
                if result.ticket in group.open:
                    group.drop(result.ticket)
                    yield result
        while group.open:
            ended = dict([await _next(group, deadline)])
            while len(ended) < BATCH and not group.ready.empty():
                ended.update([group.ready.get_nowait()])
            for ticket in ended.keys() & group.open.keys():
                if (future := group.open[ticket][1]).done() and not future.cancelled():
                    future.result()  # raises where its node has stayed away as long as it is waited for
            still = {ticket: watcher for ticket, watcher in ended.items() if ticket in group.open}
            for result in await _results(still, deadline):
                group.drop(result.ticket)
                yield result
    finally:
        group.close()


async def _next(group: _Group, deadline: Deadline) -> tuple[str, Watcher]:
    try:
        async with deadline.limit():
            return await group.ready.get()
    except TimeoutError:
        ticket, more = next(iter(group.open)), len(group.open) - 1
        others = f" and {more} more" if more else ""
        said = f"{ticket}{others}: not ended within {deadline.seconds:g} s; they go on"
        raise JobTimeout(ticket, said) from None


async def _results(tickets: dict[str, Watcher], deadline: Deadline) -> list[Result]:
    """Of those that have ended."""
    if not tickets:
        return []
    asked = [watcher.lane.ask(result_line(ticket), result_if_done) for ticket, watcher in tickets.items()]
    answers = await deadline.answer(next(iter(tickets)), asyncio.gather(*asked))
    return [result for result in answers if result is not None]
