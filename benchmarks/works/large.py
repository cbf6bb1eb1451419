"""G: a result of 1 MiB from each job, beside the disk's own speed, and beside the least that captures it; and
small jobs beside them."""

from __future__ import annotations

import time

from benchmarks.beside import capture_rate, disk_rate
from benchmarks.client import (
    DONE,
    TIMEOUT,
    BenchError,
    connect,
    latencies,
    latencies_while,
    percentile,
    submit_all,
    usual_cluster,
)
from benchmarks.figures import Aim, Measure, Sample
from benchmarks.other import other_process
from benchmarks.work import Work
from evenly._lines import LineClient
from protocol.limits import MIB

#: Pieces of 1 MiB for the disk's own speed, before the jobs and again after them.
PIECES = 100
#: Small jobs measured on the idle cluster first.
IDLE = 200

COMMAND = f"head -c {MIB} /dev/zero"
LINE = f"run {COMMAND}"
MS = 1000.0
MEASURES = (
    Measure(
        "G.rate",
        "results of 1 MiB, submit to last result",
        "MB a second",
        beside="plain write and fsync of the same",
        more_is_better=True,
        aim=Aim(1.0, of_ratio=True),
        is_compared=True,
    ),
    Measure(
        "G.capture",
        "the same",
        "MB a second",
        beside="two threads that run the commands, read their output, write and fsync it",
        more_is_better=True,
    ),
    Measure("G.small.p99", "one job of 0 ms beside them, p99", "ms", "on the idle cluster", aim=Aim(100)),
)


def fetch_large(port: int, count: int) -> float:
    """Seconds from the first line of `count` such jobs to the last result."""
    began = time.perf_counter()
    with LineClient(port, timeout=TIMEOUT) as client:
        for ticket in submit_all(client, LINE, count):
            reply = client.ask(f"wait {ticket}")
            if not reply.startswith(DONE) or len(reply) < MIB:
                raise BenchError(f"a result of 1 MiB was to come, not {reply[:200]}")
    return time.perf_counter() - began


def run(count: int) -> list[Sample]:
    with (
        usual_cluster() as cluster,
        connect(cluster, "n2") as client,
        other_process(fetch_large, cluster["n1"].port, count) as large,
    ):
        before = disk_rate(PIECES)
        idle = latencies(client, "0", IDLE)
        large.start()
        times = latencies_while(client, "0", lambda: not large.is_done)
        rate = count * MIB / 1e6 / large.result()
        disk = (before + disk_rate(PIECES)) / 2
        capture = capture_rate(PIECES, COMMAND)
    p99 = percentile(times, 0.99) * MS
    return [
        Sample("G.rate", rate, disk),
        Sample("G.capture", rate, capture),
        Sample("G.small.p99", p99, percentile(idle, 0.99) * MS, f"{len(times):,} jobs measured"),
    ]


WORK = Work("G", "results of 1 MiB", "jobs", 1_000, 40, run, MEASURES, most_runs=2)
