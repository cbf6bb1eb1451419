"""A cluster of fake nodes for the client's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from .fake_node import FakeCluster


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    await cluster.stop()
