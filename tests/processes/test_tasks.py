"""Workers of tasks that are killed, hang, wear out; and nodes that die above them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Client, Cluster, Node, children_of, eventually

TESTS = str(Path(__file__).parent.parent)
Make = Callable[..., Cluster]
#: Seconds without a sign of life.
HANG_PERIOD = 3


def start(cluster: Cluster, **settings: str) -> Node:
    """A node of one slot, whose workers do two tasks."""
    settings |= {"TASKS": "tasks_for_tests", "PYTHONPATH": TESTS, "MAX_TASKS_PER_WORKER": "2"}
    node = cluster.add_node("alpha", slots=1, **settings)
    cluster.balancer.start()
    node.start()
    cluster.await_connected("alpha")
    eventually(lambda: "tasks: " in node.said, "the tasks are known")
    return node


@pytest.fixture
def node(make_cluster: Make) -> Node:
    return start(make_cluster())


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with node.json_client() as client:
        yield client


def submit(client: Client, name: str, options: str = "", **payload: Any) -> str:
    (ticket,) = client.submit(f"task {options} {name} {json.dumps(payload)}")
    return ticket


def run(client: Client, name: str, options: str = "", **payload: Any) -> dict[str, Any]:
    (result,) = client.wait(submit(client, name, options, **payload))
    return result


def pids(mark: Path, count: int = 1) -> list[int]:
    """Workers that have written there, once there are so many."""

    def written() -> list[str] | None:
        lines = mark.read_text().split() if mark.exists() else []
        return lines if len(lines) >= count else None

    return [int(line) for line in eventually(written, f"{count} starts") or ()]


class TestAWorkerThatDies:
    def test_its_task_runs_again_and_the_result_says_so(self, client: Client, tmp_path: Path) -> None:
        mark, until = tmp_path / "mark", tmp_path / "until"
        ticket = submit(client, "hold", mark=str(mark), until=str(until))
        os.kill(pids(mark)[0], signal.SIGKILL)
        pids(mark, 2)
        until.touch()
        (result,) = client.wait(ticket)
        assert (result["outcome"], result["value"], result["attempt"]) == ("succeeded", "went on", 1)
        assert result["reason"] == "started 2 times: its worker died, killed by SIGKILL"

    def test_one_that_dies_each_time_ends_the_task_with_its_name(
        self, client: Client, tmp_path: Path
    ) -> None:
        mark = tmp_path / "mark"
        result = run(client, "die", mark=str(mark), times=99)
        assert (result["outcome"], result["exit_code"]) == ("failed", 128 + signal.SIGKILL)
        assert result["reason"] == "its worker died 3 times, at last killed by SIGKILL"
        assert result["stdout"] == "start 3\n", "that of the last start"
        assert len(pids(mark)) == 3
        assert run(client, "add_later", a=1)["value"] == 2, "the next one is served"

    def test_one_that_ends_its_process_in_peace_has_not_succeeded(
        self, client: Client, tmp_path: Path
    ) -> None:
        result = run(client, "die", mark=str(tmp_path / "mark"), times=99, how="exit")
        assert (result["outcome"], result["exit_code"]) == ("failed", 1)
        assert result["reason"] == "its worker died 3 times, at last by exit code 0"

    def test_retries_of_the_job_count_beside_those_starts(self, client: Client, tmp_path: Path) -> None:
        result = run(client, "die", "--retries 1", mark=str(tmp_path / "mark"), times=4)
        assert (result["outcome"], result["attempt"], result["value"]) == ("succeeded", 2, 5)

    def test_at_most_once_is_never_started_again(self, client: Client, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        result = run(client, "die", "--at-most-once", mark=str(mark), times=99)
        assert result["outcome"] == "failed"
        assert result["reason"] == "its worker died, killed by SIGKILL"
        assert len(pids(mark)) == 1

    def test_one_that_dies_between_two_tasks_is_replaced(self, client: Client) -> None:
        first = run(client, "process")["value"]
        os.kill(first, signal.SIGKILL)
        second = run(client, "process")
        assert (second["outcome"], second["attempt"]) == ("succeeded", 1)
        assert second["value"] != first


class TestAWorkerThatHangs:
    @pytest.fixture
    def node(self, make_cluster: Make) -> Node:
        return start(make_cluster(), TASK_HANG_PERIOD=str(HANG_PERIOD * 1000))

    def test_no_sign_of_life_ends_it_and_its_task_runs_again(self, client: Client, tmp_path: Path) -> None:
        mark, until = tmp_path / "mark", tmp_path / "until"
        ticket = submit(client, "hold", mark=str(mark), until=str(until))
        os.kill(pids(mark)[0], signal.SIGSTOP)
        pids(mark, 2)
        until.touch()
        (result,) = client.wait(ticket)
        assert (result["outcome"], result["value"]) == ("succeeded", "went on")
        assert result["reason"] == (
            f"started 2 times: its worker died, killed as it hung: no sign of life for {HANG_PERIOD} s"
        )

    def test_one_that_gives_signs_of_life_is_left_alone(self, client: Client, tmp_path: Path) -> None:
        mark, until = tmp_path / "mark", tmp_path / "until"
        ticket = submit(client, "hold", f"--time {HANG_PERIOD + 2}", mark=str(mark), until=str(until))
        (result,) = client.wait(ticket)
        assert result["outcome"] == "timed-out", "after more than that period"
        assert len(pids(mark)) == 1


class TestTimeLimits:
    def test_sigterm_ends_one_that_takes_too_long(self, client: Client, tmp_path: Path) -> None:
        result = run(client, "hold", "--time 0.5", mark=str(tmp_path / "m"), until="/nowhere")
        assert (result["outcome"], result["exit_code"]) == ("timed-out", 128 + signal.SIGTERM)
        assert result["reason"] == "killed by SIGTERM"

    def test_sigkill_ends_one_that_does_not_listen(self, client: Client, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        result = run(client, "ignore_sigterm", "--time 0.5", mark=str(mark))
        assert (result["outcome"], result["exit_code"]) == ("timed-out", 128 + signal.SIGKILL)
        assert len(pids(mark)) == 1
        assert run(client, "add_later", a=1)["value"] == 2


def test_a_worker_is_replaced_after_so_many_tasks(client: Client) -> None:
    workers = [run(client, "process")["value"] for _ in range(6)]
    assert [workers[0], workers[2], workers[4]] == [workers[1], workers[3], workers[5]]
    assert len(set(workers)) == 3


@pytest.mark.parametrize("name", ["take_output", "leave_thread"])
def test_a_worker_that_a_task_has_spoiled_is_replaced(client: Client, tmp_path: Path, name: str) -> None:
    payload = {"path": str(tmp_path / "file")} if name == "take_output" else {}
    spoiled = run(client, name, **payload)["value"]
    result = run(client, "say", text="here")
    assert result["stdout"] == "here\nraw\n"
    assert run(client, "process")["value"] != spoiled


class TestWhatIsAbove:
    def test_a_supervisor_that_is_killed_takes_its_worker_along_and_the_task_runs_again(
        self, node: Node, client: Client, tmp_path: Path
    ) -> None:
        mark, until = tmp_path / "mark", tmp_path / "until"
        ticket = submit(client, "hold", mark=str(mark), until=str(until))
        (worker,) = pids(mark)
        (supervisor,) = [pid for pid in children_of(node.pid) if worker in children_of(pid)]
        os.kill(supervisor, signal.SIGKILL)
        eventually(lambda: not is_there(worker), "the worker is gone")
        pids(mark, 2)
        until.touch()
        (result,) = client.wait(ticket)
        assert (result["outcome"], result["value"], result["attempt"]) == ("succeeded", "went on", 2)

    def test_kill_9_of_the_node_leaves_no_worker_and_its_task_runs_when_it_is_back(
        self, node: Node, client: Client, tmp_path: Path
    ) -> None:
        mark, until = tmp_path / "mark", tmp_path / "until"
        ticket = submit(client, "hold", mark=str(mark), until=str(until))
        (worker,) = pids(mark)
        below = [pid for child in children_of(node.pid) for pid in (child, *children_of(child))]
        assert worker in below
        node.kill()
        eventually(lambda: not any(map(is_there, below)), "nothing of the node is left")
        node.start()
        pids(mark, 2)
        until.touch()
        with node.json_client() as again:
            (result,) = again.wait(ticket)
        assert (result["outcome"], result["value"]) == ("succeeded", "went on")

    def test_a_node_that_stops_ends_its_workers(self, node: Node, client: Client) -> None:
        below = [pid for child in children_of(node.pid) for pid in (child, *children_of(child))]
        assert below
        assert node.terminate() == 0
        assert not any(map(is_there, below))


def is_there(pid: int) -> bool:
    """No zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
