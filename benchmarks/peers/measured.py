"""What another system is given, and what comes of it.

Only the standard library: the other systems' environments read this file.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple


class Work(NamedTuple):
    """So many of each: commands `true`, jobs that do nothing, latencies; 0 where it makes no sense."""

    commands: int = 0
    jobs: int = 0
    latencies: int = 0

    def scaled(self, by: float) -> Work:
        return Work(*(max(1, int(count * by)) if count else 0 for count in self))


class Measured(NamedTuple):
    """Rates are a second. `latency`: the median seconds of a job that does nothing or, where the system has
    only commands, of `true`."""

    version: str
    commands: float | None = None
    jobs: float | None = None
    latency: float | None = None


def work_of_arguments() -> Work:
    """What the command line asks for."""
    return Work(**json.loads(sys.argv[1]))


def rate(count: int, run: Callable[[int], None]) -> float:
    """Of `run(count)`, which does so many; a few are done before, so that all is warm."""
    run(min(count, 10))
    began = time.perf_counter()
    run(count)
    return count / (time.perf_counter() - began)


def median_seconds(count: int, run: Callable[[], None]) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def hand_back(measured: Measured) -> None:
    """The last line of output is what the caller reads."""
    print(json.dumps(measured._asdict()), flush=True)
