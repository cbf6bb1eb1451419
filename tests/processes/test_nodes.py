"""Nodes that die, hang, or are stopped: what becomes of their jobs, and of the processes of these."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import (
    Client,
    Cluster,
    Node,
    children_of,
    eventually,
    helpers_of,
    is_even,
    marker,
    processes_with,
    ticket_of,
)

Make = Callable[..., Cluster]


def run_on_each(client: Client, mark: str, count: int, then: str = "sleep 600") -> list[str]:
    """Commands that run at once and can be found by `mark`, until they all run."""
    tickets = client.submit(*[f"run echo ran; {then}; : {mark}"] * count)
    eventually(lambda: len(processes_with(mark)) >= count, f"{count} commands run")
    for ticket in tickets:
        eventually(lambda t=ticket: client.ask_json(f"status {t}")["state"] == "running", "STARTED came")
    return tickets


def node_of(client: Client, ticket: str) -> str:
    return str(client.ask_json(f"status {ticket}")["node"])


class TestANodeThatIsKilledAndStaysAway:
    def test_its_jobs_run_elsewhere_after_the_grace_period(self, make_cluster: Make) -> None:
        cluster = make_cluster(NODE_GRACE_PERIOD=500)
        alpha, _, gamma = cluster.start("alpha", "beta", "gamma", slots=1)
        with alpha.json_client() as client:
            tickets = client.submit(*["run sleep 0.1; echo done"] * 30)
            gamma.kill()
            results = client.wait(*tickets)
        assert {(each["outcome"], each["stdout"]) for each in results} == {("succeeded", "done\n")}
        again = [each for each in results if each["attempt"] > 1]
        assert again, "it had some, and others ran them"
        assert {each["node"] for each in again} <= {"alpha", "beta"}
        assert max(each["attempt"] for each in results) == 2

    def test_the_processes_of_its_command_die_with_it_at_once(self, make_cluster: Make) -> None:
        cluster = make_cluster(NODE_GRACE_PERIOD=600_000)
        alpha, beta = cluster.start("alpha", "beta", slots=2)
        mark = marker()
        daemon = f"setsid sh -c 'trap \"\" TERM HUP; sleep 600; : {mark}' & sh -c 'sleep 600; : {mark}'"
        with alpha.json_client() as client:
            tickets = run_on_each(client, mark, 4, daemon)
            there = [ticket for ticket in tickets if node_of(client, ticket) == "beta"]
            assert len(there) == 2
            eventually(lambda: len(processes_with(mark)) == 12, "three processes a job")
            beta.kill()
            eventually(lambda: len(processes_with(mark)) == 6, "its half is dead", timeout=5)
            assert client.ask_json(f"status {there[0]}")["outcome"] is None

    def test_a_job_that_takes_its_nodes_along_ends_as_lost(self, make_cluster: Make) -> None:
        """A poisonous job is not handed round for ever, and its neighbours are not blamed for it."""
        cluster = make_cluster(NODE_GRACE_PERIOD=100, CRASH_LIMIT=2)
        alpha = cluster.add_node("alpha", 1)
        beta = cluster.add_node("beta", 1)
        cluster.balancer.start()
        alpha.start()
        cluster.await_connected("alpha")
        with alpha.json_client() as client:
            # alpha is busy, so that all that follows goes to beta.
            client.submit("run sleep 600")
            beta.start()
            cluster.await_connected("beta")
            (poison,) = client.submit("run kill -9 $(ps -o ppid= -p $PPID)")
            for _ in range(2):
                assert beta.wait() == -signal.SIGKILL
                beta.start()
            (result,) = client.wait(poison)
            assert result["outcome"] == "lost"
            assert "CRASH_LIMIT=2" in result["reason"]
            assert not beta.ended


class TestANodeThatIsKilledWithItsHelpers:
    def test_what_was_left_of_its_jobs_is_killed_when_it_starts_again(self, make_cluster: Make) -> None:
        cluster = make_cluster(NODE_GRACE_PERIOD=600_000)
        (alpha,) = cluster.start("alpha")
        mark = marker()
        with alpha.json_client() as client:
            # The first attempt sleeps; the second one, after the restart, is done at once.
            line = "[ $EVENLY_ATTEMPT = 2 ] || setsid sleep 600"
            tickets = run_on_each(client, mark, 2, f"{line}")
        helpers = helpers_of(alpha.pid)
        assert len(helpers) == 2
        os.kill(alpha.pid, signal.SIGSTOP)  # so that it cannot notice
        for helper in helpers:
            os.kill(helper, signal.SIGKILL)
        alpha.kill()
        assert processes_with(mark), "they have outlived both"
        old = set(processes_with(mark))
        alpha.start()
        eventually(lambda: not old & set(processes_with(mark)), "they are dead")
        assert "had outlived this node and were killed" in alpha.said
        with alpha.json_client() as client:
            assert {(each["outcome"], each["attempt"]) for each in client.wait(*tickets)} == {
                ("succeeded", 2)
            }

    def test_working_directories_are_cleared(self, make_cluster: Make) -> None:
        cluster = make_cluster()
        (alpha,) = cluster.start("alpha")
        mark = marker()
        with alpha.json_client() as client:
            run_on_each(client, mark, 2, "touch file; sleep 600")
        before = {each.name for each in (alpha.data / "work").iterdir()}
        assert len(before) == 2
        helpers = helpers_of(alpha.pid)
        alpha.kill()
        eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in helpers), "the helpers are gone")
        eventually(lambda: not processes_with(mark), "and their jobs")
        alpha.start()
        # The jobs may run again already, in others.
        assert not before & {each.name for each in (alpha.data / "work").iterdir()}


class TestANodeThatHangs:
    def test_its_jobs_are_done_elsewhere_and_when_it_wakes_nothing_is_done_twice(
        self, make_cluster: Make
    ) -> None:
        cluster = make_cluster(NODE_GRACE_PERIOD=200, REQUEST_RESULT_PERIOD=500)
        alpha, beta, gamma = cluster.start("alpha", "beta", "gamma", slots=2)
        with alpha.json_client() as client, gamma.json_client() as its_client:
            (own,) = its_client.submit("run echo own")
            its_client.wait(own)
            tickets = client.submit(*["run sleep 0.3; echo done", "300"] * 15)
            gamma.signal(signal.SIGSTOP)
            try:
                results = client.wait(*tickets)
                assert {each["outcome"] for each in results} == {"succeeded"}
                assert {each["node"] for each in results if each["attempt"] == 2} <= {"alpha", "beta"}
                assert set(cluster.held(alpha)) == {"alpha", "beta"}
            finally:
                gamma.signal(signal.SIGCONT)
            eventually(lambda: len(cluster.held(alpha)) == 3, "it is back")
            assert client.wait(*tickets) == results, "what it reports now changes nothing"
            more = client.submit(*["600000"] * 20)
            eventually(lambda: is_even(cluster.held(beta), 20), "all is even again")
            client.send(*(f"cancel {ticket}" for ticket in more))
            assert {client.object()["cancel"] for _ in more} == {"done"}
            # Its own tickets are as safe as ever.
            assert its_client.wait(*its_client.submit("run echo again"))[0]["stdout"] == "again\n"
            assert its_client.wait(own)[0]["stdout"] == "own\n"

    def test_a_short_stop_costs_nothing(self, make_cluster: Make) -> None:
        cluster = make_cluster(NODE_GRACE_PERIOD=200)
        alpha, beta = cluster.start("alpha", "beta", slots=2)
        with alpha.json_client() as client:
            tickets = client.submit(*["run sleep 0.2"] * 12)
            beta.signal(signal.SIGSTOP)
            time.sleep(0.7)  # the time itself is what is tested: well within the link's patience
            beta.signal(signal.SIGCONT)
            results = client.wait(*tickets)
        assert {(each["outcome"], each["attempt"]) for each in results} == {("succeeded", 1)}

    @pytest.mark.parametrize("busy", [True, False])
    def test_a_balancer_that_hangs_is_away_for_the_nodes_until_it_wakes(
        self, make_cluster: Make, busy: bool
    ) -> None:
        # What it dispatches when it wakes goes to dead links; that is no crash of anybody.
        cluster = make_cluster(NODE_GRACE_PERIOD=5000, CRASH_LIMIT=1)
        alpha, beta = cluster.start("alpha", "beta", slots=2)
        with alpha.json_client() as client:
            tickets = client.submit(*["run sleep 1"] * 8) if busy else []
            cluster.balancer.signal(signal.SIGSTOP)
            try:
                tickets += client.submit(*["0"] * 100)
                # Both links are found dead, and a question is answered all the same.
                eventually(lambda: "silent" in alpha.said and "silent" in beta.said, "the nodes have noticed")
                assert "note" in client.ask_json("nodes")
            finally:
                cluster.balancer.signal(signal.SIGCONT)
            results = client.wait(*tickets)
        assert {each["outcome"] for each in results} == {"succeeded"}

    def test_a_balancer_that_hangs_with_its_buffers_full_is_found_dead_too(self, make_cluster: Make) -> None:
        cluster = make_cluster(NODE_GRACE_PERIOD=600_000)
        (alpha,) = cluster.start("alpha")
        with alpha.json_client() as client:
            cluster.balancer.signal(signal.SIGSTOP)
            try:
                # 12 MB: more than the kernel takes off the node's hands.
                tickets = client.submit(*[f"run : {'x' * 60_000}"] * 200)
                eventually(lambda: "silent" in alpha.said, "the node has noticed")
                assert "note" in client.ask_json("nodes")
            finally:
                cluster.balancer.signal(signal.SIGCONT)
            assert {each["outcome"] for each in client.wait(*tickets)} == {"succeeded"}


class TestACopyOfADirectory:
    def test_it_is_refused_and_costs_the_jobs_of_the_first_nothing(
        self, make_cluster: Make, tmp_path: Path
    ) -> None:
        cluster = make_cluster()
        (alpha,) = cluster.start("alpha")
        gate = tmp_path / "gate"
        with alpha.json_client() as client:
            (ticket,) = client.submit(f"run until [ -e {gate} ]; do sleep 0.02; done; echo $EVENLY_ATTEMPT")
            eventually(lambda: client.ask_json(f"status {ticket}")["state"] == "running", "it runs")
            copy = cluster.add_node("copy")
            shutil.copytree(alpha.data, copy.data)
            copy.launch()
            eventually(lambda: "a copied data directory?" in copy.said, "it is refused")
            assert "had outlived" not in copy.said
            gate.touch()
            assert client.wait(ticket)[0]["stdout"] == "1\n"


class TestSigterm:
    @pytest.fixture
    def cluster(self, make_cluster: Make) -> Cluster:
        return make_cluster(NODE_GRACE_PERIOD=600_000, REQUEST_RESULT_PERIOD=500)

    def test_a_node_ends_at_once_and_its_jobs_go_to_others(self, cluster: Cluster) -> None:
        alpha, beta = cluster.start("alpha", "beta", slots=2)
        mark = marker()
        with alpha.json_client() as client:
            line = f"[ $EVENLY_ATTEMPT = 2 ] && exit; trap '' TERM; sleep 600; : {mark}"
            tickets = client.submit(*[f"run {line}"] * 4)
            eventually(lambda: len(processes_with(mark)) == 4, "all run")
            there = [ticket for ticket in tickets if node_of(client, ticket) == "beta"]
            began = time.monotonic()
            assert beta.terminate() == 0
            assert time.monotonic() - began < 5, "no job holds it up"
            assert len(processes_with(mark)) == 2
            # alpha's slots are taken: make room.
            for ticket in set(tickets) - set(there):
                client.ask_json(f"cancel {ticket}")
            assert {each["attempt"] for each in client.wait(*there)} == {2}
            assert {each["outcome"] for each in client.wait(*there)} == {"succeeded"}

    def test_a_node_in_the_middle_of_submissions_loses_no_ticket(self, cluster: Cluster) -> None:
        alpha, beta = cluster.start("alpha", "beta", slots=2)
        tickets: list[str] = []
        with alpha.client() as client:
            client.send(*["0", "run echo x"] * 300)
            tickets += [ticket_of(client.line()) for _ in range(100)]
            alpha.signal(signal.SIGTERM)
            tickets += [ticket_of(line) for line in client.rest().decode().splitlines()]
        assert alpha.wait() == 0
        alpha.start()
        with alpha.json_client() as client:
            results = client.wait(*tickets)
        assert {each["outcome"] for each in results} == {"succeeded"}
        assert not beta.ended

    def test_a_balancer_ends_at_once_and_nothing_is_lost(self, cluster: Cluster) -> None:
        alpha, _ = cluster.start("alpha", "beta", slots=2)
        with alpha.json_client() as client:
            tickets = client.submit(*["0", "run sleep 0.05; echo x", "20"] * 60)
            began = time.monotonic()
            assert cluster.balancer.terminate() == 0
            assert time.monotonic() - began < 5
            cluster.balancer.start()
            results = client.wait(*tickets)
        assert {(each["outcome"], each["attempt"]) for each in results} == {("succeeded", 1)}

    def test_everything_may_be_stopped_in_any_order(self, cluster: Cluster) -> None:
        alpha, beta = cluster.start("alpha", "beta", slots=2)
        with alpha.json_client() as client:
            tickets = client.submit(*["run sleep 0.2; echo x", "200"] * 20)
        assert cluster.balancer.terminate() == 0
        assert alpha.terminate() == 0
        assert beta.terminate() == 0
        for program in (beta, cluster.balancer, alpha):
            program.start()
        with alpha.json_client() as client:
            assert {each["outcome"] for each in client.wait(*tickets)} == {"succeeded"}

    def test_a_client_that_never_reads_does_not_hold_up_the_end(self, cluster: Cluster) -> None:
        (alpha,) = cluster.start("alpha")
        with alpha.json_client() as deaf:
            (big,) = deaf.submit("run head -c 1000000 /dev/zero | tr '\\0' a")
            deaf.wait(big)
            deaf.send(*[f"r{big}"] * 50)
            began = time.monotonic()
            assert alpha.terminate() == 0
            assert time.monotonic() - began < 10

    @pytest.mark.parametrize("delay", [0.0, 0.005, 0.01, 0.02, 0.04, 0.08])
    def test_a_node_may_be_stopped_while_its_first_commands_start(
        self, cluster: Cluster, delay: float
    ) -> None:
        (alpha,) = cluster.start("alpha", slots=8)
        with alpha.client() as client:
            client.submit(*["run sleep 600"] * 16)
            threading.Event().wait(delay)
            assert alpha.terminate() == 0

    def test_commands_may_be_cancelled_while_their_helpers_start(self, cluster: Cluster) -> None:
        """The first commands of a node: "run" and "kill" reach a new helper in one breath."""
        (alpha,) = cluster.start("alpha", slots=8)
        with alpha.json_client() as client:
            tickets = client.submit(*["run sleep 600"] * 12)
            client.send(*(f"cancel {ticket}" for ticket in tickets))
            assert {client.object()["cancel"] for _ in tickets} == {"done"}

    def test_a_second_sigterm_is_no_worse(self, cluster: Cluster) -> None:
        alpha, _ = cluster.start("alpha", "beta")
        with alpha.json_client() as client:
            (ticket,) = client.submit("run sleep 0.3")
        for program in (alpha, cluster.balancer):
            program.signal(signal.SIGTERM)
            program.signal(signal.SIGINT)
            assert program.wait() == 0
        cluster.balancer.start()
        alpha.start()
        with alpha.json_client() as client:
            assert client.wait(ticket)[0]["outcome"] == "succeeded"


def test_the_nodes_group_may_be_interrupted_from_the_keyboard(make_cluster: Make) -> None:
    """Ctrl-C reaches the node and not its helpers, so that they can end their jobs."""
    cluster = make_cluster()
    alpha: Node = cluster.start("alpha")[0]
    mark = marker()
    with alpha.json_client() as client:
        run_on_each(client, mark, 2)
    assert {os.getsid(helper) for helper in children_of(alpha.pid)}.isdisjoint({os.getsid(alpha.pid)})
    alpha.signal(signal.SIGINT)
    assert alpha.wait() == 0
    assert processes_with(mark) == []
