"""Simulated nodes: they speak the real protocol with a real balancer, and run nothing.

Each is an origin, which submits jobs and takes their results, and an executor, which lets a job sit in a slot
for a while and reports it as done. All live in this process, on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.client import BenchError
from clusternode.tickets import new_tickets
from evenly.local import HOST
from protocol.job import Ended, Outcome, Report, Sleep
from protocol.limits import INFO_PERIOD
from protocol.messages import (
    AckJobs,
    AckResults,
    Answer,
    Cancel,
    Drop,
    Error,
    Held,
    Hello,
    Info,
    Job,
    JobItem,
    NotHere,
    Query,
    Recall,
    Refuse,
    RequestOfRes,
    ResReq,
    Result,
    Returned,
    Welcome,
    in_batches,
)
from runtime.connection import FrameConnection

#: Nodes that connect at once: fewer than a balancer takes as strangers.
CONNECTED_AT_ONCE = 32
#: Seconds for an answer, and for a welcome.
ANSWER_TIMEOUT = 10.0

BODY = Sleep(0).pack()


class Node:
    """One simulated node. `queue` and `running`: ticket to attempt, in order; `ended` is not reported yet."""

    def __init__(self, crowd: Crowd, name: str) -> None:
        self.name = name
        self.queue: dict[str, int] = {}
        self.running: dict[str, int] = {}
        self.ended: list[Held] = []
        self.welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connection = FrameConnection(self._on_message, self._on_lost)
        self._crowd = crowd
        self._answers: dict[int, asyncio.Future[str]] = {}
        self._asked = 0
        self._is_awake = False
        now = time.time()
        self._report = Report(node=name, started_at=now, finished_at=now).pack()

    async def connect(self, port: int) -> None:
        """Returns when the balancer has taken it."""
        await asyncio.get_running_loop().create_connection(lambda: self.connection, HOST, port)
        self.connection.send(Hello(self.name, f"{self.name}-1", self.name, self._crowd.slots))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self.welcomed
        except TimeoutError:
            raise BenchError(f"the balancer did not take {self.name} within {ANSWER_TIMEOUT:g} s") from None

    def submit(self, count: int) -> None:
        """Hands in `count` jobs, as their origin."""
        now = time.time()
        for tickets in in_batches(new_tickets(count)):
            self.connection.send(Job([JobItem(ticket, 0, now, BODY) for ticket in tickets]))
        self._crowd.submitted += count

    def wake(self) -> None:
        """Reports what has ended and starts what is next, soon: whatever comes until then is in the batch."""
        if not self._is_awake and self._crowd.is_open:
            self._is_awake = True
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        self._is_awake = False
        if not self._crowd.is_open:
            return
        duration = self._crowd.duration
        if not duration:  # a slot is free again at once
            self.ended += (Held(*job) for job in self.queue.items())
            self.queue.clear()
        for batch in in_batches(self.ended):
            results = [Ended(*job, Outcome.SUCCEEDED.value, self._report) for job in batch]
            self.connection.send(Result(results))
        self.ended.clear()
        while self.queue and len(self.running) < self._crowd.slots:
            ticket = next(iter(self.queue))
            self.running[ticket] = self.queue.pop(ticket)
            asyncio.get_running_loop().call_later(duration, self._end, ticket)

    def _end(self, ticket: str) -> None:
        self.ended.append(Held(ticket, self.running.pop(ticket)))
        self.wake()

    async def ask(self, what: str) -> str:
        """The balancer's answer to a QUERY: a JSON text."""
        self._asked += 1
        number = self._asked
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        self.connection.send(Query(number, what))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await future
        except TimeoutError:
            raise BenchError(f"the balancer gave no answer within {ANSWER_TIMEOUT:g} s") from None
        finally:
            del self._answers[number]

    def heartbeat(self) -> None:
        self.connection.send(
            Info(len(self.queue), len(self.running), self._crowd.slots - len(self.running), 0.0, 0)
        )

    def _on_message(self, message: Any) -> None:
        match message:
            case Job(jobs):
                self.queue.update((item.ticket, item.attempt) for item in jobs)
                self.wake()
            case Result(results) | ResReq(results, _):
                self.connection.send(AckResults([Held(ended.ticket, ended.attempt) for ended in results]))
                self._crowd.on_results(self, len(results))
            case AckJobs(tickets):
                self._crowd.accepted += len(tickets)
            case Recall(jobs):
                self._give_back(jobs)
            case Drop(jobs) | Cancel(jobs):
                self._crowd.fail(f"the balancer ends {len(jobs)} jobs of {self.name} that nobody cancelled")
            case Answer(number, text):
                answer = self._answers.get(number)
                if answer is not None and not answer.done():  # else nobody waits for it any more
                    answer.set_result(text)
            case Welcome():
                self.welcomed.set_result(None)
            case Refuse(_, reason) | Error(_, reason):
                self._crowd.fail(f"the balancer refused {self.name}: {reason}")
            case Info() | AckResults():
                pass
        if isinstance(message, RequestOfRes | ResReq):
            self.connection.send(NotHere(()))  # it holds all that it was given, or has sent the result

    def _give_back(self, jobs: Sequence[Held]) -> None:
        """Those of these that have not started."""
        returned = [job for job in jobs if self.queue.get(job.ticket) == job.attempt]
        for job in returned:
            del self.queue[job.ticket]
        self.connection.send(Returned(returned))

    def _on_lost(self, reason: str) -> None:
        if not self._crowd.is_closing:
            self._crowd.fail(f"the link of {self.name} ended: {reason}")


