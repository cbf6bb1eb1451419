"""Jobs that go on where an earlier attempt stopped, and what tasks hand out before their end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import Client, Cluster, eventually

Make = Callable[..., Cluster]
TESTS = str(Path(__file__).parent.parent)

#: Counts to `count`, a checkpoint a step; waits at each step for a file.
COUNT = """
cd "$EVENLY_CHECKPOINT_DIR"
n=$(cat n 2>/dev/null || echo 0)
echo "from $n"
while [ "$n" -lt {count} ]; do
    while ! [ -e "{gate}" ] && ! [ -e "{gate}$n" ]; do sleep 0.01; done
    n=$((n + 1)); echo $n > new; mv new n
    {take}
done
"""


@pytest.fixture
def cluster(make_cluster: Make) -> Cluster:
    cluster = make_cluster(NODE_GRACE_PERIOD=300)
    for name in ("alpha", "beta"):
        cluster.add_node(name, 1, TASKS="tasks_for_tests", PYTHONPATH=TESTS, CHECKPOINT_PERIOD="100")
    programs = (cluster.balancer, *cluster.nodes.values())
    for program in programs:
        program.launch()
    for program in programs:
        program.await_ready()
    cluster.await_connected("alpha", "beta")
    eventually(lambda: all("tasks: " in node.said for node in cluster.nodes.values()), "tasks are known")
    return cluster


def count(count: int, gate: Path, take: str) -> str:
    return json.dumps({"run": COUNT.format(count=count, gate=gate, take=take), "checkpoint": True})


def on_beta(client: Client, line: str) -> str:
    """The ticket of a job like this that runs on beta; alpha, which gave it, is kept busy with another."""
    tickets = client.submit(line, line)

    def there() -> str | None:
        nodes = {client.ask_json(f"status {ticket}")["node"]: ticket for ticket in tickets}
        return nodes.get("beta")

    return eventually(there, "one of two jobs went to the other node")


def contents(directory: Path) -> list[bytes]:
    """Of the files that it keeps by their digest, as far as they stay for a moment."""
    found = []
    for file in directory.glob("?" * 64):
        with contextlib.suppress(FileNotFoundError):
            found.append(file.read_bytes())
    return found


@pytest.mark.parametrize("take", ["evenly-checkpoint", ":"], ids=["by command", "every period"])
def test_a_command_goes_on_where_it_stopped_when_its_node_dies(
    cluster: Cluster, tmp_path: Path, take: str
) -> None:
    alpha, beta = cluster.nodes["alpha"], cluster.nodes["beta"]
    gate = tmp_path / "gate"
    for step in range(3):
        Path(f"{gate}{step}").touch()
    with alpha.json_client() as client:
        ticket = on_beta(client, count(5, gate, take))
        manifest = alpha.data / "checkpoints" / ticket / "manifest"
        # Three steps are done, and their checkpoint is home.
        stage = beta.data / "work" / "stage"

        def steps() -> list[str]:
            return [place.read_text() for place in stage.glob(f"{ticket}.1.*/checkpoint/n")]

        eventually(lambda: steps() == ["3\n"], "it has come to its third step")
        kept = alpha.data / "checkpoints" / ticket
        # The files of the one before go when this one has taken its place.
        eventually(lambda: manifest.exists() and contents(kept) == [b"3\n"], "that is home")
        beta.kill()
        gate.touch()
        (result,) = client.wait(ticket)
    assert (result["outcome"], result["attempt"], result["node"]) == ("succeeded", 2, "alpha")
    assert result["stdout"].splitlines()[0] == "from 3"
    eventually(lambda: not kept.exists(), "nothing of the checkpoint is left")


def test_a_task_does_too_and_what_it_handed_out_is_read_before_its_end(
    cluster: Cluster, tmp_path: Path
) -> None:
    alpha, beta = cluster.nodes["alpha"], cluster.nodes["beta"]
    gate = tmp_path / "gate"
    for step in range(3):
        Path(f"{gate}{step}").touch()
    payload = {"count": 5, "gate": str(gate)}
    with alpha.json_client() as client:
        ticket = on_beta(client, json.dumps({"task": "steps", "payload": payload, "checkpoint": True}))

        def partial() -> list[tuple[int, int]]:
            values = client.ask_json(f"partial {ticket}")["partial"]
            return [(each["attempt"], each["value"]["step"]) for each in values]

        eventually(lambda: partial() == [(1, 0), (1, 1), (1, 2)], "three steps are handed out")
        # What it says of itself is told by the node that gave the ticket, wherever it runs.
        progress = {"part": 0.4, "text": "step 2"}
        eventually(
            lambda: client.ask_json(f"status {ticket}").get("progress") == progress, "its progress is shown"
        )
        kept = alpha.data / "checkpoints" / ticket
        eventually(lambda: b"3" in [each.read_bytes() for each in kept.glob("?" * 64)], "the third is home")
        beta.kill()
        gate.touch()
        (result,) = client.wait(ticket)
        assert (result["outcome"], result["attempt"], result["value"]) == ("succeeded", 2, [3, 5])
        assert partial() == [(1, 0), (1, 1), (1, 2), (2, 3), (2, 4)]
    with alpha.client() as client:
        client.send(f"partial {ticket}")
        assert client.line() == "Partial: 5"
        assert client.block() == [f'{{"step": {step}}}' for step in range(5)]
        assert client.ask("partial AAAAAAAAAAAAAAAA").endswith("could not be found on this node.")


def test_all_that_a_task_handed_out_is_there_with_its_result(cluster: Cluster) -> None:
    with cluster.nodes["alpha"].json_client() as client:
        tickets = client.submit(*['task hand_out {"count": 20}'] * 4)
        for ticket, result in zip(tickets, client.wait(*tickets), strict=True):
            assert (result["outcome"], result["value"]) == ("succeeded", 20)
            values = [each["value"] for each in client.ask_json(f"partial {ticket}")["partial"]]
            assert values == list(range(20))


def test_many_of_a_task_that_does_not_wait_are_kept_all(cluster: Cluster) -> None:
    with cluster.nodes["alpha"].json_client() as client:
        (ticket,) = client.submit('task hand_out {"count": 1500}')
        assert client.wait(ticket)[0]["outcome"] == "succeeded"
        values = [each["value"] for each in client.ask_json(f"partial {ticket}")["partial"]]
        assert values == list(range(1500))


def test_a_retried_job_finds_it_on_the_same_node_as_well(cluster: Cluster) -> None:
    script = "cat $EVENLY_CHECKPOINT_DIR/* 2>/dev/null && exit; echo kept > $EVENLY_CHECKPOINT_DIR/x; "
    with cluster.nodes["alpha"].json_client() as client:
        (ticket,) = client.submit(f"run --checkpoint --retries 1 -- {script} evenly-checkpoint; exit 1")
        (result,) = client.wait(ticket)
    assert (result["outcome"], result["attempt"], result["stdout"]) == ("succeeded", 2, "kept\n")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        ("ln -s /etc/hostname out", "its checkpoint is refused: link out leads out of it"),
        ("mkfifo pipe", "its checkpoint is refused: pipe is neither a file nor a directory"),
    ],
)
def test_a_checkpoint_that_cannot_be_is_refused_and_the_job_told_so(
    cluster: Cluster, make: str, reason: str
) -> None:
    with cluster.nodes["alpha"].json_client() as client:
        (ticket,) = client.submit(f"run --checkpoint -- cd $EVENLY_CHECKPOINT_DIR; {make}; evenly-checkpoint")
        (result,) = client.wait(ticket)
    assert (result["outcome"], result["exit_code"]) == ("failed", 1)
    assert result["stderr"] == f"evenly-checkpoint: No checkpoint was taken: {reason}.\n"


def test_outside_of_such_a_job_there_is_none_to_take(cluster: Cluster) -> None:
    with cluster.nodes["alpha"].json_client() as client:
        error = client.ask_json("checkpoint AAAAAAAAAAAAAAAA")["error"]
        assert error == ("No checkpoint was taken: no job with --checkpoint runs here under this ticket.")
    command = [sys.executable, "-c", "from evenly.checkpoints import main; raise SystemExit(main())"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == ("evenly-checkpoint: this is no job that was submitted with --checkpoint\n")


def test_images_that_come_along_are_compressed_into_the_result_directory(
    cluster: Cluster, tmp_path: Path
) -> None:
    import hashlib

    from PIL import Image

    image = tmp_path / "a.png"
    Image.new("RGB", (64, 48), "red").save(image)
    data = image.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    with cluster.nodes["alpha"].json_client() as client:
        client.socket.sendall(f"upload {len(data)} {digest}\n".encode() + data)
        assert client.object() == {"uploaded": digest, "bytes": len(data)}
        job = {"task": "compress", "payload": {"images": ["a.png"]}, "file": {"a.png": digest}}
        (ticket,) = client.submit(json.dumps(job | {"result_dir": "small"}))
        (result,) = client.wait(ticket)
        assert (result["outcome"], result["reason"]) == ("succeeded", None)
        assert [each["path"] for each in result["files"]] == ["a.small.jpg"]
    with Image.open(cluster.nodes["alpha"].data / "results" / "small" / "a.small.jpg") as small:
        assert small.size == (32, 24)
