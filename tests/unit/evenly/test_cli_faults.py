"""The command `evenly` where something is wrong: one line says what, and as much is done as can be."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evenly.cli import exits
from evenly.cli.map import Cutter
from evenly.client import AsyncClient, JobTimeout, Result
from protocol.replies import NOT_FOUND

from . import test_cli
from .background import Background
from .fake_node import FakeNode
from .test_cli import Run, eventually, ticket

#: Fixtures, found by their names.
node, run, program, given = test_cli.node, test_cli.run, test_cli.program, test_cli.given
Start = Callable[..., subprocess.Popen[str]]
UNKNOWN = "A" * 16


# --- what is given -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["map", "--key", "k", "x", ":::", "a"], "--key is for a single submission"),
        (["map", "--array", "2", "x", ":::", "a"], "--array is for a single submission"),
        (["map", "x", ":::", "a", ":::", "b"], "There is one list of items, behind one ::: only."),
        (["map", "\udcff", ":::", "a"], "The command is not UTF-8."),
        (["submit", "--tag", "\udcff", "true"], "Invalid value for '--tag': '\\udcff' is not UTF-8."),
        (["submit", "--cwd", "/\udcff", "true"], "Invalid value for '--cwd': '/\\udcff' is not UTF-8."),
        (["submit", "--env", "A=\udcff", "true"], "Invalid value for '--env': 'A=\\udcff' is not UTF-8."),
        (["submit", "echo", "\udcff"], "Invalid value for '[--] CMD…': '\\udcff' is not UTF-8."),
        (["submit", "--task", "\udcff"], "Invalid value for '--task': '\\udcff' is not UTF-8."),
        (["list", "--name", "\udcff"], "Invalid value for '--name': '\\udcff' is not UTF-8."),
        (["-s", "\udcff", "nodes"], "Invalid value for '-s' / '--nodes': '\\udcff' is not UTF-8."),
        (["wait", "--timeout", "nan", UNKNOWN], "Invalid value for '--timeout': 'nan' is no number"),
        (["submit", "--upload", "../x=/dev/null", "true"], "--upload takes a file that is here"),
        (["submit", "--upload", f"../x={__file__}", "true"], "--upload NAME=FILE takes a relative path"),
        (["submit", "--upload", f"/x={__file__}", "true"], "--upload NAME=FILE takes a relative path"),
        (["submit", "--upload", f"={__file__}", "true"], "--upload NAME=FILE takes a relative path"),
        (["submit", "--task", "t", '{"a":' + "[" * 20_000], "The payload is not JSON"),
        (["submit", "--upload", "/tmp", "true"], "--upload: '/tmp' is a directory; --upload takes files."),
    ],
)
def test_what_cannot_be_used_is_named(node: FakeNode, run: Run, arguments: list[str], said: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out, len(err.splitlines())) == (exits.USAGE, "", 1)
    assert err.startswith(f"evenly: {said}")
    assert not node.jobs


def test_nodes_that_are_no_utf8_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENLY_NODES", "\udcff:9000")
    said = "evenly: EVENLY_NODES is not UTF-8. (evenly --help says more)\n"
    assert run("nodes") == (exits.USAGE, "", said)


def test_the_help_that_is_named_is_that_of_the_subcommand(run: Run) -> None:
    for arguments in (("submit", "--retries"), ("submit",), ("submit", "--time", "x", "true"), ("map",)):
        assert run(*arguments)[2].endswith(f"(evenly {arguments[0]} --help says more)\n")
    assert run("nothing")[2].endswith("(evenly --help says more)\n")


def test_of_the_directory_where_we_are_it_is_said_what_is_wrong(
    node: FakeNode, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in (
        ("gone", "This directory has been removed"),
        (b"\xff", "The name of this directory is not UTF-8"),
    ):
        place = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), os.fsencode(name))))
        place.mkdir()
        monkeypatch.chdir(place)
        if name == "gone":
            place.rmdir()
        for arguments in (("submit", "true"), ("submit", "--cwd", "sub", "true")):
            code, _, err = run(*arguments)
            assert (code, err.startswith(f"evenly: {said}: --cwd DIRECTORY")) == (exits.USAGE, True), err
        assert run("submit", "--cwd", "/tmp", "true")[0] == exits.OK


def test_items_that_end_with_nul_are_as_they_are(node: FakeNode, run: Run, tmp_path: Path) -> None:
    items = tmp_path / "items"
    items.write_bytes(b"  \0a\r\0\0b\n\0")
    out = run("map", "--json", "-0", "-a", str(items), "x")[1]
    assert [json.loads(line)["item"] for line in out.splitlines()] == ["  ", "a\r", "b\n"]
    assert Cutter(b"\n").cut(b"  \n\r\na\r\nb \n") == ["a", "b "]


def test_an_item_that_is_no_utf8_costs_no_other_one(node: FakeNode, run: Run, tmp_path: Path) -> None:
    items = tmp_path / "items"
    items.write_bytes(b"a\n\xff\nb\n")
    code, out, err = run("map", "-a", str(items), "x")
    assert (code, out) == (exits.FAILED, "did x a\ndid x b\n")
    assert err.splitlines()[0].endswith(": this item is not UTF-8, as what goes to a node has to be")


def test_a_stdin_that_is_closed_has_no_items(
    run: Run, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = run("map", "echo")
    assert code == exits.USAGE
    assert err.startswith("evenly: Items come from stdin, which is closed")


# --- tickets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "result", "wait", "explain", "cancel"])
def test_a_ticket_that_is_bad_takes_no_other_one_along(node: FakeNode, run: Run, command: str) -> None:
    one, other = ticket(run), ticket(run)
    code, out, err = run(command, one, UNKNOWN, other)
    assert (code, err) == (exits.UNKNOWN_TICKET, f"evenly: no node knows the ticket {UNKNOWN}\n")
    assert len(out.splitlines()) >= 2
    assert command == "result" or all(each in out for each in (one, other))


def test_the_exit_code_is_that_of_the_first_failure(
    node: FakeNode, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, still = ticket(run, "false"), ticket(run, "hold")
    assert run("result", bad, still, UNKNOWN)[0] == exits.FAILED
    assert run("result", still, bad)[0] == exits.NOT_YET
    wait = AsyncClient.wait

    async def late(self: AsyncClient, job: str, timeout: float) -> Result:
        if job == still:
            raise JobTimeout(still, "it is late")
        return await wait(self, job, timeout)

    monkeypatch.setattr(AsyncClient, "wait", late)
    code, out, err = run("wait", "--timeout", "60", still, bad)
    assert (code, out.startswith(f"{bad}  failed")) == (exits.NOT_YET, True)
    assert err == "evenly: it is late\n"


def test_why_a_job_failed_is_said_where_its_output_does_not(
    background: Background, node: FakeNode, run: Run
) -> None:
    why = "it cannot be started: /nowhere is no directory"
    for words in (("submit", "--wait", "true"), ("submit", "--wait", "--task", "x")):
        node.finish_with = {"exit_code": 126, "outcome": "failed", "reason": why, "stdout": ""}
        code, out, err = run(*words)
        assert (code, out) == (126, "")
        assert re.fullmatch(rf"evenly: TICKET\d+ failed, exit code 126, {why}, in 1.000 s on n1\n", err)
    node.finish_with |= {"exit_code": 1, "reason": "ValueError", "stderr": "File x, line 1\n"}
    assert run("result", ticket_of_task(run))[2] == "File x, line 1\n"
    node.finish_with |= {"stderr": ""}
    assert "ValueError" in run("result", ticket_of_task(run))[2]


def ticket_of_task(run: Run) -> str:
    return run("submit", "--task", "x")[1].strip()


def test_whether_it_is_an_array_is_said_by_its_status(
    background: Background, node: FakeNode, run: Run
) -> None:
    """With a key it may be what was submitted before, with other options."""
    run("submit", "--key", "k", "true")
    code, out, err = run("submit", "--wait", "--key", "k", "--array", "3", "true")
    assert (code, out, err) == (exits.OK, "", "")


def test_a_job_of_a_node_that_is_not_named_is_followed_without_its_end(
    background: Background, node: FakeNode, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any node follows any job, and answers for its own alone."""
    one = ticket(run)
    background.call(node.output.update, {one: [(1, "stdout", 0, b"a\n")]})
    about = type(node)._about

    async def of_another_node(self: FakeNode, verb: str, rest: str, writer: object) -> None:
        if verb == "tail":
            await about(self, verb, rest, writer)  # type: ignore[arg-type]
        else:
            self._send(writer, {"error": NOT_FOUND, "ticket": rest})  # type: ignore[arg-type]

    monkeypatch.setattr(type(node), "_about", of_another_node)
    code, out, err = run("tail", one)
    assert (code, out) == (exits.OK, "a\n")
    assert err == f"evenly: how {one} ended is known to the node that gave this ticket\n"


