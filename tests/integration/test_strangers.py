"""Who knocks at the balancer's port: strangers never count as nodes, and nodes that may not join hear why."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator

import msgpack
import pytest

from protocol.frames import FrameDecoder, encode_frame
from protocol.job import Ended, Report, Sleep
from protocol.messages import PROTOCOL_VERSION, Error, Info, Job, JobItem, Query, Result, decode, encode
from support import PATIENCE, Client, Cluster, Node, eventually

Make = Callable[..., Cluster]
NOISE = random.Random(2).randbytes(3000)
TICKET = "FORGED0000000000"


@pytest.fixture
def alpha(shared_cluster: Cluster) -> Node:
    return shared_cluster.nodes["alpha"]


@contextlib.contextmanager
def knock(cluster: Cluster) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", cluster.port), PATIENCE) as stranger:
        yield stranger


def told(stranger: socket.socket) -> list[Error]:
    """The messages that come until the balancer closes; all of them must be ERROR."""
    decoder, messages = FrameDecoder(), []
    with contextlib.suppress(ConnectionResetError):
        while data := stranger.recv(65536):
            messages += [decode(body) for body in decoder.feed(data)]
    assert all(isinstance(message, Error) for message in messages), messages
    return messages  # type: ignore[return-value]


def stranger_lines(cluster: Cluster) -> list[str]:
    return [line for line in cluster.balancer.said.splitlines() if "stranger" in line]


def assert_unharmed(cluster: Cluster, node: Node) -> None:
    """The cluster is what it was, and works."""
    with node.json_client() as client:
        nodes = client.ask_json("nodes")["nodes"]
        assert sorted(each["name"] for each in nodes) == ["alpha", "beta", "gamma"]
        assert all(each["connected"] for each in nodes)
        results = client.wait(*client.submit("0", "run echo fine", "0"))
        assert [result["outcome"] for result in results] == ["succeeded"] * 3
        assert {result["node"] for result in results} <= {"alpha", "beta", "gamma"}


def message(kind: str, status: int, payload: object) -> bytes:
    return encode_frame(msgpack.packb((kind, status, payload)))


def hello(**changes: object) -> bytes:
    fields = {
        "version": PROTOCOL_VERSION,
        "node_id": "stranger",
        "instance": "one",
        "name": "stranger",
        "slots": 1,
        "held": [],
        "running": [],
        "finished": [],
    }
    return message("HELLO", 200, list((fields | changes).values()))


SAID = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "text beginning 'GET '"),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + NOISE[:200], "at most"),
    "a client's line": (b"json\nrun rm -rf /\n", "client port"),
    "noise": (NOISE, "at most"),
    "a huge length": (b"\xff\xff\xff\xff" + b"x" * 1000, "4294967295 bytes"),
    "a length over what strangers may send": ((256 * 1024 + 1).to_bytes(4, "big"), "at most 262144"),
    "an empty frame": (b"\0\0\0\0", "empty frame"),
    "a frame of noise": (encode_frame(b"\xc1" + NOISE), "no MessagePack"),
    "a frame of a number": (encode_frame(b"\x05"), "[type, status, payload]"),
    "a frame that nests deeply": (encode_frame(b"\x91" * 100_000), "no MessagePack"),
    "an array that is said to be huge": (encode_frame(b"\xdd\xff\xff\xff\xff"), "no MessagePack"),
    "an unknown message": (message("LEADER", 200, None), "no message of type 'LEADER'"),
    "INFO before HELLO": (encode(Info(0, 0, 1000, 0.0, 0)), "HELLO comes first"),
    "a negative INFO": (message("INFO", 200, (-1000, 0, 0, 0.0, 0)), "queue size"),
    "JOB before HELLO": (encode(Job([JobItem(TICKET, 0, 1.0, Sleep(0).pack())])), "HELLO comes first"),
    "a query for nodes before HELLO": (encode(Query(1, "nodes")), "HELLO comes first"),
    "another version": (hello(version=99), "protocol version 99"),
    "HELLO without slots": (hello(slots=0), "slots"),
    "HELLO with a bad name": (hello(name="two words"), "name"),
    "HELLO with a field too many": (hello(more=1), "8 fields"),
    "HELLO that holds bad tickets": (hello(held=[["x", 1]]), "attempt"),
}


@pytest.mark.parametrize("what", SAID)
def test_a_stranger_is_told_why_and_shut_out(shared_cluster: Cluster, alpha: Node, what: str) -> None:
    data, reason = SAID[what]
    before = len(stranger_lines(shared_cluster))
    with knock(shared_cluster) as stranger:
        stranger.sendall(data)
        (error,) = told(stranger)
    assert reason in error.reason
    assert 400 <= error.status < 500
    lines = eventually(lambda: stranger_lines(shared_cluster)[before:], "a line in the log")
    assert len(lines) == 1
    assert reason in lines[0]
    assert "stranger at 127.0.0.1:" in lines[0]
    assert_unharmed(shared_cluster, alpha)


def test_a_frame_that_breaks_off_costs_one_line(shared_cluster: Cluster, alpha: Node) -> None:
    before = len(stranger_lines(shared_cluster))
    with knock(shared_cluster) as stranger:
        stranger.sendall(encode(Info(0, 0, 0, 0.0, 0))[:-3])
    (line,) = eventually(lambda: stranger_lines(shared_cluster)[before:], "a line in the log")
    assert "in the middle of a frame" in line
    assert_unharmed(shared_cluster, alpha)


def test_who_comes_and_goes_without_a_word_costs_nothing(shared_cluster: Cluster, alpha: Node) -> None:
    before = len(stranger_lines(shared_cluster))
    for _ in range(100):
        with knock(shared_cluster):
            pass
    assert_unharmed(shared_cluster, alpha)
    assert len(stranger_lines(shared_cluster)) == before


def test_silent_strangers_are_shut_out_after_a_while_and_never_are_nodes(
    shared_cluster: Cluster, alpha: Node
) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(knock(shared_cluster)) for _ in range(64)]
        with knock(shared_cluster) as one_more:
            (error,) = told(one_more)
            assert (error.status, "without HELLO" in error.reason) == (503, True)
        assert_unharmed(shared_cluster, alpha)
        for stranger in silent:
            (error,) = told(stranger)
            assert (error.status, "no HELLO within" in error.reason) == (408, True)
    assert_unharmed(shared_cluster, alpha)


def test_one_that_sends_its_hello_too_slowly_is_silent_too(shared_cluster: Cluster) -> None:
    with knock(shared_cluster) as stranger:
        stranger.sendall(hello()[:10])
        (error,) = told(stranger)
    assert error.status == 408


def test_a_forged_result_of_a_real_ticket_is_not_believed(shared_cluster: Cluster, alpha: Node) -> None:
    with alpha.json_client() as client:
        (ticket,) = client.submit("run sleep 1; echo true")
        eventually(lambda: client.ask_json(f"status {ticket}")["state"] == "running", "it runs")
        forged = Result([Ended(ticket, 1, "succeeded", Report("mallory", 1.0, 2.0, 0, b"forged").pack())])
        with knock(shared_cluster) as stranger:
            stranger.sendall(encode(forged))
            (error,) = told(stranger)
            assert "HELLO comes first" in error.reason
        (result,) = client.wait(ticket)
        assert (result["stdout"], result["attempt"]) == ("true\n", 1)


def test_a_node_cannot_report_what_another_one_runs(make_cluster: Make) -> None:
    cluster = make_cluster(DISPATCH_PERIOD=600_000)
    (alpha,) = cluster.start("alpha", slots=1)
    with alpha.json_client() as client:
        (ticket,) = client.submit("run sleep 1; echo true")
        eventually(lambda: client.ask_json(f"status {ticket}")["state"] == "running", "it runs")
        with knock(cluster) as mallory:
            mallory.sendall(hello(name="mallory"))
            forged = Ended(ticket, 1, "succeeded", Report("mallory", 1.0, 2.0, 0, b"forged").pack())
            mallory.sendall(encode(Result([forged])))
            (result,) = client.wait(ticket)
        assert (result["stdout"], result["node"]) == ("true\n", "alpha")


def test_a_node_that_breaks_the_protocol_loses_its_link_alone(make_cluster: Make) -> None:
    cluster = make_cluster(DISPATCH_PERIOD=600_000, NODE_GRACE_PERIOD=0)
    (alpha,) = cluster.start("alpha", slots=1)
    with alpha.json_client() as client, knock(cluster) as mallory:
        mallory.sendall(hello(name="mallory"))
        eventually(lambda: len(cluster.held(alpha)) == 2, "it is a node")
        tickets = client.submit("0", "0", "0", "0")
        mallory.sendall(b"\xff" * 100)
        assert {each["outcome"] for each in client.wait(*tickets)} == {"succeeded"}
        assert {each["node"] for each in client.wait(*tickets)} == {"alpha"}
        assert set(cluster.held(alpha)) == {"alpha"}


class TestNodesThatMayNotJoin:
    def test_a_second_node_of_the_same_name_hears_why(self, make_cluster: Make) -> None:
        cluster = make_cluster()
        (alpha,) = cluster.start("alpha")
        twin = cluster.add_node("twin")
        twin.argv[twin.argv.index("--name") + 1] = "alpha"
        twin.start()
        eventually(lambda: "the name alpha is taken" in twin.said, "the reason is in its log")
        assert set(cluster.held(alpha)) == {"alpha"}
        assert "refused" in cluster.balancer.said
        with twin.json_client() as client:
            assert client.ask_json("nodes")["note"]
            (ticket,) = client.submit("0")
            alpha.terminate()
            assert client.wait(ticket)[0]["outcome"] == "succeeded"

    def test_a_copied_data_directory_is_found_out(self, make_cluster: Make) -> None:
        cluster = make_cluster()
        (alpha,) = cluster.start("alpha")
        copy = cluster.add_node("copy")
        shutil.copytree(alpha.data, copy.data)
        copy.start()
        eventually(lambda: "a copied data directory?" in copy.said, "the reason is in its log")
        assert set(cluster.held(alpha)) == {"alpha"}

    def test_one_node_over_the_limit_hears_why_and_joins_when_one_leaves(self, make_cluster: Make) -> None:
        cluster = make_cluster(MAX_NUM_NODES=2)
        alpha, beta = cluster.start("alpha", "beta")
        gamma = cluster.add_node("gamma")
        gamma.start()
        eventually(lambda: "MAX_NUM_NODES=2" in gamma.said, "the reason is in its log")
        with gamma.json_client() as client:
            (ticket,) = client.submit("0")
            assert set(cluster.held(alpha)) == {"alpha", "beta"}
            beta.kill()
            assert client.wait(ticket)[0]["outcome"] == "succeeded"
        assert set(cluster.held(alpha)) == {"alpha", "gamma"}

    def test_both_logs_say_each_reason_once_however_often_it_tries(self, make_cluster: Make) -> None:
        cluster = make_cluster(MAX_NUM_NODES=1)
        (alpha,) = cluster.start("alpha")
        beta = cluster.add_node("beta")
        beta.start()
        eventually(lambda: "MAX_NUM_NODES=1" in beta.said, "it is refused")
        time.sleep(2.5)  # some more attempts, as a rule
        alpha.terminate()
        cluster.await_connected("beta")
        assert cluster.balancer.said.count("node beta refused") == 1
        assert beta.said.count("MAX_NUM_NODES=1") == 1


def test_a_node_that_is_no_node_but_a_client_gets_no_further(shared_cluster: Cluster, alpha: Node) -> None:
    """Frames on a client's port are lines like any others."""
    with Client(alpha.port) as client:
        client.socket.sendall(hello() + b"\nexit\n")
        assert len(client.rest().splitlines()) == 2
    assert_unharmed(shared_cluster, alpha)
