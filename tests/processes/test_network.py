"""The link of a node fails in every way that TCP can show: one outcome a ticket, and nothing runs twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from load import Load, assert_settled, mix
from processes.proxy import Proxy
from support import Cluster, Node, eventually, is_even

Make = Callable[..., Cluster]


@pytest.fixture
def cluster(make_cluster: Make) -> Cluster:
    """A job whose node is cut off waits for it longer than any fault here lasts: nothing need run twice."""
    return make_cluster(REQUEST_RESULT_PERIOD=300, NODE_GRACE_PERIOD=60_000)


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    with Proxy(cluster.port) as proxy:
        yield proxy


def start(cluster: Cluster, proxy: Proxy) -> tuple[Node, Node]:
    """alpha is linked through the proxy, beta is not."""
    alpha, beta = cluster.add_node("alpha"), cluster.add_node("beta")
    alpha.argv[alpha.argv.index(str(cluster.port))] = str(proxy.port)
    for program in (cluster.balancer, alpha, beta):
        program.launch()
    for program in (cluster.balancer, alpha, beta):
        program.await_ready()
    cluster.await_connected("alpha", "beta")
    return alpha, beta


class Effects:
    """A load whose commands each append a line to a file: what ran twice stands there twice."""

    def __init__(self, path: Path, *nodes: Node, count: int = 60) -> None:
        self.path = path
        lines = [f"run sleep 0.0{n % 6}; echo $EVENLY_TICKET >>{path}; echo {n}" for n in range(count)]
        self.loads = [Load(node, lines + mix(5)) for node in nodes]
        self.count = count

    def submit(self) -> None:
        for load in self.loads:
            load.submit()

    def check(self, cluster: Cluster) -> None:
        """Every ticket has its one right outcome, and ran once.

        An attempt that was on its way when a link was cut may be followed by another: it never started.
        """
        for load in self.loads:
            load.check()
        ran = self.path.read_text().split()
        assert len(ran) == len(set(ran)) == self.count * len(self.loads)
        assert_settled(cluster, self.loads[0].node)


def check_evenness(cluster: Cluster, alpha: Node, beta: Node) -> None:
    """The faults are over: what is submitted now is spread evenly, and the queues of both are known."""
    with alpha.json_client() as client:
        tickets = client.submit(*["600000"] * 20)
        eventually(lambda: is_even(cluster.held(beta), 20), "all is even")
        client.send(*(f"cancel {ticket}" for ticket in tickets))
        assert {client.object()["cancel"] for _ in tickets} == {"done"}


def test_connections_cut_in_the_middle_of_frames_again_and_again(
    cluster: Cluster, proxy: Proxy, tmp_path: Path
) -> None:
    alpha, beta = start(cluster, proxy)
    effects = Effects(tmp_path / "effects", alpha, beta)
    effects.submit()
    proxy.cut_within = 3000
    proxy.cut_all()
    eventually(lambda: proxy.cuts >= 8, "it was cut often enough")
    proxy.cut_within = None
    proxy.cut_all()
    effects.check(cluster)
    check_evenness(cluster, alpha, beta)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_one_direction_is_silent_beyond_the_links_patience(
    cluster: Cluster, proxy: Proxy, tmp_path: Path, direction: str
) -> None:
    """Half open: who hears nothing gives the link up; the other must not go on as if all were well."""
    alpha, beta = start(cluster, proxy)
    effects = Effects(tmp_path / "effects", alpha, beta, count=100)
    effects.submit()
    proxy.blocked.add(direction)
    deaf = cluster.balancer if direction == "up" else alpha
    eventually(lambda: "was silent for 5 s" in deaf.said, "it is noticed")
    other = alpha if direction == "up" else cluster.balancer
    proxy.blocked.clear()
    eventually(lambda: proxy.connections >= 2, "it connects again")
    assert "was silent" not in other.said, "it still heard something"
    effects.check(cluster)
    check_evenness(cluster, alpha, beta)


def test_a_slow_network_is_only_slow(cluster: Cluster, proxy: Proxy, tmp_path: Path) -> None:
    alpha, beta = start(cluster, proxy)
    proxy.delay = 0.4  # both ways: longer than REQUEST_RESULT_PERIOD, so that all is asked for again
    effects = Effects(tmp_path / "effects", alpha, beta)
    effects.submit()
    effects.check(cluster)
    check_evenness(cluster, alpha, beta)
    assert proxy.connections == 1
    for load in effects.loads:
        with load.node.json_client() as client:
            assert {each["attempt"] for each in client.wait(*load.tickets)} == {1}


def test_what_comes_late_over_an_old_connection_is_nobodys(
    cluster: Cluster, proxy: Proxy, tmp_path: Path
) -> None:
    """The balancer hears nothing of an old link's end; the node is back over a new one when it does."""
    alpha, beta = start(cluster, proxy)
    effects = Effects(tmp_path / "effects", alpha, beta)
    proxy.blocked.add("up")
    effects.submit()
    eventually(lambda: proxy.held_up() > 1000, "submissions and results are held up")
    proxy.strand()
    proxy.blocked.clear()
    eventually(lambda: cluster.balancer.said.count("node alpha joined") == 2, "it is back")
    proxy.deliver_stranded()
    effects.check(cluster)
    check_evenness(cluster, alpha, beta)
