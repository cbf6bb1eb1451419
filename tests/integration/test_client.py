"""The Python client, by way of real nodes."""

from __future__ import annotations

import asyncio
import math
import operator
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evenly import AsyncClient, CallFailed, Client, ClusterExecutor, JobFailed, Refused, UnknownTicket
from evenly.client.model import Status
from support import Cluster, eventually, marker


def addresses(cluster: Cluster) -> list[str]:
    return [f"127.0.0.1:{node.port}" for node in cluster.nodes.values()]


@pytest.fixture
def client(shared_cluster: Cluster) -> Iterator[Client]:
    with Client(addresses(shared_cluster)) as client:
        yield client


def test_commands_tasks_and_sleeps(client: Client) -> None:
    job = client.submit("echo out; echo err >&2; exit 3", env={"A": "b"}, name="mine", tag=marker())
    result = client.wait(job)
    assert (result.outcome, result.exit_code, result.stdout, result.stderr) == ("failed", 3, "out\n", "err\n")
    with pytest.raises(JobFailed):
        result.check()
    task = client.submit(task="checksum", payload={"path": os.devnull})
    assert client.wait(task).check().value.startswith("e3b0c44298fc")
    assert client.wait(client.submit(sleep=1)).ok
    assert client.wait(client.submit("cat", stdin="in")).stdout == "in"
    with pytest.raises(Refused, match="--time takes seconds"):
        client.submit("true", time=-1)
    with pytest.raises(UnknownTicket):
        client.wait("A" * 16)


def test_an_array_has_its_jobs_and_their_files(client: Client, tmp_path: Path) -> None:
    array = client.submit('echo $EVENLY_ARRAY_INDEX | tee "$EVENLY_RESULT_DIR/x"', array=3, result_dir="a")
    assert client.wait(array).ok
    jobs = list(client.jobs(array.ticket))
    assert [result.stdout for result in client.results(jobs)] == ["0\n", "1\n", "2\n"]
    assert [each.ticket for each in client.jobs(jobs[1])] == [jobs[1].ticket]
    assert [file.path for file in client.files(array)] == ["0/x", "1/x", "2/x"]
    assert [path.read_text() for path in client.fetch(array, tmp_path)] == ["0\n", "1\n", "2\n"]
    assert (tmp_path / "2" / "x").exists()


def test_a_ticket_of_another_node_is_found(shared_cluster: Cluster, client: Client) -> None:
    with Client(addresses(shared_cluster)[-1]) as other:
        ticket = other.submit("echo there").ticket
    assert client.wait(ticket).stdout == "there\n"
    after = client.submit("echo after", after=ticket)
    assert client.wait(after).ok
    assert client.status(after).is_done
    assert [chunk.data for chunk in client.tail(after.ticket)] == [b"after\n"]


def test_waits_cost_no_connection_each_and_hold_up_nobody(shared_cluster: Cluster) -> None:
    async def work() -> None:
        async with AsyncClient(addresses(shared_cluster)) as client:
            slow = await client.submit("sleep 600")
            jobs = [job async for job in client.submit_many(f"echo {n}" for n in range(500))]
            waiting = asyncio.ensure_future(client.wait(slow))
            results = await asyncio.gather(*(client.wait(job) for job in jobs))
            assert [result.stdout for result in results] == [f"{n}\n" for n in range(500)]
            seen = {result.ticket async for result in client.as_completed(jobs)}
            assert seen == {job.ticket for job in jobs}
            in_order = [result.stdout async for result in client.results(jobs)]
            assert in_order == [f"{n}\n" for n in range(500)]
            assert not waiting.done()
            assert await client.cancel(slow) == "done"
            assert (await waiting).outcome == "cancelled"

    asyncio.run(work())


def test_map_over_items(client: Client, tmp_path: Path) -> None:
    names = ["a b.txt", "it's.txt", "$HOME.txt"]
    for name in names:
        (tmp_path / name).write_text(name)
    results = client.map("cat {}; echo :{/.}", [tmp_path / name for name in names])
    assert [result.check().stdout for result in results] == [f"{n}:{Path(n).stem}\n" for n in names]


