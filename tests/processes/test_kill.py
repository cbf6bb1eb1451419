"""kill -9 in the middle of a few hundred jobs: every ticket that a client has read has exactly one result."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from load import Load, assert_settled
from support import Client, Cluster, Program, eventually, marker, processes_with

Make = Callable[..., Cluster]


@pytest.fixture
def cluster(make_cluster: Make) -> Cluster:
    """Three nodes; a job whose node is away waits for it longer than the restarts here take."""
    return make_cluster(REQUEST_RESULT_PERIOD=500)


class TestRestarted:
    @pytest.mark.parametrize("results_first", [0, 60, 250])
    def test_balancer(self, cluster: Cluster, results_first: int) -> None:
        alpha, _, _ = cluster.start("alpha", "beta", "gamma")
        load = Load(alpha)
        load.submit()
        load.read_results(results_first)
        cluster.balancer.kill()
        cluster.balancer.start()
        load.check()
        assert_settled(cluster, alpha)

    @pytest.mark.parametrize("read_first", [1, 100, 390])
    def test_the_node_that_takes_submissions(self, cluster: Cluster, read_first: int) -> None:
        alpha, _, _ = cluster.start("alpha", "beta", "gamma")
        load = Load(alpha)
        load.submit_until_the_node_dies(read_first, alpha.kill)
        assert len(load.tickets) >= read_first
        alpha.start()
        load.check()
        assert_settled(cluster, alpha)

    def test_the_origin_when_results_come_home(self, cluster: Cluster) -> None:
        alpha, _, _ = cluster.start("alpha", "beta", "gamma")
        load = Load(alpha)
        load.submit()
        load.read_results(100)
        alpha.kill()
        alpha.start()
        load.check()
        assert_settled(cluster, alpha)

    @pytest.mark.parametrize("results_first", [0, 100])
    def test_a_node_that_only_executes(self, cluster: Cluster, results_first: int) -> None:
        alpha, beta, _ = cluster.start("alpha", "beta", "gamma")
        load = Load(alpha)
        load.submit()
        load.read_results(results_first)
        beta.kill()
        beta.start()
        load.check()
        assert_settled(cluster, alpha)

    @pytest.mark.parametrize("results_first", [0, 150])
    def test_all_at_once(self, cluster: Cluster, results_first: int) -> None:
        nodes = cluster.start("alpha", "beta", "gamma")
        loads = [Load(node) for node in nodes[:2]]
        for load in loads:
            load.submit()
        loads[0].read_results(results_first)
        kill_all(*cluster.programs)
        start_all(*cluster.programs)
        for load in loads:
            load.check()
        assert_settled(cluster, nodes[0])

    def test_each_in_turn_again_and_again(self, cluster: Cluster) -> None:
        nodes = cluster.start("alpha", "beta", "gamma")
        loads = [Load(node) for node in nodes]
        for load in loads:
            load.submit()
        for number in range(8):
            program = cluster.programs[number % 4]
            program.kill()
            program.start()
        for load in loads:
            load.check()
        assert_settled(cluster, nodes[0])

    def test_everything_after_it_was_done(self, cluster: Cluster) -> None:
        alpha, _ = cluster.start("alpha", "beta")
        load = Load(alpha)
        load.submit()
        load.read_results(len(load.tickets))
        kill_all(*cluster.programs)
        alpha.start()
        load.check()
        cluster.balancer.start()
        assert_settled(cluster, alpha)


def kill_all(*programs: Program) -> None:
    for program in programs:
        program.signal(9)
    for program in programs:
        program.wait()


def start_all(*programs: Program) -> None:
    for program in programs:
        program.launch()
    for program in programs:
        program.await_ready()


class TestWhileTheBalancerIsAway:
    def test_submissions_are_taken_and_run_later(self, cluster: Cluster) -> None:
        alpha, beta = cluster.start("alpha", "beta")
        cluster.balancer.kill()
        loads = [Load(alpha), Load(beta)]
        for load in loads:
            load.submit()
        cluster.balancer.start()
        for load in loads:
            load.check()

    def test_a_node_may_be_killed_before_it_could_hand_them_in(self, cluster: Cluster) -> None:
        alpha, _ = cluster.start("alpha", "beta")
        cluster.balancer.kill()
        load = Load(alpha)
        load.submit_until_the_node_dies(200, alpha.kill)
        alpha.start()
        cluster.balancer.start()
        load.check()

    def test_a_node_may_start_before_any_balancer_was_there(self, cluster: Cluster) -> None:
        alpha = cluster.add_node("alpha")
        alpha.start()
        load = Load(alpha)
        load.submit()
        with alpha.json_client() as client:
            assert client.ask_json("nodes")["note"]
            assert client.ask_json(f"status {load.tickets[0]}")["note"]
            assert client.ask_json("stats")["balancer"] is None
        cluster.balancer.start()
        load.check()

    def test_what_runs_is_reported_when_it_is_back_and_is_not_run_again(self, cluster: Cluster) -> None:
        alpha, _ = cluster.start("alpha", "beta")
        with alpha.json_client() as client:
            tickets = client.submit(*["run sleep 1; echo once"] * 4)
            for ticket in tickets:
                eventually(lambda t=ticket: client.ask_json(f"status {t}")["state"] == "running", "all run")
            cluster.balancer.kill()
            cluster.balancer.start()
            results = client.wait(*tickets)
        assert {(each["outcome"], each["attempt"]) for each in results} == {("succeeded", 1)}

    def test_a_cancel_is_noted_and_done_when_it_is_back(self, cluster: Cluster) -> None:
        alpha, _ = cluster.start("alpha", "beta")
        mark = marker()
        with alpha.json_client() as client:
            running, after = client.submit(f"run sleep 600; : {mark}", "600000")
            eventually(lambda: processes_with(mark), "it runs")
            cluster.balancer.kill()
            eventually(lambda: "note" in client.ask_json("nodes"), "alpha has noticed")
            (new,) = client.submit("600000")
            for ticket in (running, after, new):
                assert client.ask_json(f"cancel {ticket}")["cancel"] == "requested"
        alpha.kill()
        alpha.start()
        cluster.balancer.start()
        with alpha.json_client() as client:
            results = client.wait(running, after, new)
        assert {each["outcome"] for each in results} == {"cancelled"}
        eventually(lambda: processes_with(mark) == [], "its command is gone")


def test_a_result_that_nobody_could_take_is_kept_until_it_can_be_delivered(make_cluster: Make) -> None:
    """The executor finishes while the balancer is away, and dies; the origin is away when it is back."""
    cluster = make_cluster(REQUEST_RESULT_PERIOD=500, NODE_GRACE_PERIOD=600_000)
    cluster.balancer.start()
    beta = cluster.add_node("beta", 1)
    beta.start()
    cluster.await_connected("beta")
    alpha = cluster.add_node("alpha", 1)
    alpha.start()
    cluster.await_connected("alpha")
    with alpha.json_client() as client:
        tickets = client.submit("run sleep 1; echo kept", "run sleep 1; echo kept")
        for ticket in tickets:
            eventually(lambda t=ticket: client.ask_json(f"status {t}")["state"] == "running", "both run")
        places = {client.ask_json(f"status {ticket}")["node"]: ticket for ticket in tickets}
    alpha.kill()
    cluster.balancer.kill()
    with beta.json_client() as client:
        eventually(lambda: client.ask_json("stats")["node"]["unacknowledged results"] == 1, "it is done")
    # Half a second without acknowledgement, and it is on beta's disk; the link is down, so it is at once.
    beta.terminate()
    cluster.balancer.start()
    beta.start()
    cluster.await_connected("beta")
    alpha.start()
    with alpha.json_client() as client:
        (result,) = client.wait(places["beta"])
        assert (result["outcome"], result["stdout"], result["attempt"]) == ("succeeded", "kept\n", 1)
        (other,) = client.wait(places["alpha"])
        assert (other["outcome"], other["stdout"]) == ("succeeded", "kept\n")


def test_a_client_that_waits_is_answered_though_the_balancer_was_killed(cluster: Cluster) -> None:
    alpha, beta = cluster.start("alpha", "beta")
    with alpha.json_client() as one, Client(beta.port) as other:
        mine = one.submit(*["run sleep 0.5"] * 6)
        (theirs,) = other.submit("run sleep 0.5; echo there")
        one.send(*(f"wait {ticket}" for ticket in mine))
        other.send(f"wait {theirs}")
        cluster.balancer.kill()
        cluster.balancer.start()
        assert {one.object()["outcome"] for _ in mine} == {"succeeded"}
        assert other.line().endswith(": there")


def test_large_outputs_come_through_whatever_is_killed(cluster: Cluster) -> None:
    """120 MB of results through a window of 16 MiB, with each role killed on the way."""
    size = 1_000_000
    alpha, beta, _ = cluster.start("alpha", "beta", "gamma")
    with alpha.json_client() as client:
        tickets = client.submit(*[f"run head -c {size} /dev/zero | tr '\\0' '{n % 10}'" for n in range(120)])
        client.wait(tickets[20])
        for program in (cluster.balancer, beta, alpha):
            program.kill()
            program.start()
    with alpha.json_client() as client:
        for number, ticket in enumerate(tickets):
            (result,) = client.wait(ticket)
            assert (result["outcome"], result["stdout"]) == ("succeeded", str(number % 10) * size)
    assert_settled(cluster, alpha)


def test_long_command_lines_come_through_too(cluster: Cluster) -> None:
    alpha, _ = cluster.start("alpha", "beta")
    with alpha.json_client() as client:
        lines = [f"run echo {n}; : {'x' * 60_000}" for n in range(200)]
        tickets = [ticket for line in lines for ticket in client.submit(line)]
        cluster.balancer.kill()
        cluster.balancer.start()
        results = client.wait(*tickets)
    assert [result["stdout"] for result in results] == [f"{n}\n" for n in range(200)]