class Crowd:
    """All simulated nodes of one balancer, as an asynchronous context manager.

    Each has `slots`, in which a job sits for `duration` seconds. With `refill` each result that comes home is
    followed by a new job of the same origin, so that as many jobs as were submitted stay there.
    """

    def __init__(
        self, port: int, nodes: int, *, slots: int = 1, duration: float = 0.0, refill: bool = False
    ) -> None:
        self.slots = slots
        self.duration = duration
        self.is_open = True
        self.is_closing = False
        #: Jobs handed in, acknowledged by the balancer, and come home as results.
        self.submitted = self.accepted = self.done = 0
        self._port = port
        self._refill = refill
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refills: dict[Node, int] = {}
        self._heart: asyncio.Task[None] | None = None
        self.nodes = [Node(self, f"simulated-{number}") for number in range(1, nodes + 1)]

    async def __aenter__(self) -> Crowd:
        for start in range(0, len(self.nodes), CONNECTED_AT_ONCE):
            part = self.nodes[start : start + CONNECTED_AT_ONCE]
            await self.unless_failed(asyncio.gather(*(node.connect(self._port) for node in part)))
        self._heart = asyncio.ensure_future(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_closing = True
        if self._heart is not None:
            self._heart.cancel()
        for node in self.nodes:
            node.connection.abort("the benchmark is over")
        await asyncio.sleep(0)
        if self._failure.done():
            self._failure.exception()  # seen, or on its way with another one

    async def unless_failed(self, work: asyncio.Future[Any]) -> Any:
        """The result of `work`. Raises BenchError as soon as a node loses its link."""
        await asyncio.wait({work, self._failure}, return_when=asyncio.FIRST_COMPLETED)
        if self._failure.done():
            work.cancel()
            self._failure.result()
        return work.result()

    async def pause(self, seconds: float) -> None:
        """Lets all go on for so long. Raises BenchError as soon as a node loses its link."""
        await self.unless_failed(asyncio.ensure_future(asyncio.sleep(seconds)))

    def hold(self) -> None:
        """From here on nothing ends, and nothing starts."""
        self.is_open = False

    def release(self) -> None:
        """Everything goes on."""
        self.is_open = True
        for node in self.nodes:
            node.wake()

    def fail(self, what: str) -> None:
        if not self._failure.done():
            self._failure.set_exception(BenchError(what))

    # --- what the nodes say ----------------------------------------------------------------------

    def on_results(self, node: Node, count: int) -> None:
        self.done += count
        if self._refill:
            if not self._refills:
                asyncio.get_running_loop().call_soon(self._submit_again)
            self._refills[node] = self._refills.get(node, 0) + count

    # --- inside ----------------------------------------------------------------------------------

    def _submit_again(self) -> None:
        refills, self._refills = self._refills, {}
        for node, count in refills.items():
            node.submit(count)

    async def _beat(self) -> None:
        while True:
            for node in self.nodes:
                node.heartbeat()
            await asyncio.sleep(INFO_PERIOD)
