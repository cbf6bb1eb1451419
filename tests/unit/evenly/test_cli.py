"""The command `evenly`: what it prints, and its exit codes, against a fake node."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evenly.cli import exits
from evenly.cli.app import COMMANDS, evenly, main
from evenly.cli.cluster import age
from evenly.cli.jobs import are_here
from evenly.cli.progress import Bar

from .background import Background
from .fake_node import FakeNode

Run = Callable[..., tuple[int, str, str]]
NOBODY = "127.0.0.1:1"


@pytest.fixture
def node(background: Background, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    monkeypatch.setenv("EVENLY_NODES", background.node.address)
    return background.node


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def program(node: FakeNode) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts it as a process."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **streams: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "evenly.cli", *arguments]
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        started.append(subprocess.Popen(command, text=True, **given))  # type: ignore[call-overload]
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# --- submit ------------------------------------------------------------------------------------------------


def test_submit_prints_the_ticket(node: FakeNode, run: Run) -> None:
    options = ("--time", "60", "--env", "A=b", "--env", "C=d", "--cwd", "")
    code, out, err = run("submit", *options, "--", "make", "a b", "-j4")
    assert (code, err) == (0, "")
    job = node.jobs[out.strip()]["job"]
    del job["key"]
    assert job == {"run": "make 'a b' -j4", "time": 60.0, "env": {"A": "b", "C": "d"}}
    code, out, _ = run("submit", "--json", "--at-most-once", "--cwd", ".", "ls | wc", "--key", "k")
    ticket = json.loads(out)["ticket"]
    assert node.jobs[ticket]["job"].items() >= {"at_most_once": True, "cwd": os.getcwd()}.items()


def test_a_command_runs_where_we_are_if_its_nodes_are_here(node: FakeNode, run: Run, tmp_path: Path) -> None:
    def cwd(*words: str) -> str | None:
        code, out, err = run("submit", *words)
        assert (code, err) == (0, "")
        found = node.jobs[out.strip()]["job"].get("cwd")
        return None if found is None else str(found)

    assert cwd("ls") == os.getcwd()
    assert cwd("--cwd", "/tmp", "ls") == "/tmp"
    assert cwd("--cwd", "", "ls") is None
    assert cwd("--task", "checksum", "{}") is None
    (tmp_path / "file").touch()
    # What comes along is found in a directory of its own.
    assert cwd("--upload", str(tmp_path / "file"), "ls") is None


@pytest.mark.parametrize(
    ("nodes", "here"),
    [
        ("127.0.0.1:9000,localhost,[::1]:9001", True),
        ("127.0.0.1:9000,10.0.0.1:9000", False),
        ("node1", False),
        ("no node at all", False),
    ],
)
def test_which_nodes_are_here_is_told_by_their_addresses(nodes: str, here: bool) -> None:
    assert are_here(nodes) == here


def test_what_stands_behind_the_command_is_its_own(node: FakeNode, run: Run) -> None:
    _, out, _ = run("submit", "grep", "--json", "-s", "x")
    assert node.jobs[out.strip()]["job"]["run"] == "grep --json -s x"
    _, out, _ = run("submit", "--", "sort x | uniq > y")
    assert node.jobs[out.strip()]["job"]["run"] == "sort x | uniq > y"


def test_submit_of_a_task(node: FakeNode, run: Run) -> None:
    _, out, _ = run("submit", "--task", "checksum", '{"path": "/x"}')
    assert node.jobs[out.strip()]["job"]["payload"] == {"path": "/x"}
    for payload in (["no json"], ["[1]"], ["{}", "{}"]):
        assert run("submit", "--task", "checksum", *payload)[0] == exits.USAGE


def test_submit_with_files(node: FakeNode, run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    _, out, _ = run("submit", "--upload", str(tmp_path / "a"), "--upload", f"in/x={tmp_path / 'b'}", "true")
    assert set(node.jobs[out.strip()]["job"]["file"]) == {"a", "in/x"}
    assert sorted(node.files.values()) == [b"a", b"b"]
    twice = ["--upload", str(tmp_path / "a")] * 2
    assert run("submit", *twice, "true")[2].startswith("evenly: --upload has two files for the name 'a'")
    assert "a file that is here" in run("submit", "--upload", "/nowhere", "true")[2]


def test_submit_and_wait_is_like_running_it_here(
    background: Background, node: FakeNode, program: Callable[..., subprocess.Popen[str]]
) -> None:
    process = program("submit", "--wait", "--", "hold")
    eventually(lambda: any(line.startswith("tail ") for line in node.lines))
    ((ticket, _),) = node.jobs.items()
    output = [(1, "stdout", 0, b"out\n"), (1, "stderr", 0, b"err\n"), (1, "stdout", 14, b"later\n")]
    background.call(node.output.update, {ticket: output})
    assert process.stdout is not None
    assert process.stdout.readline() == "out\n"
    background.call(node.finish, ticket, exit_code=7, stdout_bytes=120, stderr_bytes=4)
    assert process.stderr is not None
    assert (process.stdout.read(), process.wait(30)) == ("later\n", 7)
    # 10 between what came, and 100 at the end.
    missing = "110 of 124 bytes of its output are missing; --keep-output keeps all of it, for evenly fetch"
    assert process.stderr.read() == f"err\nevenly: {missing}\n"


def test_of_an_end_without_exit_code_it_is_said(node: FakeNode, run: Run) -> None:
    node.finish_with = {"outcome": "lost", "exit_code": None, "reason": "its node went away"}
    code, out, err = run("submit", "--wait", "true")
    assert (code, out) == (1, "")
    assert re.fullmatch("evenly: TICKET[0-9]+ lost, its node went away, in 1.000 s on n1\n", err)
    node.finish_with = {"exit_code": 0, "value": {"a": 1}}
    assert run("submit", "--wait", "--task", "x")[:2] == (0, '{"a": 1}\n')
    code, out, _ = run("submit", "--wait", "--json", "--task", "x")
    assert json.loads(out)["value"] == {"a": 1}


def test_ctrl_c_cancels_what_is_waited_for(
    node: FakeNode, program: Callable[..., subprocess.Popen[str]]
) -> None:
    process = program("submit", "--wait", "--", "hold")
    eventually(lambda: any(line.startswith("tail ") for line in node.lines))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == exits.INTERRUPTED
    ((ticket, job),) = node.jobs.items()
    assert job["outcome"] == "cancelled"
    assert err.strip() == f"evenly: {ticket} is cancelled"


# --- map ---------------------------------------------------------------------------------------------------


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Bytes as the standard input."""
    streams = []

    def give(data: bytes) -> None:
        reader, writer = os.pipe()
        os.write(writer, data)
        os.close(writer)
        streams.append(os.fdopen(reader))
        monkeypatch.setattr(sys, "stdin", streams[-1])

    yield give
    for stream in streams:
        stream.close()


