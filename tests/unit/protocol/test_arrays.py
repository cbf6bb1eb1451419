"""The jobs of an array, as they are packed."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.arrays import INDEX, TICKET, jobs_of, size_of
from protocol.job import Command, Extras, Sleep, unpack_spec

T = "ABCDEFGHIJ012345"
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
extras = st.builds(
    Extras,
    st.integers(-5, 5),
    env=st.lists(st.tuples(texts, texts | st.just(INDEX)), max_size=3).map(tuple),
    stdin=texts | st.just(INDEX),
    after=st.just(()) | st.just((T,)),
    array=st.integers(2, 200),
)
lines = texts.filter(bool) | st.just(f"echo ${INDEX}") | st.just(INDEX)
limits = st.none() | st.floats(0.1, 1e6)


@given(st.builds(Command, lines, limits, st.integers(0, 5), st.booleans(), extras))
def test_each_is_the_command_with_its_own_index(spec: Command) -> None:
    single, bodies = jobs_of(spec, T)
    jobs = [unpack_spec(body) for body in bodies]
    assert len(jobs) == size_of(spec)
    for index, job in enumerate(jobs):
        assert isinstance(job, Command)
        assert job.extras.env == (*spec.extras.env, (INDEX, str(index)), (TICKET, T))
        assert (job.extras.array, job.extras.after) == (0, ()), "it waits where the array does"
        assert (job.line, job.time_limit, job.retries) == (spec.line, spec.time_limit, spec.retries)
        assert (job.at_most_once, job.extras.stdin) == (spec.at_most_once, spec.extras.stdin)
    assert (single.retries, single.at_most_once, single.extras.array) == (spec.retries, spec.at_most_once, 0)


def test_a_job_is_no_array() -> None:
    assert (size_of(Sleep(5)), size_of(Command("x"))) == (0, 0)
