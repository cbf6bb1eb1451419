"""C: one job on an idle cluster, submit to result.

Beside it the fsyncs that it needs, and a bare server that makes as many commits for one byte.
"""

from __future__ import annotations

from statistics import mean

from benchmarks.beside import bare_server_seconds, fsync_seconds
from benchmarks.client import connect, latencies, percentile, usual_cluster
from benchmarks.figures import Aim, Measure, Sample
from benchmarks.work import Work

#: Commits one after the other between a submission and its result: the ticket at its origin, the job at the
#: balancer, the result at the origin. Each is one fsync.
COMMITS = 3
#: Fsyncs that are timed before the jobs, and again after them.
FSYNCS = 100

#: Round trips to the bare server that are timed before the jobs, and again after them.
BARE = 50

BESIDE = f"a bare server, {COMMITS} SQLite commits"
MS = 1000.0
MEASURES = (
    Measure("C.zero.p50", "one job of 0 ms, p50", "ms", beside=BESIDE, aim=Aim(2.5), is_compared=True),
    Measure("C.zero.p99", "one job of 0 ms, p99", "ms", aim=Aim(10)),
    Measure("C.zero.over", f"one job of 0 ms, p50 above its {COMMITS} fsyncs", "ms", aim=Aim(1.5)),
    Measure("C.true.p50", "one `true`, p50", "ms", beside=BESIDE, aim=Aim(4), is_compared=True),
    Measure("C.true.p99", "one `true`, p99", "ms"),
)


def run(count: int) -> list[Sample]:
    samples = []
    with usual_cluster() as cluster, connect(cluster) as client:
        for name, line in (("zero", "0"), ("true", "run true")):
            bare = [bare_server_seconds(BARE, COMMITS)]
            fsyncs = [fsync_seconds(FSYNCS)]
            times = latencies(client, line, count)
            fsyncs.append(fsync_seconds(FSYNCS))
            bare.append(bare_server_seconds(BARE, COMMITS))
            p50, p99 = (percentile(times, of) * MS for of in (0.5, 0.99))
            samples += [Sample(f"C.{name}.p50", p50, mean(bare) * MS), Sample(f"C.{name}.p99", p99)]
            if name == "zero":
                floor = COMMITS * mean(fsyncs) * MS
                samples.append(
                    Sample("C.zero.over", max(0.0, p50 - floor), note=f"which take {floor:.2f} ms")
                )
    return samples


WORK = Work("C", "latency on an idle cluster", "jobs of each kind", 1_000, 200, run, MEASURES)
