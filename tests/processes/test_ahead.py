"""Commands that were handed to a helper ahead: whatever dies, is stopped or cancelled, each runs once."""

from __future__ import annotations

import marshal
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clusternode.executor.pool import program
from support import Client, Cluster, Node, eventually, helpers_of, marker, processes_with

Make = Callable[..., Cluster]
#: So many that a node knows its commands to be short, and hands some ahead.
WARM_UP = 40


@pytest.fixture
def cluster(make_cluster: Make) -> Cluster:
    return make_cluster(NODE_GRACE_PERIOD=600_000, REQUEST_RESULT_PERIOD=500)


def start(cluster: Cluster, *names: str, drain_period: int = 0) -> list[Node]:
    """Nodes of one slot, which have run short commands."""
    nodes = [cluster.add_node(name, 1, DRAIN_PERIOD=str(drain_period)) for name in names]
    for each in (cluster.balancer, *nodes):
        each.start()
    cluster.await_connected(*names)
    with nodes[0].json_client() as client:
        client.wait(*client.submit(*["run true"] * WARM_UP * len(nodes)))
    return nodes


def notes(path: Path, count: int, options: str = "") -> list[str]:
    """Commands that each write a line of their own."""
    return [f"run {options} -- echo {number} >> {path}" for number in range(count)]


def noted(path: Path) -> list[int]:
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def is_running(client: Client, ticket: str) -> bool:
    return bool(client.ask_json(f"status {ticket}")["state"] == "running")


@pytest.mark.parametrize("options", ["", "--at-most-once"])
def test_a_helper_that_dies_takes_only_what_it_runs_along(
    cluster: Cluster, tmp_path: Path, options: str
) -> None:
    (alpha,) = start(cluster, "alpha")
    notebook = tmp_path / "notebook"
    venom = "run [ $EVENLY_ATTEMPT = 2 ] && exit; kill -9 $PPID; sleep 600"
    with alpha.json_client() as client:
        tickets = client.submit("run true", "run true", venom, *notes(notebook, 60, options))
        results = client.wait(*tickets)
    assert {each["outcome"] for each in results} == {"succeeded"}
    assert [each["attempt"] for each in results] == [1, 1, 2] + [1] * 60
    assert noted(notebook) == list(range(60))


def test_helpers_killed_from_outside_again_and_again(cluster: Cluster, tmp_path: Path) -> None:
    (alpha,) = start(cluster, "alpha")
    notebook = tmp_path / "notebook"
    with alpha.json_client() as client:
        tickets = client.submit(*notes(notebook, 400, "--at-most-once"))
        for part in range(1, 6):
            eventually(lambda part=part: len(noted(notebook)) > part * 40, "it goes on")
            for helper in helpers_of(alpha.pid):
                os.kill(helper, signal.SIGKILL)
        results = client.wait(*tickets)
    outcomes = [each["outcome"] for each in results]
    assert outcomes.count("lost") <= 5, "one for each helper that died"
    ran = noted(notebook)
    assert len(ran) == len(set(ran)), "none ran twice"
    assert {number for number, each in enumerate(outcomes) if each == "succeeded"} <= set(ran)


def test_no_process_survives_a_node_that_is_killed_with_commands_ahead(cluster: Cluster) -> None:
    (alpha,) = start(cluster, "alpha")
    mark = marker()
    with alpha.json_client() as client:
        client.submit(*["run true"] * 10, *[f"run sleep 600; : {mark}"] * 20)
        eventually(lambda: processes_with(mark), "the first one runs")
        helpers = helpers_of(alpha.pid)
        alpha.kill()
        eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in helpers), "the helpers end")
        assert processes_with(mark) == []


def test_a_helper_whose_node_died_without_reading_ends_its_job(tmp_path: Path) -> None:
    """The kernel then tells it of a reset, not of an end."""
    mark = marker()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arguments = [*program("helper")[1:], str(theirs.fileno()), "1024"]
        helper = subprocess.Popen([sys.executable, *arguments], pass_fds=[theirs.fileno()])
        theirs.close()
        for message in (
            ("set-up", dict(os.environ), str(tmp_path)),
            ("run", ("A", 1), "true", None, None),
            ("run", ("B", 1), f"sleep 600; : {mark}", None, None),
        ):
            body = marshal.dumps(message)
            ours.sendall(len(body).to_bytes(4, "big") + body)
        eventually(lambda: processes_with(mark), "the second one runs")
    helper.wait()
    assert processes_with(mark) == []


def test_a_node_killed_in_the_middle_of_short_commands_runs_what_is_left_when_it_is_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    (alpha,) = start(cluster, "alpha")
    notebook = tmp_path / "notebook"
    with alpha.json_client() as client:
        tickets = client.submit(*notes(notebook, 300))
        eventually(lambda: len(noted(notebook)) > 50, "it goes on")
        alpha.kill()
    alpha.start()
    with alpha.json_client() as client:
        assert {each["outcome"] for each in client.wait(*tickets)} == {"succeeded"}
    assert set(noted(notebook)) == set(range(300))


def test_a_node_that_drains_in_the_middle_of_short_commands_runs_none_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    (alpha,) = start(cluster, "alpha", drain_period=20_000)
    notebook = tmp_path / "notebook"
    with alpha.json_client() as client:
        tickets = client.submit(*notes(notebook, 500))
        eventually(lambda: len(noted(notebook)) > 50, "it goes on")
        assert alpha.terminate() == 0
    assert len(noted(notebook)) < 500, "it did not wait for all"
    alpha.start()
    with alpha.json_client() as client:
        results = client.wait(*tickets)
    assert {(each["outcome"], each["attempt"]) for each in results} == {("succeeded", 1)}
    assert noted(notebook) == list(range(500))


def test_what_is_cancelled_while_ahead_does_not_run(cluster: Cluster, tmp_path: Path) -> None:
    (alpha,) = start(cluster, "alpha")
    notebook = tmp_path / "notebook"
    with alpha.json_client() as client:
        long, *others = client.submit("run sleep 600", *notes(notebook, 10))
        client.send(*(f"cancel {ticket}" for ticket in others))
        assert {client.object()["outcome"] for _ in others} == {"cancelled"}
        eventually(lambda: is_running(client, long), "it runs on")
        assert client.ask_json(f"cancel {long}")["outcome"] == "cancelled"
    assert noted(notebook) == []


def test_what_is_behind_a_long_command_runs_on_another_node(cluster: Cluster) -> None:
    alpha, beta = start(cluster, "alpha", "beta")
    with alpha.json_client() as client:
        long, *others = client.submit(*["run sleep 600"], *["run echo x"] * 11)
        results = client.wait(*others)
        eventually(lambda: is_running(client, long), "it runs on")
        busy = client.ask_json(f"status {long}")["node"]
        assert {each["node"] for each in results} == {alpha.name, beta.name} - {busy}
        assert {each["attempt"] for each in results} == {1}


def test_what_is_behind_a_long_command_goes_to_a_node_that_joins(cluster: Cluster) -> None:
    (alpha,) = start(cluster, "alpha")
    beta = cluster.add_node("beta", 1)
    with alpha.json_client() as client:
        long, *others = client.submit(*["run sleep 600"], *["run echo x"] * 5)
        eventually(lambda: is_running(client, long), "it runs")
        beta.start()
        assert {(each["node"], each["attempt"]) for each in client.wait(*others)} == {("beta", 1)}
