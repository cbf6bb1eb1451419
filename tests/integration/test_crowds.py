"""Many clients, many lines, and clients that behave badly: nobody waits for anybody else."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from support import PATIENCE, Client, Cluster, Node, eventually, ticket_of

MIB = 1024 * 1024


@pytest.fixture
def node(shared_cluster: Cluster) -> Node:
    return shared_cluster.nodes["alpha"]


def memory_of(node: Node) -> int:
    """Resident bytes."""
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def test_three_hundred_clients_at_once_with_pipelined_lines(node: Node) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for _ in range(300)]
        for number, client in enumerate(clients):
            client.send("json", *["0"] * 10, f"run echo {number}", "nonsense", "10")
        tickets: list[list[str]] = []
        for client in clients:
            assert client.object() == {"json": True}
            replies = [client.object() for _ in range(13)]
            assert "error" in replies.pop(11)
            tickets.append([reply["ticket"] for reply in replies])
        everyone = [ticket for each in tickets for ticket in each]
        assert len(set(everyone)) == 300 * 12
        for client, own in zip(clients, tickets, strict=True):
            client.send(*(f"wait {ticket}" for ticket in own))
        for number, (client, own) in enumerate(zip(clients, tickets, strict=True)):
            results = [client.object() for _ in own]
            assert [result["ticket"] for result in results] == own
            assert {result["outcome"] for result in results} == {"succeeded"}
            assert results[10]["stdout"] == f"{number}\n"


def test_five_thousand_lines_and_five_thousand_waits_on_one_connection(node: Node) -> None:
    with node.json_client() as client:
        tickets = client.submit(*["0"] * 5000)
        assert len(set(tickets)) == 5000
        results = client.wait(*tickets)
        assert [result["ticket"] for result in results] == tickets
        assert {(result["outcome"], result["attempt"]) for result in results} == {("succeeded", 1)}


def test_submissions_and_waits_may_be_pipelined_by_clients_that_read_late(node: Node) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(node.json_client()) for _ in range(10)]
        for client in clients:
            client.send(*["0"] * 1000)
        for client in reversed(clients):
            tickets = [client.object()["ticket"] for _ in range(1000)]
            assert client.wait(tickets[-1])[0]["outcome"] == "succeeded"


@pytest.mark.parametrize("line", ["help", "getall", "nodes", "result", "0"])
def test_a_client_that_never_reads_delays_nobody_and_costs_little_memory(node: Node, line: str) -> None:
    with node.json_client() as other:
        (big,) = other.submit("run head -c 1000000 /dev/zero | tr '\\0' a")
        other.wait(big)
        line = f"r{big}" if line == "result" else line
        before = memory_of(node)
        with deaf_client(node) as deaf:
            deaf.setblocking(False)
            data = f"{line}\n".encode() * 5000
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < 4 * len(data):
                    sent += deaf.send(data[sent % len(data) :])
            for _ in range(30):
                assert other.wait(*other.submit("0", "0"))[1]["outcome"] == "succeeded"
            assert memory_of(node) - before < 64 * MIB


def test_a_client_that_reads_late_misses_nothing(make_cluster: Callable[..., Cluster]) -> None:
    (node,) = make_cluster().start("alpha")
    with node.json_client() as client:
        (ticket,) = client.submit("run head -c 5000 /dev/zero | tr '\\0' b")
        client.wait(ticket)
        lines = ["help", f"r{ticket}", "nodes", "0", "getall", f"wait {ticket}"] * 200
        sender = threading.Thread(target=client.send, args=lines)
        sender.start()
        try:
            with node.json_client() as other:
                for _ in range(10):
                    other.wait(*other.submit("0"))
            for line in lines:
                key = {"help": "help", "nodes": "nodes", "0": "ticket", "getall": "results"}.get(
                    line, "stdout"
                )
                reply = json.loads(client.line())
                assert key in reply, (line, reply)
        finally:
            client.socket.shutdown(socket.SHUT_RD)
            sender.join(PATIENCE)
        assert not sender.is_alive()


@contextlib.contextmanager
def deaf_client(node: Node):  # type: ignore[no-untyped-def]
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", node.port))
        yield deaf


def test_one_client_over_the_limit_is_told_so(
    make_cluster: Callable[..., Cluster],
) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    cluster = make_cluster()
    (node,) = cluster.start("alpha")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for _ in range(2000)]
        assert ticket_of(clients[-1].ask("0"))
        with node.client() as refused:
            assert "2000 clients already" in refused.rest().decode()
        clients.pop().close()

        def served() -> bool:
            with Client(node.port) as late:
                late.send("0", "exit")
                return b"Ticket" in late.rest()

        eventually(served, "there is room again")
        assert ticket_of(clients[0].ask("0"))
