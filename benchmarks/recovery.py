"""`python -m benchmarks.recovery`: from a process that is back after kill -9 to the next dispatched job.

10,000 jobs are open. "Back" is when the program says that it is ready; the time before that is shown beside.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from evenly.local import LocalCluster

OPEN = 10_000
RUNS = 3
LINE = "20"
LOOK_PERIOD = 0.005


def until(condition: Callable[[], bool]) -> float:
    """Seconds until it holds."""
    began = time.perf_counter()
    while not condition():
        time.sleep(LOOK_PERIOD)
    return time.perf_counter() - began


def recover(name: str) -> tuple[float, float]:
    """(seconds to start, seconds from ready to the next dispatched job) of a cluster that lost `name`."""
    with LocalCluster(2, slots=1) as cluster, cluster.client("n2") as client:
        client.ask_all([LINE] * OPEN)

        def dispatched() -> int:
            balancer = client.ask_json("stats")["balancer"]
            return int(balancer["dispatched"]) if balancer is not None else 0

        until(lambda: dispatched() > 0)
        cluster.kill(name)
        before = 0 if name == "balancer" else dispatched()
        began = time.perf_counter()
        cluster.start(name)
        start = time.perf_counter() - began
        return start, until(lambda: dispatched() > before)


def main() -> int:
    worst = 0.0
    for name, title in (("balancer", "the balancer"), ("n1", "a node")):
        runs = [recover(name) for _ in range(RUNS)]
        start, dispatch = (statistics.median(values) for values in zip(*runs, strict=True))
        worst = max(worst, dispatch)
        print(f"{title}, {OPEN:,} jobs open: ready {start:.2f} s after the start,")
        print(f"    the next job dispatched {dispatch:.2f} s after that")
    return 0 if worst < 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
