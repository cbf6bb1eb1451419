"""How the jobs of a run end: for each node that has given tickets, one subscription to all that ends there.

Nothing is asked for a job that succeeds. What the lines do not tell (jobs that ended while there was no
connection, lines that were left out, why a job failed) is asked for, ticket by ticket.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from evenly.client.errors import EvenlyError, NodesUnreachable, UnknownTicket
from evenly.client.lane import Lane, Question, object_of
from evenly.client.model import Address
from evenly.words import printable
from evenly.workload.books import Books
from evenly.workload.state import SUCCEEDED, UNKNOWN, End, Open

#: Tickets that are asked for at once: a page of the state, and of these so many on the wire, as each reply
#: may have two outputs of a MiB.
PAGE, AT_ONCE = 1000, 50
#: Seconds without a line after which it is worth while to ask.
QUIET = 1.0
#: Seconds between two rounds of questions for all open jobs while lines still come; between two of questions
#: for the oldest ones while none do.
SWEEP_PERIOD, LOOK_PERIOD = 30.0, 10.0
#: Seconds until a node that is away is tried again, after the lane has given up.
RETRY = 2.0
#: Characters of a job's last line of stderr.
HINT = 200
DONE = b'{"done":'


class Station:
    """One node, as the origin of tickets."""

    def __init__(
        self,
        address: Address,
        origin: int,
        books: Books,
        reached: set[Address],
        told: Callable[[str], None],
        *,
        timeout: float,
        patience: float,
    ) -> None:
        """`told` takes a line for the user."""
        self.address = address
        self.origin = origin
        self._books = books
        self._told = told
        self._loop = asyncio.get_running_loop()
        self.lane = Lane([address], timeout=timeout, patience=patience, reached=reached, listener=self)
        self._is_subscribed = asyncio.Event()
        self._is_away = False
        self._is_behind = False
        #: The first open job of which neither the node is known nor this one knows the ticket.
        self.stray: Open | None = None
        self._heard_at = self._swept_at = self._loop.time()
        self._work = self._loop.create_task(self._sweep_for_ever())

    async def ready(self) -> None:
        """Returns once it tells of what ends. Waits for as long as the node is away."""
        self.lane.connect()
        await self._is_subscribed.wait()

    def look(self) -> None:
        """Some of its open jobs may have ended unheard."""
        self._is_behind = True

    def check(self) -> None:
        """Raises what went wrong here."""
        if self._work.done():
            self._work.result()

    async def close(self) -> None:
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)
        await self.lane.close()

    # --- the lane's listener ---------------------------------------------------------------------

    @property
    def is_needed(self) -> bool:
        return True

    def greeting(self) -> Iterable[Question[Any]]:
        if self._is_away:
            self._is_away = False
            self._told(f"{self.address} is back")
        future: asyncio.Future[None] = self._loop.create_future()
        yield Question(b"subscribe *", self._subscribed, future, is_once=True)

    def news(self, line: bytes) -> None:
        self._heard_at = self._loop.time()
        if line.startswith(DONE):
            self._books.end(end_of_line(line))
        else:
            self._is_behind = True

    def failed(self, error: EvenlyError) -> None:
        if not self._is_away:
            self._is_away = True
            self._told(f"{error}; its jobs are waited for")
        self._loop.call_later(RETRY, self.lane.connect)

    def _subscribed(self, reply: bytes, node: Address) -> None:
        object_of(reply, node)
        self._is_subscribed.set()
        self._is_behind = self._is_behind or self._books.open > 0

    # --- questions -------------------------------------------------------------------------------

    async def _sweep_for_ever(self) -> None:
        await self._is_subscribed.wait()
        while True:
            await asyncio.sleep(QUIET / 4)
            now = self._loop.time()
            quiet = now - max(self._heard_at, self._swept_at)
            is_due = now - self._swept_at > SWEEP_PERIOD
            try:
                if self._is_behind and (quiet > QUIET or is_due):
                    self._is_behind = False
                    await self._sweep()
                elif quiet > LOOK_PERIOD and self._books.open:
                    self.stray = None
                    await self._ask(self._books.state.open_jobs(self.origin, UNKNOWN, PAGE))
                else:
                    continue
            except NodesUnreachable:
                self._is_behind = True
            self._swept_at = self._loop.time()

    async def _sweep(self) -> None:
        """Asks for all open jobs."""
        self._books.write()
        after, self.stray = UNKNOWN, None
        while page := self._books.state.open_jobs(self.origin, after, PAGE):
            await self._ask(page)
            after = page[-1].number

    async def _ask(self, jobs: list[Open]) -> None:
        for start in range(0, len(jobs), AT_ONCE):
            some = jobs[start : start + AT_ONCE]
            for job, said in zip(some, await self._results(some), strict=True):
                self._take(job, said)
        self._books.write()

    def _take(self, job: Open, said: dict[str, Any] | EvenlyError) -> None:
        if isinstance(said, UnknownTicket):
            # Where its origin is not known, another node may answer for it.
            if job.origin == self.origin:
                self._books.end(End(job.ticket, "lost", "its node does not know the ticket any more"))
            else:
                self.stray = self.stray or job
            return
        if isinstance(said, EvenlyError):
            raise said
        if job.origin == UNKNOWN:
            self._books.state.found(job.number, self.origin)
        if said["state"] == "done":
            self._books.end(end_of_result(said))

    async def explain(self) -> None:
        """Asks why jobs have failed. Raises NodesUnreachable."""
        after = UNKNOWN
        while page := self._books.state.unexplained(self.origin, after, PAGE):
            after = page[-1].number
            for start in range(0, len(page), AT_ONCE):
                some = page[start : start + AT_ONCE]
                reasons = []
                for job, said in zip(some, await self._results(some), strict=True):
                    if isinstance(said, NodesUnreachable):
                        raise said
                    if isinstance(said, dict):
                        end = end_of_result(said)
                        reasons.append((job.number, end.reason or "", end.hint or ""))
                self._books.state.explain(reasons)

    async def _results(self, jobs: list[Open]) -> list[dict[str, Any] | EvenlyError]:
        asked = [self.lane.ask(f"result {job.ticket}".encode(), object_of) for job in jobs]
        results = await asyncio.gather(*asked, return_exceptions=True)
        found: list[dict[str, Any] | EvenlyError] = []
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, EvenlyError):
                raise result
            found.append(result)
        return found


def end_of_line(line: bytes) -> End:
    """What a line says of a job that has ended: all but why it failed."""
    said = json.loads(line)["done"]
    return End(
        said["ticket"],
        said["outcome"],
        None,
        None,
        said.get("node"),
        said.get("submitted_at"),
        said.get("started_at"),
        said.get("finished_at"),
    )


def _in_words(text: str) -> str:
    return " ".join(printable(text).split())


def end_of_result(said: dict[str, Any]) -> End:
    """Of the object of `result` of a job that is done."""
    reason = hint = ""
    if said["outcome"] != SUCCEEDED:
        code, words = said.get("exit_code"), said.get("reason")
        parts = [f"exit code {code}"] if code is not None else []
        parts += [words] if words else []
        reason = _in_words(", ".join(parts))
        lines = (said.get("stderr") or "").strip().splitlines()
        hint = _in_words(lines[-1])[:HINT] if lines else ""
    return End(
        said["ticket"],
        said["outcome"],
        reason,
        hint,
        said.get("node"),
        said.get("submitted_at"),
        said.get("started_at"),
        said.get("finished_at"),
    )
