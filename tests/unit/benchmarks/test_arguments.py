"""Bad arguments end with one line."""

import pytest

from benchmarks.__main__ import parse
from benchmarks.works import WORKS


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["X"], "must be of A B C D E F G H, not 'X'"),
        (["--runs", "0"], "must be a whole number from 1 to 100, not '0'"),
        (["--scale", "nan"], "must be a number above 0, at most 100, not 'nan'"),
        (["--scale", "x"], "must be a number above 0, at most 100, not 'x'"),
        (["--store"], "--store goes with --quick"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_argument_is_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_works_are_given_by_their_letters() -> None:
    assert parse(["c", "A"]).works == [WORKS["C"], WORKS["A"]]
    assert parse([]).works == []


def test_every_measure_has_a_key_of_its_own_that_begins_with_its_works_letter() -> None:
    keys = [(work.letter, measure.key) for work in WORKS.values() for measure in work.measures]
    assert all(key.startswith(f"{letter}.") for letter, key in keys)
    assert len({key for _, key in keys}) == len(keys)
