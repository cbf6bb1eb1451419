"""When a lane that nobody waits for loses its connection."""

from __future__ import annotations

import asyncio

import pytest

from evenly.client.lane import Lane, object_of

from ..fake_node import FakeCluster

PATIENCE = 60.0


async def test_an_idle_connection_that_breaks_starts_no_patience(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long after it, a node that is away is waited for as one that has just gone."""
    (node,) = await cluster.start()
    loop, skipped = asyncio.get_running_loop(), 0.0
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + skipped)
    lane = Lane([node.address], timeout=None, patience=PATIENCE, reached=set())
    try:
        assert await lane.ask(b"has X", object_of) == {"has": "X", "here": False}
        await node.stop()
        while lane._wire is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        skipped = 10 * PATIENCE
        asked = lane.ask(b"has Y", object_of)
        while lane._connecting is None or lane._trouble_since is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await node.start()
        assert (await asked)["has"] == "Y"
    finally:
        await lane.close()
