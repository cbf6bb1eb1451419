"""Output as it comes, by way of real nodes: from whichever node, to text and to programs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Client, Cluster, Node, eventually, helpers_of

MIB = 1024 * 1024
Make = Callable[..., Cluster]
TESTS = str(Path(__file__).parent.parent)


@pytest.fixture
def origin(shared_cluster: Cluster) -> Node:
    return shared_cluster.nodes["alpha"]


@pytest.fixture
def client(origin: Node) -> Iterator[Client]:
    with origin.json_client() as client:
        yield client


class Gate:
    """Commands wait for it, step by step."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def wait(self, name: str) -> str:
        return f'while ! [ -e "{self._directory / name}" ]; do sleep 0.01; done'

    def open(self, name: str) -> None:
        (self._directory / name).touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def submit(client: Client, line: str, **options: Any) -> str:
    (ticket,) = client.submit(json.dumps({"run": line} | options))
    return ticket


def until_running(client: Client, ticket: str) -> dict[str, Any]:
    return eventually(
        lambda: status if (status := client.ask_json(f"status {ticket}"))["state"] == "running" else None,
        "it runs",
    )


class Follower:
    """One who tails in JSON: what came, and how it ended."""

    def __init__(self, node: Node, ticket: str, *start: int) -> None:
        self.client = node.json_client()
        self.client.send(" ".join(map(str, ("tail", ticket, *start))))
        self.pieces: list[dict[str, Any]] = []
        self.end: dict[str, Any] = {}
        self.ticket = ticket

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def next(self) -> dict[str, Any]:
        value = self.client.object()
        assert value.get("tail") == self.ticket, value
        if "state" in value or "error" in value:
            self.end = value
        else:
            self.pieces.append(value)
        return value

    def to_the_end(self) -> dict[str, Any]:
        while not self.end:
            self.next()
        return self.end

    def until(self, text: bytes, stream: str = "stdout", attempt: int = 1) -> None:
        while text not in self.text(stream, attempt):
            assert not self.end, self.end
            self.next()

    def text(self, stream: str = "stdout", attempt: int = 1) -> bytes:
        """All that came, gaps left out; what came twice or out of order is a fault."""
        text, at = b"", 0
        for piece in self.pieces:
            if (piece["stream"], piece["attempt"]) == (stream, attempt):
                assert piece["at"] >= at
                data = piece["text"].encode() if "text" in piece else base64.b64decode(piece["base64"])
                assert data
                at = piece["at"] + len(data)
                text += data
        return text


Follow = Callable[..., Follower]


@pytest.fixture
def follow() -> Iterator[Follow]:
    with contextlib.ExitStack() as stack:
        yield lambda *what: stack.enter_context(Follower(*what))


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_it_comes_from_whichever_node_while_it_runs(
    shared_cluster: Cluster, client: Client, gate: Gate, name: str, follow: Follow
) -> None:
    """One of the three runs each of these, one gave their tickets, one has nothing to do with them."""
    line = f"echo one; echo oh >&2; {gate.wait('two')}; echo two; {gate.wait('end')}; exit 3"
    tickets = [submit(client, line) for _ in range(3)]
    assert len({until_running(client, ticket)["node"] for ticket in tickets}) == 3
    followers = [follow(shared_cluster.nodes[name], ticket) for ticket in tickets]
    for follower in followers:
        follower.until(b"one\n")
        follower.until(b"oh\n", "stderr")
    gate.open("two")
    for follower in followers:
        follower.until(b"one\ntwo\n")
    gate.open("end")
    for follower in followers:
        end = follower.to_the_end()
        assert (end["state"], end["exit_code"], end["attempt"]) == ("done", 3, 1)
        assert end["outcome"] == ("failed" if name == "alpha" else None)


def test_in_text_it_is_a_block_with_dots_stuffed(origin: Node, client: Client, gate: Gate) -> None:
    ticket = submit(client, f"echo one; echo .; {gate.wait('on')}; echo ..two; printf 'no end'")
    with origin.client() as reader:
        reader.send(f"tail {ticket}", "status " + ticket)
        assert reader.lines(3) == [f"Tail: {ticket}", "one", ".."]
        gate.open("on")
        assert reader.lines(2) == ["...two", "no end"]
        assert reader.line() == "."
        assert reader.line().startswith("Status: done")


def test_of_one_that_is_done_all_that_was_kept_comes(origin: Node, client: Client) -> None:
    ticket = submit(client, "printf 'a\\nb'; printf x >&2; exit 1")
    client.wait(ticket)
    with Follower(origin, ticket) as follower:
        end = follower.to_the_end()
        assert (follower.text(), follower.text("stderr")) == (b"a\nb", b"x")
        assert (end["outcome"], end["exit_code"]) == ("failed", 1)
    with Follower(origin, ticket, 1, 2, 0) as follower:
        follower.to_the_end()
        assert (follower.text(), follower.text("stderr")) == (b"b", b"x")


