"""Clients that are closed while they are used, and clients after a fork."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from evenly.client import AsyncClient, Client, ClientClosed, ClusterExecutor, Job
from evenly.client.executor import CallFuture

from .background import Background
from .fake_node import FakeCluster
from .test_client import eventually
from .test_client_threads import pause


def until(background: Background, condition: Callable[[], object]) -> None:
    async def wait() -> None:
        await eventually(condition)

    background.do(wait())


# --- threads -----------------------------------------------------------------------------------------------

Iterators = Callable[[Client, Job], Iterator[Any]]
ITERATORS: dict[str, Iterators] = {
    "wait": lambda client, job: client.results([job]),
    "subscribe": lambda client, job: client.as_completed([job]),
    "tail": lambda client, job: client.tail(job),
    '{"run":"hold 1"': lambda client, job: client.map("hold {}", [1, 2]),
    '{"run":"hold 2"': lambda client, job: client.submit_many(f"hold {n}" for n in (2, 2)),
}


@pytest.mark.parametrize("begins", ITERATORS)
def test_who_iterates_in_another_thread_is_told(
    background: Background, caplog: pytest.LogCaptureFixture, begins: str
) -> None:
    node = background.node
    client = Client(node.address)
    job = client.submit("hold")
    if "2" in begins:
        node.is_mute = True  # tickets, too, may be waited for
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, ITERATORS[begins](client, job))
        until(background, lambda: any(line.startswith(begins) for line in node.lines))
        client.close()
        with pytest.raises(ClientClosed):
            reading.result(60)
    assert caplog.messages == []


def test_what_was_begun_before_the_end_and_read_after_it(background: Background) -> None:
    client = Client(background.node.address)
    job = client.submit("true")
    begun = [make(client, job) for make in ITERATORS.values()] + [client.jobs(job)]
    client.close()
    for each in begun:
        with pytest.raises(ClientClosed):
            next(each)
    del begun, each
    gc.collect()  # a coroutine that nobody awaited would warn, and fail this test


def test_what_has_come_is_given_before(background: Background) -> None:
    client = Client(background.node.address)
    results = client.results([client.submit("true"), client.submit("hold")])
    assert next(results).ok
    client.close()
    with pytest.raises(ClientClosed):
        next(results)


def test_calls_of_a_client_that_is_closed(background: Background) -> None:
    client = Client(background.node.address)
    with ClusterExecutor(client=client) as executor:
        future = executor.submit(pause)
        assert isinstance(future, CallFuture)
        until(background, lambda: background.node.jobs)
        client.close()
        with pytest.raises(ClientClosed):
            future.result(60)
        with pytest.raises(ClientClosed):
            executor.submit(pause)
        assert not future.cancel()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pause)


# --- asyncio -----------------------------------------------------------------------------------------------


async def test_what_is_under_way_ends(cluster: FakeCluster, tmp_path: Path) -> None:
    (node,) = await cluster.start()
    client = AsyncClient(node.address)
    job = await client.submit("hold")
    (tmp_path / "data").write_bytes(b"data")
    tasks = [
        asyncio.ensure_future(each)
        for each in (
            client.wait(job),
            anext(client.tail(job)),
            anext(client.results([job])),
            anext(client.as_completed([job])),
        )
    ]
    await eventually(lambda: {"subscribe *", f"tail {job}", f"wait {job}"} <= {*node.lines})
    node.is_mute = True
    tasks.append(asyncio.ensure_future(client.submit("true", file={"data": tmp_path / "data"})))
    tasks.append(asyncio.ensure_future(client.fetch(job, tmp_path)))
    await eventually(lambda: node.lines.count("json") >= 6)
    async with asyncio.timeout(60):
        await client.close()
        said = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in said] == [ClientClosed] * len(tasks)


async def test_nothing_begins_after_the_end(cluster: FakeCluster, tmp_path: Path) -> None:
    (node,) = await cluster.start()
    client = AsyncClient(node.address)
    job = await client.submit("true")
    await client.close()
    lines = list(node.lines)
    for ask in (
        lambda: anext(client.tail(job)),
        lambda: client.fetch(job, tmp_path),
        lambda: client.upload(__file__),
        lambda: client.wait(job),
        lambda: anext(client.results([job])),
        lambda: anext(client.as_completed([job])),
        lambda: client.submit("true", file={"x": "0" * 64}),
        lambda: client.list(),
        lambda: client.nodes(),
    ):
        with pytest.raises(ClientClosed):
            await ask()
    assert node.lines == lines


# --- fork --------------------------------------------------------------------------------------------------

FORKED = """
import os, sys, traceback, warnings
warnings.simplefilter("ignore")
from evenly import Client, ClientClosed, ClusterExecutor, EvenlyError

client = Client(sys.argv[1])
done, open_ = client.submit("true"), client.submit("hold")
results = client.results([done, open_])
assert next(results).ok
pool = ClusterExecutor(client=client)

def child():
    asked = [
        lambda: client.submit("true"), lambda: client.wait(open_), lambda: list(client.results([done])),
        lambda: list(client.tail(open_)), lambda: next(results), lambda: pool.submit(len, "a"),
    ]
    for ask in asked:
        try:
            ask()
        except EvenlyError as error:
            assert "this client belongs to the process" in str(error), error
        else:
            raise AssertionError("it was done")
    pool.shutdown()
    client.close()
    with Client(sys.argv[1]) as another:
        assert another.wait(done).ok

if (pid := os.fork()) == 0:
    try:
        child()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert client.cancel(open_) == "done"
assert next(results).outcome == "cancelled"
client.close()
"""


def test_a_fork_leaves_the_client_to_the_process_that_made_it(background: Background) -> None:
    command = [sys.executable, "-c", FORKED, background.node.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
