from itertools import product

import pytest

from loadbalancer.core.jobs import TRANSITIONS, IllegalTransition, Job, Row, State, job_of, row_of

T = "ABCDEFGHIJ012345"
EVERY = list(product(State, State))


def job_in(state: State) -> Job:
    job = Job(7, T, "origin", 5.0, b"body")
    job.state = state
    return job


def row(**fields: object) -> Row:
    made = Row(7, T, 3, 1, "origin", 2, 1, "n1", 5.0, "", 0, 2, 0.0, 4, 1, b"body", None)
    return made._replace(**fields)


@pytest.mark.parametrize(("before", "after"), sorted(TRANSITIONS))
def test_a_change_of_the_table_is_made(before: State, after: State) -> None:
    job = job_in(before)
    job.move(after)
    assert job.state is after


@pytest.mark.parametrize(("before", "after"), [pair for pair in EVERY if pair not in TRANSITIONS])
def test_any_other_change_raises_with_the_story_of_the_job(before: State, after: State) -> None:
    job = job_in(before)
    job.attempt, job.losses, job.node, job.version = 4, 2, "n1", 9
    with pytest.raises(IllegalTransition) as caught:
        job.move(after)
    assert str(caught.value) == (
        f"Job({T}, {before.name}, attempt 4, node n1, 2 losses, outcome none, version 9) "
        f"cannot become {after.name}"
    )
    assert job.state is before


def test_the_table_is_this_one() -> None:
    assert {(before.name, after.name) for before, after in TRANSITIONS} == {
        ("QUEUED", "ASSIGNED"),
        ("QUEUED", "DONE"),
        ("ASSIGNED", "RUNNING"),
        ("ASSIGNED", "QUEUED"),
        ("ASSIGNED", "DONE"),
        ("RUNNING", "QUEUED"),
        ("RUNNING", "DONE"),
        ("ASSIGNED", "DELAYED"),
        ("RUNNING", "DELAYED"),
        ("ASSIGNED", "PASSING"),
        ("RUNNING", "PASSING"),
        ("PASSING", "DONE"),
        ("DELAYED", "QUEUED"),
        ("DELAYED", "DONE"),
    }


def test_done_is_the_end() -> None:
    assert not [after for before, after in TRANSITIONS if before is State.DONE]


def test_every_state_can_be_reached_and_can_end() -> None:
    reached = {State.QUEUED}
    for _ in State:
        reached |= {after for before, after in TRANSITIONS if before in reached}
    assert reached == set(State)
    assert {before for before, after in TRANSITIONS if after is State.DONE} == set(State) - {State.DONE}


def test_a_new_job_waits_for_its_first_attempt() -> None:
    job = Job(7, T, "origin", 5.0, b"body")
    assert (job.state, job.attempt, job.losses, job.node, job.outcome) == (State.QUEUED, 1, 0, None, "")
    assert (job.version, job.since, job.cancelled) == (0, 5.0, False)
    assert (job.failures, job.lost, job.not_before) == (0, None, 0.0)
    assert (job.retries, job.at_most_once) == (0, False)


def test_a_story_names_the_outcome() -> None:
    job = job_in(State.DONE)
    job.outcome = "failed"
    assert "DONE" in repr(job)
    assert "outcome failed" in repr(job)


def test_states_have_the_numbers_that_stores_hold() -> None:
    assert {state.name: int(state) for state in State} == {
        "QUEUED": 0,
        "ASSIGNED": 1,
        "RUNNING": 2,
        "DONE": 3,
        "DELAYED": 4,
        "PASSING": 5,  # never stored
    }


@pytest.mark.parametrize("state", [State.QUEUED, State.ASSIGNED, State.DONE, State.DELAYED])
def test_a_job_comes_back_from_its_row(state: State) -> None:
    recorded = row(
        state=int(state),
        outcome="failed" if state is State.DONE else "",
        result_size=4,
        not_before=8.5 if state is State.DELAYED else 0.0,
    )
    assert row_of(job_of(recorded), b"body", None) == recorded


def test_a_running_job_is_recorded_as_assigned() -> None:
    assert row_of(job_in(State.RUNNING), None, None).state == State.ASSIGNED


def test_a_row_without_a_body_gives_a_job_without_one() -> None:
    assert job_of(row(body=None)).body == b""


def test_body_and_result_are_recorded_only_when_given() -> None:
    job = job_of(row())
    assert (row_of(job, None, None).body, row_of(job, None, None).result) == (None, None)
    assert (row_of(job, b"b", b"r").body, row_of(job, b"b", b"r").result) == (b"b", b"r")
