"""Fake nodes for the client's tests, and a client of one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from evenly.client import AsyncClient

from .background import Background
from .fake_node import FakeCluster, FakeNode


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    await cluster.stop()


@pytest.fixture
async def node(cluster: FakeCluster) -> FakeNode:
    return (await cluster.start())[0]


@pytest.fixture
async def client(node: FakeNode) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(node.address) as client:
        yield client


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background()
    yield background
    background.end()
