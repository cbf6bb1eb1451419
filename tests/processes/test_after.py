"""kill -9 of the node where jobs wait for others: each starts after what it waits for, or never, and ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from load import assert_settled
from runtime.failpoints import VARIABLE
from support import Client, Cluster, Node, eventually

Make = Callable[..., Cluster]


@pytest.fixture
def cluster(make_cluster: Make) -> Cluster:
    return make_cluster(REQUEST_RESULT_PERIOD=500)


def test_a_chain_survives_that_its_node_dies_at_every_link(cluster: Cluster, tmp_path: Path) -> None:
    alpha, _ = cluster.start("alpha", "beta")
    path = tmp_path / "chain"
    tickets: list[str] = []
    with alpha.json_client() as client:
        for number in range(6):
            after = f"--after {tickets[-1]} " if tickets else ""
            line = f"run {after}-- test $(wc -l < {path}) = {number} && echo {number} >> {path}"
            tickets += client.submit(line if number else f"run sleep 0.5; echo 0 >> {path}")
    for number in range(6):
        alpha.kill()
        alpha.start()
        eventually(lambda n=number: path.exists() and len(path.read_text().split()) > n, f"link {number}")
    with alpha.json_client() as client:
        assert {each["outcome"] for each in client.wait(*tickets)} == {"succeeded"}
    assert path.read_text().split() == [str(number) for number in range(6)]
    assert_settled(cluster, alpha)


@pytest.mark.parametrize("code", [0, 1])
def test_dependants_that_wait_while_their_node_is_dead(cluster: Cluster, tmp_path: Path, code: int) -> None:
    """What they come after ends meanwhile, on another node."""
    cluster.balancer.start()
    beta = cluster.add_node("beta")
    beta.start()
    alpha = cluster.add_node("alpha", 1)
    alpha.start()
    cluster.await_connected("alpha", "beta")
    path = tmp_path / "go"
    with alpha.json_client() as client:
        filler = client.submit("600000")
        first, *_ = client.submit(*[f"run until test -e {path}; do sleep 0.05; done; exit {code}"])
        fan = client.submit(*[f"run --after {first} -- echo x"] * 50)
        (last,) = client.submit(f'{{"run": "echo all", "after": {fan!r}}}'.replace("'", '"'))
        eventually(lambda: client.ask_json(f"status {first}")["state"] == "running", "it runs")
    alpha.kill()
    path.touch()
    alpha.start()
    with alpha.json_client() as client:
        results = client.wait(*fan, last)
        client.ask_json(f"cancel {filler[0]}")
    assert {each["outcome"] for each in results} == ({"failed"} if code else {"succeeded"})
    assert {each["stdout"] for each in results} == ({""} if code else {"x\n", "all\n"})


POINTS = [
    f"{name}:{count}"
    for name in ("commit.before", "commit.inside", "commit.after", "release.after")
    for count in (3, 4, 5, 6)
]


@pytest.mark.parametrize("point", POINTS)
def test_at_each_fail_point(cluster: Cluster, point: str) -> None:
    """Whatever ticket was read ends as it should."""
    cluster.balancer.start()
    alpha = cluster.add_node("alpha")
    alpha.environment[VARIABLE] = point
    alpha.launch()
    del alpha.environment[VARIABLE]
    eventually(lambda: alpha.ended or "welcome by" in alpha.said, "alpha is there, or is gone already")
    good, bad = submit_a_few(alpha)
    assert alpha.wait() == -9, alpha.said
    alpha.start()
    with alpha.json_client() as client:
        assert {each["outcome"] for each in client.wait(*good)} <= {"succeeded"}
        assert {each["outcome"] for each in client.wait(*bad)} <= {"failed"}
    assert_settled(cluster, alpha)


def submit_a_few(node: Node) -> tuple[list[str], list[str]]:
    """Some that succeed one after the other, some that do not, until the node dies: what was read of each."""
    good: list[str] = []
    bad: list[str] = []
    try:
        with node.json_client() as client:
            while True:
                good += client.submit(f"run {after(good)} -- true")
                bad += client.submit(f"run {after(bad)} -- false")
                read_to_the_end(client, good[-1], bad[-1])
    except (OSError, AssertionError):
        return good, bad


def after(tickets: list[str]) -> str:
    return f"--after {tickets[-1]}" if tickets else ""


def read_to_the_end(client: Client, good: str, bad: str) -> None:
    assert [each["outcome"] for each in client.wait(good, bad)] == ["succeeded", "failed"]
