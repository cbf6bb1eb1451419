"""A client as the benchmarks use it: many jobs at once, or one after the other, always up to the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from evenly._lines import LineClient
from evenly.local import LocalCluster

#: Seconds until a reply that does not come ends the benchmark.
TIMEOUT = 300.0
#: Jobs that a fresh cluster does before it is measured: all helpers are up then.
WARM_UP = 20
TICKET, DONE = "Ticket ID: ", ("Result: succeeded", "Result: Executed")


class BenchError(Exception):
    """What was measured did not do its work; the text says what went wrong."""


@contextmanager
def usual_cluster() -> Iterator[LocalCluster]:
    """A balancer and two nodes of one slot each, warmed up."""
    with LocalCluster(2, slots=1) as cluster, connect(cluster) as client:
        run_all(client, "run true", WARM_UP)
        yield cluster


def connect(cluster: LocalCluster, name: str = "n1") -> LineClient:
    return LineClient(cluster[name].port, timeout=TIMEOUT)


def submit_all(client: LineClient, line: str, count: int) -> list[str]:
    """The tickets of `count` such jobs."""
    return [ticket_of(reply) for reply in client.exchange([line] * count)]


def run_all(client: LineClient, line: str, count: int) -> float:
    """Seconds from the first line of `count` such jobs to the last result."""
    began = time.perf_counter()
    tickets = submit_all(client, line, count)
    results = client.exchange([f"wait {ticket}" for ticket in tickets])
    took = time.perf_counter() - began
    wrong = [reply for reply in results if not reply.startswith(DONE)]
    if wrong:
        raise BenchError(f"{len(wrong)} of {count} jobs went wrong, the first: {wrong[0][:200]}")
    return took


def latency(client: LineClient, line: str) -> float:
    """Seconds of one such job, submit to result."""
    began = time.perf_counter()
    reply = client.ask(f"wait {ticket_of(client.ask(line))}")
    took = time.perf_counter() - began
    if not reply.startswith(DONE):
        raise BenchError(f"a job went wrong: {reply[:200]}")
    return took


def latencies(client: LineClient, line: str, count: int) -> list[float]:
    """Seconds of each of `count` such jobs, one after the other; sorted."""
    return sorted(latency(client, line) for _ in range(count))


def latencies_while(client: LineClient, line: str, goes_on: Callable[[], bool]) -> list[float]:
    """The same, as long as something else goes on; at least one."""
    times = [latency(client, line)]
    while goes_on():
        times.append(latency(client, line))
    return sorted(times)


def percentile(times: list[float], of: float) -> float:
    """Of sorted times."""
    return times[min(len(times) - 1, int(len(times) * of))]


def ticket_of(reply: str) -> str:
    if not reply.startswith(TICKET):
        raise BenchError(f"no ticket but {reply[:200]!r}")
    return reply[len(TICKET) :]
