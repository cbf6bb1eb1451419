"""B: jobs of 0 ms through one connection, first line to last result."""

from __future__ import annotations

from benchmarks.beside import sqlite_rate
from benchmarks.client import connect, run_all, usual_cluster
from benchmarks.figures import Aim, Measure, Sample
from benchmarks.work import Work

#: Rows of the bare table: enough for a steady figure.
ROWS = 50_000

RATE = Measure(
    "B.rate",
    "jobs of 0 ms, one pipelined connection",
    "a second",
    beside="rows of a bare SQLite table, 100 a commit",
    more_is_better=True,
    aim=Aim(15_000, hope=20_000),
    is_compared=True,
)


def run(count: int) -> list[Sample]:
    with usual_cluster() as cluster, connect(cluster) as client:
        before = sqlite_rate(ROWS)
        rate = count / run_all(client, "0", count)
        return [Sample(RATE.key, rate, (before + sqlite_rate(ROWS)) / 2)]


WORK = Work("B", "jobs of 0 ms", "jobs", 100_000, 20_000, run, (RATE,))
