"""The asynchronous client, against nodes that are not real and break where it hurts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from evenly.client import (
    AsyncClient,
    ClientClosed,
    EvenlyError,
    Job,
    JobFailed,
    JobTimeout,
    NodesUnreachable,
    Refused,
    UnknownTicket,
)

from .fake_node import FakeCluster, FakeNode


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (what is waited for is not ours)
            await asyncio.sleep(0.001)


@pytest.fixture
async def client(cluster: FakeCluster, node: FakeNode) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(cluster.addresses) as client:
        yield client


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, a node that answers is heard."""
    monkeypatch.setattr("evenly.client.deadline.LAST_ASK", 60.0)


# --- jobs --------------------------------------------------------------------------------------------------


async def test_a_job_is_submitted_with_its_options_and_a_key(client: AsyncClient, node: FakeNode) -> None:
    job = await client.submit("make", time=60, env={"A": "b"}, cwd=Path("/src"), at_most_once=True)  # type: ignore[arg-type]
    assert job.node == node.address
    given = node.jobs[job.ticket]["job"]
    assert len(given.pop("key")) > 16
    assert given == {"run": "make", "time": 60, "env": {"A": "b"}, "cwd": "/src", "at_most_once": True}


async def test_tasks_and_sleeps(client: AsyncClient, node: FakeNode) -> None:
    task = await client.submit(task="compress", payload={"images": ["a"]}, retries=1)
    plain = await client.submit(task="compress")
    sleep = await client.submit(sleep=250)
    given = [node.jobs[job.ticket]["job"] for job in (task, plain, sleep)]
    assert given[0].items() >= {"task": "compress", "payload": {"images": ["a"]}, "retries": 1}.items()
    assert given[1]["payload"] == {}
    assert given[2]["sleep"] == 250


@pytest.mark.parametrize("given", [{}, {"run": "a", "sleep": 1}, {"run": "a", "payload": {}}])
async def test_a_job_is_one_thing(client: AsyncClient, given: dict[str, object]) -> None:
    with pytest.raises(EvenlyError, match="task"):
        await client.submit(**given)  # type: ignore[arg-type]


async def test_what_a_node_refuses_and_what_it_would(client: AsyncClient, node: FakeNode) -> None:
    with pytest.raises(Refused, match="run needs a command line"):
        await client.submit("refuse")
    with pytest.raises(Refused, match="a node takes 65536"):
        await client.submit("x" * 70_000)
    with pytest.raises(EvenlyError, match="as JSON"):
        await client.submit(task="a", payload={"x": object()})
    assert len(node.jobs) == 0


async def test_results_say_how_it_ended(client: AsyncClient, node: FakeNode) -> None:
    good, bad = await client.submit("true"), await client.submit("false")
    result = await client.wait(good)
    assert (result.ok, result.exit_code, result.stdout) == (True, 0, "did true\n")
    assert result.check() is result
    failed = await client.wait(bad.ticket)
    with pytest.raises(JobFailed, match=f"{bad} failed, exit code 1") as caught:
        failed.check()
    assert caught.value.result is failed


async def test_a_wait_ends_when_the_job_does(client: AsyncClient, node: FakeNode) -> None:
    job = await client.submit("hold")
    assert await client.result(job) is None
    assert (await client.status(job)).state == "queued"
    waiting = asyncio.create_task(client.wait(job))
    await eventually(lambda: node.subscribers)
    with pytest.raises(JobTimeout, match=f"{job} has not ended within 0.01 s") as caught:
        await client.wait(job, timeout=0.01)
    assert isinstance(caught.value, TimeoutError)
    node.finish(job.ticket)
    assert (await waiting).ok
    assert (await client.status(job)).is_done


async def test_lines_that_were_left_out_are_asked_for(client: AsyncClient, node: FakeNode) -> None:
    job = await client.submit("hold")
    waiting = asyncio.create_task(client.wait(job))
    await eventually(lambda: f"result {job}" in node.lines)
    subscribers, node.subscribers = node.subscribers, set()
    node.finish(job.ticket)
    node.subscribers = subscribers
    node.leave_out()
    assert (await waiting).ok


async def test_nobody_listens_when_nobody_waits(client: AsyncClient, node: FakeNode) -> None:
    await client.wait(await client.submit("true"))
    await eventually(lambda: not node.subscribers)
    job = await client.submit("hold")
    waiting = asyncio.create_task(client.wait(job))
    await eventually(lambda: node.subscribers)
    node.finish(job.ticket)
    assert (await waiting).ok


async def test_as_completed_and_in_order(client: AsyncClient, node: FakeNode) -> None:
    jobs = [await client.submit(f"hold {n}") for n in range(3)] + [await client.submit("true")]
    seen: list[str] = []

    async def watch() -> None:
        nonlocal seen
        async for result in client.as_completed(jobs):
            seen += [result.ticket]

    watching = asyncio.create_task(watch())
    waiting = asyncio.create_task(client.wait(jobs))
    for job in (jobs[3], jobs[1], jobs[2], jobs[0]):
        if job is not jobs[3]:
            node.finish(job.ticket)
        await eventually(lambda job=job: job.ticket in seen)  # type: ignore[misc]
    await watching
    assert seen == [jobs[n].ticket for n in (3, 1, 2, 0)]
    assert [result.ticket for result in await waiting] == [job.ticket for job in jobs]


