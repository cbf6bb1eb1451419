"""Jobs that no node likes to run: each ends with an outcome that is named, nothing of it is left, and the
node goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Client, Cluster, Node, eventually, helpers_of, marker, processes_with

TESTS = Path(__file__).parent.parent
HOSTILE = str(TESTS / "hostile.py")
SIGTERM, SIGKILL = 143, 137


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One of three slots, for all of these jobs: what one of them does to it, the next ones would feel."""
    cluster = Cluster(tmp_path_factory.mktemp("hostile"))
    node = cluster.add_node("alpha", slots=3, TASKS="tasks_for_tests", PYTHONPATH=str(TESTS))
    try:
        cluster.balancer.start()
        node.start()
        cluster.await_connected("alpha")
        eventually(lambda: "tasks: " in node.said, "the tasks are known")
        yield node
    finally:
        cluster.end()


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    """After each test the node is the one that it was, and does what others want."""
    pid = node.pid
    with node.json_client() as client:
        yield client
        results = client.wait(*client.submit("run echo well", *['task say {"text": "well"}'] * 2))
        assert [(each["outcome"], each["attempt"]) for each in results] == [("succeeded", 1)] * 3
        assert (node.pid, node.ended) == (pid, False)
        assert client.ask_json("nodes")["nodes"][0]["running"] == 0


class Hostile:
    """One hostile job, beside one that wants to be done."""

    def __init__(
        self, client: Client, name: str, number: int = 0, options: str = "", is_deaf: bool = False
    ) -> None:
        """`is_deaf`: SIGTERM is ignored from the start on, however long that takes."""
        self.client = client
        self.mark = marker()
        deaf = "trap '' TERM; " if is_deaf else ""
        line = f"run {options} -- {deaf}exec {sys.executable} {HOSTILE} {name} {self.mark} {number}"
        self.ticket, self.other = client.submit(line, "run sleep 0.2; echo well")

    def end(self) -> dict[str, Any]:
        """Its result, when it is there: then nothing of it is."""
        (result,) = self.client.wait(self.ticket)
        left = processes_with(self.mark)
        assert left == [], f"{left} are left"
        (other,) = self.client.wait(self.other)
        assert (other["outcome"], other["stdout"]) == ("succeeded", "well\n")
        return result

    def cancel(self) -> dict[str, Any]:
        """Once it runs; what the cancel says comes when nothing of it is there."""
        eventually(lambda: processes_with(self.mark), "it runs")
        state = lambda: self.client.ask_json(f"status {self.ticket}")["state"]  # noqa: E731
        eventually(lambda: state() == "running", "it is known to run")
        assert self.client.ask_json(f"cancel {self.ticket}")["cancel"] == "done"
        return self.end()


def how(result: dict[str, Any]) -> tuple[str, int, str | None]:
    return result["outcome"], result["exit_code"], result["reason"]


KILLED = ("timed-out", SIGKILL, "killed by SIGKILL")
TERMINATED = ("timed-out", SIGTERM, "killed by SIGTERM")


class TestProcesses:
    def test_a_hundred_children_end_with_their_parent(self, client: Client) -> None:
        result = Hostile(client, "hundred", 100).end()
        assert how(result) == ("succeeded", 0, None)
        assert result["stdout"] == "all there\n"

    def test_daemons_end_with_the_command(self, client: Client) -> None:
        assert how(Hostile(client, "daemons").end()) == ("succeeded", 0, None)

    @pytest.mark.parametrize(
        ("name", "number", "is_deaf"),
        [
            *(("bomb", 7, True), ("phoenix", 0, True), ("stay", 0, True), ("mute", 0, True)),
            *(("hop", 3, False), ("stop", 0, False)),
        ],
    )
    def test_its_time_ends_it(self, client: Client, name: str, number: int, is_deaf: bool) -> None:
        result = Hostile(client, name, number, "--time 0.5", is_deaf).end()
        assert how(result) == (KILLED if is_deaf else TERMINATED)

    @pytest.mark.parametrize(
        ("name", "number"),
        [("bomb", 7), ("hop", 3), ("phoenix", 0), ("stay", 0), ("stop", 0), ("mute", 0), ("write", 0)],
    )
    def test_a_cancel_ends_it(self, client: Client, name: str, number: int) -> None:
        assert Hostile(client, name, number).cancel()["outcome"] == "cancelled"

    def test_one_that_stops_its_worker_process_can_be_cancelled(self, client: Client) -> None:
        assert Hostile(client, "stop_parent").cancel()["outcome"] == "cancelled"

    def test_one_that_kills_its_worker_process_is_lost_each_time(self, node: Node, client: Client) -> None:
        result = Hostile(client, "kill_parent").end()
        reason = "3 attempts took their node or worker along (CRASH_LIMIT=3)"
        assert (result["outcome"], result["reason"], result["attempt"]) == ("lost", reason, 3)
        eventually(lambda: is_tidy(node), "its directories are gone")


