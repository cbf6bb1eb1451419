"""Samples become figures, figures become a table."""

import pytest

from benchmarks.figures import Aim, Figure, Measure, Sample, figures_of
from benchmarks.table import shown, table

RATE = Measure("A.rate", "commands", "a second", "xargs", True, Aim(1.0, of_ratio=True, hope=1.1))
LATENCY = Measure("C.p50", "one job", "ms", "fsyncs", aim=Aim(2.5))
BARE = Measure("H.idle", "idle", "% of a core")


def figure(measure: Measure, *samples: tuple[float, float | None]) -> Figure:
    (only,) = figures_of([measure], [Sample(measure.key, *sample) for sample in samples])
    return only


def test_a_figure_is_the_median_of_its_samples_and_of_their_ratios() -> None:
    made = figure(RATE, (100, 50), (10, 100), (90, 100))
    assert (made.value, made.beside, made.ratio) == (90, 100, 0.9)
    assert len(made.samples) == 3


def test_figures_stand_in_the_order_of_the_measures_and_only_where_there_are_samples() -> None:
    samples = [Sample("C.p50", 1.0), Sample("A.rate", 2.0)]
    assert [each.measure for each in figures_of([RATE, BARE, LATENCY], samples)] == [RATE, LATENCY]


@pytest.mark.parametrize(
    ("measure", "sample", "is_reached"),
    [
        (RATE, (100, 100), True),
        (RATE, (99, 100), False),
        (RATE, (1000, None), False),
        (LATENCY, (2.5, 0.1), True),
        (LATENCY, (2.6, 100), False),
        (BARE, (99, None), None),
    ],
)
def test_an_aim_is_reached_by_the_value_or_by_the_ratio(
    measure: Measure, sample: tuple[float, float | None], is_reached: bool | None
) -> None:
    assert figure(measure, sample).is_reached is is_reached


def test_a_gain_is_the_ratio_so_turned_that_more_is_better() -> None:
    assert figure(RATE, (50, 100)).gain == 0.5
    assert figure(LATENCY, (2.0, 1.0)).gain == 0.5
    assert figure(LATENCY, (0.0, 1.0)).gain is None
    assert figure(BARE, (1.0, None)).gain is None


def test_the_table_says_all_in_one_line_each() -> None:
    figures = [figure(RATE, (1481, 1976)), figure(LATENCY, (1.77, 0.5)), figure(BARE, (0.1, None))]
    head, first, second, third = table(figures).splitlines()
    assert head.split() == ["work", "Evenly", "ratio", "beside", "it", "in", "the", "same", "run", "aim"]
    assert first.split("  ")[0] == "A"
    assert [cell.strip() for cell in first.split("  ") if cell.strip()] == [
        "A",
        "commands",
        "1,481 a second",
        "0.75",
        "xargs: 1,976 a second",
        "at least ratio 1, better 1.1",
        "MISSED",
    ]
    assert second.endswith("at most 2.5 ms                reached")
    assert third.endswith("0.10 % of a core"), "nothing is said where nothing was asked for"


def test_a_note_stands_beside_the_numbers() -> None:
    (noted,) = figures_of([BARE], [Sample("H.idle", 1.0, note="wakes up twice")])
    assert "wakes up twice" in table([noted])
    assert noted.as_json()["note"] == "wakes up twice"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123, "0.12 s"), (9.99, "9.99 s"), (12.34, "12.3 s"), (1234.5, "1,234 s")],
)
def test_numbers_have_three_digits_or_more(value: float, text: str) -> None:
    assert shown(value, "s") == text
