"""F: 200 connected nodes with 10,000 jobs a second of traffic, beside the same traffic over ten nodes.

The nodes are simulated; jobs sit in their slots for a while, as if they ran.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field

import uvloop

from benchmarks.figures import Aim, Measure, Sample
from benchmarks.machine import cpu_seconds
from benchmarks.simulated import Crowd
from benchmarks.work import Work
from evenly.local import LocalCluster

NODES, FEW = 200, 10
#: Jobs a second; with less than this part of them the figures beside them say nothing.
RATE, ENOUGH = 10_000, 0.95
#: Slots of all nodes together, and the seconds that a job sits in one: three quarters of them are busy.
SLOTS, DURATION = 200, 0.015
#: Seconds between two batches of new jobs, and origins that share one.
TICK, ORIGINS = 0.01, 10
#: Jobs under way at most; above it the pace is lost, and the rate says so.
UNDER_WAY = 20_000
#: Seconds of traffic before anything is counted, and between two looks at what nodes hold.
RUN_UP, LOOK_PERIOD = 1.0, 0.25
#: Seconds that the balancer has to even out what the nodes hold when traffic stops: two DISPATCH_PERIODs.
SETTLE = 10.0

MEASURES = (
    Measure("F.cpu", f"{NODES} nodes: balancer's CPU", "cores", aim=Aim(1.0)),
    Measure("F.job", f"{NODES} nodes: its CPU a job", "us", beside=f"over {FEW} nodes", is_compared=True),
    Measure(
        "F.traffic",
        f"{NODES} nodes: jobs that passed",
        "a second",
        beside=f"over {FEW} nodes",
        more_is_better=True,
        aim=Aim(RATE * ENOUGH, hope=RATE),
    ),
    Measure("F.spread", f"{NODES} nodes: most held less fewest, settled", "jobs", aim=Aim(1)),
)


@dataclass(slots=True)
class Passed:
    """What was seen of one crowd: cores of the balancer and of the simulation, jobs a second, and the
    differences between nodes."""

    cpu: float = 0.0
    own_cpu: float = 0.0
    rate: float = 0.0
    moving: list[int] = field(default_factory=list)
    settled: int = 0

    @property
    def cpu_a_job(self) -> float:
        """Microseconds."""
        return 1e6 * self.cpu / max(1.0, self.rate)


async def spread(crowd: Crowd) -> int:
    """The most that a node holds less the fewest, by the balancer's books."""
    nodes = json.loads(await crowd.nodes[0].ask("nodes"))
    held = [node["running"] + node["queued"] for node in nodes]
    return int(max(held) - min(held))


async def drive(crowd: Crowd, count: int) -> None:
    """Submits `count` jobs at RATE, each batch through other origins."""
    began, turn = time.perf_counter(), 0
    first = crowd.submitted
    while (sent := crowd.submitted - first) < count:
        due = min(count, int((time.perf_counter() - began) * RATE)) - sent
        due = min(due, UNDER_WAY - (crowd.submitted - crowd.done))
        for place in range(ORIGINS):
            share = due // ORIGINS + (place < due % ORIGINS)
            if share > 0:
                crowd.nodes[turn % len(crowd.nodes)].submit(share)
                turn += 1
        await asyncio.sleep(TICK)


async def look(crowd: Crowd, moving: list[int]) -> None:
    while True:
        await asyncio.sleep(LOOK_PERIOD)
        moving.append(await spread(crowd))


async def settled(crowd: Crowd) -> int:
    """The difference when nothing ends any more and the balancer had time to even out."""
    deadline = time.perf_counter() + SETTLE
    while (apart := await spread(crowd)) > 1 and time.perf_counter() < deadline:
        await crowd.pause(LOOK_PERIOD)
    return apart


async def pass_through(balancer: LocalCluster, nodes: int, count: int) -> Passed:
    """`count` jobs through so many nodes."""
    passed = Passed()
    pid = balancer.balancer.pid
    slots = SLOTS // nodes
    async with Crowd(balancer.balancer.port, nodes, slots=slots, duration=DURATION) as crowd:
        driver = asyncio.ensure_future(drive(crowd, count + int(RATE * RUN_UP)))
        await crowd.pause(RUN_UP)
        looker = asyncio.ensure_future(look(crowd, passed.moving))
        began, done = time.perf_counter(), crowd.done
        cpu, own_cpu = cpu_seconds(pid), time.process_time()
        await crowd.unless_failed(driver)
        took = time.perf_counter() - began
        passed.cpu = (cpu_seconds(pid) - cpu) / took
        passed.own_cpu = (time.process_time() - own_cpu) / took
        passed.rate = (crowd.done - done) / took
        crowd.hold()
        looker.cancel()
        passed.settled = await settled(crowd)
    return passed


def pass_once(nodes: int, count: int) -> Passed:
    settings = {"MAX_NUM_NODES": str(nodes)}
    with (
        LocalCluster(0, environment=settings) as balancer,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(pass_through(balancer, nodes, count))


def run(count: int) -> list[Sample]:
    few = pass_once(FEW, count)
    many = pass_once(NODES, count)
    moving = statistics.median(many.moving) if many.moving else 0
    return [
        Sample("F.cpu", many.cpu, note=f"the simulated nodes took {many.own_cpu:.2f} cores"),
        Sample("F.job", many.cpu_a_job, few.cpu_a_job),
        Sample("F.traffic", many.rate, few.rate),
        Sample("F.spread", many.settled, note=f"in the middle of the traffic {moving:g} (median)"),
    ]


WORK = Work("F", "a crowd of nodes", "jobs each", 100_000, 12_000, run, MEASURES, most_runs=1)