class TestLimits:
    def test_one_that_lowers_its_own_ends_by_them(self, client: Client) -> None:
        result = Hostile(client, "lower_limits").end()
        assert how(result) == ("failed", SIGKILL, "killed by SIGKILL")

    def test_one_that_opens_all_that_it_may_closes_nothing_to_others(self, client: Client) -> None:
        result = Hostile(client, "files").end()
        assert how(result) == ("failed", 3, None)
        assert result["stdout"].startswith("24, ")

    def test_output_without_end_is_counted_and_cut(self, client: Client) -> None:
        result = Hostile(client, "write", options="--time 1", is_deaf=True).end()
        assert how(result) == KILLED
        for stream in ("stdout", "stderr"):
            assert result[f"{stream}_bytes"] > len(result[stream]) == 1024 * 1024
        assert result["truncated"]


class TestFiles:
    @pytest.mark.parametrize("depth", [0, 2500])
    def test_what_it_leaves_is_removed_whatever_it_is(self, node: Node, client: Client, depth: int) -> None:
        assert how(Hostile(client, "litter", depth).end()) == ("succeeded", 0, None)
        eventually(lambda: is_tidy(node), "its directory is gone")

    @pytest.mark.parametrize("depth", [0, 2500])
    def test_so_is_what_it_leaves_as_its_result(self, node: Node, client: Client, depth: int) -> None:
        line = f'cd "$EVENLY_RESULT_DIR" && exec {sys.executable} {HOSTILE} litter x {depth}'
        (result,) = client.wait(*client.submit(f"run --result-dir litter -- {line}"))
        assert (result["outcome"], result["exit_code"]) == ("failed", 0)
        assert result["reason"].startswith("its result files were refused: ")
        eventually(lambda: not any((node.data / "work" / "stage").iterdir()), "its directory is gone")

    @pytest.mark.parametrize(
        "line",
        ['rm -r "$PWD"', 'rm -r "$PWD"; ln -s /etc "$PWD"', 'cd ..; rm -rf "$OLDPWD"; mkfifo "$OLDPWD"'],
    )
    def test_one_that_removes_its_directory_costs_the_next_ones_nothing(
        self, node: Node, client: Client, line: str
    ) -> None:
        for result in client.wait(*client.submit(*[f"run {line}"] * 3)):
            assert how(result) == ("succeeded", 0, None)
        assert os.path.exists("/etc/passwd")
        for result in client.wait(*client.submit(*["run echo x > y; ls"] * 6)):
            assert (result["outcome"], result["stdout"]) == ("succeeded", "y\n")
        eventually(lambda: is_tidy(node), "its directory is gone")

    def test_one_that_removes_all_directories_costs_the_next_ones_nothing(self, client: Client) -> None:
        (result,) = client.wait(*client.submit('run cd ..; rm -rf "$PWD"'))
        assert how(result) == ("succeeded", 0, None)
        for result in client.wait(*client.submit(*["run echo x > y; ls"] * 6)):
            assert (result["outcome"], result["stdout"]) == ("succeeded", "y\n")


def is_tidy(node: Node) -> bool:
    """There are only the directories that helpers and supervisors have in reserve, and they are empty."""
    found = list((node.data / "work").iterdir())
    reserve = [each for each in found if each.name != "stage"]
    return all(each.is_dir() and not any(each.iterdir()) for each in reserve) and len(reserve) <= 6


