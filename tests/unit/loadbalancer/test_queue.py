from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from loadbalancer.core.jobs import Job, State
from loadbalancer.core.queue import JobQueue


def made(jobs: list[tuple[int, str]]) -> list[Job]:
    """Jobs of these priorities and origins."""
    return [
        Job(seq, f"T{seq:015d}", origin, 1.0, b"", priority=priority)
        for seq, (priority, origin) in enumerate(jobs)
    ]


def popped(queue: JobQueue, count: int) -> Iterator[Job]:
    for _ in range(count):
        yield queue.pop()


def test_origins_take_turns_and_each_keeps_its_order() -> None:
    jobs = made([(0, "a")] * 4 + [(0, "b")] * 2 + [(0, "c")])
    queue = JobQueue()
    for job in jobs:
        queue.append(job)
    order = [(job.origin, job.seq) for job in popped(queue, 7)]
    assert order == [("a", 0), ("b", 4), ("c", 6), ("a", 1), ("b", 5), ("a", 2), ("a", 3)]


def test_what_comes_back_is_first_of_its_origin() -> None:
    jobs = made([(0, "a")] * 3)
    queue = JobQueue()
    for job in jobs[1:]:
        queue.append(job)
    queue.append_left(jobs[0])
    assert list(popped(queue, 3)) == jobs


def test_what_has_ended_meanwhile_is_passed_over() -> None:
    jobs = made([(5, "a"), (0, "a"), (0, "b"), (-1, "a")])
    queue = JobQueue()
    for job in jobs:
        queue.append(job)
    for job in jobs[:3]:
        job.move(State.DONE)
    assert queue.pop() is jobs[3]


@given(st.lists(st.tuples(st.integers(-2, 2), st.sampled_from("abc")), max_size=40))
def test_every_job_comes_once_by_priority_and_in_order_of_its_origin(jobs: list[tuple[int, str]]) -> None:
    queue = JobQueue()
    waiting = made(jobs)
    for job in waiting:
        queue.append(job)
    order = list(popped(queue, len(waiting)))
    assert sorted(order, key=lambda job: job.seq) == waiting
    assert [job.priority for job in order] == sorted((job.priority for job in waiting), reverse=True)
    for origin in "abc":
        of_one = [(-job.priority, job.seq) for job in order if job.origin == origin]
        assert of_one == sorted(of_one)
