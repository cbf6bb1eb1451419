from pathlib import Path
from statistics import mean

import pytest

from evenly.workload.generate import DISTRIBUTIONS, lines, times
from evenly.workload.reader import FORMATS, Entry, Workload
from protocol.limits import SLEEP_LIMIT_MS


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_times_have_their_mean_and_the_same_seed_gives_the_same(distribution: str) -> None:
    drawn = list(times(50_000, 200, distribution, seed=7))
    assert mean(drawn) == pytest.approx(200, rel=0.05)
    assert drawn == list(times(50_000, 200, distribution, seed=7))
    assert (drawn == list(times(50_000, 200, distribution, seed=8))) is (distribution == "constant")
    assert all(0 <= ms <= SLEEP_LIMIT_MS for ms in drawn)
    assert list(times(3, 0, distribution)) == [0, 0, 0]


def test_the_distributions_differ_in_how_long_the_longest_are() -> None:
    most = {name: max(times(10_000, 100, name, seed=1)) for name in DISTRIBUTIONS}
    assert most["constant"] == 100 < most["uniform"] <= 200 < most["exponential"] < most["lognormal"]


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_made_is_read_as_its_format(tmp_path: Path, format: str) -> None:
    path = tmp_path / "made"
    path.write_text("".join(f"{line}\n" for line in lines(500, 3000, "uniform", 3, format)))
    found = Workload(path)
    survey = found.survey()
    assert (found.format, survey.jobs, survey.fault_count) == (format, 500, 0)


def test_the_formats_in_letters(tmp_path: Path) -> None:
    assert list(lines(2, 100, "constant")) == ["sleep 100", "sleep 100"]
    assert list(lines(1, 1500, "constant", format="shell")) == ["sleep 1.500"]
    assert list(lines(1, 100, "constant", format="jsonl")) == ['{"sleep": 100}']
    path = tmp_path / "made.swf"
    path.write_text("\n".join(lines(3, 2000, "constant", format="swf")))
    assert [each for each in Workload(path).read() if isinstance(each, Entry)] == [
        Entry(0, 3, '{"sleep":2000}', 0.0),
        Entry(1, 4, '{"sleep":2000}', 2.0),
        Entry(2, 5, '{"sleep":2000}', 4.0),
    ]