def test_map_over_lines(node: FakeNode, run: Run, given: Callable[[bytes], None]) -> None:
    given(b"a b.png\r\n\n  \nit's.gif\nlast")
    code, out, err = run("map", "--tag", "t", "--", "convert", "{}", "{.}.webp", "$x")
    lines = ["convert 'a b.png' 'a b'.webp '$x'", "convert 'it'\"'\"'s.gif' 'it'\"'\"'s'.webp '$x'"]
    assert out.splitlines() == [f"did {line}" for line in (*lines, "convert last last.webp '$x'")]
    assert (code, err) == (0, "")
    assert {job["job"]["tag"] for job in node.jobs.values()} == {"t"}


def test_map_over_nul_a_file_and_a_list(
    node: FakeNode, run: Run, given: Callable[[bytes], None], tmp_path: Path
) -> None:
    given(b"a\nb\0c\0")
    assert run("map", "-0", "x")[1] == "did x 'a\nb'\ndid x c\n"
    (tmp_path / "items").write_text("".join(f"{n}\n" for n in range(3000)))
    assert run("map", "-a", str(tmp_path / "items"), "x")[1] == "".join(f"did x {n}\n" for n in range(3000))
    assert run("map", "echo", "{#}", ":::", "--json", "b c")[1] == "did echo 1 --json\ndid echo 2 'b c'\n"
    assert run("map", "cat {} > {/.}", ":::", "/a/b.c")[1] == "did cat /a/b.c > b\n"
    assert run("map", "x", ":::") == (0, "", "")


def test_map_does_not_gather_an_item_without_an_end(node: FakeNode, run: Run, tmp_path: Path) -> None:
    items = tmp_path / "items"
    items.write_bytes(b"a\n" + b"x" * 1_000_000 + b"\nb\n")
    code, out, err = run("map", "-a", str(items), "y")
    assert (code, out) == (exits.USAGE, "did y a\n")
    assert err == (
        "evenly: an item is longer than the 65536 bytes of a line that a node takes; "
        f"it begins with '{'x' * 59}…'\n"
    )


