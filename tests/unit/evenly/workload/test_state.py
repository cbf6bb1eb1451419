import contextlib
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest

from evenly.workload import state as module
from evenly.workload.books import EARLY, Books
from evenly.workload.errors import WorkloadError
from evenly.workload.state import UNKNOWN, Counts, End, Open, Refusal, State, Ticket


def ticket(number: int, round: int = 0, origin: int = 1) -> Ticket:
    return Ticket(number, 2 * number + 1, round, f"T{number}R{round}", origin)


def end(number: int, outcome: str = "succeeded", round: int = 0) -> End:
    return End(f"T{number}R{round}", outcome, None, None, "n1", 1.0, 2.0, 3.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.run"


@pytest.fixture
def state(path: Path) -> State:
    return State.create(path, "abc", {"jobs": 10, "speed": 1.5, "file": "jobs"})


# --- the file -------------------------------------------------------------------------------------------


def test_what_is_written_is_there_again(path: Path, state: State) -> None:
    assert state.origin("a:1") == 1
    assert state.origin("b:1") == 2
    state.write([ticket(0), ticket(1, origin=2)], [], [end(0)])
    state.close()
    again = State.open(path)
    assert again is not None
    with again:
        assert [again.get(name) for name in ("run", "jobs", "speed", "file", "nothing")] == [
            *("abc", 10, 1.5, "jobs", None)
        ]
        assert again.origins() == {1: "a:1", 2: "b:1"}
        assert again.counts() == Counts(10, 2, 1, 0)
        assert again.open_jobs(2, UNKNOWN, 5) == [Open(1, "T1R0", 2)]
    assert os.stat(path).st_mode & 0o077 == 0, "who has tickets may cancel jobs"


def test_a_process_that_is_killed_loses_nothing_that_was_written(path: Path) -> None:
    pid = os.fork()
    if not pid:
        State.create(path, "abc", {"jobs": 1}).write([ticket(0)], [], [])
        os._exit(0)
    os.waitpid(pid, 0)
    again = State.open(path)
    assert again is not None
    with again:
        assert again.counts().submitted == 1


def test_a_new_run_replaces_the_file(path: Path, state: State) -> None:
    state.write([ticket(0)], [], [])
    state.close()
    with State.create(path, "def", {"jobs": 1}) as state:
        assert state.counts() == Counts(1, 0, 0, 0)
        assert state.get("run") == "def"


def test_two_do_not_work_on_one_state(path: Path, state: State) -> None:
    state.set(begun=1)
    state.write([ticket(0)])
    for take in (State.open, lambda path: State.create(path, "def", {})):
        with pytest.raises(WorkloadError, match="is in use: another evenly run works on it"):
            take(path)
    state.close()
    with pytest.raises(WorkloadError, match="a run of jobs is not over \\(1 of 10 submitted, 0 done\\)"):
        State.create(path, "def", {})
    again = State.open(path)
    assert again is not None
    with again:
        assert again.open_jobs(1, UNKNOWN, 9) == [Open(0, "T0R0", 1)]
        again.set(over=1)
    number = path.stat().st_ino
    State.create(path, "def", {}).close()
    assert path.stat().st_ino == number, "who has it open still has the one that is there"


def test_of_two_that_take_it_at_once_one_has_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While both can read it, neither can write, and both might be refused: so one does not get so far."""
    both, check = Barrier(2), module._check

    def slow(*given: Any) -> None:
        check(*given)
        with contextlib.suppress(BrokenBarrierError):
            both.wait(0.3)

    def take() -> State | str:
        try:
            return State.create(path, "abc", {"jobs": 1})
        except WorkloadError as error:
            return str(error)

    monkeypatch.setattr(module, "_check", slow)
    with ThreadPoolExecutor(2) as threads:
        taken = [each.result() for each in [threads.submit(take), threads.submit(take)]]
    (state,) = [each for each in taken if isinstance(each, State)]
    state.close()
    assert f"{path} is in use: another evenly run works on it" in taken
    assert both.broken, "they have not met"


def test_what_is_no_state_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    assert State.open(tmp_path / "nothing") is None
    text = tmp_path / "text"
    text.write_text("not a database at all, but something of somebody\n" * 100)
    with pytest.raises(WorkloadError, match="it is no state of a run; --state names another file"):
        State.open(text)
    assert text.read_text().startswith("not a database")
    with pytest.raises(WorkloadError, match="there is no directory"):
        State.create(tmp_path / "no" / "state", "abc", {})


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize(
    ("version", "said"),
    [(0, "is no state of a run"), (1, "is no state of a run"), (7, "is of version 7, not 1")],
)
def test_a_database_of_somebody_stays_as_it_is(tmp_path: Path, mode: str, version: int, said: str) -> None:
    other = tmp_path / "other"
    with sqlite3.connect(other) as database:
        assert database.execute(f"PRAGMA journal_mode = {mode}").fetchone() == (mode,)
        database.execute("CREATE TABLE meta (x)")
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
    other.chmod(0o644)
    before = other.read_bytes()
    for take in (State.open, lambda path: State.create(path, "abc", {})):
        with pytest.raises(WorkloadError, match=f"{said}.*; --state names another file"):
            take(other)
    assert other.read_bytes() == before, "the journal mode stands in it"
    assert other.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [other]


def test_an_empty_file_is_taken(path: Path) -> None:
    path.touch(0o644)
    assert State.open(path) is None, "no run is in it"
    with State.create(path, "abc", {"jobs": 1}) as state:
        assert state.get("run") == "abc"
    assert path.stat().st_mode & 0o077 == 0


# --- jobs -----------------------------------------------------------------------------------------------


def test_what_is_to_be_submitted(state: State) -> None:
    state.write([ticket(0), ticket(1), ticket(2)], [Refusal(3, 7, 0, "no")], [end(0), end(1, "failed")])
    assert state.known(0, 3) == {0: None, 1: None, 2: None}
    assert state.known(2, 10) == {2: None, 3: None}
    assert state.counts() == Counts(10, 4, 3, 2)
    assert state.retry_failed() == 2
    assert state.known(0, 10) == {0: None, 1: 1, 2: None, 3: 1}
    assert state.counts() == Counts(10, 2, 1, 0)
    state.write([ticket(1, 1)], [], [end(1, "failed", 1), end(1, "succeeded", 0)])
    assert state.counts() == Counts(10, 3, 2, 1), "the old ticket says nothing any more"
    assert state.retry_failed() == 1
    assert state.known(0, 10) == {0: None, 1: 2, 2: None, 3: 1}
    state.close()


def test_an_end_counts_once_and_for_each_job_of_the_ticket(state: State) -> None:
    same = [Ticket(number, number, 0, "SAME", 1) for number in (0, 1)]
    assert state.write(same, [], [End("SAME", "failed"), End("OTHER", "failed")]) == (
        2,
        2,
        [End("OTHER", "failed")],
    )
    assert state.write([], [], [End("SAME", "succeeded")]) == (0, 0, [End("SAME", "succeeded")])
    assert state.counts() == Counts(10, 2, 2, 2)
    state.close()


def test_open_jobs_come_in_pages_by_origin(state: State) -> None:
    state.write([ticket(number, origin=(1, 2, UNKNOWN)[number % 3]) for number in range(9)], [], [end(3)])
    assert [job.number for job in state.open_jobs(1, UNKNOWN, 100)] == [0, 2, 5, 6, 8]
    assert [job.number for job in state.open_jobs(2, 2, 2)] == [4, 5]
    state.found(5, 2)
    assert [job.number for job in state.open_jobs(1, UNKNOWN, 100)] == [0, 2, 6, 8]
    state.found(0, 2)
    assert state.open_jobs(1, UNKNOWN, 1)[0].number == 0, "it has an origin"
    state.close()


def test_failed_jobs_wait_for_their_reason(state: State) -> None:
    state.write([ticket(number) for number in range(4)], [], [end(0, "failed"), end(1), end(2, "lost")])
    assert state.unexplained(1, UNKNOWN, 10) == [Open(0, "T0R0", 1), Open(2, "T2R0", 1)]
    state.explain([(0, "exit code 1", "oh"), (2, "", ""), (3, "not yet", "")])
    assert state.unexplained(1, UNKNOWN, 10) == []
    assert state.counts().ended == 3
    state.close()


# --- the books ------------------------------------------------------------------------------------------


def test_an_end_that_comes_before_its_ticket_is_kept(state: State) -> None:
    books = Books(state)
    books.end(end(0))
    books.end(end(1))
    books.write()
    assert (books.submitted, books.ended) == (0, 0)
    books.ticket(ticket(0))
    books.write()
    assert (books.submitted, books.ended, books.open) == (1, 1, 0)
    books.ticket(ticket(1))
    books.end(end(1))
    books.write()
    assert (books.ended, books.failed, books.missed) == (2, 0, False)
    state.close()


def test_others_ends_are_forgotten_and_that_is_known(state: State) -> None:
    books = Books(state)
    for number in range(EARLY):
        books.end(end(number))
    books.write()
    assert not books.missed
    books.end(end(EARLY))
    books.write()
    assert books.missed
    books.ticket(ticket(EARLY))
    books.ticket(ticket(0))
    books.write()
    assert (books.ended, books.open) == (1, 1)
    state.close()


def test_books_go_on_where_the_state_is(state: State) -> None:
    state.write([ticket(0), ticket(1)], [Refusal(2, 5, 0, "no")], [end(0)])
    books = Books(state)
    assert (books.jobs, books.submitted, books.ended, books.failed, books.open) == (10, 3, 2, 1, 1)
    state.close()
