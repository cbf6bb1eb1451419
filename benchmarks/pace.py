"""A client that submits jobs of 0 ms at a pace, however long each takes."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue

from benchmarks.client import TIMEOUT, submit_all, ticket_of
from evenly._lines import LineClient

#: Seconds between two batches.
TICK = 0.01
#: Jobs that may be under way; above it the pace is lost, and the rate says so.
MOST_UNDER_WAY = 10_000


class _Waiter:
    """Waits for the last ticket of each batch, on a connection of its own."""

    def __init__(self, port: int) -> None:
        self.done = 0
        self.failure: BaseException | None = None
        self._port = port
        self._batches: SimpleQueue[tuple[str, int] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, ticket: str, count: int) -> None:
        self._batches.put((ticket, count))

    def end(self) -> None:
        """Returns when all batches are done. Raises what went wrong."""
        self._batches.put(None)
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            with LineClient(self._port, timeout=TIMEOUT) as client:
                while (batch := self._batches.get()) is not None:
                    client.ask(f"wait {batch[0]}")
                    self.done += batch[1]
        except OSError as error:
            self.failure = error


def pace(port: int, rate: int, count: int) -> float:
    """Submits `count` jobs at `rate` a second to the node there; done jobs a second."""
    sent = 0
    waiter = _Waiter(port)
    with LineClient(port, timeout=TIMEOUT) as client:
        ticket_of(client.ask("0"))
        began = time.perf_counter()
        while sent < count and waiter.failure is None:
            due = min(count, int((time.perf_counter() - began) * rate)) - sent
            due = min(due, MOST_UNDER_WAY - (sent - waiter.done))
            if due > 0:
                tickets = submit_all(client, "0", due)
                waiter.add(tickets[-1], due)
                sent += due
            time.sleep(TICK)
        waiter.end()
        return sent / (time.perf_counter() - began)
