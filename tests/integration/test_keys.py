"""Submissions with a key on real nodes: the same key gives the same ticket, wherever, and whoever dies."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from support import Client, Cluster, Node, eventually, marker, ticket_of

Make = Callable[..., Cluster]


def keyed(key: str, command: str = "true", **options: object) -> str:
    return json.dumps({"run": command, "key": key} | options)


def submit(node: Node, line: str) -> dict[str, object]:
    with node.json_client() as client:
        return client.ask_json(line)


def result(node: Node, ticket: str) -> dict[str, object]:
    with node.json_client() as client:
        return client.wait(ticket)[0]


@pytest.fixture
def counted(tmp_path: Path) -> tuple[str, Path]:
    """A command, and the file to which it adds a line each time it runs."""
    path = tmp_path / "runs"
    return f"echo ran >> {path}", path


# --- while all are there -------------------------------------------------------------------------


def test_the_same_key_gives_the_same_ticket_while_it_runs_and_when_it_is_done(
    shared_cluster: Cluster, counted: tuple[str, Path]
) -> None:
    alpha, key = shared_cluster.nodes["alpha"], marker()
    first = submit(alpha, keyed(key, counted[0] + "; sleep 0.3"))
    assert first.keys() == {"ticket"}
    assert submit(alpha, keyed(key)) == first
    assert result(alpha, str(first["ticket"]))["outcome"] == "succeeded"
    assert submit(alpha, keyed(key, "echo another command")) == first
    assert counted[1].read_text() == "ran\n"


def test_another_node_names_the_ticket_and_who_answers_for_it(
    shared_cluster: Cluster, counted: tuple[str, Path]
) -> None:
    alpha, beta, key = shared_cluster.nodes["alpha"], shared_cluster.nodes["beta"], marker()
    first = submit(alpha, keyed(key, counted[0]))
    assert submit(beta, keyed(key, counted[0])) == first | {"node": "alpha"}
    result(alpha, str(first["ticket"]))
    assert submit(beta, keyed(key, counted[0])) == first | {"node": "alpha"}
    with beta.client() as client:
        assert client.ask(f"run --key {key} -- {counted[0]}") == f"Ticket ID: {first['ticket']}"
        unknown = client.ask(f"result {first['ticket']}")
    assert unknown == "Result: This job could not be found on this node."
    assert counted[1].read_text() == "ran\n"
    with beta.json_client() as client:
        client.send("getall")
        listed = {each["ticket"] for each in client.object()["results"]}
    assert first["ticket"] not in listed, "nothing of it is left on a node that did not take it"


def test_lines_of_one_client_are_answered_in_order_whatever_they_wait_for(shared_cluster: Cluster) -> None:
    key = marker()
    with shared_cluster.nodes["alpha"].client() as client:
        client.send("0", f"run --key {key} -- true", "nonsense", f"run --key {key} -- true", "0")
        replies = client.lines(5)
    tickets = [ticket_of(replies[place]) for place in (0, 1, 3, 4)]
    assert tickets[1] == tickets[2]
    assert len(set(tickets)) == 3
    assert "nonsense" in replies[2]


def test_thousands_of_keys_in_a_pipeline_from_two_clients_at_once(shared_cluster: Cluster) -> None:
    prefix = marker()
    lines = [keyed(f"{prefix}-{number}") for number in range(2000)]
    alpha, beta = shared_cluster.nodes["alpha"], shared_cluster.nodes["beta"]
    with alpha.json_client() as one, beta.json_client() as other:
        for client in (one, other):
            client.send(*lines)
        first = [one.object() for _ in lines]
        second = [other.object() for _ in lines]
    assert [each["ticket"] for each in first] == [each["ticket"] for each in second]
    assert len({each["ticket"] for each in first}) == len(lines)
    for mine, theirs in zip(first, second, strict=True):
        assert (mine.get("node"), theirs.get("node")) in ((None, "alpha"), ("beta", None))


def test_tasks_dependants_and_arrays_have_keys_too(shared_cluster: Cluster) -> None:
    alpha, beta, key = shared_cluster.nodes["alpha"], shared_cluster.nodes["beta"], marker()
    first = submit(alpha, keyed(key, "sleep 0.2"))
    task = json.dumps({"task": "checksum", "payload": {"path": "/etc/hostname"}, "key": f"{key}-task"})
    lines = [task, keyed(f"{key}-after", after=[first["ticket"]]), keyed(f"{key}-array", array=3)]
    made = [submit(alpha, line) for line in lines]
    lines[1] = keyed(f"{key}-after")  # on beta nobody knows what it comes after
    assert [submit(beta, line) for line in lines] == [each | {"node": "alpha"} for each in made]
    assert [result(alpha, str(each["ticket"]))["outcome"] for each in made] == ["succeeded"] * 3


def test_a_submission_that_is_refused_uses_no_key(shared_cluster: Cluster) -> None:
    alpha, key = shared_cluster.nodes["alpha"], marker()
    refused = submit(alpha, keyed(key, after=["ZZZZ0000ZZZZ0000"]))
    assert "which ZZZZ0000ZZZZ0000 is not" in str(refused["error"])
    assert "ticket" in submit(shared_cluster.nodes["beta"], keyed(key))


# --- while some are not --------------------------------------------------------------------------


def test_the_origin_is_killed_between_two_submissions_to_it(
    make_cluster: Make, counted: tuple[str, Path]
) -> None:
    cluster = make_cluster()
    alpha, _ = cluster.start("alpha", "beta")
    first = submit(alpha, keyed("k", counted[0]))
    alpha.kill()
    alpha.start()
    assert submit(alpha, keyed("k", counted[0])) == first
    assert result(alpha, str(first["ticket"]))["outcome"] == "succeeded"
    alpha.kill()
    alpha.start()
    assert submit(alpha, keyed("k", counted[0])) == first, "also once it is done"


def test_the_origin_is_killed_and_another_node_gets_the_same_job(
    make_cluster: Make, counted: tuple[str, Path]
) -> None:
    cluster = make_cluster()
    alpha, beta = cluster.start("alpha", "beta")
    first = submit(alpha, keyed("k", counted[0]))
    alpha.kill()
    assert submit(beta, keyed("k", counted[0])) == first | {"node": "alpha"}
    cluster.balancer.kill()
    cluster.balancer.start()
    cluster.await_connected("beta")
    eventually(
        lambda: submit(beta, keyed("k", counted[0])) == first | {"node": "alpha"}, "it is known on disk"
    )
    alpha.start()
    assert result(alpha, str(first["ticket"]))["outcome"] == "succeeded"
    with beta.json_client() as client:
        client.send("getall")
        listed = client.object()["results"]
    # While beta could not reach the balancer it may have given a ticket: that one has not run.
    assert all("submitted before" in str(each["reason"]) for each in listed)


def test_nobody_knows_a_ticket_that_a_killed_node_had_not_shown(make_cluster: Make) -> None:
    """Killed again and again amid keyed submissions: whatever it has said, all nodes say, and it ends."""
    cluster = make_cluster()
    alpha, beta = cluster.start("alpha", "beta")
    keys = [f"k{number}" for number in range(300)]
    known: dict[str, str] = {}
    for read_first in (1, 120, 250):
        with alpha.client() as client:
            client.send(*(f"run --key {key} -- true" for key in keys))
            replies = client.lines(read_first)
            alpha.kill()
            replies += client.rest().decode().splitlines()
        for key, reply in zip(keys, replies, strict=False):
            if len(reply) == len("Ticket ID: ") + 16:
                assert known.setdefault(key, ticket_of(reply)) == ticket_of(reply)
        alpha.start()
        cluster.await_connected("alpha")
    with beta.json_client() as client:
        client.send(*map(keyed, keys))
        replies_of_beta = [client.object() for _ in keys]
    with alpha.json_client() as mine, beta.json_client() as others:
        for key, reply in zip(keys, replies_of_beta, strict=True):
            assert known.setdefault(key, reply["ticket"]) == reply["ticket"]
            client = mine if reply.get("node") == "alpha" else others
            assert client.wait(reply["ticket"])[0]["outcome"] == "succeeded"


def test_without_the_balancer_a_node_gives_its_own_ticket_and_one_job_runs(
    make_cluster: Make, counted: tuple[str, Path]
) -> None:
    cluster = make_cluster()
    alpha, beta = cluster.start("alpha", "beta")
    cluster.balancer.kill()
    eventually(lambda: "ended" in alpha.said and "ended" in beta.said, "both know that it is away")
    first, second = (submit(node, keyed("k", counted[0])) for node in (alpha, beta))
    assert submit(alpha, keyed("k", counted[0])) == first
    assert submit(beta, keyed("k", counted[0])) == second
    assert first != second
    cluster.balancer.start()
    results = [result(alpha, str(first["ticket"])), result(beta, str(second["ticket"]))]
    assert sorted(str(each["outcome"]) for each in results) == ["cancelled", "succeeded"]
    winner = next(each for each in results if each["outcome"] == "succeeded")
    loser = next(each for each in results if each is not winner)
    name = "alpha" if winner is results[0] else "beta"
    assert loser["reason"] == f"not started: its key was submitted before, as {winner['ticket']} of {name}"
    assert counted[1].read_text() == "ran\n"
    for node, own in ((alpha, "alpha"), (beta, "beta")):
        reply = submit(node, keyed("k", counted[0]))
        assert reply == {"ticket": winner["ticket"]} | ({} if own == name else {"node": name})


def test_a_balancer_that_hangs_holds_no_client_up_for_ever(make_cluster: Make) -> None:
    cluster = make_cluster()
    (alpha,) = cluster.start("alpha")
    cluster.balancer.signal(signal.SIGSTOP)
    reply = submit(alpha, keyed("k"))
    assert len(str(reply["ticket"])) == 16
    cluster.balancer.signal(signal.SIGCONT)
    assert result(alpha, str(reply["ticket"]))["outcome"] == "succeeded"
    assert submit(alpha, keyed("k")) == reply


def test_a_client_that_hangs_up_leaves_its_job_to_the_next_one(shared_cluster: Cluster) -> None:
    alpha, key = shared_cluster.nodes["alpha"], marker()
    Client(alpha.port).close()
    with alpha.client() as client:
        client.send(f"run --key {key} -- true")
    tickets = {str(submit(alpha, keyed(key))["ticket"]) for _ in range(3)}
    assert len(tickets) == 1
