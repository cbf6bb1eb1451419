"""`--notify` with real programs: what a receiver gets, also where it, or the node, is killed."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import textwrap
import time
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any

import pytest

from protocol.limits import NOTICE_TIMEOUT, NOTICES_AT_ONCE
from receiver import Receiver, receiver
from runtime.failpoints import VARIABLE
from support import ROOT, Client, Cluster, Node, eventually, free_port

Make = Callable[..., Cluster]
SECRET = "hush"


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def cluster(make_cluster: Make) -> Cluster:
    return make_cluster(REQUEST_RESULT_PERIOD=500)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """A node that signs."""
    node = cluster.add_node("alpha", NOTIFY_SECRET=SECRET)
    cluster.balancer.launch()
    node.launch()
    cluster.balancer.await_ready()
    node.await_ready()
    cluster.await_connected("alpha")
    return node


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with node.json_client() as client:
        yield client


def pending(client: Client) -> int:
    return int(client.ask_json("stats")["node"]["notices pending"])


def await_none_pending(client: Client) -> None:
    eventually(lambda: pending(client) == 0, "all notices are delivered")


def test_a_receiver_gets_the_object_of_result(client: Client, there: Receiver) -> None:
    lines = [
        f"run --notify {there.url}/a?b=c --name x -- echo out; echo err >&2; exit 3",
        f'{{"run": "sleep 60", "time": 0.2, "notify": "{there.url}"}}',
        f'task --notify {there.url} checksum {{"path": "/etc/passwd"}}',
        f"run --notify={there.url} --array 3 -- test $EVENLY_ARRAY_INDEX != 1",
    ]
    tickets = client.submit(*lines)
    (late,) = client.submit(f"run --notify {there.url} --after {tickets[0]} -- echo never")
    results = client.wait(*tickets, late)
    for result in results:
        came = there.first(result["ticket"])
        assert came.object == result
        assert came.headers["content-type"] == "application/json"
        assert came.headers["evenly-delivery"] == f"{result['ticket']}-done"
    assert there.first(tickets[0]).path == "/a?b=c"
    assert there.first(late).object["reason"] == f"not started: it comes after {tickets[0]}, which failed"
    assert [each["outcome"] for each in there.first(tickets[3]).object["jobs"]].count("failed") == 1
    await_none_pending(client)
    assert len(there.came) == len(results), "the jobs of the array have none of their own"


def test_a_job_that_is_cancelled_before_it_started_is_told(client: Client, there: Receiver) -> None:
    (first,) = client.submit("600000")
    (ticket,) = client.submit(f"run --notify {there.url} --after {first} -- echo never")
    client.ask_json(f"cancel {ticket}")
    assert there.first(ticket).object["outcome"] == "cancelled"
    client.ask_json(f"cancel {first}")


def test_it_is_sent_again_until_it_is_taken_with_the_same_delivery_id(
    client: Client, there: Receiver
) -> None:
    there.answers = [500, 302]
    (ticket,) = client.submit(f"run --notify {there.url} -- echo x")
    eventually(lambda: len(there.of(ticket)) == 3, "two tries fail, the third does not")
    await_none_pending(client)
    came = there.of(ticket)
    assert {delivery.path for delivery in came} == {"/"}
    assert len({delivery.headers["evenly-delivery"] for delivery in came}) == 1
    assert len({delivery.body for delivery in came}) == 1
    stamps = [int(delivery.headers["evenly-timestamp"]) for delivery in came]
    assert stamps == sorted(stamps)


def test_one_that_is_gone_is_not_asked_again(node: Node, client: Client, there: Receiver) -> None:
    there.answers = [410]
    (ticket,) = client.submit(f"run --notify {there.url} -- echo x")
    there.first(ticket)
    await_none_pending(client)
    assert len(there.of(ticket)) == 1
    assert f"the notice of {ticket} to {there.url} is given up: it answered with status 410" in node.said


def test_receivers_that_hang_cost_one_that_does_not_nothing(client: Client, there: Receiver) -> None:
    """More of them than there are places: the kernel connects, and nobody ever answers."""
    (ticket,) = client.submit(f"run --notify {there.url} -- true")
    there.first(ticket)
    await_none_pending(client)
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2 * NOTICES_AT_ONCE)
        ]
        urls = [f"http://127.0.0.1:{server.getsockname()[1]}/" for server in servers]
        stuck = client.submit(*[f"run --notify {url} -- true" for url in urls for _ in range(3)])
        client.wait(*stuck)
        began = time.monotonic()
        tickets = client.submit(*[f"run --notify {there.url} -- true"] * 20)
        for ticket in tickets:
            there.first(ticket)
        assert time.monotonic() - began < NOTICE_TIMEOUT, "none of those that hang has had its time"
        assert pending(client) >= len(stuck)


def test_what_is_pending_survives_that_its_node_is_killed(cluster: Cluster, node: Node) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with node.json_client() as client:
        tickets = client.submit(*[f"run --notify {url} -- echo {number}" for number in range(20)])
        results = client.wait(*tickets)
        assert pending(client) == 20
    node.kill()
    node.start()
    with receiver(port) as there:
        for result in results:
            assert there.first(result["ticket"]).object == result
        with node.json_client() as client:
            await_none_pending(client)
        assert len(there.came) == 20


def test_a_node_that_dies_between_delivery_and_its_record_delivers_it_again(
    cluster: Cluster, node: Node, there: Receiver
) -> None:
    """As one delivery, which its receiver can tell."""
    node.terminate()
    node.environment[VARIABLE] = "notice.sent"
    node.start()
    del node.environment[VARIABLE]
    with node.json_client() as client:
        (ticket,) = client.submit(f"run --notify {there.url} -- echo x")
    assert node.wait() == -signal.SIGKILL
    assert len(there.of(ticket)) == 1
    node.start()
    eventually(lambda: len(there.of(ticket)) == 2, "it is told again")
    first, second = there.of(ticket)
    assert first.headers["evenly-delivery"] == second.headers["evenly-delivery"]
    assert first.body == second.body
    with node.json_client() as client:
        await_none_pending(client)


def test_a_node_that_is_stopped_does_not_wait_for_a_receiver_that_hangs(
    node: Node, client: Client, there: Receiver
) -> None:
    there.answers = [there.hang]
    (ticket,) = client.submit(f"run --notify {there.url} -- echo x")
    there.first(ticket)
    assert node.terminate(within=8.0) == 0
    node.start()
    eventually(lambda: len(there.of(ticket)) == 2, "it is told again")


def test_the_secret_is_not_in_the_environment_of_jobs(client: Client, there: Receiver) -> None:
    (ticket,) = client.submit(f"run --notify {there.url} -- env")
    came = there.first(ticket)
    assert "EVENLY_TICKET" in came.object["stdout"]
    assert SECRET not in came.object["stdout"]


def test_a_receiver_can_verify_it_as_documented(client: Client, there: Receiver) -> None:
    text = (ROOT / "docs/client-protocol.md").read_text()
    code = next(
        block for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.M) if "def is_genuine" in block
    )
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code), names)
    is_genuine = names["is_genuine"]
    (ticket,) = client.submit(f"run --notify {there.url} -- echo x")
    came = there.first(ticket)
    headers = Message()
    for name, value in came.headers.items():
        headers[name] = value
    assert is_genuine(SECRET, headers, came.body)
    assert not is_genuine("other", headers, came.body)
    assert not is_genuine(SECRET, headers, came.body + b" ")
    headers.replace_header("Evenly-Timestamp", "1")
    assert not is_genuine(SECRET, headers, came.body)
    del headers["Evenly-Signature"]
    assert not is_genuine(SECRET, headers, came.body)