# --- files -------------------------------------------------------------------------------------------------


def test_files_of_a_job_that_has_not_ended_are_not_there_yet(
    background: Background, node: FakeNode, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: FakeNode, ticket: str, path: str, writer: object) -> None:
        self._send(writer, {"error": "It has not been executed yet, come back later."})  # type: ignore[arg-type]

    monkeypatch.setattr(type(node), "_fetch", refuses)
    still = ticket(run, "hold")
    said = "evenly: It has not been executed yet, come back later.\n"
    assert run("fetch", still) == (exits.NOT_YET, "", said)
    background.call(node.finish, still)
    assert run("fetch", still) == (exits.USAGE, "", said)


def test_files_that_came_before_a_fault_are_named(
    background: Background, node: FakeNode, run: Run, tmp_path: Path
) -> None:
    one = ticket(run)
    background.call(node.left.update, {one: {"a": b"abc", "d/b": b"", "z": b""}})
    for in_the_way, said in (("d", "a file is in the way of a directory"), ("d/b/x", "is in its way")):
        place = tmp_path / in_the_way.replace("/", "-")
        (place / in_the_way).parent.mkdir(parents=True)
        (place / in_the_way).touch()
        code, out, err = run("fetch", one, str(place))
        assert (code, out, len(err.splitlines())) == (exits.FAILED, f"{place}/a\n", 1)
        assert said in err


