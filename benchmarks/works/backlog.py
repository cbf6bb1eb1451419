"""E: as many queued jobs as there may ever be: their memory, the rate beside them, a restart with them.

Two balancers, each with two simulated nodes, one with a backlog of 1,000 jobs and one with all of them. The
nodes take turns to work, so that a slow minute of the machine hits both; each result is followed by a new
job, so that the backlogs keep their sizes.
"""

from __future__ import annotations

import asyncio
import time

import uvloop

from benchmarks.beside import bare_bytes
from benchmarks.figures import Aim, Measure, Sample
from benchmarks.machine import resident_bytes
from benchmarks.simulated import BODY, Crowd
from benchmarks.work import Work
from clusternode.tickets import new_tickets
from evenly.local import LocalCluster

#: Queued at the balancer that the other one is compared with.
FEW = 1_000
NODES = 2
#: Jobs that were handed in and not acknowledged, at most, while the backlog is filled.
UNDER_WAY = 4_000
#: Turns of each, and their length in seconds; before and after it nothing is counted for a while.
TURNS, TURN, RUN_UP = 3, 1.5, 0.25
LOOK_PERIOD = 0.01
#: Seconds after which a restart is given up: far above its aim, so that a miss is measured too.
RESTART_TIMEOUT = 120.0

MEASURES = (
    Measure(
        "E.memory",
        "queued jobs: balancer's memory",
        "bytes a job",
        beside="a dictionary of tickets and bodies",
        aim=Aim(700),
        is_compared=True,
    ),
    Measure(
        "E.rate",
        "queued jobs: dispatched and done",
        "a second",
        beside=f"with {FEW:,} queued",
        more_is_better=True,
        aim=Aim(0.9, of_ratio=True),
        is_compared=True,
    ),
    Measure("E.restart", "queued jobs: balancer ready after kill -9", "s", f"with {FEW:,}", aim=Aim(10)),
)


async def fill(crowd: Crowd, count: int) -> None:
    """Returns when the balancer has acknowledged all."""
    origins = len(crowd.nodes)
    while crowd.accepted < count:
        due = min(count - crowd.submitted, UNDER_WAY - (crowd.submitted - crowd.accepted))
        for place, node in enumerate(crowd.nodes):
            share = due // origins + (place < due % origins)
            if share > 0:
                node.submit(share)
        await crowd.pause(LOOK_PERIOD)


async def rate_of(crowd: Crowd) -> float:
    """Jobs done a second, in one turn."""
    crowd.release()
    await crowd.pause(RUN_UP)
    done, began = crowd.done, time.perf_counter()
    await crowd.pause(TURN)
    rate = (crowd.done - done) / (time.perf_counter() - began)
    crowd.hold()
    await crowd.pause(RUN_UP)
    return rate


async def measure(few: LocalCluster, many: LocalCluster, count: int) -> list[Sample]:
    """Memory and rates."""
    samples = []
    async with (
        Crowd(few.balancer.port, NODES, refill=True) as beside,
        Crowd(many.balancer.port, NODES, refill=True) as crowd,
    ):
        beside.hold()
        crowd.hold()
        await fill(beside, FEW)
        await fill(crowd, UNDER_WAY)  # what it takes for what is under way is no matter of the backlog
        before = resident_bytes(many.balancer.pid)
        await fill(crowd, UNDER_WAY + count)
        memory = (resident_bytes(many.balancer.pid) - before) / count
        bare = bare_bytes(count, next(new_tickets(1)), BODY)
        samples.append(Sample("E.memory", memory, bare, f"{count:,} queued"))
        for _ in range(TURNS):
            slow = await rate_of(beside)
            samples.append(Sample("E.rate", await rate_of(crowd), slow))
    return samples


def restart(cluster: LocalCluster) -> float:
    """Seconds from the start of a balancer that was killed until it is ready."""
    cluster.kill("balancer")
    began = time.perf_counter()
    cluster.start("balancer", RESTART_TIMEOUT)
    return time.perf_counter() - began


def run(count: int) -> list[Sample]:
    with LocalCluster(0) as few, LocalCluster(0) as many:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            samples = runner.run(measure(few, many, count))
        beside = restart(few)
        return [*samples, Sample("E.restart", restart(many), beside, f"{count:,} queued")]


WORK = Work("E", "a backlog", "queued jobs", 1_000_000, 20_000, run, MEASURES, most_runs=1)
