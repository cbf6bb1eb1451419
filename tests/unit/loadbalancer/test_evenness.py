from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadbalancer.core.evenness import Load, least_loaded, surplus

counts = st.lists(st.integers(0, 50), max_size=8)
pairs = st.lists(st.tuples(st.integers(0, 20), st.integers(-2, 20)), max_size=8)


def loads_of(held: list[int], rooms: list[int], orders: list[int] | None = None) -> list[Load]:
    orders = orders or [0] * len(held)
    return [
        Load(count, order, f"n{place}", room)
        for place, (count, order, room) in enumerate(zip(held, orders, rooms, strict=True))
    ]


def spread(held: dict[str, int]) -> int:
    return max(held.values()) - min(held.values()) if held else 0


# --- least_loaded ------------------------------------------------------------------------------------


@given(
    st.integers(0, 20),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20), st.integers(0, 9)), max_size=8),
)
def test_from_even_loads_nodes_with_room_stay_within_one_of_each_other(
    base: int, nodes: list[tuple[int, int, int]]
) -> None:
    more, rooms, orders = [list(each) for each in zip(*nodes, strict=True)] or [[], [], []]
    loads = loads_of([base + one for one in more], rooms, orders)
    held = {load.node: load.held for load in loads}
    room = {load.node: load.room for load in loads}
    for node in least_loaded(loads):
        # The rest are full: they may hold less than the others, who still have room.
        assert spread({name: count for name, count in held.items() if room[name] > 0}) <= 1
        held[node] += 1
        room[node] -= 1
        assert room[node] >= 0
        assert spread({name: count for name, count in held.items() if room[name] > 0}) <= 1


@given(pairs)
def test_every_node_is_filled_to_its_room_and_never_over(nodes: list[tuple[int, int]]) -> None:
    loads = loads_of([held for held, _ in nodes], [room for _, room in nodes])
    given_out = Counter(least_loaded(loads))
    assert given_out == {load.node: load.room for load in loads if load.room > 0}


@given(pairs)
def test_each_job_goes_to_a_node_that_holds_least_of_those_with_room(nodes: list[tuple[int, int]]) -> None:
    loads = loads_of([held for held, _ in nodes], [room for _, room in nodes])
    held = {load.node: load.held for load in loads}
    room = {load.node: load.room for load in loads}
    for node in least_loaded(loads):
        assert held[node] == min(held[name] for name in room if room[name] > 0)
        held[node] += 1
        room[node] -= 1


def test_among_equals_the_one_served_longest_ago_comes_first() -> None:
    loads = loads_of([1, 1, 1], [5, 5, 5], orders=[9, 2, 5])
    assert list(islice(least_loaded(loads), 6)) == ["n1", "n2", "n0", "n1", "n2", "n0"]


def test_a_node_that_was_just_served_comes_last_among_its_equals() -> None:
    loads = loads_of([0, 1], [5, 5], orders=[3, 2])
    assert list(islice(least_loaded(loads), 3)) == ["n0", "n1", "n0"]


@pytest.mark.parametrize("rooms", [[], [0], [0, -3]])
def test_without_room_nobody_gets_a_job(rooms: list[int]) -> None:
    assert list(least_loaded(loads_of([0] * len(rooms), rooms))) == []


# --- surplus -----------------------------------------------------------------------------------------


def named(held: list[int]) -> list[tuple[str, int]]:
    return [(f"n{place}", count) for place, count in enumerate(held)]


@given(counts)
def test_surplus_handed_to_the_least_loaded_leaves_everyone_within_one(held: list[int]) -> None:
    over = surplus(named(held))
    left = dict(named(held))
    for node, count in over.items():
        assert 0 < count <= left[node]
        left[node] -= count
    loads = [Load(count, 0, node, 1000) for node, count in left.items()]
    for node in islice(least_loaded(loads), sum(over.values())):
        assert node not in over
        left[node] += 1
    assert sum(left.values()) == sum(held)
    assert spread(left) <= 1


@given(counts)
def test_as_few_jobs_move_as_possible(held: list[int]) -> None:
    over = surplus(named(held))
    if not over:
        assert spread(dict(named(held))) <= 1 or len(held) < 2
        return
    share, rest = divmod(sum(held), len(held))
    targets = [share + 1] * rest + [share] * (len(held) - rest)
    fewest = sum(
        max(0, count - target) for count, target in zip(sorted(held, reverse=True), targets, strict=True)
    )
    assert sum(over.values()) == fewest


@pytest.mark.parametrize("held", [[], [7], [0, 0], [3, 3, 3], [4, 3, 4]])
def test_what_is_even_has_no_surplus(held: list[int]) -> None:
    assert surplus(named(held)) == {}


@pytest.mark.parametrize(
    ("held", "over"),
    [
        ([10, 0], {"n0": 5}),
        ([9, 0], {"n0": 4}),
        ([0, 9], {"n1": 4}),
        ([5, 3], {"n0": 1}),
        ([6, 6, 0], {"n0": 2, "n1": 2}),
        ([5, 5, 0], {"n0": 1, "n1": 2}),
    ],
)
def test_the_remainder_stays_with_those_that_hold_most(held: list[int], over: dict[str, int]) -> None:
    assert surplus(named(held)) == over