async def test_of_many_a_timeout_names_the_first(client: AsyncClient) -> None:
    jobs = [await client.submit("true"), await client.submit("hold"), await client.submit("hold")]
    with pytest.raises(JobTimeout, match=f"the first that has not is {jobs[1]}"):
        await client.wait(jobs, timeout=2)
    with pytest.raises(JobTimeout, match=f"{jobs[1]} and 1 more"):
        _ = [result async for result in client.as_completed(jobs, timeout=0.05)]


async def test_many_are_submitted_in_order_without_keeping_them(client: AsyncClient, node: FakeNode) -> None:
    count = 0

    def jobs() -> object:
        for number in range(12_000):
            assert number - count <= 5000, "no more than the window is taken ahead"
            yield f"true {number}"

    async for job in client.submit_many(jobs()):  # type: ignore[arg-type]
        assert node.jobs[job.ticket]["job"]["run"] == f"true {count}"
        count += 1
    assert count == 12_000


async def test_of_a_slow_iterable_each_job_comes_at_once(client: AsyncClient, node: FakeNode) -> None:
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def slowly() -> AsyncIterator[str]:
        while word := await queue.get():
            yield word

    jobs = client.submit_many(slowly())
    for word in ("true 1", "true 2"):
        queue.put_nowait(word)
        assert (await anext(jobs)).ticket in node.jobs
    queue.put_nowait("")
    with pytest.raises(StopAsyncIteration):
        await anext(jobs)


async def test_what_is_refused_among_many(client: AsyncClient) -> None:
    mixed = ["true", "refuse", {"run": "true"}]
    answers = [job async for job in client.try_submit_many(mixed)]
    assert [type(answer) for answer in answers] == [Job, Refused, Job]
    with pytest.raises(Refused):
        _ = [job async for job in client.submit_many(mixed)]


async def test_map_fills_the_items_in_and_keeps_their_order(client: AsyncClient, node: FakeNode) -> None:
    items = ["/a b/c.png", "it's.gif", Path("plain")]
    results = [result.stdout async for result in client.map("convert {} {.}.webp {#}", items)]
    assert results == [
        "did convert '/a b/c.png' '/a b/c'.webp 1\n",
        "did convert 'it'\"'\"'s.gif' 'it'\"'\"'s'.webp 2\n",
        "did convert plain plain.webp 3\n",
    ]
    payloads = [{"path": "a"}, {"path": "b"}]
    tickets = [result.ticket async for result in client.map(items=payloads, task="checksum", tag="t")]
    assert [node.jobs[ticket]["job"]["payload"] for ticket in tickets] == payloads


async def test_large_results_that_nobody_takes_leave_the_node_unread(
    client: AsyncClient, node: FakeNode
) -> None:
    jobs = [await client.submit("hold") for _ in range(40)]
    for job in jobs:
        node.finish(job.ticket, stdout="x" * 1_000_000)
    results = client.results(jobs)
    assert (await anext(results)).ticket == jobs[0].ticket
    rest = [result.ticket async for result in results]
    assert rest == [job.ticket for job in jobs[1:]]


async def test_cancel_explain_nodes_and_list(client: AsyncClient, node: FakeNode) -> None:
    job = await client.submit("hold", tag="t")
    assert (await client.explain(job))["why"] == "it waits"
    assert await client.cancel(job) == "done"
    assert await client.cancel(job) == "too late"
    assert (await client.wait(job)).outcome == "cancelled"
    assert await client.nodes() == [{"name": "n1"}]
    await client.submit("true")
    assert [each.ticket for each in await client.list(tag="t")] == [job.ticket]
    assert len(await client.list()) == 2
    assert len(await client.list(limit=1)) == 1


async def test_a_closed_client_says_so(cluster: FakeCluster, node: FakeNode) -> None:
    client = AsyncClient(node.address)
    job = await client.submit("hold")
    waiting = asyncio.create_task(client.wait(job))
    await eventually(lambda: node.subscribers)
    await client.close()
    with pytest.raises(ClientClosed):
        await waiting
    with pytest.raises(ClientClosed):
        await client.submit("true")


# --- nodes that fail ---------------------------------------------------------------------------------------


async def test_the_next_node_is_used_and_no_job_submitted_twice(cluster: FakeCluster) -> None:
    first, second = await cluster.start(2)
    async with AsyncClient(cluster.addresses) as client:
        await client.submit("true before")
        # It takes all, and loses the connection before it has told of most.
        first.replies_left = 100
        jobs = [job async for job in client.submit_many(f"hold {n}" for n in range(1000))]
        assert len({job.ticket for job in jobs}) == 1000
        submitted = first.submitted() + second.submitted()
        assert sorted(submitted) == sorted(["true before", *(f"hold {n}" for n in range(1000))])
        # Those that the first had taken are its own, as the second has told, by a name that is no address.
        assert {job.node for job in jobs} >= {first.address, ""}
        for job in jobs:
            assert job.node in ("", (first if job.ticket in first.jobs else second).address)
        for each in (*first.jobs, *second.jobs):
            (first if each in first.jobs else second).finish(each)
        results = [result.ticket async for result in client.results(jobs)]
        assert results == [job.ticket for job in jobs]


