"""`explain` on real nodes: why a job waits, where it ran, what came of each attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support import Client, Cluster, eventually

Make = Callable[..., Cluster]
LONG = "600000"


@pytest.fixture
def cluster(make_cluster: Make) -> Cluster:
    return make_cluster(REQUEST_RESULT_PERIOD=500, NODE_GRACE_PERIOD=1000)


def explained(client: Client, ticket: str) -> dict[str, Any]:
    return client.ask_json(f"explain {ticket}")


def explains(client: Client, ticket: str, words: str) -> dict[str, Any]:
    """Once it says so."""
    told: dict[str, Any] = {}

    def says() -> bool:
        told.clear()
        told.update(explained(client, ticket))
        return words in told["why"]

    eventually(says, words)
    return told


def test_what_waits_says_what_goes_before_it(cluster: Cluster) -> None:
    (alpha,) = cluster.start("alpha", slots=1)
    with alpha.json_client() as client:
        blocking = client.submit(*[LONG] * 300)
        (last,) = client.submit("run true")
        told = explains(client, last, "jobs go before it; 1 node holds as many jobs as they may")
        assert told["state"] == "queued"
        assert told["before"] == told["waiting"] - 1 > 0
        assert told["attempts"] == []
        running = explains(client, blocking[0], "it runs on alpha")
        assert [each["node"] for each in running["attempts"]] == ["alpha"]
        assert (
            explained(client, blocking[1])["why"]
            == "alpha has it, where 1 job came before it, and 1 run at once"
        )
        client.send(*(f"cancel {ticket}" for ticket in (*blocking, last)))
        for _ in range(301):
            client.object()
        assert explained(client, last)["why"] == "it has ended: cancelled, before it started"


def test_each_attempt_is_told_while_it_is_tried_again_and_when_it_is_done(cluster: Cluster) -> None:
    alpha, _ = cluster.start("alpha", "beta")
    with alpha.json_client() as client:
        (ticket,) = client.submit("run --retries 2 -- exit 3")
        told = explains(client, ticket, "its last attempt failed, and it is tried again")
        assert told["until"] is not None
        assert told["attempts"][0]["how"] == "failed"
        assert client.wait(ticket)[0]["outcome"] == "failed"
        done = explained(client, ticket)
        assert done["state"] == "done"
        assert "exit code 3" in done["why"]
        assert [each["attempt"] for each in done["attempts"]] == [1, 2, 3]
        assert all(each["node"] in ("alpha", "beta") for each in done["attempts"])
        assert all(each["from"] <= each["to"] for each in done["attempts"])
    alpha.kill()
    alpha.start()
    with alpha.client() as client:
        client.send(f"explain {ticket}")
        lines = client.block()
    assert lines[0] == f"Explain: {ticket}, done"
    assert [line[:10] for line in lines[2:]] == ["attempt 1 ", "attempt 2 ", "attempt 3 "]


def test_a_job_whose_node_dies_says_where_it_was(cluster: Cluster) -> None:
    alpha, beta = cluster.start("alpha", "beta", slots=1)
    with alpha.json_client() as client:
        (blocking,) = client.submit("run sleep 600")
        explains(client, blocking, "it runs on")
        (ticket,) = client.submit("run sleep 600")
        explains(client, ticket, "it runs on")
        nodes = {each: explained(client, each)["attempts"][0]["node"] for each in (blocking, ticket)}
        mine = next(each for each, node in nodes.items() if node == "beta")
        beta.kill()
        away = explains(client, mine, "beta, which has it, is away")
        assert away["until"] is not None
        told = explains(client, mine, "alpha has it")
        assert told["attempts"][0]["how"] == "lost: its node did not come back within 1 s"
        assert [each["node"] for each in told["attempts"]] == ["beta", "alpha"]
        client.send(f"cancel {blocking}", f"cancel {ticket}")
        client.object(), client.object()


def test_without_the_balancer_as_much_as_the_node_knows(cluster: Cluster) -> None:
    (alpha,) = cluster.start("alpha")
    cluster.balancer.kill()
    eventually(lambda: "ended" in alpha.said, "it knows that it is away")
    with alpha.json_client() as client:
        (first,) = client.submit("run true")
        (second,) = client.submit(f"run --after {first} -- true")
        assert (
            explained(client, first)["why"]
            == "the ReverseProxy is away; it is handed in as soon as that is back"
        )
        assert explained(client, second)["waits_for"] == [first]
        assert "could not be found" in explained(client, "ZZZZ0000ZZZZ0000")["error"]


def test_after_a_restart_of_the_balancer_it_is_still_known(cluster: Cluster) -> None:
    (alpha,) = cluster.start("alpha")
    with alpha.json_client() as client:
        (ticket,) = client.submit("run --retries 9 -- exit 3")
        explains(client, ticket, "is tried again")
        cluster.balancer.kill()
        cluster.balancer.start()
        told = explains(client, ticket, "is tried again")
        assert told["attempts"][0]["how"] == "failed"
        client.ask_json(f"cancel {ticket}")