def test_map_reports_failures(node: FakeNode, run: Run) -> None:
    code, out, err = run("map", "{}", ":::", "true", "false", "refuse", "true 2")
    assert (code, out) == (1, "did true\ndid false\ndid 'true 2'\n")
    lines = err.splitlines()
    assert re.fullmatch(r"evenly: false: failed, exit code 1, in 1.000 s on n1 \(TICKET\d+\)", lines[0])
    assert lines[1:] == [
        "evenly: refuse: run needs a command line.",
        "evenly: 2 of 4 jobs did not succeed",
    ]
    code, out, _ = run("map", "--json", "{}", ":::", "true", "refuse", "false")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["item"], row.get("outcome"), row.get("error")) for row in rows] == [
        ("true", "succeeded", None),
        ("refuse", None, "run needs a command line."),
        ("false", "failed", None),
    ]


def test_map_gives_results_while_the_input_is_open(
    node: FakeNode, program: Callable[..., subprocess.Popen[str]]
) -> None:
    process = program("map", "x", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for word in ("a", "b"):
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"did x {word}\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == exits.INTERRUPTED


def test_ctrl_c_cancels_what_is_left_of_a_map(
    node: FakeNode, program: Callable[..., subprocess.Popen[str]]
) -> None:
    process = program("map", "hold", ":::", "a", "b", "c")
    eventually(lambda: len(node.jobs) == 3 and node.lines[-1].startswith("wait "))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == exits.INTERRUPTED
    assert [job["outcome"] for job in node.jobs.values()] == ["cancelled"] * 3
    assert err.strip() == "evenly: 3 jobs are cancelled"


def test_a_reader_that_goes_ends_it_silently(
    node: FakeNode, program: Callable[..., subprocess.Popen[str]]
) -> None:
    word = "x" * 100  # more output than a pipe holds
    process = program("map", word, ":::", *map(str, range(5000)))
    assert process.stdout is not None
    assert process.stdout.readline() == f"did {word} 0\n"
    process.stdout.close()
    assert process.wait(60) == exits.BROKEN_PIPE
    assert process.stderr is not None
    assert process.stderr.read() == ""


# --- questions ---------------------------------------------------------------------------------------------


def ticket(run: Run, command: str = "true") -> str:
    return run("submit", command)[1].strip()


def test_status_wait_and_result(background: Background, node: FakeNode, run: Run) -> None:
    good, bad, still = ticket(run), ticket(run, "false"), ticket(run, "hold")
    ended = "succeeded, exit code 0, in 1.000 s on n1"
    assert run("status", good, still)[1] == f"{good}  {ended}\n{still}  queued\n"
    assert json.loads(run("status", "--json", good)[1])["outcome"] == "succeeded"
    assert run("wait", good, bad)[:2] == (
        1,
        f"{good}  {ended}\n{bad}  failed, exit code 1, in 1.000 s on n1\n",
    )
    assert run("wait", good.lower())[0] == 0
    code, out, err = run("wait", "--timeout", "0.01", still)
    assert (code, out, err) == (5, "", f"evenly: {still} has not ended within 0.01 s; it goes on\n")
    assert run("wait", "--timeout", "0.01", good, still)[0] == 5
    assert run("result", good) == (0, "did true\n", "")
    assert run("result", bad, good) == (1, "did false\ndid true\n", "")
    assert run("result", still) == (5, "", f"evenly: {still} has not ended yet\n")
    assert json.loads(run("result", "--json", bad)[1])["exit_code"] == 1


def test_why_a_command_was_ended_and_the_sum_of_an_array_are_told(
    background: Background, node: FakeNode, run: Run
) -> None:
    one, many = ticket(run, "false"), ticket(run, "false")
    why = "killed: its processes had 123 MiB together, over --memory 100M"
    background.call(node.jobs[one].update, {"exit_code": 137, "reason": why, "stdout": ""})
    code, out, err = run("result", one)
    assert (code, out) == (1, "")
    assert err == f"evenly: {one} failed, exit code 137, {why}, in 1.000 s on n1\n"
    array = {"size": 3, "open": 0, "succeeded": 2, "failed": 1}
    said = {"exit_code": None, "reason": "3 jobs: 2 succeeded, 1 failed", "array": array, "started_at": None}
    background.call(node.jobs[many].update, said)
    assert run("result", many) == (1, f"{many}  failed, 3 jobs: 2 succeeded, 1 failed\n", "")


def test_waits_progress_and_arrays_are_told(background: Background, node: FakeNode, run: Run) -> None:
    one = ticket(run, "hold")
    states = [
        ({"waits_for": ["A", "B"]}, "queued, waits for A, B"),
        ({"node": "n2", "attempt": 1, "state": "running", "waits_for": None}, "running on n2, attempt 1"),
        ({"progress": {"part": 0.4, "text": "on"}}, "running on n2, attempt 1, 40% done: on"),
        (
            {"node": None, "progress": None, "array": {"size": 3, "open": 2, "failed": 1}},
            "running: 2 open, 1 failed",
        ),
        ({"array": None, "note": "no balancer"}, "running (no balancer)"),
    ]
    for fields, said in states:
        background.call(node.jobs[one].update, fields)
        assert run("status", one)[1] == f"{one}  {said}\n"


def test_tail_cancel_and_explain(background: Background, node: FakeNode, run: Run) -> None:
    one = ticket(run, "hold")
    assert run("cancel", one)[1] == f"{one}  cancelled\n"
    assert run("cancel", one)[1] == f"{one}  has ended already\n"
    assert json.loads(run("cancel", "--json", one)[1]) == {"ticket": one, "cancel": "too late"}
    background.call(node.output.update, {one: [(1, "stdout", 0, b"a\n"), (1, "stderr", 0, b"b\n")]})
    code, out, err = run("tail", one)
    assert (code, out) == (1, "a\n")
    assert err == f"b\nevenly: {one} cancelled, in 1.000 s on n1\n"
    rows = [json.loads(line) for line in run("tail", "--json", one)[1].splitlines()]
    assert rows[0] == {"stream": "stdout", "attempt": 1, "at": 0, "text": "a\n"}
    node.explained = {
        "why": "it ran twice",
        "attempts": [
            {"attempt": 1, "node": "n1", "from": 0.0, "to": 1.0, "how": "its node went away"},
            {"attempt": 2, "node": "n2", "from": 2.0, "to": None, "how": ""},
        ],
        "waits_for": ["X"],
    }
    lines = run("explain", one)[1].splitlines()
    assert lines[:2] == [f"{one}  done", "  it ran twice"]
    assert re.fullmatch(r"  attempt 1 on n1 from [-0-9]+ [:0-9]+ to .*: its node went away", lines[2])
    assert re.fullmatch(r"  attempt 2 on n2 from [-0-9]+ [:0-9]+ until now", lines[3])
    assert len(lines) == 4
    assert json.loads(run("explain", "--json", one)[1])["why"] == "it ran twice"


def test_fetch(background: Background, node: FakeNode, run: Run, tmp_path: Path) -> None:
    one = ticket(run)
    background.call(node.left.update, {one: {"a": b"abc", "d/b": b""}})
    code, out, _ = run("fetch", one, str(tmp_path / "x"))
    assert (code, out) == (0, f"{tmp_path}/x/a\n{tmp_path}/x/d/b\n")
    rows = [json.loads(line) for line in run("fetch", "--list", "--json", one)[1].splitlines()]
    assert [(row["path"], row["bytes"]) for row in rows] == [("a", 3), ("d/b", 0)]
    assert run("fetch", "-l", one)[1].splitlines()[0].split() == ["BYTES", "SHA256", "PATH"]
    node.spoil = True
    code, _, err = run("fetch", one, str(tmp_path / "y"))
    assert (code, err.count("other bytes")) == (1, 1)
    assert "has left no files" in run("fetch", ticket(run), str(tmp_path / "z"))[2]
    (tmp_path / "file").touch()
    assert run("fetch", one, str(tmp_path / "file"))[0] == exits.USAGE


def test_list_and_nodes(node: FakeNode, run: Run) -> None:
    one = run("submit", "--tag", "t", "--name", "n", "echo  'a\tb'")[1].strip()
    other = ticket(run, "hold")
    lines = [line.split() for line in run("list")[1].splitlines()]
    assert lines[0] == ["TICKET", "STATE", "NODE", "AGE", "TAG", "JOB"]
    assert lines[1][:3] == [other, "queued", "-"]
    assert [*lines[2][:3], *lines[2][4:]] == [one, "succeeded", "n1", "t", "[n]", "echo", "'a", "b'"]
    assert json.loads(run("list", "--json", "-n", "1")[1])["ticket"] == other
    assert [line.split()[0] for line in run("list", "--tag", "t")[1].splitlines()] == ["TICKET", one]
    run("list", "--since", "2h", "--state", "open", "--outcome", "failed", "--name", "x")
    assert node.lines[-1] == "list --state open --outcome failed --name x --since 7200 --limit 100"
    assert "no age" in run("list", "--since", "soon")[2]
    code, out, _ = run("nodes")
    assert (code, out.splitlines()[1].split()[0]) == (0, "n1")
    assert json.loads(run("nodes", "--json")[1])["name"] == "n1"


@pytest.mark.parametrize(("ago", "said"), [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (9e5, "10d")])
def test_ages(ago: float, said: str) -> None:
    assert age(time.time() - ago - 0.1) == said
    assert age(None) == "-"


# --- what goes wrong, and how it looks ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["submit", "-s", NOBODY, "true"], 3, f"no node can be reached ({NOBODY}: connection refused)"),
        (["-s", NOBODY, "nodes"], 3, f"no node can be reached ({NOBODY}: connection refused)"),
        (
            ["map", "-s", NOBODY, "true", ":::", "a"],
            3,
            f"no node can be reached ({NOBODY}: connection refused)",
        ),
        (["wait", "A" * 16], 4, "no node knows the ticket AAAAAAAAAAAAAAAA"),
        (["tail", "A" * 16], 4, "no node knows the ticket AAAAAAAAAAAAAAAA"),
        (["submit", "refuse"], 2, "run needs a command line."),
        (["submit", "-s", "a:b", "true"], 2, "'a:b' is no node: one is HOST:PORT, as in 127.0.0.1:9000"),
        (["submit", "--time", "x", "true"], 2, "--time takes seconds, more than 0"),
        (["submit", "--env", "x", "true"], 2, "--env takes NAME=VALUE"),
        (["submit"], 2, "What to run is missing"),
        (["map", ":::", "a"], 2, "What to run is missing"),
        (["map", "-a", "/dev/null", "x", ":::", "a"], 2, "Items come from :::"),
        (["nothing"], 2, "No such command 'nothing'"),
        (["wait"], 2, "Missing argument"),
        (["list", "--bogus"], 2, "No such option"),
    ],
)
def test_errors_are_one_line(node: FakeNode, run: Run, arguments: list[str], code: int, said: str) -> None:
    got, out, err = run(*arguments)
    assert (got, out, len(err.splitlines())) == (code, "", 1)
    assert err.startswith(f"evenly: {said}")


