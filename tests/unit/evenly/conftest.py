"""A cluster of fake nodes for the client's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from .background import Background
from .fake_node import FakeCluster


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    await cluster.stop()


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background()
    yield background
    background.end()
