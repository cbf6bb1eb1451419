"""The helper's parts: its bounds, its working directory, and commands with a shell and without one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusternode.executor import helper
from clusternode.executor import surroundings as module
from clusternode.executor.removal import remove_tree
from clusternode.executor.surroundings import Place, Surroundings, plain_words
from protocol import limits

Run = Callable[[str], tuple[int, bytes, bytes]]


def test_the_helpers_bounds_are_those_of_the_protocol() -> None:
    """The helper imports none of them, so as to start fast; what it holds twice must stay the same."""
    assert (helper.OUTPUT_LIMIT, helper.KILL_GRACE) == (limits.OUTPUT_LIMIT, limits.KILL_GRACE)


# --- commands without a shell --------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        *("true", "false", "ls", "ls -la /", " \t ls\t -a ", "/bin/ls", "./x", "date +%Y"),
        *("git log --pretty=%h", "no-such-command", "dd if=/dev/null of=/dev/null", "env", "-x", "a@b:c,d"),
    ],
)
def test_plain_words_need_no_shell(line: str) -> None:
    assert plain_words(line) == line.split()


@pytest.mark.parametrize(
    "line",
    [
        *("", " ", "\t", "A=1", "A=1 ls", "echo", "echo x", "true x", "true --version", "false -h"),
        *("test -f x", "kill 1", "pwd", "printf x", "time ls", "cd /", "exit 3", "exec ls", ". x", ": x"),
        *("type ls", "wait", "ls ~", "ls ~root", "ls *", "ls ?", "ls [a]", "ls {a,b}", "ls #x", "! ls"),
        *("ls $X", "ls `x`", "ls 'a'", 'ls "a"', "ls \\a", "ls | x", "ls & x", "ls ; x", "ls > x"),
        *("ls 2>x", "ls < x", "(ls)", "ls ^ x", "ls\nls", "ls\rx", "ls \u00e9", "ls \u2003x", "\u00a0ls"),
        *("{ ls", "if", "while true", "[ a ]", "[[ a", "setsid sleep 1"),
    ],
)
def test_all_else_goes_to_the_shell(line: str) -> None:
    assert plain_words(line) is None


def test_what_shells_do_themselves_is_known() -> None:
    """Of all names of programs on this machine."""
    found = {
        name
        for directory in os.environ["PATH"].split(":")
        if os.path.isdir(directory)
        for name in os.listdir(directory)
        if plain_words(name) and name not in module.PROGRAMS
    }
    script = "".join(f"command -v {name}\n" for name in sorted(found))
    for shell in ("/bin/sh", "/bin/bash"):
        if os.path.exists(shell):
            said = subprocess.run([shell, "-s"], input=script, capture_output=True, text=True, check=False)
            assert [line for line in said.stdout.splitlines() if not line.startswith("/")] == []


@settings(deadline=None, max_examples=100)
@given(st.text(st.sampled_from(sorted(module.PLAIN)), max_size=30))
def test_words_are_those_that_the_shell_makes(line: str) -> None:
    words = plain_words(f"ls {line}")
    assert words is not None
    said = subprocess.run(
        ["/bin/sh", "-c", "--", f"printf '%s\\0' ls {line}"], capture_output=True, check=True
    ).stdout
    assert said == "".join(f"{word}\0" for word in words).encode()


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """In `bin`, first in PATH, there are programs of all kinds."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, mode, text in (
        ("script", 0o755, "#!/bin/sh\necho script $# $0\n"),
        ("no-interpreter", 0o755, "#!/no/such/interpreter\n"),
        ("no-magic", 0o755, "echo no magic $#\n"),
        ("not-executable", 0o644, "#!/bin/sh\necho never\n"),
        ("not-text", 0o755, "\1\2\3"),
        ("empty", 0o755, ""),
        ("true", 0o755, "#!/bin/sh\nexit 9\n"),
        ("echo", 0o755, "#!/bin/sh\nexit 9\n"),
        ("three", 0o755, "#!/bin/sh\nexit 3\n"),
        ("itself", 0o755, "#!/bin/sh\nkill -KILL $$\n"),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(mode)
    (programs / "directory").mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("OLDPWD", "/nowhere")
    monkeypatch.chdir(tmp_path)
    made = Surroundings(dict(os.environ), str(tmp_path))
    made.place.enter()
    return made


