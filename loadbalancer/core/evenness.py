"""The allocation policy: which node gets the next job, and which gives some back.

Pure functions on numbers. Another policy is another module with these two functions.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Load(NamedTuple):
    """What the policy may know of a connected node. `order` breaks ties: the one served longest ago first."""

    held: int
    order: int
    node: str
    room: int


def least_loaded(loads: Sequence[Load]) -> Iterator[str]:
    """Node after node to give one job each, until no node has room.

    Invariant: nodes with room never differ by more than one after each job given to the first of them.
    """
    heap = [load for load in loads if load.room > 0]
    heapq.heapify(heap)
    turn = max((load.order for load in loads), default=0)
    while heap:
        load = heap[0]
        yield load.node
        turn += 1
        if load.room > 1:
            heapq.heapreplace(heap, Load(load.held + 1, turn, load.node, load.room - 1))
        else:
            heapq.heappop(heap)


def surplus(held: Sequence[tuple[str, int]]) -> dict[str, int]:
    """How many jobs each node holds above its even share; empty when all are within one of each other.

    The shares are the total divided by the nodes; the remainder goes to those that hold most, so that
    as few jobs as possible move.
    """
    if len(held) < 2:
        return {}
    counts = [count for _, count in held]
    if max(counts) - min(counts) <= 1:
        return {}
    share, rest = divmod(sum(counts), len(held))
    by_load = sorted(held, key=lambda item: -item[1])
    over = {node: count - share - (1 if place < rest else 0) for place, (node, count) in enumerate(by_load)}
    return {node: count for node, count in over.items() if count > 0}
