"""What has come of a run: from its state to figures, and from these to text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from math import ceil
from typing import Any

from evenly.workload.state import SUCCEEDED, State

#: Shares in percent of which the report says in how many seconds so many jobs were done.
PERCENTS = (50, 90, 99)
#: Groups of failures in the report, and lines that a group names.
GROUPS, LINES = 10, 10


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: percentiles by nearest rank (PERCENTS), the most, the mean; of no jobs all are 0."""

    count: int = 0
    percentiles: tuple[float, ...] = (0.0,) * len(PERCENTS)
    most: float = 0.0
    mean: float = 0.0


@dataclass(frozen=True, slots=True)
class Failures:
    """So many jobs that failed in the same way: the first `lines` of them, and what one of them said."""

    outcome: str
    reason: str
    count: int
    lines: tuple[int, ...]
    hint: str


@dataclass(frozen=True, slots=True)
class NodeUse:
    """Jobs that a node ran to their end, and their run times in all, in seconds."""

    node: str
    jobs: int
    busy: float


@dataclass(frozen=True, slots=True)
class Report:
    """`seconds`: from the first submission to the last end. `groups`: of failures, those not in `failures`
    included. `wait`: from submission to start; `run`: from start to end."""

    file: str
    run: str
    jobs: int
    submitted: int
    succeeded: int
    failed: int
    seconds: float
    failures: tuple[Failures, ...]
    groups: int
    wait: Times
    run_times: Times
    nodes: tuple[NodeUse, ...]

    @property
    def open(self) -> int:
        return self.submitted - self.succeeded - self.failed

    @property
    def is_good(self) -> bool:
        """Whether all jobs of the file have succeeded."""
        return self.succeeded == self.jobs

    @property
    def rate(self) -> float:
        """Jobs that ended, a second."""
        return (self.succeeded + self.failed) / self.seconds if self.seconds > 0 else 0.0


def times(values: Iterable[float], count: int) -> Times:
    """Of `count` values that come in ascending order; they are not kept."""
    if not count:
        return Times()
    ranks = [max(1, ceil(percent * count / 100)) for percent in PERCENTS]
    found: list[float] = []
    total = most = 0.0
    for rank, value in enumerate(values, 1):
        total += value
        most = value
        while len(found) < len(ranks) and ranks[len(found)] == rank:
            found.append(value)
    return Times(count, tuple(found), most, total / count)


def spread(values: Sequence[float]) -> float:
    """How far the most is above the least, as a part of the mean; 0 where that is 0."""
    mean = sum(values) / len(values) if values else 0.0
    return (max(values) - min(values)) / mean if mean else 0.0


def report_of(state: State) -> Report:
    """The report as things are; memory does not grow with the jobs."""
    counts = state.counts()
    first, last = state.database.execute("SELECT min(submitted), max(finished) FROM job").fetchone()
    failures, groups = _failures(state)
    return Report(
        file=str(state.get("file")),
        run=str(state.get("run")),
        jobs=counts.jobs,
        submitted=counts.submitted,
        succeeded=counts.ended - counts.failed,
        failed=counts.failed,
        seconds=max(0.0, last - first) if first is not None and last is not None else 0.0,
        failures=failures,
        groups=groups,
        wait=_times(state, "max(0, started - submitted)"),
        run_times=_times(state, "max(0, finished - started)"),
        nodes=tuple(
            NodeUse(*row)
            for row in state.database.execute(
                "SELECT node, count(*), sum(max(0, finished - started)) FROM job WHERE started IS NOT NULL "
                "AND finished IS NOT NULL AND node IS NOT NULL GROUP BY node ORDER BY node"
            )
        ),
    )


def _times(state: State, value: str) -> Times:
    where = "FROM job WHERE started IS NOT NULL AND finished IS NOT NULL AND submitted IS NOT NULL"
    (count,) = state.database.execute(f"SELECT count(*) {where}").fetchone()
    rows = state.database.execute(f"SELECT {value} AS v {where} ORDER BY v")
    return times((row[0] for row in rows), count)


