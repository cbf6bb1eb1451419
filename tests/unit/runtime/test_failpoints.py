"""Fail points kill the process, so each test has one of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import failpoints

ROOT = Path(failpoints.__file__).parents[1]
#: Goes by each of these places so many times, and says so before.
PROGRAM = """
import sys
from runtime.failpoints import reach
for turn in range(1, 4):
    for name in sys.argv[1:]:
        print(name, turn, flush=True)
        reach(name)
print("end", flush=True)
"""


def passed(fail_point: str | None, *names: str) -> tuple[int, list[str]]:
    """(exit code, where it came by) of a process that goes by these names three times."""
    environ = {key: value for key, value in os.environ.items() if key != failpoints.VARIABLE}
    if fail_point is not None:
        environ[failpoints.VARIABLE] = fail_point
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_the_variable_is_not_set_here() -> None:
    assert failpoints.VARIABLE not in os.environ
    for name in (*failpoints.NAMES, "unknown"):
        failpoints.reach(name)


@pytest.mark.parametrize("off", [None, "", "commit.after", "commit.before:4", "commit", ":1"])
def test_nothing_happens_unless_it_is_asked_for(off: str | None) -> None:
    code, lines = passed(off, "commit.before", "commit.inside")
    assert code == 0
    assert len(lines) == 7
    assert lines[-1] == "end"


@pytest.mark.parametrize(
    ("fail_point", "last"),
    [
        ("commit.before", "commit.before 1"),
        ("commit.inside", "commit.inside 1"),
        ("commit.before:1", "commit.before 1"),
        ("commit.inside:2", "commit.inside 2"),
        ("commit.before:3", "commit.before 3"),
    ],
)
def test_the_process_is_killed_where_it_comes_by_for_the_nth_time(fail_point: str, last: str) -> None:
    code, lines = passed(fail_point, "commit.before", "commit.inside")
    assert code == -signal.SIGKILL
    assert lines[-1] == last


def test_the_names_are_those_of_the_places_in_the_sources() -> None:
    places = [
        name
        for room in ("runtime", "clusternode")
        for path in sorted((ROOT / room).glob("*.py"))
        for name in re.findall(r'reach\("([^"]*)"\)', path.read_text("utf-8"))
    ]
    assert sorted(places) == sorted(failpoints.NAMES)