def run_by(spawn: Callable[[int, int], int]) -> tuple[int, bytes, bytes]:
    """(wait status, standard output, standard error)."""
    outputs = [os.pipe(), os.pipe()]
    pid = spawn(outputs[0][1], outputs[1][1])
    for _, write_end in outputs:
        os.close(write_end)
    said = []
    for read_end, _ in outputs:
        with open(read_end, "rb") as stream:
            said.append(stream.read())
    return os.waitpid(pid, 0)[1], said[0], said[1]


@pytest.mark.parametrize(
    "line",
    [
        *("true", "false", "env", "ls", "ls -A", "ls /no/such/file", "no-such-command"),
        *("./no-such-command x", "script", "script a b", "no-interpreter", "no-magic x", "not-executable"),
        *("not-text", "empty", "directory", "three", "/bin/ls -d /", "/etc/passwd", "/", "bin", "-x", "--"),
        *("printenv PWD", "printenv EVENLY_TICKET", "cat", "sort /no/such/file", "/bin/true/x", "x/y/z"),
        *("sh -c exit", "readlink .", "ls " + "-" * 300, "script " + "a " * 2000),
        *("readlink /proc/self/fd/0", "grep -E Sig(Blk|Ign)", "grep ^Sig[BI] /proc/self/status"),
        "ls /proc/self/fd",
    ],
)
def test_a_command_without_a_shell_does_what_it_does_with_one(line: str, surroundings: Surroundings) -> None:
    key = ("T", 1)
    by_shell = run_by(lambda out, err: surroundings._spawn_shell(key, line, out, err))
    by_itself = run_by(lambda out, err: surroundings.spawn(key, line, out, err))
    assert (by_itself[0], *map(lines, by_itself[1:])) == (by_shell[0], *map(lines, by_shell[1:]))


@pytest.mark.parametrize("line", ["printenv PWD", "env", "ls", "./here a", "no-such-command", "readlink ."])
def test_it_does_so_in_another_directory(line: str, surroundings: Surroundings, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "here").write_text("#!/bin/sh\necho here $#\n")
    (there / "here").chmod(0o755)

    def by_shell(out: int, err: int) -> int:
        os.chdir(there)
        try:
            return surroundings._spawn_shell(("T", 1), line, out, err)
        finally:
            os.chdir(surroundings.place.path)

    wishes = ({}, str(there), b"", "", 0, 0)
    by_itself = run_by(lambda out, err: surroundings.spawn_as_wished(("T", 1), line, wishes, out, err))
    assert os.getcwd() == surroundings.place.path
    with_one = run_by(by_shell)
    assert (by_itself[0], *map(lines, by_itself[1:])) == (with_one[0], *map(lines, with_one[1:]))


def test_a_command_without_a_shell_is_ended_by_its_signal_as_after_exec(surroundings: Surroundings) -> None:
    status, said, _ = run_by(lambda out, err: surroundings.spawn(("T", 1), "itself", out, err))
    assert (os.waitstatus_to_exitcode(status), said) == (-9, b"")


def lines(output: bytes) -> list[bytes]:
    """Variables come in no order."""
    return sorted(output.splitlines())


def test_words_do_without_a_shell(surroundings: Surroundings) -> None:
    """Else the comparison above compares nothing."""
    assert surroundings._from_shell is not None
    status, said, _ = run_by(
        lambda out, err: surroundings._spawn_program(("T", 1), ["printenv", "PWD"], out, err)
    )
    assert (status, said) == (0, f"{surroundings.place.path}\n".encode())
    with pytest.raises(FileNotFoundError):
        surroundings._spawn_program(("T", 1), ["no-such-command"], 1, 2)


