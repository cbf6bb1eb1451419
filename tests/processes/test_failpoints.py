"""Each role dies by SIGKILL at each of its fail points and is started again: a ticket has one right result.

Count 1 and 2 of `commit.inside` are reached while a program starts: its schema, its identity or epoch.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from load import Load, assert_settled, large, mix
from runtime.failpoints import NAMES, VARIABLE
from support import Cluster, Program, eventually

Make = Callable[..., Cluster]
COUNTS = (1, 2, 5)
#: Reached by a node alone, where a result is large.
OF_BLOBS = tuple(name for name in NAMES if name.startswith("blobs."))
#: Where there are notices: see test_notices.py.
OF_NOTICES = ("notice.sent",)

at_every_point = pytest.mark.parametrize(
    "point", [f"{name}:{count}" for name in NAMES if name not in OF_BLOBS + OF_NOTICES for count in COUNTS]
)
at_every_point_of_blobs = pytest.mark.parametrize(
    "point", [f"{name}:{count}" for name in OF_BLOBS for count in COUNTS]
)


@pytest.fixture
def cluster(make_cluster: Make) -> Cluster:
    return make_cluster(REQUEST_RESULT_PERIOD=300)


def launch_to_die(victim: Program, point: str) -> None:
    victim.environment[VARIABLE] = point
    victim.launch()
    del victim.environment[VARIABLE]


def await_death(victim: Program) -> None:
    assert victim.wait() == -signal.SIGKILL, victim.said


@at_every_point
def test_balancer(cluster: Cluster, point: str) -> None:
    nodes = [cluster.add_node("alpha"), cluster.add_node("beta")]
    launch_to_die(cluster.balancer, point)
    for node in nodes:
        node.launch()
    for node in nodes:
        node.await_ready()
    # From both, and some at a time, so that it has to commit often enough.
    loads = [Load(node, mix(10)) for node in nodes]
    for load in loads:
        assert load.trickle()
    await_death(cluster.balancer)
    for load in loads:
        load.read_results(0)
    cluster.balancer.start()
    for load in loads:
        load.check()
    assert_settled(cluster, nodes[0])


@at_every_point
def test_node_as_origin(cluster: Cluster, point: str) -> None:
    alpha, beta = cluster.add_node("alpha"), cluster.add_node("beta")
    cluster.balancer.launch()
    beta.launch()
    launch_to_die(alpha, point)
    eventually(lambda: alpha.ended or "welcome by" in alpha.said, "alpha is there, or is gone already")
    load = Load(alpha, mix(20))
    if not alpha.ended:
        load.trickle()
    await_death(alpha)
    alpha.start()
    load.check()
    later = Load(alpha, mix(2))
    later.submit()
    later.check()
    assert_settled(cluster, alpha)


@at_every_point
def test_node_as_executor(cluster: Cluster, point: str) -> None:
    """It commits what it finishes while the balancer is away, and that this may go when it is back."""
    alpha, beta = cluster.add_node("alpha", 1), cluster.add_node("beta")
    cluster.balancer.launch()
    alpha.start()
    launch_to_die(beta, point)
    eventually(lambda: beta.ended or "welcome by" in beta.said, "beta is there, or is gone already")
    cluster.await_connected("alpha")
    load = Load(alpha, [f"run sleep 0.0{5 + number % 5}; echo {number}" for number in range(24)])
    load.submit()
    if not beta.ended:
        eventually(lambda: cluster.held(alpha)["beta"] > 0, "beta has some")
        cluster.balancer.kill()
    await_death(beta)
    load.read_results(0)
    if cluster.balancer.ended:
        cluster.balancer.start()
    beta.start()
    load.check()
    assert_settled(cluster, alpha)


@at_every_point_of_blobs
def test_node_as_origin_of_large_results(cluster: Cluster, point: str) -> None:
    """It dies with a large result on disk and no row that names it."""
    alpha, beta = cluster.add_node("alpha"), cluster.add_node("beta")
    cluster.balancer.launch()
    beta.launch()
    launch_to_die(alpha, point)
    alpha.await_ready()
    # One after the other, so that it has to commit often enough.
    load = Load(alpha, [large(number, f"sleep 0.0{1 + number % 9}; ") for number in range(40)])
    load.submit()
    await_death(alpha)
    alpha.start()
    load.check()
    assert_settled(cluster, alpha)


@at_every_point_of_blobs
def test_node_as_executor_of_large_results(cluster: Cluster, point: str) -> None:
    """The same of results that it keeps while the balancer is away; none stays when the balancer has them."""
    alpha, beta = cluster.add_node("alpha", 1), cluster.add_node("beta")
    cluster.balancer.launch()
    alpha.start()
    launch_to_die(beta, point)
    beta.await_ready()
    cluster.await_connected("alpha", "beta")
    load = Load(alpha, [large(number, "sleep 0.2; ") for number in range(24)])
    load.submit()
    eventually(lambda: cluster.held(alpha)["beta"] > 0, "beta has some")
    cluster.balancer.kill()
    await_death(beta)
    cluster.balancer.start()
    beta.start()
    load.check()
    assert_settled(cluster, alpha)
    eventually(lambda: not list((beta.data / "blobs").glob("kept-*")), "what was kept is gone")
