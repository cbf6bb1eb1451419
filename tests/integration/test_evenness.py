"""Every node holds the same number of jobs, as nearly as possible, whoever comes and goes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support import Cluster, Node, eventually, is_even

LONG = "600000"
Make = Callable[..., Cluster]


def await_even(cluster: Cluster, through: Node, total: int, nodes: int) -> None:
    def settled() -> bool:
        held = cluster.held(through)
        return len(held) == nodes and is_even(held, total)

    eventually(settled, f"{total} jobs lie evenly on {nodes} nodes: {cluster.held(through)}")


def submit(node: Node, *lines: str) -> list[str]:
    with node.client() as client:
        return client.submit(*lines)


def balancer_stats(node: Node) -> dict[str, int]:
    with node.json_client() as client:
        stats = client.ask_json("stats")["balancer"]
        assert isinstance(stats, dict)
        return stats


def cancel_all(node: Node, tickets: list[str]) -> None:
    with node.json_client() as client:
        client.send(*(f"cancel {ticket}" for ticket in tickets))
        assert {client.object()["cancel"] for _ in tickets} == {"done"}


def test_jobs_of_every_origin_are_spread_over_all_nodes(make_cluster: Make) -> None:
    cluster = make_cluster()
    nodes = cluster.start("alpha", "beta", "gamma")
    submitted = 0
    for node, count in zip(nodes, (13, 5, 2), strict=True):
        submit(node, *[LONG] * count)
        submitted += count
        await_even(cluster, node, submitted, 3)


def test_queues_are_evened_out_when_jobs_end_unevenly(make_cluster: Make) -> None:
    cluster = make_cluster(DISPATCH_PERIOD=300)
    alpha, _, _ = cluster.start("alpha", "beta", "gamma", slots=1)
    tickets = submit(alpha, *[LONG] * 24)
    await_even(cluster, alpha, 24, 3)
    with alpha.json_client() as client:
        on_beta = [t for t in tickets if client.ask_json(f"status {t}")["node"] == "beta"]
    cancel_all(alpha, on_beta)
    await_even(cluster, alpha, 24 - len(on_beta), 3)


def test_a_node_that_joins_late_gets_its_share_of_what_is_queued(make_cluster: Make) -> None:
    cluster = make_cluster()
    alpha, _ = cluster.start("alpha", "beta", slots=1)
    tickets = submit(alpha, *["300"] * 20)
    gamma = cluster.add_node("gamma", 1)
    gamma.start()
    eventually(lambda: balancer_stats(alpha)["recalled"], "jobs were recalled")
    with alpha.json_client() as client:
        results = client.wait(*tickets)
    assert {(each["outcome"], each["attempt"]) for each in results} == {("succeeded", 1)}
    assert {each["node"] for each in results} == {"alpha", "beta", "gamma"}


def test_late_joiners_even_out_long_queues(make_cluster: Make) -> None:
    cluster = make_cluster()
    (alpha,) = cluster.start("alpha", slots=1)
    submit(alpha, *[LONG] * 100)
    for count, name in enumerate(("beta", "gamma", "delta"), start=2):
        cluster.add_node(name, 1).start()
        await_even(cluster, alpha, 100, count)


def test_jobs_of_a_node_that_does_not_come_back_go_to_the_others(make_cluster: Make) -> None:
    cluster = make_cluster(NODE_GRACE_PERIOD=500)
    alpha, _, gamma = cluster.start("alpha", "beta", "gamma", slots=1)
    submit(alpha, *[LONG] * 20)
    await_even(cluster, alpha, 20, 3)
    gamma.kill()
    await_even(cluster, alpha, 20, 2)
    gamma.start()
    await_even(cluster, alpha, 20, 3)


def test_jobs_of_a_node_that_says_goodbye_go_to_the_others_at_once(make_cluster: Make) -> None:
    cluster = make_cluster(NODE_GRACE_PERIOD=600_000)
    alpha, _, gamma = cluster.start("alpha", "beta", "gamma", slots=1)
    submit(alpha, *[LONG] * 20)
    await_even(cluster, alpha, 20, 3)
    assert gamma.terminate() == 0
    await_even(cluster, alpha, 20, 2)
    assert balancer_stats(alpha)["lost"] == 0


def test_a_node_that_comes_back_in_time_keeps_what_others_need_not_have(make_cluster: Make) -> None:
    cluster = make_cluster(NODE_GRACE_PERIOD=600_000)
    alpha, beta = cluster.start("alpha", "beta", slots=1)
    submit(alpha, *[LONG] * 10)
    await_even(cluster, alpha, 10, 2)
    beta.kill()
    eventually(lambda: cluster.held(alpha) == {"alpha": 5}, "beta is away, and alpha has no more than before")
    beta.start()
    await_even(cluster, alpha, 10, 2)


@pytest.mark.parametrize("through", ["alpha", "beta"])
def test_a_stopped_balancer_leaves_the_queues_even(make_cluster: Make, through: str) -> None:
    cluster = make_cluster()
    nodes = {node.name: node for node in cluster.start("alpha", "beta", slots=1)}
    submit(nodes[through], *[LONG] * 11)
    await_even(cluster, nodes[through], 11, 2)
    cluster.balancer.kill()
    submit(nodes[through], *[LONG] * 10)
    cluster.balancer.start()
    eventually(lambda: cluster.held(nodes[through]).keys() == nodes.keys(), "both are back")
    await_even(cluster, nodes[through], 21, 2)


def test_periodic_mode_dispatches_on_the_timer_alone_and_so_many_a_round(make_cluster: Make) -> None:
    cluster = make_cluster(DISPATCH_MODE="periodic", DISPATCH_PERIOD=1500, MAX_NUM_JOBS_DISPATCH=3)
    alpha, _ = cluster.start("alpha", "beta")
    tickets = submit(alpha, *["0"] * 7)
    with alpha.json_client() as client:
        results = client.wait(*tickets)
    started = sorted(each["started_at"] for each in results)
    assert {each["outcome"] for each in results} == {"succeeded"}
    # Two rounds are 1.5 s apart; a third of that is no round's length on the slowest machine.
    for at in started:
        assert sum(at <= other < at + 0.5 for other in started) <= 3
    assert started[-1] - started[0] > 1.5, "seven jobs take three rounds"


def test_eager_mode_does_not_wait_between_rounds(make_cluster: Make) -> None:
    cluster = make_cluster(DISPATCH_PERIOD=600_000, MAX_NUM_JOBS_DISPATCH=1)
    alpha, _ = cluster.start("alpha", "beta")
    tickets = submit(alpha, *["0"] * 300)
    with alpha.json_client() as client:
        results = client.wait(*tickets)
    assert {each["outcome"] for each in results} == {"succeeded"}
    assert {each["node"] for each in results} == {"alpha", "beta"}
