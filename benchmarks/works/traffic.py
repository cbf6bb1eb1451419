"""D: one job of 0 ms, submit to result, while 10,000 others a second pass through the other node."""

from __future__ import annotations

from benchmarks.client import connect, latencies, latencies_while, percentile, usual_cluster
from benchmarks.figures import Aim, Measure, Sample
from benchmarks.other import other_process
from benchmarks.pace import pace
from benchmarks.work import Work

#: Others a second; with less than this part of them the latency beside them says nothing.
RATE, ENOUGH = 10_000, 0.95
#: Jobs whose latency is measured on the idle cluster first.
IDLE = 200

MS = 1000.0
BESIDE = "on the idle cluster"
MEASURES = (
    Measure("D.p50", "one job of 0 ms beside others, p50", "ms", beside=BESIDE),
    Measure("D.p99", "one job of 0 ms beside others, p99", "ms", beside=BESIDE, aim=Aim(50)),
    Measure(
        "D.others", "the others, done", "a second", more_is_better=True, aim=Aim(RATE * ENOUGH, hope=RATE)
    ),
)


def run(count: int) -> list[Sample]:
    """`count` others, at their pace."""
    with (
        usual_cluster() as cluster,
        connect(cluster) as client,
        other_process(pace, cluster["n2"].port, RATE, count) as others,
    ):
        idle = latencies(client, "0", IDLE)
        others.start()
        times = latencies_while(client, "0", lambda: not others.is_done)
        rate = others.result()
    note = f"{len(times):,} jobs measured"
    samples = [
        Sample(f"D.{name}", percentile(times, of) * MS, percentile(idle, of) * MS, note)
        for name, of in (("p50", 0.5), ("p99", 0.99))
    ]
    return [*samples, Sample("D.others", rate)]


WORK = Work("D", "latency beside 10,000 jobs a second", "other jobs", 100_000, 20_000, run, MEASURES)
