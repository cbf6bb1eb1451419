"""What is measured, what it should reach, and the figures that come of it. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Aim:
    """A bound on the value, or on its ratio to what stands beside it. `hope` would be better still."""

    bound: float
    of_ratio: bool = False
    hope: float | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the table. `beside` names what the same measure is taken of in the same run.

    `is_compared`: its ratio is steady enough to tell a slower program from a noisy machine.
    """

    key: str
    title: str
    unit: str
    beside: str = ""
    more_is_better: bool = False
    aim: Aim | None = None
    is_compared: bool = False


class Sample(NamedTuple):
    """A measure in one run, in its unit; `note` is what a reader should know beside the numbers."""

    key: str
    value: float
    beside: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """The medians of a measure's samples. `ratio`: of value to `beside`, the median of the runs' ratios."""

    measure: Measure
    value: float
    beside: float | None
    ratio: float | None
    note: str
    samples: tuple[Sample, ...]

    @property
    def gain(self) -> float | None:
        """The ratio so turned that more is better."""
        if not self.ratio:
            return None
        return self.ratio if self.measure.more_is_better else 1 / self.ratio

    @property
    def is_reached(self) -> bool | None:
        """None where nothing was asked for."""
        aim = self.measure.aim
        if aim is None:
            return None
        value = self.ratio if aim.of_ratio else self.value
        if value is None:
            return False
        return value >= aim.bound if self.measure.more_is_better else value <= aim.bound

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self.measure),
            "value": self.value,
            "beside_value": self.beside,
            "ratio": self.ratio,
            "note": self.note,
            "is_reached": self.is_reached,
            "samples": [sample._asdict() for sample in self.samples],
        }


def figures_of(measures: Iterable[Measure], samples: Iterable[Sample]) -> list[Figure]:
    """One figure for each measure that has samples, in the measures' order."""
    by_key: dict[str, list[Sample]] = {}
    for sample in samples:
        by_key.setdefault(sample.key, []).append(sample)
    return [_figure(measure, by_key[measure.key]) for measure in measures if measure.key in by_key]


def _figure(measure: Measure, samples: list[Sample]) -> Figure:
    value = statistics.median(sample.value for sample in samples)
    pairs = [(sample.value, sample.beside) for sample in samples if sample.beside]
    beside = statistics.median(beside for _, beside in pairs) if pairs else None
    ratio = statistics.median(value / beside for value, beside in pairs) if pairs else None
    return Figure(measure, value, beside, ratio, samples[-1].note, tuple(samples))
