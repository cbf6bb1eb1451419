"""Waits with a timeout: what has ended is given, and nothing waits for longer, whatever the nodes do."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from evenly.client import AsyncClient, EvenlyError, Job, JobTimeout

from .fake_node import FakeCluster, FakeNode


async def _all(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


#: Each gives a list of results of these jobs.
WAYS: list[Callable[[AsyncClient, list[Job | str], float], Any]] = [
    lambda client, jobs, timeout: asyncio.gather(*(client.wait(job, timeout) for job in jobs)),
    lambda client, jobs, timeout: client.wait(jobs, timeout),
    lambda client, jobs, timeout: _all(client.results(jobs, timeout)),
    lambda client, jobs, timeout: _all(client.as_completed(jobs, timeout)),
]
each_way = pytest.mark.parametrize("way", WAYS, ids=["one", "many", "results", "as_completed"])


@each_way
@pytest.mark.parametrize("timeout", [0, -1, 1e-9, -math.inf])
async def test_what_has_ended_is_given_whatever_the_timeout(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch, way: Callable[..., Any], timeout: float
) -> None:
    monkeypatch.setattr("evenly.client.deadline.LAST_ASK", 60.0)
    jobs = [await client.submit("true") for _ in range(3)]
    assert {result.ticket for result in await way(client, jobs, timeout)} == {job.ticket for job in jobs}
    with pytest.raises(JobTimeout, match=r"within (0|1e-09) s"):
        await way(client, [*jobs, await client.submit("hold")], timeout)


@each_way
@pytest.mark.parametrize("timeout", [math.nan, "5", [1]])
async def test_what_is_no_timeout(client: AsyncClient, way: Callable[..., Any], timeout: Any) -> None:
    job = await client.submit("true")
    with pytest.raises(EvenlyError, match="a timeout is a number of seconds, or None"):
        await way(client, [job], timeout)


@each_way
async def test_an_endless_timeout_is_none(client: AsyncClient, way: Callable[..., Any]) -> None:
    job = await client.submit("true")
    (result,) = await way(client, [job], math.inf)
    assert result.ok


@each_way
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("is_met", [True, False], ids=["connected", "new"])
async def test_a_node_that_is_silent_holds_up_nobody_past_the_deadline(
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[..., Any],
    count: int,
    is_met: bool,
) -> None:
    monkeypatch.setattr("evenly.client.deadline.LAST_ASK", 0.05)
    nodes = await cluster.start(count)
    # All its own patience is without an end here: only the deadline can end the wait.
    async with AsyncClient(cluster.addresses, timeout=3600, patience=3600) as client:
        job = await client.submit("hold")
        if is_met:
            await client.status(job)
        nodes[0].is_mute = True
        for given in (job, job.ticket):
            async with asyncio.timeout(60):
                with pytest.raises(JobTimeout, match=job.ticket) as caught:
                    await way(client, [given], 0.05)
            assert caught.value.ticket == job.ticket


async def test_the_results_behind_a_deadline_come_in_their_order(
    client: AsyncClient, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evenly.client.deadline.LAST_ASK", 60.0)
    jobs = [await client.submit("hold" if n == 7 else f"true {n}") for n in range(10)]
    results = client.results(jobs, timeout=0)
    for job in jobs[:7]:
        assert (await anext(results)).ticket == job.ticket
    with pytest.raises(JobTimeout, match=f"the first that has not is {jobs[7]}"):
        await anext(results)
