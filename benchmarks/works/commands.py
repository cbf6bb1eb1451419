"""A: commands `true`, each its own durable ticket and result, beside `xargs`, which keeps nothing."""

from __future__ import annotations

from benchmarks.beside import xargs_rate
from benchmarks.client import connect, run_all, usual_cluster
from benchmarks.figures import Aim, Measure, Sample
from benchmarks.work import Work

#: What is compared runs in so many turns, so that a slow minute of the machine hits both.
TURNS = 4

RATE = Measure(
    "A.rate",
    "commands `true`",
    "a second",
    beside="xargs -P2 -n1 true, which keeps nothing",
    more_is_better=True,
    aim=Aim(1.0, of_ratio=True, hope=1.1),
    is_compared=True,
)


def run(count: int) -> list[Sample]:
    part = max(1, count // TURNS)
    samples = []
    with usual_cluster() as cluster, connect(cluster) as client:
        for _ in range(TURNS):
            beside = xargs_rate(part)
            samples.append(Sample(RATE.key, part / run_all(client, "run true", part), beside))
    return samples


WORK = Work("A", "commands", "commands", 10_000, 2_000, run, (RATE,))
