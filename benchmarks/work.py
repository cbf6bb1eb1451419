"""What a work is: its measures, and a function that takes them once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.figures import Measure, Sample


@dataclass(frozen=True, slots=True)
class Work:
    """`run(count)` does it once, on a cluster of its own. `full` and `quick`: the counts of `make bench` and
    `make bench-quick`, in `counted`. `most_runs`: more of them would take too long, or tell nothing new.
    """

    letter: str
    title: str
    counted: str
    full: int
    quick: int
    run: Callable[[int], list[Sample]]
    measures: tuple[Measure, ...]
    most_runs: int = 3
