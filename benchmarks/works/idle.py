"""H: what a cluster takes that has nothing to do."""

from __future__ import annotations

import time

from benchmarks.client import usual_cluster
from benchmarks.figures import Aim, Measure, Sample
from benchmarks.machine import children, cpu_seconds, wake_ups
from benchmarks.work import Work

#: Seconds after the last job in which what it left behind is done.
SETTLE = 1.0
#: Percent of a core, for each process.
AIM = Aim(0.5)

MEASURES = (
    Measure("H.balancer", "idle balancer", "% of a core", aim=AIM),
    Measure("H.node", "idle node, the busier of two", "% of a core", aim=AIM),
    Measure("H.helper", "idle helper process, the busiest", "% of a core", aim=AIM),
)


def run(seconds: int) -> list[Sample]:
    with usual_cluster() as cluster:
        time.sleep(SETTLE)
        nodes = [node.pid for node in cluster.nodes]
        helpers = [helper for node in nodes for helper in children(node)]
        groups = {"H.balancer": [cluster.balancer.pid], "H.node": nodes, "H.helper": helpers}
        pids = [pid for group in groups.values() for pid in group]
        before = {pid: (cpu_seconds(pid), wake_ups(pid)) for pid in pids}
        began = time.perf_counter()
        time.sleep(seconds)
        took = time.perf_counter() - began
        shares = {pid: 100 * (cpu_seconds(pid) - before[pid][0]) / took for pid in pids}
        wakes = {pid: (wake_ups(pid) - before[pid][1]) / took for pid in pids}
    return [
        Sample(key, max(shares[pid] for pid in group), note=_note(max(wakes[pid] for pid in group)))
        for key, group in groups.items()
        if group
    ]


def _note(wakes: float) -> str:
    return f"wakes up {wakes:.1f} times a second"


WORK = Work("H", "an idle cluster", "seconds", 15, 4, run, MEASURES, most_runs=1)
