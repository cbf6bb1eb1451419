"""What a run is begun with, gone on with, and refused for."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenly.workload.errors import WorkloadError
from evenly.workload.session import Wishes, prepare
from evenly.workload.state import State, Ticket

SWF = "1 {} -1 {} 4 -1 -1 4 -1 -1 1 1 1 1 1 1 -1 -1\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "trace.swf"
    path.write_text(SWF.format(0, 60) + SWF.format(100, 3_000_000))
    return path


def begun(path: Path, **how: object) -> State:
    """The state of a run of which one job is submitted."""
    _, state = prepare(Wishes(path, **how), print)  # type: ignore[arg-type]
    state.set(begun=1)
    state.write([Ticket(0, 1, 0, "T", 1)])
    return state


def refused(path: Path, said: str, **how: object) -> None:
    with pytest.raises(WorkloadError, match=said):
        prepare(Wishes(path, **how), print)  # type: ignore[arg-type]


def test_of_two_that_begin_at_once_the_second_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen that there is no earlier run. The first may be at work by then, or stopped."""
    first = begun(path, speed=1000)
    name = first.get("run")
    monkeypatch.setattr(State, "open", lambda path: None)
    refused(path, "is in use: another evenly run works on it", speed=1000)
    first.close()
    refused(path, r"a run of .*trace\.swf is not over \(1 of 2 submitted, 0 done\): --resume", speed=1000)
    monkeypatch.undo()
    state = State.open(path.with_name("trace.swf.run"))
    assert state is not None
    with state:
        assert [job.ticket for job in state.open_jobs(1, -1, 9)] == ["T"]
        assert state.get("run") == name


def test_a_speed_that_is_said_when_it_goes_on_stays(path: Path) -> None:
    begun(path, speed=1000).close()
    for said, kept in ((None, 1000), (5000, 5000), (None, 5000)):
        workload, state = prepare(Wishes(path, speed=said, resumes=True), print)
        state.close()
        assert workload.speed == kept


def test_a_speed_that_makes_other_lines_bad_is_refused(path: Path) -> None:
    """The second is a job at 1000 times the speed alone: those behind it would be taken for others."""
    begun(path, speed=1000).close()
    refused(path, r"with --speed 1 other lines of .*trace\.swf are bad", speed=1.0, resumes=True)
    begun_at_one = path.with_name("other")
    begun(path, state=begun_at_one, skips_bad=True).close()
    refused(path, "with --speed 1000 other lines", state=begun_at_one, speed=1000.0, resumes=True)
    prepare(Wishes(path, state=begun_at_one, speed=1.2, resumes=True), print)[1].close()
