"""Makes workload files: sleeps whose times follow a distribution with a given mean."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from protocol.limits import SLEEP_LIMIT_MS

#: Of the logarithm: the middle is 0.6 of the mean, and one job in a hundred takes more than 6 times the mean.
SIGMA = 1.0

#: A time in ms with that mean.
DISTRIBUTIONS: dict[str, Callable[[random.Random, float], float]] = {
    "constant": lambda chance, mean: mean,
    "uniform": lambda chance, mean: chance.uniform(0, 2 * mean),
    "exponential": lambda chance, mean: chance.expovariate(1 / mean) if mean else 0.0,
    "lognormal": lambda chance, mean: (
        chance.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA) if mean else 0.0
    ),
}


def times(count: int, mean: float, distribution: str, seed: int | None = None) -> Iterator[int]:
    """So many times in whole ms, each at most SLEEP_LIMIT_MS. The same seed gives the same ones."""
    chance = random.Random(seed)
    draw = DISTRIBUTIONS[distribution]
    return (min(round(draw(chance, mean)), SLEEP_LIMIT_MS) for _ in range(count))


def lines(
    count: int, mean: float, distribution: str, seed: int | None = None, format: str = "sleeps"
) -> Iterator[str]:
    """A workload file of these times, line by line, without line ends.

    In the Standard Workload Format, which has whole seconds, one job is submitted every `mean` ms, and times
    are rounded to a second.
    """
    drawn = times(count, mean, distribution, seed)
    if format == "shell":
        return (f"sleep {ms / 1000:.3f}" for ms in drawn)
    if format == "jsonl":
        return (f'{{"sleep": {ms}}}' for ms in drawn)
    if format == "swf":
        return _swf(drawn, mean, f"{count} jobs of {mean:g} ms, {distribution}, seed {seed}")
    return (f"sleep {ms}" for ms in drawn)


def _swf(drawn: Iterator[int], mean: float, note: str) -> Iterator[str]:
    yield "; Version: 2.2"
    yield f"; Note: {note}"
    for number, ms in enumerate(drawn):
        submitted, run_time = round(number * mean / 1000), round(ms / 1000)
        yield f"{number + 1} {submitted} -1 {run_time} 1 -1 -1 1 -1 -1 1 1 1 1 1 1 -1 -1"