async def test_a_node_without_progress_is_left(cluster: FakeCluster) -> None:
    first, second = await cluster.start(2)
    async with AsyncClient(cluster.addresses, timeout=2) as client:
        assert (await client.submit("true")).node == first.address
        first.is_mute = True
        job = await client.submit("true")
        assert (job.node, list(first.jobs)[1:]) == ("", [job.ticket]), "it had taken it, and the other knows"
        assert (await client.submit("true")).node == second.address


async def test_a_node_that_stops_is_left(cluster: FakeCluster) -> None:
    first, second = await cluster.start(2)
    first.is_stopping = True
    async with AsyncClient(cluster.addresses) as client:
        assert (await client.submit("true")).node == second.address


async def test_nobody_is_there(cluster: FakeCluster) -> None:
    nodes = await cluster.start(2)
    for node in nodes:
        await node.stop()
    async with AsyncClient(cluster.addresses) as client:
        with pytest.raises(NodesUnreachable, match=r"no node can be reached.*refused.*refused"):
            await client.submit("true")
        with pytest.raises(NodesUnreachable):
            await client.wait("A" * 16)
        with pytest.raises(NodesUnreachable):
            _ = [chunk async for chunk in client.tail(Job("A" * 16, nodes[0].address))]
        with pytest.raises(NodesUnreachable):
            _ = [result async for result in client.map("true", "abc")]


async def test_what_is_no_node(cluster: FakeCluster) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(NodesUnreachable, match="is no node of Evenly: '220 mail'"):
                await client.submit("true")


async def test_a_node_that_comes_back_is_asked_again(cluster: FakeCluster, node: FakeNode) -> None:
    async with AsyncClient(node.address) as client:
        job, other = await client.submit("hold"), await client.submit("hold")
        waiting = asyncio.create_task(client.wait(job))
        many = asyncio.create_task(client.wait([other, job]))
        await eventually(lambda: node.subscribers and f"wait {job}" in [*node.lines, f"wait {job}"])
        await node.stop()
        submitting = asyncio.create_task(client.submit("true"))
        node.finish(job.ticket)
        node.finish(other.ticket)
        await node.start()
        assert (await waiting).ticket == job.ticket
        assert [result.ticket for result in await many] == [other.ticket, job.ticket]
        assert (await submitting).node == node.address


async def test_patience_ends(cluster: FakeCluster, node: FakeNode) -> None:
    async with AsyncClient(node.address, patience=0.2) as client:
        job = await client.submit("hold")
        waiting = asyncio.create_task(client.wait(job))
        await eventually(lambda: node.subscribers)
        await node.stop()
        with pytest.raises(NodesUnreachable):
            await waiting
        with pytest.raises(NodesUnreachable):
            await client.submit("true")


async def test_a_silent_node_is_noticed_by_who_waits(cluster: FakeCluster, node: FakeNode) -> None:
    async with AsyncClient(node.address, timeout=2) as client:
        job = await client.submit("hold")
        waiting = asyncio.create_task(client.wait(job))
        await eventually(lambda: node.subscribers)
        node.is_mute = True
        node.finish(job.ticket)  # nobody hears of it
        greeted = node.lines.count("json")
        # It is asked whether it is there, and then another connection is tried.
        await eventually(lambda: node.lines.count("json") >= greeted + 2)
        node.is_mute = False
        assert (await waiting).ok


async def test_a_ticket_alone_is_looked_for(cluster: FakeCluster) -> None:
    _, second = await cluster.start(2)
    async with AsyncClient(second.address) as client:
        job = await client.submit("true", tag="t")
    async with AsyncClient(cluster.addresses) as client:
        assert (await client.wait(job.ticket)).ok
        assert (await client.status(job.ticket.lower())).is_done
        assert [each.ticket for each in await client.list(tag="t")] == [job.ticket]
        with pytest.raises(UnknownTicket, match="no node knows the ticket AAAAAAAAAAAAAAAA"):
            await client.result("A" * 16)
        await second.stop()
        with pytest.raises(NodesUnreachable, match="no node that answers knows BBBBBBBBBBBBBBBB"):
            await AsyncClient(cluster.addresses, patience=0.1).result("B" * 16)


async def test_a_job_goes_where_those_before_it_are(cluster: FakeCluster) -> None:
    first, second = await cluster.start(2)
    async with AsyncClient(second.address) as client:
        before = await client.submit("true")
    async with AsyncClient(cluster.addresses) as client:
        for after in (before, [before], before.ticket):
            job = await client.submit("true", after=after)
            assert second.jobs[job.ticket]["job"]["after"] == [before.ticket]
        other = await client.submit("true")
        assert other.ticket in first.jobs
        with pytest.raises(Refused, match="of one node"):
            await client.submit("true", after=[before, other])
