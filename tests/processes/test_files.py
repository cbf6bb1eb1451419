"""Files when programs die, links are cut and disks are full: whole or not there, and nothing else is hurt."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from processes.proxy import Proxy
from support import Client, Cluster, Node, eventually, files_like

MIB = 1024 * 1024
LEAVE = 'cd "$EVENLY_RESULT_DIR"; '
CONTENT = random.Random(11).randbytes(12 * MIB)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
Make = Callable[..., Cluster]


class Proxied:
    """Two nodes of one slot, alpha and beta, each behind a proxy."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self.cluster = cluster
        cluster.balancer.start()
        self.proxies: dict[str, Proxy] = {}
        for name in ("alpha", "beta"):
            proxy = self.proxies[name] = stack.enter_context(Proxy(cluster.port))
            node = cluster.add_node(name, 1)
            node.argv[node.argv.index(str(cluster.port))] = str(proxy.port)
            node.start()
        cluster.await_connected("alpha", "beta")

    @property
    def alpha(self) -> Node:
        return self.cluster.nodes["alpha"]

    @property
    def beta(self) -> Node:
        return self.cluster.nodes["beta"]

    def on_beta(self, client: Client, line: str, **options: Any) -> str:
        """The ticket of a job that beta runs; alpha, which gave it, is kept busy by another."""
        delays = {name: proxy.delay for name, proxy in self.proxies.items()}
        self.set_delay(0.0)
        idle = client.submit("run sleep 600", "run sleep 600")
        nodes = {eventually(lambda each=each: running_on(client, each)): each for each in idle}
        assert client.ask_json(f"cancel {nodes['beta']}")["outcome"] == "cancelled"
        for name, delay in delays.items():
            self.proxies[name].delay = delay
        (ticket,) = client.submit(json.dumps({"run": line} | options))
        return ticket

    def set_delay(self, delay: float) -> None:
        for proxy in self.proxies.values():
            proxy.delay = delay


def running_on(client: Client, ticket: str) -> str | None:
    status = client.ask_json(f"status {ticket}")
    return str(status["node"]) if status["state"] == "running" else None


@pytest.fixture
def proxied(make_cluster: Make) -> Iterator[Proxied]:
    with ExitStack() as stack:
        yield Proxied(make_cluster(NODE_GRACE_PERIOD=300_000), stack)


def upload(client: Client, content: bytes) -> str:
    digest = client.upload(content)
    assert client.object()["uploaded"] == digest
    return digest


def unfinished(node: Node) -> list[Path]:
    return files_like(node.data, "*unfinished-*")


def leaves(size: int) -> str:
    """A command that leaves so many random bytes and says their SHA-256."""
    return f"{LEAVE}head -c {size} /dev/urandom > x; sha256sum < x | cut -c1-64"


def check(client: Client, ticket: str) -> dict[str, Any]:
    """It ended well, and what it left is here, whole."""
    (result,) = client.wait(ticket)
    assert (result["outcome"], result["reason"]) == ("succeeded", None)
    assert hashlib.sha256(client.fetch(ticket, "x")).hexdigest() == result["stdout"].strip()
    return result


def forwarded(proxy: Proxy, upwards: bool) -> int:
    with proxy._lock:
        return sum(way.forwarded for way in proxy._ways.values() if way.upwards == upwards)


def await_some(proxy: Proxy, upwards: bool) -> None:
    """Until some of a file has gone by."""
    seen = forwarded(proxy, upwards)
    eventually(lambda: not seen <= forwarded(proxy, upwards) < seen + MIB, "it comes")


def leaving(count: int, size: int) -> list[str]:
    return [json.dumps({"run": leaves(size), "result_dir": f"r{number}"}) for number in range(count)]


