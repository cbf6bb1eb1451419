"""kill -9 of the node where jobs wait for others, and where arrays are half done."""

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
    """A link that dies with the node between its work and its report is run again: it may write twice."""
    alpha, _ = cluster.start("alpha", "beta")
    path = tmp_path / "chain"
    tickets: list[str] = []
    with alpha.json_client() as client:
        for number in range(6):
            after = f"--after {tickets[-1]} " if tickets else ""
            line = f"run {after}-- grep -qx {number - 1} {path} && echo {number} >> {path}"
            tickets += client.submit(line if number else f"run sleep 0.5; echo 0 >> {path}")
    for number in range(6):
        alpha.kill()
        alpha.start()
        eventually(lambda n=number: path.exists() and str(n) in path.read_text().split(), f"link {number}")
    with alpha.json_client() as client:
        assert {each["outcome"] for each in client.wait(*tickets)} == {"succeeded"}
    assert list(dict.fromkeys(path.read_text().split())) == [str(number) for number in range(6)]
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


def test_an_array_whose_node_dies_again_and_again_has_the_right_sum(cluster: Cluster) -> None:
    alpha, _ = cluster.start("alpha", "beta")
    with alpha.json_client() as client:
        (ticket,) = client.submit("run --array 60 -- sleep 0.05; test $((EVENLY_ARRAY_INDEX % 3)) != 0")
        (later,) = client.submit(f"run --array 3 --after {ticket} -- true")
    for ended in (1, 15, 30, 45):
        with alpha.json_client() as client:
            eventually(lambda c=client, n=ended: not 60 - n < open_of(c, ticket), f"{ended} have ended")
        alpha.kill()
        alpha.start()
    with alpha.json_client() as client:
        result, never = client.wait(ticket, later)
        assert (result["outcome"], result["reason"]) == ("failed", "60 jobs: 40 succeeded, 20 failed")
        results = client.wait(*(each["ticket"] for each in result["jobs"]))
        assert never["reason"].startswith(f"not started: it comes after {ticket}, which failed; 3 jobs: 3 ")
    assert [each["outcome"] for each in results] == [
        "succeeded" if index % 3 else "failed" for index in range(60)
    ]
    assert_settled(cluster, alpha)


def open_of(client: Client, ticket: str) -> int:
    return int(client.ask_json(f"status {ticket}")["array"]["open"])


def test_a_cancel_of_an_array_survives_that_its_node_dies(cluster: Cluster) -> None:
    alpha, _ = cluster.start("alpha", "beta")
    with alpha.json_client() as client:
        (ticket,) = client.submit("run --array 40 -- sleep 600")
        cluster.balancer.kill()
        eventually(lambda: "note" in client.ask_json("nodes"), "alpha has noticed")
        assert client.ask_json(f"cancel {ticket}")["cancel"] == "requested"
    alpha.kill()
    alpha.start()
    cluster.balancer.start()
    with alpha.json_client() as client:
        (result,) = client.wait(ticket)
    assert (result["outcome"], result["reason"]) == ("cancelled", "40 jobs: 40 cancelled")
    assert_settled(cluster, alpha)


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
    good, bad, arrays = submit_a_few(alpha)
    assert alpha.wait() == -9, alpha.said
    alpha.start()
    with alpha.json_client() as client:
        assert {each["outcome"] for each in client.wait(*good)} <= {"succeeded"}
        assert {each["outcome"] for each in client.wait(*bad)} <= {"failed"}
        for each in client.wait(*arrays):
            assert each["reason"] == "3 jobs: 2 succeeded, 1 failed"
            assert [job["outcome"] for job in each["jobs"]] == ["failed", "succeeded", "succeeded"]
        eventually(lambda: client.ask_json("stats")["node"]["open"] == 0, "so has what nobody read")
        rows = client.ask_json("getall")["results"]
    # What was not acknowledged is there as a whole, or not at all.
    whole = [row for row in rows if "array" in row["job"]]
    assert sum("EVENLY_ARRAY_TICKET" in row["job"].get("env", {}) for row in rows) == 3 * len(whole)
    assert_settled(cluster, alpha)


def submit_a_few(node: Node) -> tuple[list[str], list[str], list[str]]:
    """Some that succeed one after the other, some that do not, arrays: what was read until the node died."""
    good: list[str] = []
    bad: list[str] = []
    arrays: list[str] = []
    try:
        with node.json_client() as client:
            while True:
                good += client.submit(f"run {after(good)} -- true")
                bad += client.submit(f"run {after(bad)} -- false")
                arrays += client.submit(f"run --array 3 {after(good)} -- test $EVENLY_ARRAY_INDEX != 0")
                client.wait(good[-1], bad[-1], arrays[-1])
    except (OSError, AssertionError):
        return good, bad, arrays


def after(tickets: list[str]) -> str:
    return f"--after {tickets[-1]}" if tickets else ""