def test_files_go_with_a_job_and_come_back(client: Client, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(os.urandom(2_000_000))
    line = 'mkdir "$EVENLY_RESULT_DIR/sub"; cp in/data "$EVENLY_RESULT_DIR/sub/a b"; echo done'
    jobs = [client.submit(line, file={"in/data": data}, result_dir=marker()) for _ in range(3)]
    for result in client.results(jobs):
        assert result.check().stdout == "done\n"
        (file,) = result.files
        assert (file.path, file.size) == ("sub/a b", 2_000_000)
    here = tmp_path / "here"
    assert client.fetch(jobs[0].ticket, here) == [here / "sub/a b"]
    assert (here / "sub/a b").read_bytes() == data.read_bytes()


def test_output_comes_while_the_job_runs(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = client.submit(f"echo one; until [ -e {gate} ]; do sleep 0.02; done; echo two >&2; printf '\\377'")
    chunks = client.tail(job)
    assert next(chunks).data == b"one\n"
    gate.touch()
    rest = list(chunks)
    assert {(chunk.stream, chunk.data) for chunk in rest} == {("stderr", b"two\n"), ("stdout", b"\xff")}


def test_a_pool_s_program_runs_on_the_cluster(shared_cluster: Cluster) -> None:
    with ClusterExecutor(addresses(shared_cluster)) as executor:
        assert list(executor.map(operator.mul, range(50), range(50))) == [n * n for n in range(50)]
        with pytest.raises(ValueError, match="math domain error") as caught:
            executor.submit(math.sqrt, -1).result()
        assert "ValueError: math domain error" in caught.value.__notes__[0]
        with pytest.raises(CallFailed, match="more than 262144"):
            executor.submit(operator.mul, b"x", 300_000).result()
        with pytest.raises(SystemExit):
            executor.submit(operator.call, exit, 3).result()


def test_threads_share_a_client(client: Client) -> None:
    said: dict[int, str] = {}

    def work(number: int) -> None:
        said[number] = client.wait(client.submit(f"echo {number}")).stdout

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {n: f"{n}\n" for n in range(8)}


# --- nodes that die ----------------------------------------------------------------------------------------


def test_a_node_is_killed_and_comes_back_while_it_is_waited_for(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = make_cluster(NODE_GRACE_PERIOD=60_000)
    node, _ = cluster.start("alpha", "beta")
    gate = tmp_path / "gate"
    line = f"echo here; until [ -e {gate} ]; do sleep 0.02; done"
    with Client(f"127.0.0.1:{node.port}") as client:
        jobs = [client.submit(line) for _ in range(3)]
        chunks = client.tail(jobs[0])
        assert next(chunks).data == b"here\n"
        results = client.results(jobs)
        node.kill()
        gate.touch()
        node.start()
        assert [result.outcome for result in results] == ["succeeded"] * 3
        assert b"".join(chunk.data for chunk in chunks) in (b"", b"here\n"), "of a second attempt, all again"
        assert client.submit("true").node == jobs[0].node


def test_the_next_node_takes_over(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    alpha, beta = cluster.start("alpha", "beta")
    with Client(addresses(cluster)) as client:
        assert client.submit("true").node.endswith(f":{alpha.port}")
        alpha.kill()
        job = client.submit("echo over")
        assert job.node.endswith(f":{beta.port}")
        alpha.start()
        cluster.await_connected("alpha", "beta")
        assert eventually(lambda: client.wait(job, timeout=60)).stdout == "over\n"


def test_a_node_dies_among_submissions_and_none_is_made_twice(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(NODE_GRACE_PERIOD=2000)
    alpha, *_ = cluster.start("alpha", "beta", "gamma")
    tag, count = marker(), 3000
    with Client(addresses(cluster)) as client:
        jobs = []
        for job in client.submit_many({"run": f"echo {n}", "tag": tag} for n in range(count)):
            jobs.append(job)
            if len(jobs) == 500:
                alpha.kill()
        ours = {job.ticket for job in jobs}
        assert len(ours) == count
        alpha.start()
        assert [result.stdout for result in client.results(jobs)] == [f"{n}\n" for n in range(count)]

        def others() -> list[Status]:
            listed = {status.ticket: status for status in client.list(tag=tag, limit=2 * count)}
            assert listed.keys() >= ours
            return [status for ticket, status in listed.items() if ticket not in ours]

        # What was on a disk when its node died, and was shown to nobody, ends without a start.
        eventually(lambda: all(each.is_done for each in others()), "nothing else is open")
        assert {(each.outcome, each.started_at) for each in others()} <= {("cancelled", None)}