def test_one_that_waits_is_followed_when_it_starts(origin: Node, client: Client, gate: Gate) -> None:
    blockers = [submit(client, gate.wait("go")) for _ in range(6)]
    for ticket in blockers:
        until_running(client, ticket)
    ticket = submit(client, f"echo started; {gate.wait('end')}; echo over", priority=-5)
    with Follower(origin, ticket) as follower:
        gate.open("go")
        follower.until(b"started\n")
        gate.open("end")
        follower.to_the_end()
        assert follower.text() == b"started\nover\n"


def test_one_that_waits_for_its_files_is_followed_from_its_start(
    shared_cluster: Cluster, client: Client, gate: Gate, follow: Follow
) -> None:
    client.upload(bytes(20 * MIB))
    digest = client.object()["uploaded"]
    line = f"echo started; {gate.wait('end')}"
    tickets = [submit(client, line, file={"x": digest}) for _ in range(3)]
    followers = [follow(shared_cluster.nodes["beta"], ticket) for ticket in tickets]
    for follower in followers:
        follower.until(b"started\n")
    gate.open("end")
    client.wait(*tickets)


def test_attempts_are_told_apart(origin: Node, client: Client, gate: Gate) -> None:
    line = f"echo attempt $EVENLY_ATTEMPT; {gate.wait('$EVENLY_ATTEMPT')}; [ $EVENLY_ATTEMPT = 2 ]"
    ticket = submit(client, line, retries=3)
    with Follower(origin, ticket) as follower:
        follower.until(b"attempt 1\n")
        gate.open("1")
        follower.until(b"attempt 2\n", attempt=2)
        gate.open("2")
        end = follower.to_the_end()
        assert (end["outcome"], end["attempt"]) == ("succeeded", 2)


def test_binary_output_comes_as_it_is(origin: Node, client: Client, gate: Gate) -> None:
    ticket = submit(client, f"printf '\\377\\000\\001'; {gate.wait('end')}; printf 'text'")
    with Follower(origin, ticket) as follower:
        follower.until(b"\xff\0\1")
        assert "base64" in follower.pieces[0]
        gate.open("end")
        follower.to_the_end()
        assert follower.text() == b"\xff\0\1text"
    with origin.client() as reader:
        reader.send(f"tail {ticket}", "exit")
        assert reader.rest().startswith(f"Tail: {ticket}\n".encode() + b"\xff\0\1text\n.\n")


def memory_of(node: Node) -> int:
    """Bytes that it has in memory of its own."""
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def test_a_reader_that_is_slow_finds_gaps_and_costs_no_memory(
    shared_cluster: Cluster, origin: Node, client: Client, gate: Gate
) -> None:
    line = f"echo begins; {gate.wait('go')}; head -c 100000000 /dev/zero | tr '\\0' x; {gate.wait('end')}"
    ticket = submit(client, line)
    runs_on = shared_cluster.nodes[until_running(client, ticket)["node"]]
    with Follower(origin, ticket) as follower:
        follower.until(b"begins\n")
        before = memory_of(runs_on) + memory_of(origin)
        gate.open("go")
        # Nothing is read meanwhile: the buffers of the kernel and of the node fill, the job runs on.
        with Follower(origin, ticket) as quick:
            while quick.next()["at"] < 99_000_000:
                pass
        assert memory_of(runs_on) + memory_of(origin) < before + 40 * MIB
        while follower.next()["at"] < 99_000_000:
            pass
        ends = [piece["at"] + len(piece["text"]) for piece in follower.pieces]
        assert any(piece["at"] > end for piece, end in zip(follower.pieces[1:], ends, strict=False))
        assert len(follower.text()) < 50_000_000
        gate.open("end")
        end = follower.to_the_end()
        assert (end["outcome"], end["stdout_bytes"], end["stderr_bytes"]) == ("succeeded", 100_000_007, 0)


def goes_on_alone(node: Node, log: Path) -> bool:
    """Whether a job writes on while its node is stopped: nothing of what it writes goes there."""
    node.signal(signal.SIGSTOP)
    try:
        begins, end = log.stat().st_size, time.monotonic() + 0.7
        while log.stat().st_size < begins + 40 and time.monotonic() < end:
            time.sleep(0.01)
        return log.stat().st_size >= begins + 40
    finally:
        node.signal(signal.SIGCONT)


