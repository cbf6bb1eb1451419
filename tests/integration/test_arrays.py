"""Arrays, by way of a real node."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

from protocol.limits import ARRAY_PAGE
from support import Client, Cluster, eventually
from workloads import evenly, interrupt, servers, started


@pytest.fixture
def client(shared_cluster: Cluster) -> Iterator[Client]:
    with shared_cluster.nodes["alpha"].json_client() as client:
        yield client


def result(client: Client, ticket: str) -> dict:
    (value,) = client.wait(ticket)
    return value


def test_one_submission_is_many_jobs_each_with_its_index(client: Client) -> None:
    (ticket,) = client.submit("run --array 5 -- echo $EVENLY_ARRAY_INDEX $EVENLY_ARRAY_TICKET $EVENLY_TICKET")
    value = result(client, ticket)
    assert (value["outcome"], value["reason"]) == ("succeeded", "5 jobs: 5 succeeded")
    tickets = [each["ticket"] for each in value["jobs"]]
    assert value["jobs"] == [{"ticket": each, "outcome": "succeeded"} for each in tickets]
    results = client.wait(*tickets)
    assert [each["stdout"] for each in results] == [f"{n} {ticket} {tickets[n]}\n" for n in range(5)]


def test_it_fails_with_the_counts_where_one_of_them_does(client: Client) -> None:
    (ticket,) = client.submit('{"run": "test $EVENLY_ARRAY_INDEX -lt 3", "array": 5}')
    value = result(client, ticket)
    assert (value["outcome"], value["reason"]) == ("failed", "5 jobs: 3 succeeded, 2 failed")
    assert value["array"] == {
        "size": 5,
        "open": 0,
        "succeeded": 3,
        "failed": 2,
        "timed-out": 0,
        "cancelled": 0,
        "lost": 0,
    }
    assert client.ask_json(f"status {ticket}")["array"] == value["array"]
    assert client.ask_json(f"result {ticket} 3")["jobs"] == value["jobs"][3:]


def test_its_status_sums_up_and_its_cancel_ends_the_rest(shared_cluster: Cluster, client: Client) -> None:
    (ticket,) = client.submit("run --array 12 -- test $EVENLY_ARRAY_INDEX -lt 3 || sleep 600")
    with shared_cluster.nodes["alpha"].client() as person:
        said = "Status: running: 9 queued or running, 3 succeeded"
        eventually(lambda: person.ask(f"status {ticket}") == said, "three are done")
        listed = client.ask_json(f"result {ticket}")
        assert (listed["state"], listed["array"]["open"]) == ("running", 9)
        assert [each["outcome"] for each in listed["jobs"]] == ["succeeded"] * 3 + [None] * 9
        assert person.ask(f"result {ticket}") == "Result has not been executed yet, come back later."
        assert person.ask(f"cancel {ticket}") == f"Cancelled: {ticket}"
        reason = "12 jobs: 3 succeeded, 9 cancelled"
        assert person.ask(f"status {ticket}") == f"Status: done, cancelled, {reason}"
        assert person.ask(f"wait {ticket}") == f"Result: cancelled, {reason}"


def test_retries_and_limits_are_those_of_each_job(client: Client) -> None:
    (ticket,) = client.submit("run --array 2 --retries 1 -- test $EVENLY_ATTEMPT = 2")
    tickets = [each["ticket"] for each in result(client, ticket)["jobs"]]
    assert [(each["outcome"], each["attempt"]) for each in client.wait(*tickets)] == [("succeeded", 2)] * 2
    (ticket,) = client.submit("run --array 2 --time 0.1 -- sleep 60")
    assert result(client, ticket)["reason"] == "2 jobs: 2 timed-out"


def test_an_array_after_an_array(client: Client) -> None:
    (first,) = client.submit("run --array 3 -- sleep 0.1")
    (second,) = client.submit(f"run --array 3 --after {first} -- true")
    (bad,) = client.submit(f"run --array 2 --after {second} -- false")
    (never,) = client.submit(f"run --array 2 --after {bad} -- true")
    assert result(client, second)["outcome"] == "succeeded"
    assert result(client, never)["reason"] == (
        f"not started: it comes after {bad}, which failed; 2 jobs: 2 failed"
    )


def test_a_large_one_is_listed_in_pages(make_cluster: Callable[..., Cluster]) -> None:
    """No balancer is needed for that."""
    node = make_cluster().add_node("alpha")
    node.start()
    size = 2 * ARRAY_PAGE + 5
    with node.json_client() as client:
        (ticket,) = client.submit(f"run --array {size} -- true")
        client.send(*(f"result {ticket} {first}" for first in (0, ARRAY_PAGE, 2 * ARRAY_PAGE, size)))
        pages = [client.object() for _ in range(4)]
        assert [len(page["jobs"]) for page in pages] == [ARRAY_PAGE, ARRAY_PAGE, 5, 0]
        assert len({each["ticket"] for page in pages for each in page["jobs"]}) == size
        assert client.ask_json("stats")["node"]["open"] == size + 1


@pytest.mark.parametrize("count", ["1", "0", "100001", "x"])
def test_a_size_out_of_bounds_is_refused(client: Client, count: str) -> None:
    said = client.ask_json(f"run --array {count} -- true")["error"]
    assert said == f"--array takes a whole number from 2 to 100000: not '{count}'."


def test_one_that_is_too_large_in_all_is_refused(client: Client) -> None:
    said = client.ask_json(f"run --array 100000 -- : {'x' * 1000}")["error"]
    assert re.fullmatch(r"--array 100000 of so long a command is over 33554432 bytes\.", said)


# --- by the command ----------------------------------------------------------------------------------


@pytest.fixture
def node(shared_cluster: Cluster) -> str:
    return servers(shared_cluster.nodes["alpha"].port)


def test_the_command_shows_one_job_after_the_other(node: str) -> None:
    size = ARRAY_PAGE + 5
    # The first one is the last to end.
    line = "[ $EVENLY_ARRAY_INDEX != 0 ] || sleep 1; echo $EVENLY_ARRAY_INDEX"
    ended = evenly("submit", "-s", node, "--wait", "--array", size, "--", line)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.split() == [str(number) for number in range(size)]


def test_it_names_those_that_fail(node: str, client: Client) -> None:
    line = "echo out; echo err >&2; exit $EVENLY_ARRAY_INDEX"
    ended = evenly("submit", "-s", node, "--wait", "--array", 2, "--", line)
    assert (ended.code, ended.out) == (1, "out\nout\n")
    *said, last = ended.err.splitlines()
    assert said[:2] == ["err", "err"]
    assert re.fullmatch(r"evenly: 1: failed, exit code 1, in .* on \w+ \([A-Z0-9]{16}\)", said[2])
    assert last == "evenly: 1 of 2 jobs did not succeed"
    (ticket,) = client.submit(json.dumps({"run": line, "array": 2}))
    again = evenly("tail", "-s", node, "--json", ticket)
    rows = [json.loads(row) for row in again.out.splitlines()]
    assert again.code == 1
    assert [(row["index"], row["outcome"], row["stdout"]) for row in rows] == [
        (0, "succeeded", "out\n"),
        (1, "failed", "out\n"),
    ]


def test_ctrl_c_cancels_all_of_it(node: str, client: Client) -> None:
    words = ("submit", "-s", node, "--wait", "--array", 3, "--name", "ctrl-c", "--", "echo x; sleep 600")
    with started(*words) as process:
        eventually(lambda: client.ask_json("list --name ctrl-c --state running")["jobs"], "one runs")
        ended = interrupt(process)
    assert ended.code == 130
    (ticket,) = re.findall(r"evenly: ([A-Z0-9]{16}) is cancelled", ended.err)
    assert result(client, ticket)["reason"] == "3 jobs: 3 cancelled"
