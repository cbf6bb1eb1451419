"""`evenly run` against a node that is not real: what it refuses, hints at, and leaves as it is."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evenly.cli.app import main
from evenly.workload import runner, stations

from ..background import Background
from ..fake_node import FakeNode

Run = Callable[..., tuple[int, str, str]]
SWF = "1 {} -1 {} 4 -1 -1 4 -1 -1 1 1 1 1 1 1 -1 -1\n"


@pytest.fixture
def node(background: Background, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    monkeypatch.setattr(stations, "QUIET", 0.02)
    monkeypatch.setattr(runner, "PERIOD", 0.005)
    monkeypatch.setenv("EVENLY_NODES", background.node.address)
    return background.node


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `evenly` with these arguments: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(each) for each in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def write(directory: Path, *commands: str, name: str = "jobs.sh") -> Path:
    path = directory / name
    path.write_text("".join(f"{command}\n" for command in commands))
    return path


# --- runs and those before them -------------------------------------------------------------------------


def test_what_is_only_submitted_is_not_over(
    background: Background, node: FakeNode, run: Run, tmp_path: Path
) -> None:
    path = write(tmp_path, "hold", "true")
    assert run("run", path, "--no-wait")[0] == 0
    code, _, err = run("run", path, "--no-wait")
    assert code == 2
    assert err.startswith(f"evenly: a run of {path} is not over (2 of 2 submitted, 0 done): --resume goes on")
    (ticket, _) = node.jobs
    background.call(node.finish, ticket)
    code, out, _ = run("run", path, "--resume", "--json")
    assert (code, json.loads(out)["succeeded"]) == (0, 2)
    assert len(node.jobs) == 2
    assert run("run", write(tmp_path, "true", "true"))[0] == 0, "now it is over"


def test_where_no_node_is_there_the_state_stays_as_it_is(
    background: Background, node: FakeNode, run: Run, tmp_path: Path
) -> None:
    path, state = write(tmp_path, "true", "false"), tmp_path / "jobs.sh.run"
    assert run("run", path)[0] == 1
    before = state.read_bytes()
    background.do(node.stop())
    code, out, err = run("run", path)
    assert (code, out) == (3, "")
    assert re.fullmatch(r"evenly: no node can be reached \(.*\)\n", err)
    assert state.read_bytes() == before
    background.do(node.start())
    assert run("run", path, "--retry-failed")[0] == 1
    assert node.submitted() == ["true", "false", "false"]


@pytest.mark.parametrize("damaged", [[], ["--resume"], ["--retry-failed"]])
def test_a_damaged_state_is_said_in_a_line(
    node: FakeNode, run: Run, tmp_path: Path, damaged: list[str]
) -> None:
    path, state = write(tmp_path, *["true"] * 300), tmp_path / "jobs.sh.run"
    assert run("run", path)[0] == 0
    data = state.read_bytes()
    state.write_bytes(data[:4096] + b"\xaa" * (len(data) - 4096))
    code, out, err = run("run", path, *damaged)
    assert (code, out) == (2, "")
    said = "cannot be used for the state: database disk image is malformed; --state names another file"
    assert err == f"evenly: {state} {said}\n"
    assert len(node.jobs) == 300


@pytest.mark.parametrize("version", [0, 1])
def test_the_database_of_somebody_is_no_state(node: FakeNode, run: Run, tmp_path: Path, version: int) -> None:
    path, other = write(tmp_path, "true"), tmp_path / "other"
    with sqlite3.connect(other) as database:
        database.executescript(f"CREATE TABLE mine (x); PRAGMA user_version = {version}")
    database.close()
    before = other.read_bytes()
    for more in ([], ["--resume"]):
        code, _, err = run("run", path, "--state", other, *more)
        assert (code, err) == (2, f"evenly: {other} is no state of a run; --state names another file\n")
    assert other.read_bytes() == before
    assert not node.jobs


@pytest.mark.parametrize("is_the_groups", [False, True])
def test_hints_name_the_nodes_and_the_state(
    node: FakeNode, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_the_groups: bool
) -> None:
    """Whether `evenly -s` says the nodes, or `evenly run -s`."""
    monkeypatch.setenv("EVENLY_NODES", "127.0.0.1:1")
    path, state = write(tmp_path, "false", name="my jobs.sh"), tmp_path / "my state"
    server = ["-s", node.address]
    words = [*server, "run"] if is_the_groups else ["run", *server]
    named = f"evenly run '{path}' --state '{state}' -s {node.address}"
    _, out, _ = run(*words, path, "--state", state, "--no-wait")
    assert out == f"1 of 1 jobs are submitted; {named} --resume follows them.\n"
    _, _, err = run(*words, path, "--state", state, "--resume")
    assert err.endswith(f"{named} --retry-failed submits the failed ones again\n")


def test_a_hint_for_a_name_that_looks_like_an_option(
    node: FakeNode, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "false", name="-jobs.sh")
    _, _, err = run("run", "./-jobs.sh")
    assert err.endswith("evenly run ./-jobs.sh --retry-failed submits the failed ones again\n")


# --- files and arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('[{"run": "true"}, {"run": "true"}]\n', [1]),
        ('[\n  {"run": "true"},\n  {"run": "true"}\n]\n', [1, 2, 4]),
        ('[ {"run": "true"},\n{"run": "false"}]\n', [1, 2]),
    ],
)
def test_a_json_array_is_refused_by_its_lines(
    node: FakeNode, run: Run, tmp_path: Path, text: str, lines: list[int]
) -> None:
    path = tmp_path / "jobs.json"
    path.write_text(text)
    code, out, err = run("run", path)
    assert (code, out) == (2, "")
    *faults, last = err.splitlines()
    assert [int(re.match(rf"evenly: {path}:(\d+): ", fault)[1]) for fault in faults] == lines  # type: ignore[index]
    assert last == "evenly: nothing was submitted; --skip-bad leaves such lines out"
    assert not node.jobs
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "."], ". is no regular file: a workload is read twice, so it must be one"),
        (["run", ""], ". is no regular file"),
        (["run", "-"], "a workload is read twice, so it must be a file, not stdin"),
        (["run", "trace.swf", "--speed", "nan"], "'nan' is no number that can be used here"),
        (["run", "trace.swf", "--speed", "inf"], "'inf' is no number that can be used here"),
        (["generate", "3", "nan"], "'nan' is no number that can be used here"),
        (["generate", "3", "inf"], "inf is not in the range"),
    ],
)
def test_what_can_be_no_workload_is_said_in_a_line(
    node: FakeNode, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "trace.swf"
    path.write_text(SWF.format(0, 0))
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"evenly: [^\n]*\n", err)
    assert said in err
    assert list(tmp_path.iterdir()) == [path], "no state is made"


def test_times_that_are_no_times_are_told_by_their_lines(node: FakeNode, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "trace.swf"
    path.write_text(SWF.format(0, 1) + SWF.format("1e308", 1) + SWF.format(1, "1e308"))
    code, _, err = run("run", path)
    assert code == 2
    assert [line.split(": ")[1] for line in err.splitlines()[:-1]] == [f"{path}:2", f"{path}:3"]
    assert not node.jobs


def test_a_name_that_is_no_utf_8(node: FakeNode, run: Run, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\xfe.sh")
    code, _, err = run("run", path)
    assert (code, err) == (2, f"evenly: {tmp_path}/\\udcff\\udcfe.sh: no such file or directory\n")
    write(tmp_path, "true", "false", name=path.name)
    code, out, err = run("run", path)
    assert code == 1
    assert out.startswith(f"{tmp_path}/��.sh: 1 of 2 jobs succeeded, 1 failed\n")
    assert "--retry-failed submits the failed ones again" in err
    code, out, _ = run("run", path, "--retry-failed", "--json")
    report: dict[str, Any] = json.loads(out)
    assert (code, report["failed"]) == (1, 1)
    assert os.fsencode(path) + b".run" in [os.fsencode(each) for each in tmp_path.iterdir()]