def test_what_nobody_watches_costs_nothing_and_who_goes_is_forgotten(
    make_cluster: Make, tmp_path: Path
) -> None:
    cluster = make_cluster()
    (node,) = cluster.start("alpha", slots=1)
    log = tmp_path / "log"
    with node.json_client() as client:
        # 40 characters in the log are 4 MB of output, more than any buffer on the way.
        ticket = submit(client, f"while :; do head -c 100000 /dev/zero; printf x >> {log}; done")
        eventually(log.exists, "it writes")
        assert eventually(lambda: goes_on_alone(node, log), "it goes on without its node")
        for end in ("close", "reset"):
            with Follower(node, ticket) as follower:
                follower.next()
                assert not goes_on_alone(node, log)
                if end == "reset":
                    linger = (1).to_bytes(4, "little") + bytes(4)
                    follower.client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        eventually(lambda: goes_on_alone(node, log), "it is not watched any more", timeout=90)
        client.ask(f"cancel {ticket}")


def test_it_goes_on_after_a_reconnect(origin: Node, client: Client, gate: Gate) -> None:
    ticket = submit(client, f"printf 123; printf ab >&2; {gate.wait('on')}; printf 456; {gate.wait('end')}")
    with Follower(origin, ticket) as follower:
        follower.until(b"123")
        follower.until(b"ab", "stderr")
    with Follower(origin, ticket, 1, 3, 1) as follower:
        follower.until(b"b", "stderr")
        gate.open("on")
        follower.until(b"456")
        assert follower.text("stderr") == b"b"
        assert [piece["at"] for piece in follower.pieces if piece["stream"] == "stdout"] == [3]
        gate.open("end")
        assert follower.to_the_end()["outcome"] == "succeeded"


def test_fifty_watch_one_job(shared_cluster: Cluster, client: Client, gate: Gate, follow: Follow) -> None:
    ticket = submit(client, f"echo one; {gate.wait('end')}; seq 10000")
    followers = [follow(node, ticket) for node in [*shared_cluster.nodes.values()] * 17]
    for follower in followers:
        follower.until(b"one\n")
    gate.open("end")
    whole = b"one\n" + b"".join(b"%d\n" % number for number in range(1, 10001))
    for follower in followers:
        assert follower.to_the_end()["exit_code"] == 0
        assert follower.text() == whole


def test_replies_behind_it_wait_and_what_comes_before_leaves_first(origin: Node, client: Client) -> None:
    ticket = submit(client, "echo x")
    client.wait(ticket)
    with origin.json_client() as reader:
        reader.send("stats", f"tail {ticket}", f"tail {ticket}", "nodes")
        assert "node" in reader.object()
        for _ in range(2):
            assert reader.object()["text"] == "x\n"
            assert reader.object()["state"] == "done"
        assert "nodes" in reader.object()


def test_a_sleep_writes_nothing_and_ends(shared_cluster: Cluster, client: Client, follow: Follow) -> None:
    (ticket,) = client.submit("1200")
    follower = follow(shared_cluster.nodes["alpha"], ticket)
    other = follow(shared_cluster.nodes["beta"], ticket)
    assert follower.to_the_end()["outcome"] == "succeeded"
    assert other.to_the_end()["state"] == "done"
    assert follower.pieces == other.pieces == []


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_what_cannot_be_followed_gets_one_line(shared_cluster: Cluster, client: Client, name: str) -> None:
    with shared_cluster.nodes[name].client() as reader:
        assert reader.ask(f"tail {'Z' * 16}") == "Result: This job could not be found on this node."
        assert reader.ask("tail x") == "tail takes a ticket, 16 letters and digits, not 'x'."
        assert reader.ask(f"tail {'Z' * 16} 1").startswith("tail <ticket> <attempt> <bytes of stdout>")
        assert reader.ask(f"tail {'Z' * 16} 1 -1 0").startswith("tail <ticket> <attempt> <bytes of stdout>")
    with shared_cluster.nodes["alpha"].json_client() as reader:
        array = submit(client, "true", array=2)
        said = reader.ask_json(f"tail {array}")
        assert said == {"error": f"tail takes the ticket of one job, and {array} is an array of many."}
        (result,) = client.wait(array)
        assert reader.ask_json(f"tail {array}") == said
        with Follower(shared_cluster.nodes["alpha"], result["jobs"][0]["ticket"]) as follower:
            assert follower.to_the_end()["outcome"] == "succeeded"


