"""The demo, `up` and the local cluster they share: real programs, and nothing left behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evenly.local import ClusterError, LocalCluster
from support import PATIENCE, Client, clean_environment, eventually, marker

TICKET = r"[A-Z0-9]{16}"


class Traces:
    """Finds every process that was started with this environment, and their children, and theirs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in os.environ.keys() - clean_environment().keys():
            monkeypatch.delenv(name)
        self.mark = marker()
        monkeypatch.setenv("EVENLY_TEST_MARK", self.mark)

    def processes(self) -> list[str]:
        """Their numbers, without this process's."""
        wanted = f"EVENLY_TEST_MARK={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(entry.name)
                except OSError:
                    continue  # it has ended, or is not ours
        return found


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Traces:
    return Traces(monkeypatch)


@contextmanager
def started(*arguments: str, **streams: int) -> Iterator[subprocess.Popen[str]]:
    """A Python module as a process that is over at the end of the block."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    argv = [sys.executable, "-W", "error", "-m", *arguments]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, text=True, **streams) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def line_with(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The next line of its output that the pattern is found in."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if match := re.search(pattern, line):
            return match
    pytest.fail(f"no line with {pattern} in {seen}")


# --- the demo ------------------------------------------------------------------------------------


def test_the_demo_runs_to_its_end(traces: Traces) -> None:
    with started("evenly.demo") as process:
        out, err = process.communicate(timeout=PATIENCE * 2)
    assert (process.returncode, err) == (0, "")
    assert not traces.processes()
    assert "\x1b" not in out, "no terminal, no control sequences"
    total = int(re.search(r"All (\d+) jobs succeeded", out)[1])
    assert 200 <= total <= 900
    assert re.search(r"jobs held: n1 +\d+ \(done +\d+\), n2 ", out)
    nodes = dict(re.findall(r"^  (n\d) +(\d+) +\d+ %", out, re.MULTILINE))
    assert nodes.keys() == {"n1", "n2", "n3"}
    assert sum(map(int, nodes.values())) == total
    jobs = re.findall(rf"^  {TICKET}  n\d +(sha256sum|gzip|\S*python)", out, re.MULTILINE)
    assert len(jobs) == 8
    proof = re.search(
        rf"  > result ({TICKET})\n  < Result: succeeded, exit code 0, in .* on n\d: ([0-9a-f]{{64}})", out
    )
    assert f"hashlib in this process: {proof[2]}\n  They are the same." in out


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_a_terminal_sees_the_nodes_redrawn(
    traces: Traces, monkeypatch: pytest.MonkeyPatch, no_colour: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_colour)
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen, started("evenly.demo", stdout=theirs) as process:
        os.close(theirs)
        out = b""
        try:
            while data := screen.read(65536):
                out += data
        except OSError:
            pass  # Linux's end of a terminal
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert b"\x1b[3A" in out
    assert (b"\x1b[32m" in out) is (not no_colour)
    assert b"They are the same." in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(traces: Traces, number: int) -> None:
    with started("evenly.demo") as process:
        line_with(process, "Submitting")
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "interrupted; the cluster is stopped" in err
    assert "Traceback" not in err
    assert not traces.processes()


def test_a_demo_whose_reader_leaves_ends(traces: Traces) -> None:
    with started("evenly.demo") as process:
        line_with(process, "Submitting")
        process.stdout.close()
        process.wait(PATIENCE)
        assert (process.returncode, process.stderr.read()) == (1, "")
    assert not traces.processes()


# --- the cluster ---------------------------------------------------------------------------------


def test_what_was_killed_starts_again_and_knows_its_tickets(traces: Traces) -> None:
    with LocalCluster(2, slots=1) as cluster:
        programs = (cluster.balancer, *cluster.nodes)
        assert {str(program.pid) for program in programs} <= set(traces.processes())
        with cluster.client() as client:
            before = client.ask_json("run echo before")["ticket"]
            assert client.ask_json(f"wait {before}")["stdout"] == "before\n"
        old = cluster["n1"].pid
        cluster.kill("n1")
        assert not cluster["n1"].is_running
        assert cluster["n1"].exit_code == -signal.SIGKILL
        cluster.start("n1")
        cluster.wait_connected()
        assert cluster["n1"].pid != old
        cluster.kill("balancer")
        with cluster.client() as client:
            assert client.ask_json(f"result {before}")["stdout"] == "before\n"
            meanwhile = client.ask_json("run echo meanwhile")["ticket"]
            cluster.start("balancer")
            cluster.wait_connected()
            assert client.ask_json(f"wait {meanwhile}")["stdout"] == "meanwhile\n"
        directory = cluster.directory
    assert [program.exit_code for program in (cluster.balancer, *cluster.nodes)] == [0, 0, 0]
    assert not directory.exists()
    assert not traces.processes()


def test_a_program_that_cannot_start_is_quoted(traces: Traces) -> None:
    cluster = LocalCluster(1, environment={"DISPATCH_MODE": "nonsense"})
    with pytest.raises(ClusterError) as raised, cluster:
        pass
    text = str(raised.value)
    assert text.startswith("balancer could not start (exit code 2); the end of its log:\n")
    assert "DISPATCH_MODE must be eager or periodic, not 'nonsense'" in text
    assert not traces.processes()


def test_a_program_that_dies_is_named_in_a_wait(traces: Traces) -> None:
    with LocalCluster(1) as cluster, cluster.client() as client:
        os.kill(cluster.balancer.pid, signal.SIGKILL)
        with pytest.raises(ClusterError, match=r"^balancer ended by itself \(killed by signal 9\)"):
            cluster.wait_until(lambda: client.ask_json("stats") is None, "the impossible")


def test_ports_are_the_wanted_ones_where_free(traces: Traces) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with LocalCluster(1, ports=[taken]) as cluster:
            assert cluster.balancer.port != taken
            wanted = [cluster.balancer.port, cluster["n1"].port]
    with LocalCluster(1, ports=wanted) as cluster:
        assert [cluster.balancer.port, cluster["n1"].port] == wanted


# --- up ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("evenly.up", "--nodes"), ("evenly.cli", "up", "-n")])
def test_up_stays_until_ctrl_c_and_keeps_its_tickets(
    traces: Traces, tmp_path: Path, words: tuple[str, ...]
) -> None:
    arguments = (*words, "2", "--slots", "1", "--data", str(tmp_path / "up"))
    with started(*arguments) as process:
        port, pid = line_with(process, r"nc 127\.0\.0\.1 (\d+) +# n1, process (\d+)").groups()
        line_with(process, "Ctrl-C ends it")
        with Client(int(port)) as client:
            (ticket,) = client.submit("run echo hello")
            assert client.ask(f"wait {ticket}").endswith(": hello")
        os.kill(int(pid), signal.SIGKILL)
        line_with(process, r"n1 was killed by signal 9; it runs again as process \d+")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    name = "evenly" if "up" in words else "evenly.up"
    assert err.strip() == f"{name}: the cluster is stopped"
    eventually(lambda: not traces.processes(), "no process is left")
    with started(*arguments) as process:
        port = line_with(process, r"nc 127\.0\.0\.1 (\d+) +# n1")[1]
        with Client(int(port)) as client:
            assert client.ask(f"result {ticket}").endswith(": hello")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def test_up_in_json_tells_a_program_where_all_is(traces: Traces, tmp_path: Path) -> None:
    directory = tmp_path / "up"
    with started("evenly.cli", "up", "-n", "1", "--data", str(directory), "--json") as process:
        ready = json.loads(process.stdout.readline())
        assert (ready["event"], ready["data"]) == ("ready", str(directory))
        assert ready["balancer"].keys() == {"name", "address", "pid"}
        (node,) = ready["nodes"]
        with Client(int(node["address"].rpartition(":")[2])) as client:
            assert len(client.submit("0")[0]) == 16
        os.kill(node["pid"], signal.SIGKILL)
        again = json.loads(process.stdout.readline())
        assert again == node | {"event": "restarted", "pid": again["pid"], "exit_code": -signal.SIGKILL}
        assert again["pid"] != node["pid"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, ""), err


def test_up_refuses_a_bad_setting_in_one_line(traces: Traces) -> None:
    with started("evenly.up", "--nodes", "0") as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert err == "evenly.up: --nodes must be a whole number from 1 to 100, not '0'\n"
