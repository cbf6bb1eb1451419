"""Stop, start and look as an operator does: draining, dumps, rolling restarts; and what retries promise."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from load import Load, assert_settled, mix
from support import Client, Cluster, Node, eventually, helpers_of, marker, processes_with

Make = Callable[..., Cluster]


@pytest.fixture
def cluster(make_cluster: Make) -> Cluster:
    return make_cluster(REQUEST_RESULT_PERIOD=500, NODE_GRACE_PERIOD=600_000)


def start(cluster: Cluster, *names: str, slots: int = 2, drain_period: int = 5000) -> list[Node]:
    """The balancer and nodes with time to drain, connected."""
    nodes = [cluster.add_node(name, slots, DRAIN_PERIOD=str(drain_period)) for name in names]
    cluster.balancer.launch()
    for node in nodes:
        node.launch()
    for program in (cluster.balancer, *nodes):
        program.await_ready()
    cluster.await_connected(*names)
    return nodes


def await_running(mark: str, count: int) -> None:
    eventually(lambda: len(processes_with(mark)) >= count, f"{count} commands run")


def status(client: Client, ticket: str) -> tuple[str, str]:
    """(state, node)"""
    view = client.ask_json(f"status {ticket}")
    return str(view["state"]), str(view["node"])


def read_dump(cluster: Cluster) -> dict[str, Any]:
    value = json.loads((cluster.balancer.data / "dump.json").read_text())
    assert isinstance(value, dict)
    return value


class TestDrain:
    def test_what_runs_ends_what_waits_goes_to_others_and_nothing_new_is_taken(
        self, cluster: Cluster
    ) -> None:
        alpha, beta = start(cluster, "alpha", "beta")
        mark = marker()
        with alpha.json_client() as client, beta.json_client() as its_client:
            (early,) = its_client.submit("run echo early")
            its_client.wait(early)
            tickets = client.submit(*[f"run sleep 1; echo ran; : {mark}"] * 10)

            def running_there() -> list[str]:
                """Those that beta has said it started."""
                there = [t for t in tickets if status(client, t) == ("running", "beta")]
                return there if len(there) == 2 else []

            ran_there = eventually(running_there, "two run there")
            beta.signal(signal.SIGTERM)
            eventually(lambda: "stopping" in beta.said, "it has heard")
            assert "about to stop" in its_client.ask_json("0")["error"]
            assert "about to stop" in its_client.ask_json("run echo no")["error"]
            (result,) = its_client.wait(early)
            assert result["stdout"] == "early\n"
            nodes = {each["name"]: each for each in its_client.ask_json("nodes")["nodes"]}
            assert (nodes["beta"]["draining"], nodes["alpha"]["draining"]) == (True, False)
            assert beta.wait() == 0
            results = client.wait(*tickets)
        assert {(each["outcome"], each["attempt"], each["stdout"]) for each in results} == {
            ("succeeded", 1, "ran\n")
        }
        on_beta = [each["ticket"] for each in results if each["node"] == "beta"]
        assert on_beta == ran_there, "what ran there ended there, and nothing else began"
        assert "goodbye" in cluster.balancer.said

    def test_a_client_cannot_connect_while_the_node_stops(self, cluster: Cluster) -> None:
        (alpha,) = start(cluster, "alpha")
        mark = marker()
        with alpha.json_client() as client:
            client.submit(f"run sleep 600; : {mark}")
            await_running(mark, 1)
            alpha.signal(signal.SIGTERM)
            eventually(lambda: "stopping" in alpha.said, "it has heard")
            with pytest.raises(ConnectionRefusedError):
                Client(alpha.port)
            alpha.signal(signal.SIGTERM)
            assert alpha.wait() == 0

    def test_a_job_longer_than_the_period_runs_again_elsewhere(self, cluster: Cluster) -> None:
        alpha, beta = start(cluster, "alpha", "beta", slots=1, drain_period=300)
        mark = marker()
        line = f"[ $EVENLY_ATTEMPT = 2 ] || sleep 600; echo $EVENLY_ATTEMPT; : {mark}"
        with alpha.json_client() as client:
            tickets = client.submit(f"run {line}", f"run {line}")
            await_running(mark, 2)
            places = {status(client, ticket)[1]: ticket for ticket in tickets}
            began = time.monotonic()
            assert beta.terminate() == 0
            assert 0.3 <= time.monotonic() - began < 5
            assert client.ask_json(f"cancel {places['alpha']}")["outcome"] == "cancelled"
            (result,) = client.wait(places["beta"])
        assert (result["outcome"], result["attempt"], result["node"]) == ("succeeded", 2, "alpha")
        assert result["stdout"] == "2\n"
        assert "is ended; it runs again elsewhere" in beta.said

    def test_a_helper_that_was_stopped_does_not_hold_it_up(self, cluster: Cluster) -> None:
        (alpha,) = cluster.start("alpha")
        mark = marker()
        with alpha.json_client() as client:
            client.submit(f"run sleep 600; : {mark}")
            eventually(lambda: processes_with(mark), "it runs")
        for helper in helpers_of(alpha.pid):
            os.kill(helper, signal.SIGSTOP)
        assert alpha.terminate(within=40.0) == 0
        assert not processes_with(mark), "its job is gone"

    def test_a_second_sigterm_ends_it_at_once(self, cluster: Cluster) -> None:
        alpha, beta = start(cluster, "alpha", "beta", slots=1)
        mark = marker()
        with alpha.json_client() as client:
            tickets = client.submit(*[f"run [ $EVENLY_ATTEMPT = 2 ] || sleep 600; : {mark}"] * 2)
            await_running(mark, 2)
            (there,) = (t for t in tickets if status(client, t)[1] == "beta")
            beta.signal(signal.SIGTERM)
            eventually(lambda: "stopping" in beta.said, "it drains")
            began = time.monotonic()
            beta.signal(signal.SIGTERM)
            assert beta.wait() == 0
            assert time.monotonic() - began < 2
            eventually(lambda: len(processes_with(mark)) == 1, "its command is gone with it")
            beta.start()
            (result,) = client.wait(there)
            assert (result["outcome"], result["attempt"]) == ("succeeded", 2)
            client.ask_json(f"cancel {next(t for t in tickets if t != there)}")

    def test_without_a_balancer_a_node_keeps_its_results_and_ends(self, cluster: Cluster) -> None:
        alpha, beta = start(cluster, "alpha", "beta", slots=1)
        mark = marker()
        with alpha.json_client() as client:
            tickets = client.submit(*[f"run sleep 1; echo ran; : {mark}"] * 2)
            await_running(mark, 2)
        cluster.balancer.kill()
        for node in (alpha, beta):
            node.signal(signal.SIGTERM)
        began = time.monotonic()
        for node in (alpha, beta):
            assert node.wait() == 0
        assert time.monotonic() - began < 4, "nobody can take their results: they do not wait for that"
        for program in cluster.programs:
            program.start()
        with alpha.json_client() as client:
            results = client.wait(*tickets)
        assert {(each["outcome"], each["attempt"]) for each in results} == {("succeeded", 1)}


class TestDump:
    def test_it_is_there_on_sigusr1_and_on_sigterm_and_is_right(self, cluster: Cluster) -> None:
        alpha, _ = cluster.start("alpha", "beta", slots=1)
        mark = marker()
        dump = cluster.balancer.data / "dump.json"
        with alpha.json_client() as client:
            client.wait(*client.submit("0", "run echo 1"))
            commands = client.submit(f"run sleep 600; : {mark}", f"run sleep 600; : {mark}")
            await_running(mark, 2)
            waiting = client.submit(*["600000"] * 7)
            for ticket in commands:
                eventually(lambda t=ticket: client.ask_json(f"status {t}")["state"] == "running", "it runs")
            eventually(lambda: sum(cluster.held(alpha).values()) == 9, "all are dispatched")
            assert not dump.exists()
            cluster.balancer.signal(signal.SIGUSR1)
            eventually(dump.exists, "it is written")
            first = read_dump(cluster)
            assert first["version"] == 1
            assert abs(first["written_at"] - time.time()) < 60
            assert first["jobs_in_all"] == 9
            assert sorted(job["ticket"] for job in first["jobs"]) == sorted([*commands, *waiting])
            by_ticket = {job["ticket"]: job for job in first["jobs"]}
            assert {by_ticket[ticket]["state"] for ticket in commands} == {"running"}
            assert {job["origin"] for job in first["jobs"]} == {"alpha"}
            nodes = {node["name"]: node for node in first["nodes"]}
            assert set(nodes) == {"alpha", "beta"}
            assert sum(node["running"] + node["queued"] for node in nodes.values()) == 9
            assert first["counters"]["succeeded"] == 2
            assert first["settings"]["node_grace_period"] == 600
            dump.unlink()
            assert cluster.balancer.terminate() == 0
            second = read_dump(cluster)
            assert {job["ticket"] for job in second["jobs"]} == set(by_ticket)
            assert second["written_at"] > first["written_at"]
            assert [path.name for path in cluster.balancer.data.glob("dump*")] == ["dump.json"]
            cluster.balancer.start()
            eventually(lambda: len(cluster.held(alpha)) == 2, "both nodes are back")
            client.send(*(f"cancel {ticket}" for ticket in (*commands, *waiting)))
            for _ in (*commands, *waiting):
                client.object()

    def test_where_it_cannot_be_written_the_balancer_goes_on(self, cluster: Cluster) -> None:
        (alpha,) = cluster.start("alpha")
        (cluster.balancer.data / "dump.json").mkdir()
        cluster.balancer.signal(signal.SIGUSR1)
        eventually(lambda: "could not be written" in cluster.balancer.said, "it says so")
        with alpha.json_client() as client:
            assert client.wait(*client.submit("0"))[0]["outcome"] == "succeeded"
        assert cluster.balancer.terminate() == 0


def test_a_rolling_restart_under_load_loses_nothing(cluster: Cluster) -> None:
    """Each program in turn, as an operator does, while clients of every node go on."""
    nodes = start(cluster, "alpha", "beta", "gamma")
    loads = [Load(node, []) for node in nodes]
    stop = threading.Event()

    def feed(load: Load) -> None:
        """One group after the other; while the node is away, the client tries again."""
        while not stop.is_set():
            del load.lines[len(load.tickets) :]
            load.lines += mix(2)
            if not load.trickle():
                stop.wait(0.05)
            stop.wait(0.02)

    threads = [threading.Thread(target=feed, args=[load]) for load in loads]
    for thread in threads:
        thread.start()
    try:
        for program in (cluster.balancer, *nodes):
            before = sum(len(load.tickets) for load in loads)
            assert program.terminate() == 0
            program.start()
            eventually(lambda: len(cluster.held(nodes[0])) == 3, "all are connected")
            eventually(
                lambda before=before: sum(len(load.tickets) for load in loads) > before + 24, "work goes on"
            )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for load in loads:
        assert len(load.tickets) > 8
        load.check()
    assert_settled(cluster, nodes[0])


class TestRetries:
    def test_the_third_attempt_succeeds(self, cluster: Cluster, tmp_path: Path) -> None:
        (alpha, _) = cluster.start("alpha", "beta", slots=1)
        count = tmp_path / "count"
        with alpha.json_client() as client:
            (ticket,) = client.submit(
                f"run --retries 2 -- echo $EVENLY_ATTEMPT >>{count}; [ $(wc -l <{count}) -ge 3 ]"
            )
            (result,) = client.wait(ticket)
        assert (result["outcome"], result["attempt"]) == ("succeeded", 3)
        assert count.read_text() == "1\n2\n3\n"

    def test_its_retries_outlive_the_balancer(self, cluster: Cluster, tmp_path: Path) -> None:
        (alpha,) = cluster.start("alpha", slots=1)
        count = tmp_path / "count"
        with alpha.json_client() as client:
            (ticket,) = client.submit(f"run --retries 1 -- echo $EVENLY_ATTEMPT >>{count}; exit 7")
            eventually(lambda: client.ask_json("stats")["balancer"]["delayed"] == 1, "it failed, and waits")
            cluster.balancer.kill()
            cluster.balancer.start()
            (result,) = client.wait(ticket)
        assert (result["outcome"], result["attempt"], result["exit_code"]) == ("failed", 2, 7)
        assert count.read_text() == "1\n2\n"


class TestAtMostOnce:
    @pytest.mark.parametrize("back", [True, False])
    def test_it_is_lost_with_its_node_and_never_starts_again(
        self, make_cluster: Make, tmp_path: Path, back: bool
    ) -> None:
        cluster = make_cluster(NODE_GRACE_PERIOD=600_000 if back else 300)
        alpha, beta = cluster.start("alpha", "beta", slots=1)
        mark = marker()
        effects = tmp_path / "effects"
        line = f"run --at-most-once -- echo $EVENLY_TICKET >>{effects}; sleep 600; : {mark}"
        with alpha.json_client() as client:
            tickets = client.submit(line, line)
            await_running(mark, 2)
            eventually(lambda: {status(client, t)[0] for t in tickets} == {"running"}, "both run")
            places = {status(client, ticket)[1]: ticket for ticket in tickets}
            beta.kill()
            if back:
                beta.start()
            (result,) = client.wait(places["beta"])
            assert result["outcome"] == "lost"
            assert "--at-most-once" in result["reason"]
            assert client.ask_json(f"cancel {places['alpha']}")["outcome"] == "cancelled"
            # Whatever was to start has started once this is done.
            assert client.wait(*client.submit("run echo later"))[0]["outcome"] == "succeeded"
        assert sorted(effects.read_text().split()) == sorted(tickets)