# --- ends --------------------------------------------------------------------------------------------------


@pytest.fixture
def full(program: Start) -> Start:
    """Starts it with a stdout that takes nothing."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        with open("/dev/full", "wb") as full:
            return program(*arguments, stdout=full.fileno())

    return start


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["submit", "x"],
        ["generate", "5000", "30"],
        ["--help"],
        ["nodes", "--json"],
        ["completion", "bash"],
    ],
)
def test_that_stdout_is_full_is_said(full: Start, arguments: list[str]) -> None:
    process = full(*arguments)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (exits.FAILED, "evenly: stdout: no space left on device\n")


def test_what_cannot_be_said_ends_nothing(node: FakeNode, program: Start) -> None:
    with open("/dev/full", "wb") as full:
        process = program("map", "{}", ":::", "true", "false", "true", stderr=full)
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (exits.FAILED, "did true\ndid false\ndid true\n")


def test_a_stdin_that_cannot_be_read_is_said(node: FakeNode, program: Start) -> None:
    with open("/dev/null", "wb") as unreadable:
        process = program("map", "x", stdin=unreadable)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (exits.USAGE, "", "evenly: stdin: bad file descriptor\n")


def test_items_of_a_file_are_done_while_more_are_to_come(
    node: FakeNode, program: Start, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "items")
    process = program("map", "-a", str(tmp_path / "items"), "x")
    assert process.stdout is not None
    with (tmp_path / "items").open("w") as items:
        for word in ("a", "b"):
            items.write(f"{word}\n")
            items.flush()
            assert process.stdout.readline() == f"did x {word}\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == exits.INTERRUPTED


def test_an_item_that_fits_nowhere_costs_no_other_one(node: FakeNode, run: Run) -> None:
    code, out, err = run("map", "echo $(({} + 1))", ":::", "1", "x", "3")
    assert (code, out) == (exits.FAILED, "did echo $((1 + 1))\ndid echo $((3 + 1))\n")
    assert err.splitlines()[0].startswith("evenly: x: between (( and ))")


def test_what_cannot_be_written_is_cancelled(background: Background, node: FakeNode, full: Start) -> None:
    process = full("submit", "--wait", "hold")
    eventually(lambda: any(line.startswith("tail ") for line in node.lines))
    ((one, _),) = node.jobs.items()
    background.call(node.output.update, {one: [(1, "stdout", 0, b"a\n")]})
    _, err = process.communicate(timeout=30)
    said = f"evenly: {one} is cancelled\nevenly: stdout: no space left on device\n"
    assert (process.returncode, err) == (exits.FAILED, said)
    assert node.jobs[one]["outcome"] == "cancelled"

    process = full("map", "{}", ":::", "true", "hold", "hold")
    _, err = process.communicate(timeout=30)
    said = "evenly: 2 jobs are cancelled\nevenly: stdout: no space left on device\n"
    assert (process.returncode, err) == (exits.FAILED, said)


def test_ctrl_c_ends_it_while_no_node_answers(background: Background, node: FakeNode, program: Start) -> None:
    process = program("submit", "--wait", "hold")
    eventually(lambda: any(line.startswith("tail ") for line in node.lines))
    ((one, _),) = node.jobs.items()
    node.is_mute = True
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    again = f"evenly cancel {one} tries again"
    said = f"evenly: {one} could not be cancelled: no answer for 5 s; {again}"
    assert (process.returncode, err.rstrip("\n")) == (exits.INTERRUPTED, said)


def test_ctrl_c_before_there_is_a_ticket(node: FakeNode, program: Start) -> None:
    process = program("submit", "mute")
    eventually(lambda: node.jobs)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    said = "evenly: it is not known whether the job was taken; evenly list shows it if it was"
    assert (process.returncode, err.rstrip("\n")) == (exits.INTERRUPTED, said)


def test_ctrl_c_ends_a_map_while_no_node_answers(node: FakeNode, program: Start) -> None:
    process = program("map", "hold", ":::", "a", "b")
    eventually(lambda: len(node.jobs) == 2 and node.lines[-1].startswith("wait "))
    node.is_mute = True
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    named = " ".join(node.jobs)
    said = f"evenly: 2 jobs could not be cancelled; evenly cancel {named} tries again"
    assert (process.returncode, err.rstrip("\n")) == (exits.INTERRUPTED, said)


def test_ctrl_c_while_it_is_loaded_is_no_traceback() -> None:
    """As the script does it that stands in the path."""
    program = """
import sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]: raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from evenly.cli.app import main
sys.exit(main(["list"]))
"""
    for module in ("click", "evenly.cli.cluster", "evenly.client", "asyncio"):
        command = [sys.executable, "-c", program, module]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr.strip()) == (exits.INTERRUPTED, ""), module
