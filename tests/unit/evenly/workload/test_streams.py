"""What `evenly run` and the demo write where not all of it can be written, and how a run is stopped."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evenly import demo
from workloads import COMMAND, environment

from ..background import Background
from ..fake_node import FakeNode


@pytest.fixture
def node(background: Background) -> FakeNode:
    """Its jobs fail, and say why in words that are no ASCII."""
    background.node.finish_with = {"exit_code": 1, "stderr": "für „x“ gibt es nichts\n"}
    return background.node


@contextmanager
def started(*words: object, closed: str = "", **given: str) -> Iterator[subprocess.Popen[bytes]]:
    """`evenly` as a process of a shell that has closed some of its streams."""
    with subprocess.Popen(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**given),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def evenly(*words: object, closed: str = "", **given: str) -> tuple[int, bytes, bytes]:
    with started(*words, closed=closed, **given) as process:
        out, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    return process.returncode, out, err


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.sh"
    path.write_text("make\n")
    return path


def test_what_an_encoding_lacks_is_written_as_an_escape(node: FakeNode, path: Path) -> None:
    code, out, err = evenly("run", path, "-s", node.address, PYTHONIOENCODING="ascii")
    assert code == 1
    assert b"      f\\xfcr \\u201ex\\u201c gibt es nichts\n" in out
    assert err.endswith(b"--retry-failed submits the failed ones again\n")


def test_help_where_there_is_no_utf_8() -> None:
    code, out, err = evenly("run", "--help", PYTHONIOENCODING="latin-1")
    assert (code, err) == (0, b"")
    assert b"HOST:PORT,\\u2026" in out


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_the_shell_has_closed_are_not_missed(node: FakeNode, path: Path, closed: str) -> None:
    code, out, err = evenly("run", path, "-s", node.address, closed=closed)
    assert code == 1
    assert (b"0 of 1 jobs succeeded, 1 failed\n" in out) is (closed == "2>&-")
    assert (b"--retry-failed submits" in err) is (closed == ">&-")
    assert path.with_name("jobs.sh.run").read_bytes().startswith(b"SQLite format 3\0"), "nothing stands in it"
    assert node.submitted() == ["make"]


def test_the_demo_where_there_is_no_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    with io.TextIOWrapper(shown, encoding="latin-1") as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setattr(demo, "end_by_signals", lambda: None)
        monkeypatch.setattr(demo, "run", lambda: print("für …"))
        assert demo.main([]) == 0
        assert shown.getvalue() == b"f\xfcr \\u2026\n"


def test_ctrl_c_while_it_is_asked_why_jobs_failed(node: FakeNode, path: Path) -> None:
    async def silent(verb: str, rest: str, writer: object) -> None:
        assert verb == "result"

    node._about = silent  # type: ignore[method-assign, assignment]
    with started("run", path, "-s", node.address) as process:
        end = time.monotonic() + 60
        while not any(line.startswith("result") for line in node.lines):
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"1 of 1 submitted, 1 done; go on with: evenly run {path} -s ".encode() in err