def test_help_says_the_exit_codes_and_loads_little(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for name, entry in COMMANDS.items():
        assert f"{name} " in out
        assert entry.help in " ".join(out.split())
    assert "3 no node can be reached" in " ".join(out.split())
    program = (
        "import sys; from evenly.cli.app import main; assert main(['--help']) == 0;"
        "assert not {'asyncio', 'rich', 'msgpack', 'evenly.client'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_every_command_has_help_nodes_and_json(run: Run) -> None:
    for name in COMMANDS:
        command = evenly.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.name == name
        code, out, _ = run(name, "--help")
        assert code == 0
        assert ("--json" in out) is (name != "completion")
        if name not in ("completion", "generate", "up"):  # these ask nothing of a node
            assert "--server HOST:PORT" in out
    assert run()[0] == exits.USAGE
    assert run("--version")[1].startswith("evenly, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run: Run, shell: str) -> None:
    code, out, _ = run("completion", shell)
    assert (code, "_EVENLY_COMPLETE=" in out) == (0, True)


def test_completion_knows_commands_and_options(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_EVENLY_COMPLETE", "bash_complete")
    for words, number, expected in (
        ("evenly st", "1", "plain,status\n"),
        ("evenly list --st", "2", "plain,--state\n"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", number)
        assert run()[1] == expected


@pytest.mark.parametrize(("no_color", "expected"), [("", b"\x1b[31mfailed\x1b[0m"), ("1", b"  failed, ")])
def test_a_terminal_has_colours(node: FakeNode, run: Run, no_color: str, expected: bytes) -> None:
    one = ticket(run, "false")
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "evenly.cli", "wait", one]
    environment = os.environ | {"NO_COLOR": no_color, "TERM": "xterm"}
    done = subprocess.run(command, stdout=its, stderr=its, env=environment, check=False, timeout=60)
    os.close(its)
    assert done.returncode == exits.FAILED
    assert expected in os.read(ours, 4096)
    os.close(ours)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for stream, term in ((Terminal(), "dumb"), (io.StringIO(), "xterm"), (Terminal(), "xterm")):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys, "stderr", stream)
        now = 100.0
        with Bar(10, "jobs") as bar:
            bar.add()
            now = 102.0
            bar.failed = 1
            bar.add(4)
    line = "[###############...............] 5 of 10 jobs, 1 failed, 2.5/s, 2 s left"
    assert sys.stderr.getvalue() == f"\r\x1b[2K{line}\r\x1b[2K"  # type: ignore[attr-defined]


def test_generate_writes_json_where_it_is_asked_for(run: Run) -> None:
    assert run("generate", "2", "30", "--json") == (0, '{"sleep": 30}\n{"sleep": 30}\n', "")
