"""`list` with real programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support import Client, Cluster, eventually, marker

Make = Callable[..., Cluster]
LONG = "600000"


@pytest.fixture
def client(shared_cluster: Cluster) -> Iterator[Client]:
    with shared_cluster.nodes["alpha"].json_client() as client:
        yield client


def listed(client: Client, options: str = "") -> list[dict[str, Any]]:
    value = client.ask_json(f"list {options}")
    assert isinstance(value["jobs"], list)
    return value["jobs"]


def tickets(client: Client, options: str = "") -> list[str]:
    return [job["ticket"] for job in listed(client, options)]


def test_what_was_submitted_last_comes_first(client: Client) -> None:
    tag = marker()
    submitted = client.submit(*[f"run --tag {tag} --name n{number} -- exit {number}" for number in range(3)])
    client.wait(*submitted)
    jobs = listed(client, f"--tag {tag}")
    assert [job["ticket"] for job in jobs] == submitted[::-1]
    assert [(job["name"], job["tag"], job["state"]) for job in jobs] == [
        (f"n{number}", tag, "done") for number in (2, 1, 0)
    ]
    assert [job["job"]["run"] for job in jobs] == ["exit 2", "exit 1", "exit 0"]
    assert tickets(client, f"--tag {tag} --outcome failed") == [submitted[2], submitted[1]]
    assert tickets(client, f"--tag {tag} --name n1") == [submitted[1]]
    assert tickets(client, f"--tag {tag} --state open") == []
    assert tickets(client, f"--tag {tag} --since 3600 --limit 1") == [submitted[2]]
    assert tickets(client, "--limit 2")[0] == submitted[2]


def test_a_row_has_what_status_says(client: Client) -> None:
    tag = marker()
    (ticket,) = client.submit(f"run --tag {tag} -- echo x")
    client.wait(ticket)
    (row,) = listed(client, f"--tag {tag}")
    assert row.items() >= client.ask_json(f"status {ticket}").items()


def test_pages_follow_one_another_to_the_end(client: Client) -> None:
    tag = marker()
    submitted = client.submit(*[f"run --tag {tag} -- true"] * 7)
    client.wait(*submitted)
    found: list[str] = []
    before = ""
    while True:
        page = client.ask_json(f"list --tag {tag} --limit 3 {before}")
        found += [job["ticket"] for job in page["jobs"]]
        if page["next"] is None:
            break
        before = f"--before {page['next']}"
    assert found == submitted[::-1]


def test_open_ones_are_where_the_balancer_says(client: Client) -> None:
    tag = marker()
    # 6 slots, so that the last ones wait; sleeps have no tag, and nothing else is open here.
    submitted = client.submit(*[f"run --tag {tag} -- sleep 600"] * 30)
    (waits,) = client.submit(f"run --tag {tag} --after {submitted[0]} -- true")

    def running() -> bool:
        return len(tickets(client, f"--tag {tag} --state running")) == 6

    eventually(running, "six of them run")
    queued = listed(client, f"--tag {tag} --state queued")
    assert len(queued) == 25
    assert queued[0].items() >= {"ticket": waits, "state": "queued", "waits_for": [submitted[0]]}.items()
    assert {job["state"] for job in queued} <= {"queued", "assigned"}
    assert {job["node"] for job in listed(client, f"--tag {tag} --state running")} == {
        "alpha",
        "beta",
        "gamma",
    }
    assert tickets(client, f"--tag {tag} --state open") == [waits, *submitted[::-1]]
    client.send(*(f"cancel {ticket}" for ticket in submitted))
    for _ in submitted:
        client.object()
    assert tickets(client, f"--tag {tag} --outcome cancelled") == submitted[::-1]


def test_a_list_behind_a_wait_sees_what_was_waited_for(client: Client) -> None:
    tag = marker()
    (ticket,) = client.submit(f"run --tag {tag} -- sleep 0.3")
    client.send(f"wait {ticket}", f"list --tag {tag}", "stats")
    client.object()
    assert [job["state"] for job in client.object()["jobs"]] == ["done"]
    assert "node" in client.object()


def test_a_person_reads_a_table(shared_cluster: Cluster) -> None:
    tag = marker()[:12]
    with shared_cluster.nodes["beta"].client() as client:
        submitted = client.submit(f"run --tag {tag} -- true", f"run --array 2 --tag {tag} -- echo hello")
        client.send(*(f"wait {ticket}" for ticket in submitted))
        client.lines(2)
        client.send(f"list --tag {tag} --limit 3")
        head, columns, *rows = client.block()
        assert head.startswith("Jobs: 3, more with list --before ")
        assert columns.split() == ["TICKET", "STATE", "OUTCOME", "AGE", "NAME", "TAG", "RUNS"]
        assert [row.split()[0] for row in rows][2] == submitted[1]
        assert rows[2].endswith("2 times echo hello")
        assert client.ask("list --limit none") == ("--limit takes a whole number from 1 to 1000: not 'none'.")


def test_without_a_balancer_open_ones_are_open(make_cluster: Make) -> None:
    cluster = make_cluster()
    alpha = cluster.add_node("alpha")
    alpha.start()
    with alpha.json_client() as client:
        first, second = client.submit(LONG, "run --array 2 -- true")
        value = client.ask_json("list")
        assert [job["state"] for job in value["jobs"]] == ["open", "open", "running", "open"]
        assert [job["ticket"] for job in value["jobs"]][2:] == [second, first]
        assert value["note"] == "the ReverseProxy is away"
        assert [job["ticket"] for job in client.ask_json("list --state running")["jobs"]] == [second]
    with alpha.client() as client:
        assert client.ask("list") == "Jobs: 4 (the ReverseProxy is away)"
        client.block()


def test_what_is_older_than_many_others_is_found(client: Client) -> None:
    """More than a piece of the look, of which nothing fits."""
    tag = marker()
    (old,) = client.submit(f"run --tag {tag} -- true")
    (array,) = client.submit("run --array 2500 --time 1 -- sleep 600")
    assert tickets(client, f"--tag {tag}") == [old]
    (page,) = [client.ask_json("list --state open --limit 1000")]
    assert len(page["jobs"]) == 1000
    assert len(tickets(client, f"--state open --limit 1000 --before {page['next']}")) == 1000
    client.ask_json(f"cancel {array}")
