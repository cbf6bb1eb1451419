"""Named tasks by way of a real node: what is taken, what comes back, what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Client, Cluster, eventually, marker, processes_with

MIB = 1024 * 1024
TESTS = str(Path(__file__).parent.parent)
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of two slots with the tests' tasks; a module that fails to import is named beside them."""
    directory = tmp_path_factory.mktemp("tasks")
    (directory / "broken_tasks.py").write_text("from evenly import task\n@task\ndef never(): ...\n1 / 0\n")
    (directory / "killing_tasks.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    cluster = Cluster(directory)
    try:
        modules = "broken_tasks,tasks_for_tests,killing_tasks,not_there"
        nodes = [
            cluster.add_node(name, TASKS=modules, PYTHONPATH=f"{TESTS}:{directory}")
            for name in ("alpha", "beta")
        ]
        for program in (cluster.balancer, *nodes):
            program.launch()
        for program in (cluster.balancer, *nodes):
            program.await_ready()
        cluster.await_connected("alpha", "beta")
        for node in nodes:
            eventually(lambda node=node: "tasks: " in node.said, "the tasks are known")
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.nodes["alpha"].json_client() as client:
        yield client


@pytest.fixture
def run(client: Client) -> Run:
    """Runs a task to its end and gives its result."""

    def run(name: str, **payload: Any) -> dict[str, Any]:
        (ticket,) = client.submit(f"task {name} {json.dumps(payload)}")
        (result,) = client.wait(ticket)
        assert result["state"] == "done"
        return result

    return run


class TestModules:
    def test_each_that_fails_to_import_is_one_line_and_the_rest_is_served(self, cluster: Cluster) -> None:
        said = cluster.nodes["alpha"].said
        for line in (
            "task module broken_tasks: ZeroDivisionError: division by zero; its tasks are not served here",
            "task module killing_tasks: its import ended the process, killed by SIGSEGV; its tasks are not",
            "task module not_there: ModuleNotFoundError: No module named 'not_there'; its tasks are not",
        ):
            assert said.count(line) == 1, said

    def test_no_task_of_a_module_that_failed_is_there(self, client: Client) -> None:
        assert "There is no task 'never' on this node" in client.ask_json("task never {}")["error"]


class TestResults:
    def test_a_checksum(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * MIB)
        result = run("checksum", path=str(path))
        assert (result["outcome"], result["exit_code"], result["reason"]) == ("succeeded", 0, None)
        assert result["value"] == hashlib.sha256(b"x" * MIB).hexdigest()
        assert (result["stdout"], result["stderr"], result["attempt"]) == ("", "", 1)
        assert result["job"]["task"] == "checksum"
        assert result["job"]["payload"] == {"path": str(path)}

    def test_compressed_images(self, run: Run, tmp_path: Path) -> None:
        from PIL import Image

        source = tmp_path / "a.png"
        Image.effect_noise((80, 60), 90).save(source)
        result = run("compress", images=[str(source)], ratio=0.5, directory=str(tmp_path / "out"))
        assert result["outcome"] == "succeeded", result
        (made,) = result["value"]
        assert (made["width"], made["height"]) == (40, 30)
        with Image.open(made["path"]) as image:
            assert (image.format, image.size) == ("JPEG", (40, 30))

    def test_an_async_function(self, run: Run) -> None:
        assert run("add_later", a=2, b=40)["value"] == 42
        assert run("add_later", a=2)["value"] == 3

    def test_what_it_prints_and_where_it_is(self, run: Run) -> None:
        result = run("say", text="žluť\n.dot")
        assert result["stdout"] == "žluť\n.dot\nraw\n"
        assert result["stderr"] == "err\n"
        assert result["value"]["ticket"] == result["ticket"]
        assert Path(result["value"]["where"]).parent.name == "work"

    def test_what_it_prints_is_bounded_and_counted(self, run: Run) -> None:
        result = run("say", text="x" * 1023, times=3000)
        assert result["truncated"] is True
        assert len(result["stdout"]) == MIB
        assert result["stdout_bytes"] == 3000 * 1024 + len("raw\n")
        assert run("say", text="y")["stdout"] == "y\nraw\n", "the next has nothing of it"

    def test_in_text_its_value_is_the_last_line_of_its_output(self, cluster: Cluster) -> None:
        with cluster.nodes["beta"].client() as client:
            (ticket,) = client.submit('task add_later {"a": 1}')
            assert client.ask(f"wait {ticket}").endswith(": 2")
            (ticket,) = client.submit('task say {"text": "x"}')
            assert "6 lines of output" not in client.ask(f"wait {ticket}")
            block = client.block()
            assert block[:2] == ["x", "raw"]
            assert json.loads(block[2])["said"] == "x"
            assert block[3:] == ["--- stderr ---", "err"]

    def test_an_exception_with_the_users_frames_alone(self, run: Run) -> None:
        result = run("fail", word="bad")
        assert (result["outcome"], result["exit_code"]) == ("failed", 1)
        assert (result["reason"], result["value"]) == ("ValueError: it is bad", None)
        assert result["stdout"] == "before\n"
        lines = result["stderr"].splitlines()
        assert lines[0] == "Traceback (most recent call last):"
        frames = [line.split(", in ")[1] for line in lines if line.startswith("  File ")]
        assert frames == ["fail", "_inner"]
        assert lines[-1] == "ValueError: it is bad"

    def test_an_exit_is_an_exception_like_others(self, run: Run) -> None:
        result = run("leave_by_exit", code=0)
        assert (result["outcome"], result["reason"]) == ("failed", "SystemExit: 0")

    def test_a_value_that_json_cannot_say(self, run: Run) -> None:
        result = run("unspeakable")
        assert result["outcome"] == "failed"
        assert result["reason"].startswith("TypeError: the task returned what JSON cannot say: ")

    def test_options_and_json(self, client: Client) -> None:
        (ticket,) = client.submit('{"task": "add_later", "payload": {"a": 1}, "time": 60, "name": "n"}')
        (result,) = client.wait(ticket)
        assert (result["value"], result["job"]["time"], result["job"]["name"]) == (2, 60, "n")
        (ticket,) = client.submit('task --retries 1 fail {"word": "x"}')
        (result,) = client.wait(ticket)
        assert (result["outcome"], result["attempt"]) == ("failed", 2)

    def test_one_that_comes_after_another_in_its_worker_has_nothing_of_it(self, client: Client) -> None:
        job = {"task": "variable", "payload": {"name": "EVENLY_RESULT_DIR"}}
        tickets = client.submit(*[json.dumps(job | {"result_dir": "r"})] * 20)
        assert all(each["value"] for each in client.wait(*tickets))
        tickets = client.submit(*[json.dumps(job)] * 20)
        results = client.wait(*tickets)
        assert [(each["outcome"], each["value"]) for each in results] == [("succeeded", None)] * 20

    def test_many_at_once_each_get_their_own(self, client: Client) -> None:
        tickets = client.submit(*(f'task add_later {{"a": {number}}}' for number in range(200)))
        assert [each["value"] for each in client.wait(*tickets)] == [number + 1 for number in range(200)]


class TestRefused:
    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("task checksum", 'task checksum: "path" is missing; it takes path (str), algorithm (str, '),
            ('task checksum {"path": 5}', '"path" must be str, not int'),
            ('task checksum {"path": "x", "more": 1}', 'there is no "more"'),
            ('task compress {"images": "x"}', '"images" must be list, not str'),
            ("task checksum path", "The payload of task checksum is no JSON: "),
            ("task checksum {", "The payload of task checksum is no JSON: "),
            ("task checksum []", "no object but list"),
            ("task checksum " + '{"a":' * 5000, "nested deeper than 64 levels"),
            ("task checksum " + "[" * 60_000, "nested deeper than 64 levels"),
            ('{"task": "checksum", "payload": ' + "[" * 60_000, "begins as JSON and is none"),
            ("task nobody {}", "There is no task 'nobody' on this node: there are add_later, call, checksum"),
            ("task " + "x" * 100, "A task's name"),
            ("task --env A=b checksum", "task has no option '--env'"),
            ("task checksum " + '{"path": "' + "x" * 70_000, "over 65536 bytes"),
        ],
    )
    def test_bad_input_gets_one_clear_line_and_no_ticket(self, client: Client, line: str, said: str) -> None:
        before = client.ask_json("stats")["node"]["submitted"]
        answer = client.ask_json(line)
        assert said in answer["error"]
        assert len(answer["error"]) < 400
        assert client.ask_json("stats")["node"]["submitted"] == before


