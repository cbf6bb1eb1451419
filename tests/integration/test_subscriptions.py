"""Lines for jobs that end, by way of a real node."""

from __future__ import annotations

from collections.abc import Callable

from support import Cluster, eventually, marker


def test_a_subscriber_reads_a_line_for_each_job_with_its_tag(shared_cluster: Cluster) -> None:
    node, tag = shared_cluster.nodes["alpha"], marker()
    with node.client() as subscriber, node.json_client() as program, node.json_client() as client:
        assert subscriber.ask(f"subscribe {tag}") == f"Subscribed: {tag}"
        assert program.ask_json(f"subscribe {tag}") == {"subscribed": tag}
        (other,) = client.submit("run --tag another -- true")
        client.wait(other)
        (good,) = client.submit(f"run --tag {tag} -- true")
        client.wait(good)
        (bad,) = client.submit(f"run --tag {tag} -- exit 3")
        assert subscriber.line().startswith(f"Done: {good} succeeded, exit code 0, in ")
        assert subscriber.line().startswith(f"Done: {bad} failed, exit code 3, in ")
        done = [program.object()["done"] for _ in range(2)]
        assert [(each["ticket"], each["outcome"]) for each in done] == [(good, "succeeded"), (bad, "failed")]
        assert done[1] == client.ask_json(f"status {bad}")
        assert subscriber.ask("unsubscribe") == "Unsubscribed."
        (ticket,) = client.submit(f"run --tag {tag} -- true")
        client.wait(ticket)
        assert program.object()["done"]["ticket"] == ticket
        assert subscriber.ask(f"status {ticket}").startswith("Status: done"), "it reads no more of them"


def test_all_jobs_of_this_node_and_an_array_with_its_jobs(
    make_cluster: Callable[..., Cluster],
) -> None:
    alpha, beta = make_cluster().start("alpha", "beta")
    with alpha.json_client() as client, beta.client() as elsewhere:
        client.ask_json("subscribe *")
        elsewhere.ask(f"wait {elsewhere.submit('0')[0]}")
        client.send("run --array 3 -- true")
        array = client.object()["ticket"]
        ended = [client.object()["done"] for _ in range(4)]
        assert ended[-1]["ticket"] == array
        assert ended[-1]["array"]["succeeded"] == 3
        client.send(f"result {array}")
        jobs = {job["ticket"] for job in client.object()["jobs"]}
        assert {each["ticket"] for each in ended} == {array, *jobs}


def test_one_who_does_not_read_is_told_how_many_were_left_out(make_cluster: Callable[..., Cluster]) -> None:
    """Without a balancer: what is cancelled while it waits ends at once."""
    node = make_cluster().add_node("alpha")
    node.start()
    count = 100_000
    with node.json_client() as client, node.json_client() as slow:
        (first,) = client.submit("600000")
        (array,) = client.submit(f"run --array {count} --after {first} -- true")
        slow.send("subscribe *")
        assert slow.object() == {"subscribed": "*"}
        assert client.ask_json(f"cancel {array}")["cancel"] == "done"
        eventually(lambda: client.ask_json("stats")["node"]["cancelled"] == count + 1, "all have ended")
        read = 0
        while "done" in (line := slow.object()):
            read += 1
        assert read + line["left_out"] == count + 1
        client.submit(f"run --after {first} -- true")
        assert client.ask_json(f"cancel {first}")["cancel"] == "requested", "it goes on as before"
