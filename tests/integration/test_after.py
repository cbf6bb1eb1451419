"""Jobs that come after others, by way of a real node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import Client, Cluster, eventually, ticket_of

NOBODY = "ZZZZ0000ZZZZ0000"
LONG = "600000"


@pytest.fixture
def client(shared_cluster: Cluster) -> Iterator[Client]:
    with shared_cluster.nodes["alpha"].json_client() as client:
        yield client


def test_a_dependant_finds_what_came_before_it(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "made"
    (first,) = client.submit(f"run sleep 0.3; echo one > {path}")
    (second,) = client.submit(f"run --after {first} -- cat {path}; echo two >> {path}")
    (third,) = client.submit(f"run --after {first.lower()} --after={second} -- cat {path}")
    assert [each["stdout"] for each in client.wait(third, second)] == ["one\ntwo\n", "one\n"]


def test_what_is_done_may_be_named_too(client: Client) -> None:
    good, bad = client.submit("run echo good", "run exit 3")
    client.wait(good, bad)
    (after_good,) = client.submit(f"run --after {good} -- echo x")
    (after_bad,) = client.submit(f'{{"run": "echo x", "after": ["{good}", "{bad}"]}}')
    first, second = client.wait(after_good, after_bad)
    assert first["stdout"] == "x\n"
    assert (second["outcome"], second["started_at"]) == ("failed", None)
    assert second["reason"] == f"not started: it comes after {bad}, which failed"
    assert second["job"]["after"] == [good, bad]


def test_a_failure_ends_all_that_comes_after_it(client: Client) -> None:
    (first,) = client.submit("run sleep 0.2; exit 1")
    (second,) = client.submit(f"run --after {first} -- echo never")
    (third,) = client.submit(f"run --after {second} -- echo never")
    assert [each["reason"] for each in client.wait(second, third)] == [
        f"not started: it comes after {first}, which failed",
        f"not started: it comes after {second}, which failed",
    ]


def test_a_status_says_what_it_waits_for_and_a_cancel_ends_it(shared_cluster: Cluster) -> None:
    with shared_cluster.nodes["beta"].client() as client:
        (first,) = client.submit(LONG)
        (second,) = client.submit(f"run --after {first} -- echo x")
        assert client.ask(f"status {second}") == f"Status: queued, waits for {first}"
        assert client.ask(f"cancel {second}") == f"Cancelled: {second}"
        assert client.ask(f"wait {second}") == "Result: cancelled, before it started"
        (third,) = client.submit(f"run --after {first} -- echo x")
        assert client.ask(f"cancel {first}") == f"Cancelled: {first}"
        assert client.ask(f"wait {third}") == (
            f"Result: failed, not started: it comes after {first}, which was cancelled"
        )


def test_a_ticket_that_is_not_of_this_node_is_refused(shared_cluster: Cluster, client: Client) -> None:
    with shared_cluster.nodes["beta"].client() as there:
        (elsewhere,) = there.submit("0")
    for ticket in (NOBODY, elsewhere):
        client.send(f"run --after {ticket} -- true", "0")
        assert client.object() == {
            "error": f"--after takes a ticket of this node, which {ticket} is not: nothing was submitted."
        }
        ticket_of(client.line())


def test_a_thousand_dependants_of_one_job(client: Client) -> None:
    (first,) = client.submit("run sleep 0.2")
    tickets = client.submit(*[f"run --after {first} -- true"] * 1000)
    (last,) = client.submit(f'{{"run": "echo all", "after": {tickets!r}}}'.replace("'", '"'))
    assert client.wait(last)[0]["stdout"] == "all\n"


def test_jobs_wait_and_are_refused_while_the_balancer_is_away(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    node = cluster.add_node("alpha")
    node.start()
    with node.json_client() as client:
        (first,) = client.submit("0")
        (second,) = client.submit(f"run --after {first} -- echo x")
        assert client.ask_json(f"status {second}")["waits_for"] == [first]
        assert "error" in client.ask_json(f"run --after {NOBODY} -- true")
        (third,) = client.submit(f"run --after {second} -- echo x")
        assert client.ask_json(f"cancel {third}")["cancel"] == "done"
        cluster.balancer.start()
        assert client.wait(second)[0]["stdout"] == "x\n"
    eventually(lambda: "welcome by" in node.said, "it is connected")