class TestAround:
    def test_what_it_leaves_behind_ends_with_it_and_its_worker_too(self, run: Run) -> None:
        mark = marker()
        result = run("leave_behind", marker=mark)
        assert result["outcome"] == "succeeded"
        assert processes_with(mark) == []

    def test_one_that_forks_and_comes_back_twice_has_one_end(self, run: Run) -> None:
        assert run("come_back_twice")["outcome"] == "succeeded"
        assert run("add_later", a=1)["value"] == 2

    def test_one_that_runs_is_cancelled(self, client: Client, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        (ticket,) = client.submit(f'task hold {{"mark": "{mark}", "until": "/nowhere"}}')
        eventually(mark.exists, "it runs")
        assert client.ask_json(f"cancel {ticket}")["cancel"] == "done"
        (result,) = client.wait(ticket)
        assert result["outcome"] == "cancelled"

    def test_progress_is_shown_by_status_where_it_runs(self, cluster: Cluster, tmp_path: Path) -> None:
        """One ticket of each node runs here or there; a status shows it where the two are one."""
        held = {}
        with cluster.nodes["alpha"].json_client() as client:
            for number in range(4):
                mark, until = tmp_path / f"mark{number}", tmp_path / "until"
                payload = {"mark": str(mark), "until": str(until), "part": 0.25}
                (ticket,) = client.submit(f"task hold {json.dumps(payload)}")
                held[ticket] = mark
            eventually(lambda: all(mark.exists() for mark in held.values()), "all four run")

            def shown() -> list[Any]:
                states = [client.ask_json(f"status {ticket}") for ticket in held]
                return [each["progress"] for each in states if each["node"] == "alpha" and "progress" in each]

            there = eventually(shown, "some of them run on the node that is asked")
            assert there[0] == {"part": 0.25, "text": "so far"}
            until.touch()
            assert {each["value"] for each in client.wait(*held)} == {"went on"}
