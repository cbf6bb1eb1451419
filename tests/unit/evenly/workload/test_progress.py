import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evenly.workload import progress
from evenly.workload.progress import RATE_PERIOD, Rate, View


def books(**counts: int) -> Any:
    return SimpleNamespace(**({"jobs": 100, "submitted": 0, "ended": 0, "failed": 0} | counts))


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate.value == 0
    rate.add(0, 0)
    assert rate.value == 0
    for now in range(1, 11):
        rate.add(now, now)
    assert rate.value == 1
    for now in range(11, 31):
        rate.add(now, 10 + 5 * (now - 10))
    assert rate.value == 5
    assert len(rate._seen) <= RATE_PERIOD + 2


def test_where_no_terminal_is_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    out = io.StringIO()
    with View(out) as view:
        view.update(books())
        now += 4
        view.update(books(submitted=50, ended=8))
        assert out.getvalue() == ""
        now += 2
        view.update(books(submitted=100, ended=30, failed=2))
        view.update(books(submitted=100, ended=31))
        view.tell("n1 is away")
        now += 14
        view.update(books(submitted=100, ended=100), is_last=True)
    assert out.getvalue().splitlines() == [
        "30 of 100 done, 100 submitted, 2 failed, 5.0/s, 14.0 s left",
        "n1 is away",
        "100 of 100 done, 100 submitted, 5.8/s",
    ]


def test_a_replay_takes_as_long_as_its_times_are(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    out = io.StringIO()
    with View(out, span=7200) as view:
        view.update(books())
        now += 10
        view.update(books(submitted=60, ended=50))
    assert out.getvalue() == "50 of 100 done, 60 submitted, 5.0/s, 1 h 59 min left\n"


def test_in_a_gap_of_a_replay_the_time_left_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ends for longer than the rate looks back."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    out = io.StringIO()
    with View(out, span=600) as view:
        for now in (0.0, 100.0, 200.0):  # noqa: B007
            view.update(books(submitted=50, ended=50))
        now = 700.0
        view.update(books(submitted=50, ended=50))
    assert out.getvalue().splitlines() == [
        "50 of 100 done, 50 submitted, 0.0/s, 8 min 20 s left",
        "50 of 100 done, 50 submitted, 0.0/s, 6 min 40 s left",
        "50 of 100 done, 50 submitted, 0.0/s",
    ]


def test_where_nothing_is_followed_submissions_count() -> None:
    out = io.StringIO()
    with View(out, follows=False) as view:
        view.update(books(submitted=100), is_last=True)
    assert out.getvalue().startswith("100 of 100 submitted, ")


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    with View(out) as view:
        view.update(books(submitted=70, ended=30), is_last=True)
        view.tell("[red]n1[/red] is away")
        view.update(books(submitted=100, ended=100), is_last=True)
    assert "100/100" in out.getvalue()
    assert "[red]n1[/red] is away" in out.getvalue(), "as it is"


def test_on_a_terminal_that_can_draw_nothing_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    with View(out) as view:
        assert out.getvalue() == ""
        view.update(books(submitted=100, ended=100), is_last=True)
    assert out.getvalue() == "100 of 100 done, 100 submitted, 0.0/s\n"