@pytest.mark.parametrize("path", [None, "/bin:/usr/bin:%builtin"])
def test_a_path_that_shells_read_in_ways_of_their_own_is_left_to_them(
    path: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    variables = {name: value for name, value in os.environ.items() if name != "PATH"}
    if path is None:
        monkeypatch.delenv("PATH")
    else:
        monkeypatch.setenv("PATH", path)
        variables["PATH"] = path
    assert Surroundings(variables, str(tmp_path))._from_shell is None


# --- the working directory -----------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(str(tmp_path))


def test_a_directory_that_was_left_as_it_was_is_used_again(place: Place) -> None:
    place.enter()
    path = place.path
    assert os.getcwd() == path
    os.listdir(path)
    place.leave()
    place.enter()
    assert place.path == os.getcwd() == path


def test_one_that_another_job_has_removed_meanwhile_is_made_anew(place: Place) -> None:
    place.enter()
    path = place.path
    place.leave()
    os.rmdir(path)
    place.enter()
    assert os.getcwd() == place.path != path


def test_a_directory_that_something_of_the_job_is_still_in_is_not_used_again(place: Place) -> None:
    place.enter()
    path = place.path
    place.leave(is_shared=True)
    place.enter()
    assert place.path != path


def test_what_another_helper_of_the_same_number_left_behind_is_no_hindrance(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / f"{os.getpid()}.1").mkdir()
    place.enter()
    assert os.listdir(place.path) == []


def touch_and_remove(path: Path) -> None:
    (path / "file").touch()
    (path / "file").unlink()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "file").touch(),
        lambda path: (path / "directory").mkdir(),
        touch_and_remove,
        lambda path: path.chmod(0o755),
        lambda path: path.rmdir(),
        lambda path: path.rename(path.with_name("elsewhere")),
        lambda path: os.utime(path),
    ],
)
def test_a_directory_that_was_changed_is_removed_and_the_next_job_has_a_new_one(
    place: Place, change: Callable[[Path], None]
) -> None:
    place.enter()
    path = place.path
    change(Path(path))
    place.leave()
    assert not os.path.exists(path)
    place.enter()
    assert place.path == os.getcwd() != path
    assert os.listdir(".") == []


def test_a_job_that_removes_what_is_above_its_directory_costs_the_next_one_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Place(str(tmp_path / "above" / "work"))
    for above in (tmp_path / "above" / "work", tmp_path / "above"):
        place.enter()
        remove_tree(str(above))
        place.leave()
    place.enter()
    assert os.getcwd() == place.path


# --- how a command ended -------------------------------------------------------------------------


OVER: Any = SimpleNamespace(is_over=True, verdict="killed: it had too much", remark="")
WITHIN: Any = SimpleNamespace(is_over=False, verdict="", remark="it was seen with 9 MiB")


@pytest.mark.parametrize(
    ("code", "memory", "ooms", "is_ours", "said"),
    [
        (0, None, False, False, (0, "")),
        (3, None, True, False, (3, "")),
        (-9, None, False, False, (137, "killed by SIGKILL")),
        (-200, None, False, False, (328, "killed")),
        (-9, None, True, False, (137, "killed by SIGKILL as memory ran out")),
        (137, None, True, False, (137, "one of its processes was killed by SIGKILL as memory ran out")),
        (137, None, False, False, (137, "")),
        (-9, None, True, True, (137, "killed by SIGKILL")),
        (-9, OVER, False, False, (137, "killed: it had too much")),
        (0, OVER, False, False, (137, "killed: it had too much")),
        (0, WITHIN, False, False, (0, "")),
        (1, WITHIN, False, False, (1, "it was seen with 9 MiB")),
        (-11, WITHIN, False, False, (139, "killed by SIGSEGV; it was seen with 9 MiB")),
        (-15, WITHIN, False, True, (143, "killed by SIGTERM")),
    ],
)
def test_what_ended_it_is_named(
    code: int, memory: Any, ooms: bool, is_ours: bool, said: tuple[int, str]
) -> None:
    job: Any = SimpleNamespace(_memory=memory, _kill_at=1.0 if is_ours else None)
    kills: Any = SimpleNamespace(since=lambda: ooms)
    assert helper.Job._how(job, code, kills) == said