class TestMemory:
    """A job that is over its limit is killed as a whole, at once."""

    @pytest.mark.parametrize("name", ["eat", "eat_together", "raise_limits"])
    def test_one_that_has_too_much_is_killed(self, client: Client, name: str) -> None:
        result = Hostile(client, name, 2000, "--memory 60M").end()
        assert how(result)[:2] == ("failed", SIGKILL)
        had, _, rest = result["reason"].removeprefix("killed: its processes had ").partition(" MiB ")
        assert 60 < int(had) < 2000
        assert rest == "together, over --memory 60M"

    def test_a_pipeline_that_has_too_much_together_is_killed(self, client: Client) -> None:
        mark = marker()
        eater = f"{sys.executable} {HOSTILE} eat {mark} 40"
        (result,) = client.wait(*client.submit(f"run --memory 60M -- {eater} | {eater} | cat"))
        assert processes_with(mark) == []
        assert how(result)[:2] == ("failed", SIGKILL)
        assert "together, over --memory 60M" in result["reason"]

    def test_what_is_shared_counts_once(self, client: Client) -> None:
        """Forty MiB of one kind and twenty of another, in five processes."""
        result = Hostile(client, "eat_shared", 40, "--memory 100M").end()
        assert how(result) == ("succeeded", 0, None)

    def test_what_a_program_has_before_it_is_one_counts_once(self, client: Client) -> None:
        """For a moment two processes have the same memory."""
        result = Hostile(client, "start_often", 70, "--memory 100M").end()
        assert how(result) == ("succeeded", 0, None)

    def test_one_that_fails_is_told_how_much_it_had(self, client: Client) -> None:
        result = Hostile(client, "eat_and_fail", 110, "--memory 200M").end()
        assert how(result)[:2] == ("failed", 3)
        had, _, rest = result["reason"].removeprefix("it was seen with ").partition(" MiB ")
        assert 110 <= int(had) < 160
        assert rest == "at most of the 200 MiB allowed"

    def test_one_that_keeps_to_it_is_told_nothing(self, client: Client) -> None:
        result = Hostile(client, "eat_and_fail", 5, "--memory 200M --time 60").end()
        assert how(result) == ("failed", 3, None)
        (result,) = client.wait(*client.submit("run --memory 200M -- true"))
        assert how(result) == ("succeeded", 0, None)

    @pytest.mark.parametrize(("size", "code"), [(1100, 0), (1200, 1)])
    def test_what_one_process_reserves_may_be_far_above_it(
        self, client: Client, size: int, code: int
    ) -> None:
        result = Hostile(client, "reserve", size, "--memory 60M").end()
        assert result["exit_code"] == code
        assert ("Cannot allocate memory" in result["stderr"]) == bool(code)

    def test_a_task_that_has_too_much_is_killed_with_its_worker(self, client: Client) -> None:
        (before,) = client.wait(*client.submit("task process {}"))
        (result,) = client.wait(*client.submit('task --memory 150M eat {"size": 2000}'))
        assert how(result)[:2] == ("failed", SIGKILL)
        assert result["reason"].endswith("MiB together, over --memory 150M")
        after = client.wait(*client.submit(*["task process {}"] * 6))
        assert before["value"] is not None
        assert {each["outcome"] for each in after} == {"succeeded"}

    def test_a_task_whose_child_has_too_much_is_killed_with_it(self, client: Client) -> None:
        mark = marker()
        line = f"{sys.executable} {HOSTILE} eat {mark} 2000"
        (result,) = client.wait(*client.submit(f'task --memory 150M shell {{"line": "{line}"}}'))
        assert how(result)[:2] == ("failed", SIGKILL)
        assert result["reason"].endswith("MiB together, over --memory 150M")
        assert processes_with(mark) == []

    def test_a_task_that_fails_with_little_is_told_why_alone(self, client: Client) -> None:
        (result,) = client.wait(*client.submit('task --memory 500M fail {"word": "so"}'))
        assert result["reason"] == "ValueError: it is so"

    def test_a_task_without_a_limit_has_none_after_one_with_it(self, client: Client) -> None:
        """The worker is the same."""
        limited = client.wait(*client.submit(*["task --memory 500M data_limit {}"] * 6))
        assert {each["value"] for each in limited} == {2 * 500 * 2**20 + 2**30}
        free = client.wait(*client.submit(*["task data_limit {}"] * 6))
        assert {each["value"] for each in free} == {-1}


def test_helpers_are_no_more_than_slots(node: Node, client: Client) -> None:
    """After all that: this test is the last one."""
    assert len(helpers_of(node.pid)) <= 3
