from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenly.workload.report import (
    GROUPS,
    LINES,
    PERCENTS,
    Failures,
    NodeUse,
    Times,
    as_json,
    as_text,
    report_of,
    seconds,
    spread,
    times,
)
from evenly.workload.state import UNKNOWN, End, Refusal, State, Ticket


def ticket(number: int) -> str:
    return f"T{number:015}"


@pytest.fixture
def state(tmp_path: Path) -> State:
    """Four jobs on two nodes, one of them failed; one open, one refused, one not submitted."""
    state = State.create(tmp_path / "run", "abc", {"file": "jobs.txt", "jobs": 7})
    state.write(
        [Ticket(number, number + 1, 0, ticket(number), UNKNOWN) for number in range(5)],
        [Refusal(5, 6, 0, "There is no task 'x'.")],
        [
            End(ticket(0), "succeeded", None, None, "n1", 100.0, 101.0, 103.0),
            End(ticket(1), "succeeded", None, None, "n1", 100.0, 100.0, 101.0),
            End(ticket(2), "failed", "exit code 2", "no such file", "n2", 100.0, 104.0, 110.0),
            End(ticket(3), "cancelled", "", "", None, 100.0, None, 101.0),
        ],
    )
    return state


# --- figures -------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_values_that_so_many_do_not_exceed(values: list[float]) -> None:
    found = times(iter(sorted(values)), len(values))
    for percent, value in zip(PERCENTS, found.percentiles, strict=True):
        assert value in values
        assert sum(each <= value for each in values) >= ceil(percent * len(values) / 100)
        assert sum(each < value for each in values) < ceil(percent * len(values) / 100)
    assert (found.count, found.most) == (len(values), max(values))
    assert found.mean == pytest.approx(sum(values) / len(values))


def test_of_no_jobs_there_are_no_times() -> None:
    assert times([], 0) == Times()


@pytest.mark.parametrize(
    ("values", "part"), [([], 0), ([5], 0), ([0, 0], 0), ([90, 110], 0.2), ([100, 100, 130], 30 / 110)]
)
def test_the_spread_is_the_most_above_the_least(values: list[float], part: float) -> None:
    assert spread(values) == pytest.approx(part)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0.000 s"),
        (0.0124, "0.012 s"),
        (1, "1.0 s"),
        (99.4, "99.4 s"),
        (99.6, "1 min 40 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (86400 * 3, "3.0 days"),
    ],
)
def test_a_time_is_short(value: float, said: str) -> None:
    assert seconds(value) == said


# --- from the state ------------------------------------------------------------------------------------


def test_the_report_of_a_run(state: State) -> None:
    report = report_of(state)
    assert (report.jobs, report.submitted, report.succeeded, report.failed, report.open) == (7, 6, 2, 3, 1)
    assert (report.seconds, report.rate, report.is_good) == (10.0, 0.5, False)
    assert report.nodes == (NodeUse("n1", 2, 3.0), NodeUse("n2", 1, 6.0))
    assert report.wait == Times(3, (1.0, 4.0, 4.0), 4.0, pytest.approx(5 / 3))
    assert report.run_times == Times(3, (2.0, 6.0, 6.0), 6.0, 3.0)
    assert report.failures == (
        Failures("cancelled", "", 1, (4,), ""),
        Failures("failed", "exit code 2", 1, (3,), "no such file"),
        Failures("refused", "There is no task 'x'.", 1, (6,), ""),
    )


def test_the_report_in_text(state: State) -> None:
    assert as_text(report_of(state)) == (
        "jobs.txt: 2 of 7 jobs succeeded, 3 failed, 1 are not done, 1 are not submitted\n"
        "In 10.0 s, 0.5 jobs a second.\n"
        "  1 cancelled: line 4\n"
        "  1 failed, exit code 2: line 3\n"
        "      no such file\n"
        "  1 refused, There is no task 'x'.: line 6\n"
        "\n"
        "           50 %   90 %   99 %   MOST   MEAN\n"
        "  waited  1.0 s  4.0 s  4.0 s  4.0 s  1.7 s\n"
        "  ran     2.0 s  6.0 s  6.0 s  6.0 s  3.0 s\n"
        "\n"
        "  NODE  JOBS   SHARE   BUSY\n"
        "  n1       2  66.7 %  3.0 s\n"
        "  n2       1  33.3 %  6.0 s\n"
        "  most above least by 66.7 % of the mean in jobs, by 66.7 % in busy time"
    )


def test_the_report_for_programs(state: State) -> None:
    said = as_json(report_of(state))
    assert said["failures"][1] == {
        "outcome": "failed",
        "reason": "exit code 2",
        "count": 1,
        "lines": (3,),
        "hint": "no such file",
    }
    assert said["wait"] == {"jobs": 3, "p50": 1.0, "p90": 4.0, "p99": 4.0, "max": 4.0, "mean": 5 / 3}
    assert said["nodes"][1] == {"node": "n2", "jobs": 1, "busy": 6.0}
    assert (said["jobs"], said["succeeded"], said["failed"], said["open"]) == (7, 2, 3, 1)


def test_only_some_groups_and_some_lines_are_told(tmp_path: Path) -> None:
    with State.create(tmp_path / "run", "abc", {"file": "f", "jobs": 200}) as state:
        state.write(
            [Ticket(number, number + 1, 0, ticket(number), UNKNOWN) for number in range(200)],
            [],
            [
                End(ticket(number), "failed", f"exit code {min(number, 20)}", "", "n1", 0.0, 1.0, 2.0)
                for number in range(200)
            ],
        )
        report = report_of(state)
        assert (len(report.failures), report.groups) == (GROUPS, 21)
        assert report.failures[0].count == 180
        text = as_text(report)
        assert f"  180 failed, exit code 20: lines 21 to {20 + LINES} and 170 more\n" in text
        assert "  and in 11 more ways\n" in text


def test_a_run_of_nothing_is_good(tmp_path: Path) -> None:
    with State.create(tmp_path / "run", "abc", {"file": "f", "jobs": 0}) as state:
        assert report_of(state).is_good
        assert as_text(report_of(state)) == "f: 0 of 0 jobs succeeded, 0 failed"
