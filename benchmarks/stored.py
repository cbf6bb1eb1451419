"""`stored.json`: the ratios of an earlier quick run, and what fell since. Ratios, as machines differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.figures import Figure

STORED = Path(__file__).with_name("stored.json")
#: A figure that fell by more than this part is worth a warning; less is the machine's noise.
FALL = 1 / 3


def gains_of(figures: Sequence[Figure]) -> dict[str, float]:
    """What is compared, by the measure's key; more is better."""
    return {
        figure.measure.key: round(figure.gain, 4)
        for figure in figures
        if figure.measure.is_compared and figure.gain is not None
    }


def warnings_of(figures: Sequence[Figure], stored: Mapping[str, float]) -> list[str]:
    """A line for each figure that fell by more than FALL against its stored one."""
    titles = {figure.measure.key: figure.measure for figure in figures}
    lines = []
    for key, gain in gains_of(figures).items():
        before = stored.get(key)
        if before is not None and gain < before * (1 - FALL):
            measure = titles[key]
            lines.append(
                f"WARNING: {measure.key} ({measure.title}) fell by {100 * (1 - gain / before):.0f} % against "
                f"{measure.beside}: {gain:.3g} now, {before:.3g} stored"
            )
    return lines


def read(path: Path = STORED) -> dict[str, float]:
    """The stored gains by key; empty where nothing is stored yet."""
    try:
        gains = json.loads(path.read_text("utf-8"))["gains"]
    except FileNotFoundError:
        return {}
    return {str(key): float(gain) for key, gain in gains.items()}


def write(figures: Sequence[Figure], machine: Mapping[str, object], path: Path = STORED) -> None:
    """Keeps these figures' gains, and those stored of measures that were not taken now."""
    gains = read(path) | gains_of(figures)
    path.write_text(
        json.dumps({"machine": machine, "gains": gains}, indent=2, sort_keys=True) + "\n", "utf-8"
    )