def test_one_that_is_cancelled_ends_it(shared_cluster: Cluster, client: Client, follow: Follow) -> None:
    ticket = submit(client, "echo x; sleep 600")
    followers = [follow(shared_cluster.nodes[name], ticket) for name in ("alpha", "beta")]
    for follower in followers:
        follower.until(b"x\n")
    client.ask(f"cancel {ticket}")
    assert followers[0].to_the_end()["outcome"] == "cancelled"
    assert followers[1].to_the_end()["state"] == "done"


class TestFaults:
    @pytest.fixture
    def cluster(self, make_cluster: Make) -> Cluster:
        cluster = make_cluster(NODE_GRACE_PERIOD=500)
        for name in ("alpha", "beta"):
            cluster.add_node(name, 1, TASKS="tasks_for_tests", PYTHONPATH=TESTS)
        for program in (cluster.balancer, *cluster.nodes.values()):
            program.launch()
        for program in (cluster.balancer, *cluster.nodes.values()):
            program.await_ready()
        cluster.await_connected("alpha", "beta")
        eventually(lambda: all("tasks: " in node.said for node in cluster.nodes.values()), "tasks are known")
        return cluster

    def on_beta(self, client: Client, line: str) -> str:
        """A job that runs on beta, while alpha, its origin, runs another."""
        tickets = [submit(client, line) for _ in range(2)]
        nodes = {until_running(client, ticket)["node"]: ticket for ticket in tickets}
        return nodes["beta"]

    def test_it_goes_on_when_the_balancer_is_back(self, cluster: Cluster, gate: Gate) -> None:
        alpha = cluster.nodes["alpha"]
        with alpha.json_client() as client:
            ticket = self.on_beta(
                client, f"echo one; {gate.wait('on')}; echo two; {gate.wait('end')}; echo three"
            )
            with Follower(alpha, ticket) as follower:
                follower.until(b"one\n")
                cluster.balancer.kill()
                gate.open("on")
                cluster.balancer.start()
                follower.until(b"one\ntwo\n")
                gate.open("end")
                assert follower.to_the_end()["outcome"] == "succeeded"
                assert follower.text() == b"one\ntwo\nthree\n"

    def test_what_runs_here_is_followed_without_a_balancer(self, cluster: Cluster, gate: Gate) -> None:
        alpha, beta = cluster.nodes.values()
        with alpha.json_client() as client:
            ticket = self.on_beta(client, f"echo one; {gate.wait('on')}; echo two; {gate.wait('end')}")
            cluster.balancer.kill()
            with Follower(beta, ticket) as follower:
                follower.until(b"one\n")
                gate.open("on")
                follower.until(b"one\ntwo\n")
                cluster.balancer.start()
                gate.open("end")
                assert follower.to_the_end()["state"] == "done"

    def test_it_goes_on_with_the_next_attempt_when_a_node_dies(self, cluster: Cluster, gate: Gate) -> None:
        alpha, beta = cluster.nodes.values()
        with alpha.json_client() as client:
            ticket = self.on_beta(client, f"echo by $EVENLY_ATTEMPT; {gate.wait('end')}")
            with Follower(alpha, ticket) as follower:
                follower.until(b"by 1\n")
                beta.kill()
                # Its other job keeps alpha busy until then.
                gate.open("end")
                follower.until(b"by 2\n", attempt=2)
                end = follower.to_the_end()
                assert (end["outcome"], end["attempt"]) == ("succeeded", 2)

    def test_a_task_is_followed_too(self, cluster: Cluster, gate: Gate) -> None:
        alpha, beta = cluster.nodes.values()
        with alpha.json_client() as client:
            (ticket,) = client.submit(
                json.dumps({"task": "talk", "payload": {"gate": str(gate._directory / "end")}})
            )
            for node in (alpha, beta):
                with Follower(node, ticket) as follower:
                    follower.until(b"talking\n")
                    follower.until(b"loudly\n", "stderr")
            with Follower(alpha, ticket) as follower:
                gate.open("end")
                end = follower.to_the_end()
                assert (end["outcome"], end["exit_code"]) == ("succeeded", 0)
                assert follower.text() == b"talking\nover\n"

    def test_a_helper_that_is_killed_ends_the_attempt_alone(self, cluster: Cluster, gate: Gate) -> None:
        alpha, beta = cluster.nodes.values()
        with alpha.json_client() as client:
            ticket = self.on_beta(client, f"echo by $EVENLY_ATTEMPT; {gate.wait('end')}")
            with Follower(alpha, ticket) as follower:
                follower.until(b"by 1\n")
                (helper,) = helpers_of(beta.pid)
                os.kill(helper, signal.SIGKILL)
                follower.until(b"by 2\n", attempt=2)
                gate.open("end")
                assert follower.to_the_end()["outcome"] == "succeeded"
