"""Which nodes are asked, and what is said of those that could not be."""

from __future__ import annotations

import asyncio

import pytest

from evenly.client import AsyncClient, Job, NodesUnreachable, Refused, UnknownTicket

from .fake_node import FakeCluster
from .test_client import eventually


@pytest.mark.parametrize("is_job", [True, False])
async def test_a_new_client_waits_for_the_node_of_a_ticket_while_others_answer(
    cluster: FakeCluster, is_job: bool
) -> None:
    first, second = await cluster.start(2)
    async with AsyncClient(second.address) as client:
        ticket = (await client.submit("true")).ticket
    await second.stop()
    async with AsyncClient(cluster.addresses) as client:
        given: Job | str = Job(ticket, second.address) if is_job else ticket
        waiting = asyncio.create_task(client.wait(given))
        await eventually(lambda: f"status {ticket}" in first.lines)
        await second.start()
        assert (await waiting).ok
        assert await client.home(ticket) == second.address


async def test_patience_with_the_node_of_a_ticket_ends_and_is_told(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await cluster.start(2)
    await second.stop()
    async with AsyncClient(cluster.addresses, patience=0.2) as client:
        with pytest.raises(NodesUnreachable, match="no node that answers knows AAAAAAAAAAAAAAAA"):
            await client.status("A" * 16)
    said = f"no node that answers knows {'A' * 16}; trying {second.address} for up to 0.2 s"
    assert [record.getMessage() for record in caplog.records] == [said]
    # Where nobody answers there is nothing to wait for.
    await first.stop()
    async with AsyncClient(cluster.addresses, patience=3600) as client, asyncio.timeout(60):
        with pytest.raises(NodesUnreachable, match="not all do"):
            await client.status("A" * 16)
        # Nor is a node waited for in a list that others give.
        await first.start()
        assert await client.list() == []


async def test_a_list_says_whom_it_is_without(cluster: FakeCluster) -> None:
    first, second = await cluster.start(2)
    async with AsyncClient(first.address) as client:
        job = await client.submit("true")
    await second.stop()
    missed: list[str] = []
    async with AsyncClient(cluster.addresses) as client:
        assert [each.ticket for each in await client.list(missed=missed.append)] == [job.ticket]
        assert missed == [f"{second.address} is left out: connection refused"]
    async with AsyncClient(second.address) as client:
        with pytest.raises(NodesUnreachable):
            await client.list(missed=missed.append)
    assert len(missed) == 1


async def test_a_node_with_two_names_has_each_job_once_in_a_list(cluster: FakeCluster) -> None:
    (node,) = await cluster.start()
    async with AsyncClient([node.address, f"localhost:{node.port}"]) as client:
        jobs = [await client.submit("true") for _ in range(3)]
        assert sorted(each.ticket for each in await client.list()) == sorted(job.ticket for job in jobs)
        assert len(await client.list(limit=2)) == 2


async def test_what_a_node_notes_of_the_cluster_is_given(cluster: FakeCluster) -> None:
    (node,) = await cluster.start()
    async with AsyncClient(node.address) as client:
        assert await client.cluster() == {"nodes": [{"name": "n1"}]}
        node.note = "the ReverseProxy is away: only this node is known"
        assert await client.cluster() == {"nodes": [{"name": "n1"}], "note": node.note}
        assert await client.nodes() == [{"name": "n1"}]


async def test_a_job_of_a_node_that_is_not_among_these(cluster: FakeCluster) -> None:
    first, second, third = await cluster.start(3)
    async with AsyncClient(second.address) as client:
        ticket = (await client.submit("true", key="k")).ticket
    for nodes in ([first.address], [first.address, third.address]):
        async with AsyncClient(nodes) as client:
            job = await client.submit("true", key="k")
            assert (job, job.node_name) == (Job(ticket), "n2")
            said = f"{ticket} is a ticket of node n2, which is not among these nodes"
            with pytest.raises(UnknownTicket, match=said):
                await client.wait(job)
            with pytest.raises(UnknownTicket, match=said):
                await client.submit("true", after=job)
    async with AsyncClient(cluster.addresses) as client:
        assert (await client.wait(job)).ok


@pytest.mark.parametrize("option", [{"key": "k"}, {"array": 3}])
async def test_map_has_no_option_that_is_of_one_job(cluster: FakeCluster, option: dict[str, object]) -> None:
    (node,) = await cluster.start()
    async with AsyncClient(node.address) as client:
        with pytest.raises(Refused, match="map makes one job for each item: "):
            _ = [result async for result in client.map("echo {}", "ab", **option)]  # type: ignore[arg-type]
    assert node.lines == []