class TestTheWayThere:
    def test_a_thousand_jobs_bring_their_file_once_to_each_node(self, proxied: Proxied) -> None:
        with proxied.alpha.json_client() as client:
            digest = upload(client, CONTENT[: 4 * MIB])
            before = forwarded(proxied.proxies["beta"], upwards=False)
            job = json.dumps({"run": "cmp -n 100 x x", "file": {"x": digest}})
            tickets = client.submit(*[job] * 1000)
            results = client.wait(*tickets)
            assert {each["outcome"] for each in results} == {"succeeded"}
            assert {each["node"] for each in results} == {"alpha", "beta"}
            came = forwarded(proxied.proxies["beta"], upwards=False) - before
            assert 4 * MIB <= came < 8 * MIB  # and all that the jobs themselves take
            assert not (proxied.alpha.data / "cache" / digest).exists()
            assert (proxied.beta.data / "cache" / digest).stat().st_size == 4 * MIB

    def test_a_link_that_is_cut_in_the_middle_of_a_file_costs_nothing_but_time(
        self, proxied: Proxied
    ) -> None:
        with proxied.alpha.json_client() as client:
            digest = upload(client, CONTENT)
            proxied.set_delay(0.05)
            ticket = proxied.on_beta(client, "sha256sum < x | cut -c1-64", file={"x": digest})
            for name in ("beta", "alpha", "beta"):
                seen = forwarded(proxied.proxies["beta"], upwards=False)
                eventually(
                    lambda seen=seen: forwarded(proxied.proxies["beta"], upwards=False) > seen + MIB,
                    "it comes",
                )
                proxied.proxies[name].cut_all()
            proxied.set_delay(0.0)
            (result,) = client.wait(ticket)
            assert (result["outcome"], result["stdout"]) == ("succeeded", DIGEST + "\n")

    def test_an_origin_that_dies_meanwhile_is_waited_for(self, proxied: Proxied) -> None:
        with proxied.alpha.json_client() as client:
            digest = upload(client, CONTENT)
            proxied.proxies["beta"].delay = 0.1
            ticket = proxied.on_beta(client, "sha256sum < x | cut -c1-64", file={"x": digest})
            eventually(lambda: unfinished(proxied.beta), "it comes")
        proxied.alpha.kill()
        proxied.proxies["beta"].delay = 0.0
        proxied.alpha.start()
        with proxied.alpha.json_client() as client:
            (result,) = client.wait(ticket)
            assert (result["outcome"], result["stdout"]) == ("succeeded", DIGEST + "\n")
            assert client.ask_json(f"has {digest}")["here"]

    def test_one_that_is_cancelled_while_its_file_comes_is_cancelled(self, proxied: Proxied) -> None:
        with proxied.alpha.json_client() as client:
            digest = upload(client, CONTENT)
            proxied.proxies["beta"].delay = 0.2
            ticket = proxied.on_beta(client, "true", file={"x": digest})
            eventually(lambda: unfinished(proxied.beta), "it comes")
            assert client.ask_json(f"cancel {ticket}")["outcome"] == "cancelled"
            eventually(lambda: not unfinished(proxied.beta), "nobody wants it any more")
            proxied.proxies["beta"].delay = 0.0
            # And for another job it comes whole.
            ticket = client.submit(json.dumps({"run": "wc -c < x", "file": {"x": digest}}))[0]
            assert client.wait(ticket)[0]["stdout"].strip() == str(len(CONTENT))

    def test_where_its_disk_is_full_a_job_runs_elsewhere(self, make_cluster: Make) -> None:
        cluster = make_cluster(NODE_GRACE_PERIOD=300, CRASH_LIMIT=1)
        alpha, beta = cluster.add_node("alpha", 1), cluster.add_node("beta", 1)
        beta.file_limit = 6 * MIB
        for program in (cluster.balancer, alpha, beta):
            program.start()
        with alpha.json_client() as client:
            digest = upload(client, CONTENT)
            job = json.dumps({"run": "true", "file": {"x": digest}, "at_most_once": True})
            results = client.wait(*client.submit(*[job] * 30))
            assert {(each["outcome"], each["node"]) for each in results} == {("succeeded", "alpha")}
            assert "cannot be kept here: File too large" in beta.said
            results = client.wait(*client.submit(*["run true"] * 8))
            assert {each["outcome"] for each in results} == {"succeeded"}
        assert not beta.ended
        assert unfinished(beta) == []

    def test_an_origin_that_is_gone_takes_no_slot_for_what_only_it_has(self, make_cluster: Make) -> None:
        cluster = make_cluster(NODE_GRACE_PERIOD=1000)
        alpha, beta = cluster.start("alpha", "beta")
        with alpha.json_client() as client:
            digest = upload(client, b"x")
            beta_is_full = [json.dumps({"sleep": 1000})] * 8
            tickets = client.submit(*beta_is_full, *[json.dumps({"run": "cat x", "file": {"x": digest}})] * 3)
        alpha.kill()
        with beta.json_client() as client:
            (other,) = client.submit("run echo other")
            assert client.wait(other)[0]["stdout"] == "other\n"
        alpha.start()
        with alpha.json_client() as client:
            results = client.wait(*tickets[8:])
            assert [(each["outcome"], each["stdout"]) for each in results] == [("succeeded", "x")] * 3


