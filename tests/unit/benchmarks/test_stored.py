"""What fell by more than a third against the stored ratios is said; nothing else."""

from pathlib import Path

import pytest

from benchmarks import stored
from benchmarks.figures import Figure, Measure, Sample, figures_of
from benchmarks.works import WORKS

RATE = Measure("A.rate", "commands", "a second", "xargs", more_is_better=True, is_compared=True)
LATENCY = Measure("C.p50", "one job", "ms", "fsyncs", is_compared=True)
NOISY = Measure("C.p99", "one job", "ms", "fsyncs")


def figures(**values: float) -> list[Figure]:
    """Figures beside 100, by name."""
    measures = {"rate": RATE, "latency": LATENCY, "noisy": NOISY}
    samples = [Sample(measures[name].key, value, 100) for name, value in values.items()]
    return figures_of(measures.values(), samples)


def test_a_fall_by_more_than_a_third_is_a_warning() -> None:
    (line,) = stored.warnings_of(figures(rate=60), {"A.rate": 1.0})
    assert line == "WARNING: A.rate (commands) fell by 40 % against xargs: 0.6 now, 1 stored"


def test_a_latency_falls_when_it_grows() -> None:
    (line,) = stored.warnings_of(figures(latency=200), {"C.p50": 1.0})
    assert "fell by 50 %" in line
    assert stored.warnings_of(figures(latency=50), {"C.p50": 1.0}) == []


@pytest.mark.parametrize("before", [{}, {"A.rate": 0.9}, {"A.rate": 0.1}, {"B.rate": 9.0}])
def test_less_than_a_third_or_nothing_stored_is_none(before: dict[str, float]) -> None:
    assert stored.warnings_of(figures(rate=61), before) == []


def test_what_is_too_noisy_is_neither_stored_nor_compared() -> None:
    made = figures(rate=50, noisy=1000)
    assert stored.gains_of(made) == {"A.rate": 0.5}
    assert stored.warnings_of(made, {"C.p99": 1.0}) == []


def test_what_was_stored_is_read_again_and_other_measures_stay(tmp_path: Path) -> None:
    path = tmp_path / "stored.json"
    assert stored.read(path) == {}
    stored.write(figures(rate=50, latency=200), {"cpus": 2}, path)
    stored.write(figures(rate=80), {"cpus": 2}, path)
    assert stored.read(path) == {"A.rate": 0.8, "C.p50": 0.5}


def test_what_the_project_stores_is_of_measures_that_there_are() -> None:
    compared = {each.key for work in WORKS.values() for each in work.measures if each.is_compared}
    assert stored.read().keys() <= compared
