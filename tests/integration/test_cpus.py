"""Jobs that take more than one slot, by way of real nodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import Client, Cluster, Node, eventually

Make = Callable[..., Cluster]
TESTS = str(Path(__file__).parent.parent)
HERE = len(os.sched_getaffinity(0))


@pytest.fixture
def node(make_cluster: Make) -> Node:
    cluster = make_cluster()
    node = cluster.add_node("alpha", slots=3, TASKS="tasks_for_tests", PYTHONPATH=TESTS)
    cluster.balancer.start()
    node.start()
    cluster.await_connected("alpha")
    eventually(lambda: "tasks: " in node.said, "the tasks are known")
    return node


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with node.json_client() as client:
        yield client


def test_a_wide_job_has_its_slots_to_itself(client: Client, tmp_path: Path) -> None:
    """It has a lock while it runs, which nothing else may see."""
    lock = tmp_path / "lock"
    wide = f"run --cpus 3 -- mkdir {lock} && sleep 0.02 && rmdir {lock}"
    narrow = f"run test ! -e {lock} && sleep 0.01 && test ! -e {lock}"
    tickets = client.submit(*[narrow, wide, narrow, wide, wide, narrow, narrow] * 4)
    assert {result["outcome"] for result in client.wait(*tickets)} == {"succeeded"}


def test_nodes_tell_what_runs_and_what_waits(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    held = f"while [ ! -e {gate} ]; do sleep 0.01; done"
    tickets = client.submit(f"run --cpus 99 -- {held}", "run true", "run true")

    def seen() -> tuple[int, int]:
        (node,) = client.ask_json("nodes")["nodes"]
        return node["running"], node["queued"]

    eventually(lambda: seen() == (1, 2), "one runs on all slots")
    gate.touch()
    assert {result["outcome"] for result in client.wait(*tickets)} == {"succeeded"}


@pytest.mark.parametrize(
    ("options", "granted", "cpus"),
    [("", "", HERE), ("--cpus 1", "1", 1), ("--cpus 2", "2", min(2, HERE)), ("--cpus 99", "3", min(3, HERE))],
)
def test_a_command_finds_how_many_it_has(client: Client, options: str, granted: str, cpus: int) -> None:
    def found() -> bool:
        (result,) = client.wait(*client.submit(f"run {options} -- nproc; echo $EVENLY_CPUS"))
        count, variable = result["stdout"].splitlines()
        assert variable == granted
        return int(count) == cpus

    eventually(found, "another cluster on this machine leaves it as many CPUs")


def test_a_task_finds_how_many_it_has_and_the_next_one_nothing_of_that(client: Client) -> None:
    tasks = ['task --cpus 2 variable {"name": "EVENLY_CPUS"}', 'task variable {"name": "EVENLY_CPUS"}'] * 4
    results = client.wait(*client.submit(*tasks))
    assert [result["value"] for result in results] == ["2", None] * 4