class TestTheWayHome:
    def test_an_origin_that_is_away_gets_all_when_it_is_back(self, proxied: Proxied, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        with proxied.alpha.json_client() as client:
            line = f"while ! [ -e {gate} ]; do sleep 0.01; done; {leaves(3 * MIB)}"
            ticket = proxied.on_beta(client, line, result_dir="r")
            eventually(lambda: client.ask_json(f"status {ticket}")["state"] == "running", "it runs")
        proxied.alpha.kill()
        gate.touch()
        stage = proxied.beta.data / "work" / "stage"
        eventually(
            lambda: any(each.stat().st_size == 3 * MIB for each in files_like(stage, "x")), "it has ended"
        )
        proxied.alpha.start()
        with proxied.alpha.json_client() as client:
            check(client, ticket)
            assert (proxied.alpha.data / "results" / "r" / "x").stat().st_size == 3 * MIB
        eventually(lambda: not list(stage.iterdir()), "nothing is left where it ran")

    def test_one_that_dies_in_the_middle_of_it_gets_all_too(self, proxied: Proxied) -> None:
        with proxied.alpha.json_client() as client:
            proxied.proxies["beta"].delay = 0.05
            ticket = proxied.on_beta(client, leaves(12 * MIB), result_dir="r")
            eventually(lambda: unfinished(proxied.alpha), "it comes home")
        proxied.alpha.kill()
        proxied.proxies["beta"].delay = 0.0
        assert unfinished(proxied.alpha)
        proxied.alpha.start()
        with proxied.alpha.json_client() as client:
            check(client, ticket)
        assert unfinished(proxied.alpha) == []

    def test_a_link_that_is_cut_in_the_middle_costs_nothing_but_time(self, proxied: Proxied) -> None:
        with proxied.alpha.json_client() as client:
            proxied.set_delay(0.05)
            ticket = proxied.on_beta(client, leaves(12 * MIB), result_dir="r")
            for name in ("beta", "alpha", "beta"):
                seen = forwarded(proxied.proxies["beta"], upwards=True)
                eventually(
                    lambda seen=seen: forwarded(proxied.proxies["beta"], upwards=True) > seen + MIB,
                    "it comes",
                )
                proxied.proxies[name].cut_all()
            proxied.set_delay(0.0)
            assert check(client, ticket)["attempt"] == 1

    def test_a_balancer_that_dies_in_the_middle_too(self, proxied: Proxied) -> None:
        with proxied.alpha.json_client() as client:
            proxied.proxies["beta"].delay = 0.05
            ticket = proxied.on_beta(client, leaves(8 * MIB), result_dir="r")
            eventually(lambda: unfinished(proxied.alpha), "it comes home")
            proxied.cluster.balancer.kill()
            proxied.proxies["beta"].delay = 0.0
            proxied.cluster.balancer.start()
            assert check(client, ticket)["attempt"] == 1
            assert unfinished(proxied.alpha) == []

    def test_an_executor_that_dies_in_the_middle_has_it_run_again_elsewhere(self, make_cluster: Make) -> None:
        with ExitStack() as stack:
            proxied = Proxied(make_cluster(NODE_GRACE_PERIOD=300), stack)
            gamma = proxied.cluster.add_node("gamma", 1)
            gamma.start()
            with proxied.alpha.json_client() as client:
                proxied.proxies["beta"].delay = 0.1
                tickets = client.submit(*leaving(6, 6 * MIB))
                eventually(lambda: unfinished(proxied.alpha), "one comes home from beta")
                proxied.beta.kill()
                attempts = {check(client, ticket)["attempt"] for ticket in tickets}
                assert max(attempts) >= 2

    def test_one_that_is_cancelled_on_its_way_is_cancelled_and_leaves_nothing(self, proxied: Proxied) -> None:
        with proxied.alpha.json_client() as client:
            proxied.proxies["beta"].delay = 0.2
            ticket = proxied.on_beta(client, leaves(8 * MIB), result_dir="r")
            eventually(lambda: unfinished(proxied.alpha), "it comes home")
            assert client.ask_json(f"cancel {ticket}")["outcome"] == "cancelled"
            proxied.proxies["beta"].delay = 0.0
            assert "error" in client.ask_json(f"fetch {ticket} x")
            assert not (proxied.alpha.data / "results" / "r").exists()
            stage = proxied.beta.data / "work" / "stage"
            eventually(lambda: not list(stage.iterdir()), "nothing is left where it ran")

    def test_a_node_that_stops_finishes_bringing_what_it_has(self, make_cluster: Make) -> None:
        cluster = make_cluster(NODE_GRACE_PERIOD=300_000)
        alpha, beta = cluster.add_node("alpha", 1), cluster.add_node("beta", 1, DRAIN_PERIOD="20000")
        for program in (cluster.balancer, alpha, beta):
            program.start()
        cluster.await_connected("alpha", "beta")
        with alpha.json_client() as client:
            tickets = client.submit(
                *[json.dumps({"run": leaves(MIB), "result_dir": f"r{n}"}) for n in range(8)]
            )
            eventually(lambda: list(alpha.data.glob("results/*")), "some are home")
            assert beta.terminate(30) == 0
            for ticket in tickets:
                assert check(client, ticket)["attempt"] == 1

    def test_an_origin_whose_disk_is_full_says_so_and_goes_on(self, make_cluster: Make) -> None:
        cluster = make_cluster()
        alpha, beta = cluster.add_node("alpha", 1), cluster.add_node("beta", 1)
        alpha.file_limit = 4 * MIB
        for program in (cluster.balancer, alpha, beta):
            program.start()
        cluster.await_connected("alpha", "beta")
        with alpha.json_client() as client:
            line = f"[ $EVENLY_NODE_ID ]; {LEAVE} head -c {6 * MIB} /dev/zero > x; true"
            tickets = client.submit(*[json.dumps({"run": line, "result_dir": f"r{n}"}) for n in range(4)])
            results = client.wait(*tickets)
            refused = [each for each in results if each["node"] == "beta"]
            assert refused
            for each in refused:
                assert each["outcome"] == "failed"
                said = "its result files were refused: its origin cannot keep it: File too large"
                assert each["reason"] == said
            with alpha.client() as other:
                other.upload(CONTENT)
                said = "That upload could not be kept: File too large. Nothing of it was."
                assert other.line() == said
                assert other.ask(f"has {DIGEST}") == f"Not here: {DIGEST}"
            (result,) = client.wait(*client.submit("run true"))
            assert result["outcome"] == "succeeded"
            assert unfinished(alpha) == []

    def test_an_origin_that_is_away_holds_up_no_other(self, make_cluster: Make, tmp_path: Path) -> None:
        """All that a node may hold waits for a way home, and still it does the work of others."""
        cluster = make_cluster(NODE_GRACE_PERIOD=300_000)
        alpha, _, gamma = cluster.start("alpha", "beta", "gamma", slots=1)
        gate = tmp_path / "gate"
        line = f"while ! [ -e {gate} ]; do sleep 0.01; done; {leaves(1000)}"
        with alpha.json_client() as client:
            tickets = client.submit(*[json.dumps({"run": line, "result_dir": "r"})] * 200)
            eventually(lambda: sum(cluster.held(alpha).values()) > 30, "they are spread")
        alpha.kill()
        gate.touch()
        with gamma.json_client() as client:
            results = client.wait(*client.submit(*["run true"] * 20))
            assert {each["outcome"] for each in results} == {"succeeded"}
            held = cluster.held(gamma)
            assert sum(held.values()) <= 60, "what waits for a way home is not counted as held"
        alpha.start()
        with alpha.json_client() as client:
            results = client.wait(*tickets)
            assert {each["outcome"] for each in results} == {"succeeded"}


def test_an_upload_that_was_cut_off_by_a_crash_is_gone_after_the_restart(make_cluster: Make) -> None:
    cluster = make_cluster()
    (node,) = cluster.start("alpha")
    with node.client() as client:
        client.socket.sendall(f"upload {len(CONTENT)} {DIGEST}\n".encode() + CONTENT[:-1])
        eventually(lambda: unfinished(node), "it comes in")
        node.kill()
    assert unfinished(node)
    node.start()
    assert unfinished(node) == []
    with node.json_client() as client:
        assert client.ask_json(f"has {DIGEST}")["here"] is False
        digest = upload(client, CONTENT)
    node.kill()  # what was said to be there is there
    node.start()
    with node.json_client() as client:
        assert client.ask_json(f"has {digest}")["here"] is True
        (result,) = client.wait(*client.submit(json.dumps({"run": "sha256sum x", "file": {"x": digest}})))
        assert result["stdout"].startswith(digest)