def _failures(state: State) -> tuple[tuple[Failures, ...], int]:
    """The largest groups of jobs that ended in the same way, and how many groups there are."""
    groups = state.database.execute(
        "SELECT outcome, coalesce(reason, '') AS why, count(*) AS jobs FROM job "
        "WHERE outcome IS NOT NULL AND outcome != ? GROUP BY outcome, why ORDER BY jobs DESC, outcome, why",
        (SUCCEEDED,),
    )
    found: list[Failures] = []
    count = 0
    for outcome, reason, jobs in groups:
        count += 1
        if count > GROUPS:
            continue
        rows = state.database.execute(
            "SELECT line, hint FROM job WHERE outcome = ? AND coalesce(reason, '') = ? "
            "ORDER BY number LIMIT ?",
            (outcome, reason, LINES),
        ).fetchall()
        hint = next((hint for _, hint in rows if hint), "")
        found.append(Failures(outcome, reason, jobs, tuple(line for line, _ in rows), hint))
    return tuple(found), count


# --- for programs and for people -----------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """Times in seconds."""
    return {
        "file": report.file,
        "run": report.run,
        "jobs": report.jobs,
        "submitted": report.submitted,
        "succeeded": report.succeeded,
        "failed": report.failed,
        "open": report.open,
        "seconds": report.seconds,
        "rate": report.rate,
        "failures": [asdict(each) for each in report.failures],
        "failure_groups": report.groups,
        "wait": _times_json(report.wait),
        "run_times": _times_json(report.run_times),
        "nodes": [asdict(each) for each in report.nodes],
        "spread": {
            "jobs": spread([each.jobs for each in report.nodes]),
            "busy": spread([each.busy for each in report.nodes]),
        },
    }


def _times_json(found: Times) -> dict[str, float]:
    named = {f"p{percent}": value for percent, value in zip(PERCENTS, found.percentiles, strict=True)}
    return {"jobs": found.count, **named, "max": found.most, "mean": found.mean}


def as_text(report: Report) -> str:
    """For people, in lines of at most 80 characters where names and reasons are not longer."""
    lines = [f"{report.file}: {report.succeeded} of {report.jobs} jobs succeeded, {report.failed} failed"]
    if report.open:
        lines[0] += f", {report.open} are not done"
    if left := report.jobs - report.submitted:
        lines[0] += f", {left} are not submitted"
    if report.seconds:
        lines.append(f"In {seconds(report.seconds)}, {report.rate:.1f} jobs a second.")
    for group in report.failures:
        ended = f"{group.outcome}, {group.reason}" if group.reason else group.outcome
        lines.append(f"  {group.count} {ended}: {_lines(group)}")
        if group.hint:
            lines.append(f"      {group.hint}")
    if report.groups > len(report.failures):
        lines.append(f"  and in {report.groups - len(report.failures)} more ways")
    if report.run_times.count:
        head = ("", *(f"{percent} %" for percent in PERCENTS), "MOST", "MEAN")
        rows = [
            (name, *map(seconds, (*each.percentiles, each.most, each.mean)))
            for name, each in (("waited", report.wait), ("ran", report.run_times))
        ]
        lines += ["", *table(head, rows)]
    if report.nodes:
        jobs, busy = [each.jobs for each in report.nodes], [each.busy for each in report.nodes]
        rows = [
            (each.node, str(each.jobs), f"{100 * each.jobs / sum(jobs):.1f} %", seconds(each.busy))
            for each in report.nodes
        ]
        lines += ["", *table(("NODE", "JOBS", "SHARE", "BUSY"), rows)]
        if len(rows) > 1:
            said = f"most above least by {100 * spread(jobs):.1f} % of the mean in jobs"
            lines.append(f"  {said}, by {100 * spread(busy):.1f} % in busy time")
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def seconds(value: float) -> str:
    """A time for people: `0.012 s`, `3 min 20 s`, `2 h 5 min`."""
    if value < 1:
        return f"{value:.3f} s"
    if value < 99.5:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.1f} days"


def _lines(group: Failures) -> str:
    """`line 3`, `lines 3 to 5, 9 and 2 more`."""
    runs = []
    for _, each in groupby(enumerate(group.lines), lambda pair: pair[1] - pair[0]):
        lines = [line for _, line in each]
        runs.append(
            f"{lines[0]} to {lines[-1]}" if len(lines) > 2 else ", ".join(str(line) for line in lines)
        )
    more = f" and {group.count - len(group.lines)} more" if group.count > len(group.lines) else ""
    return f"line{'s' if group.count > 1 else ''} {', '.join(runs)}{more}"
