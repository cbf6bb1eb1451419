"""The figures as a table of text."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import Aim, Figure

HEAD = ("", "work", "Evenly", "ratio", "beside it in the same run", "aim", "")


def table(figures: Sequence[Figure]) -> str:
    rows = [HEAD, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def shown(value: float, unit: str) -> str:
    """A number with its unit, three digits or more."""
    if value >= 100:
        return f"{value:,.0f} {unit}"
    return f"{value:.1f} {unit}" if value >= 10 else f"{value:.2f} {unit}"


def _row(figure: Figure) -> tuple[str, ...]:
    measure = figure.measure
    beside = f"{measure.beside}: {shown(figure.beside, measure.unit)}" if figure.beside is not None else ""
    reached = {None: "", True: "reached", False: "MISSED"}[figure.is_reached]
    return (
        measure.key.partition(".")[0],
        measure.title,
        shown(figure.value, measure.unit),
        f"{figure.ratio:.2f}" if figure.ratio is not None else "",
        "; ".join(part for part in (beside, figure.note) if part),
        _aim(measure.aim, measure.unit, measure.more_is_better) if measure.aim else "",
        reached,
    )


def _aim(aim: Aim, unit: str, more_is_better: bool) -> str:
    bound = f"ratio {aim.bound:g}" if aim.of_ratio else f"{aim.bound:,g} {unit}"
    hope = f", better {aim.hope:,g}" if aim.hope is not None else ""
    return f"{'at least' if more_is_better else 'at most'} {bound}{hope}"
