"""What `nodes` shows of a node."""

from __future__ import annotations

from typing import Any

import pytest

from loadbalancer.core.nodes import Node
from protocol.messages import Info


@pytest.mark.parametrize(
    ("held", "info", "running", "queued"),
    [
        (3, None, 3, 0),
        (7, None, 4, 3),
        (7, Info(3, 4, 0, 0.0, 0), 4, 3),
        (3, Info(0, 1, 3, 0.0, 0), 3, 0),  # two have come since
        (3, Info(2, 1, 0, 0.0, 0), 1, 2),  # one that takes all four slots
        (3, Info(0, 3, 0, 0.0, 0), 3, 0),  # one that takes two
        (0, Info(0, 1, 0, 0.0, 0), 0, 0),  # it has ended since
        (2, Info(0, 0, 1000, 0.0, 0), 2, 0),
    ],
)
def test_what_runs_on_a_node_and_what_waits(held: int, info: Info | None, running: int, queued: int) -> None:
    node = Node("id", 0.0)
    node.slots, node.link, node.info = 4, 1, info
    jobs: Any = {str(number): None for number in range(held)}
    node.jobs = jobs
    fields = node.fields()
    assert (fields["running"], fields["queued"]) == (running, queued)
