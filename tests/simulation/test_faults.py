"""Seeded runs: processes crash, links are cut, and nothing that a client has read is lost or changed."""

from __future__ import annotations

import random

import pytest

from cluster import SimNode, World
from loadbalancer.core.settings import Settings
from protocol.job import Command, Sleep

FAULT_SECONDS = 12.0


def disturb(world: World, chance: random.Random) -> None:
    """One thing of what clients and fate do."""
    node = chance.choice(world.nodes)
    what = chance.random()
    if what < 0.5:
        world.submit(node, Sleep(chance.choice((0, 0, 5, 200, 1500))))
    elif what < 0.7:
        world.submit(node, Command(str(chance.choice((0.001, 0.05, 0.7)))))
    elif what < 0.8 and world.issued:
        world.wait(chance.choice(list(world.issued)))
    elif what < 0.85 and world.issued:
        world.cancel(chance.choice(list(world.issued)))
    elif what < 0.9:
        node.cut()
    elif what < 0.93:
        crash_node(world, node, chance)
    elif what < 0.94:
        node.reachable = not node.reachable
        node.cut()
    elif what < 0.95:
        crash_balancer(world, chance)


def crash_node(world: World, node: SimNode, chance: random.Random) -> None:
    if node.process is not None:
        node.crash()
        world.after(chance.choice((0.01, 0.5, 3.0)), node.start)


def crash_balancer(world: World, chance: random.Random) -> None:
    if world.balancer is not None:
        world.crash_balancer()
        world.after(chance.choice((0.01, 0.5, 3.0)), world.start_balancer)


def heal(world: World) -> None:
    """The faults have stopped: everything is up again, and clients ask for every ticket."""
    for node in world.nodes:
        node.reachable = True
    world.run(4.0)
    for ticket in world.issued:
        world.wait(ticket)


@pytest.mark.parametrize("seed", range(60))
def test_every_ticket_that_was_read_ends_in_one_outcome(seed: int) -> None:
    settings = Settings(
        eager=seed % 4 != 0,
        dispatch_period=0.3,
        node_grace_period=2.0,
        request_result_period=1.0,
        crash_limit=1000,
    )
    world = World(seed, nodes=1 + seed % 4, slots=1 + seed % 3, settings=settings)
    chance = random.Random(seed)
    end = world.now + FAULT_SECONDS
    while world.now < end:
        disturb(world, chance)
        world.run(chance.uniform(0.0, 0.05))
    heal(world)
    world.run_until(lambda: set(world.outcomes) >= set(world.issued), within=200.0)
    # Nothing grows with history: what is acknowledged is forgotten, in memory and on disk.
    world.run(10.0)
    assert not world.core.ledger.jobs
    assert not world.balancer_disk.rows
    for node in world.nodes:
        assert node.process is not None
        assert not node.process.core.origin.open
        assert not node.process.core.executor.outbox
        assert not node.disk.kept
    # And the store says what was shown.
    for ticket, shown in world.outcomes.items():
        node = world.issued[ticket]
        seq = node.disk.find(ticket)
        assert seq is not None
        assert node.disk.done[seq].outcome == shown


@pytest.mark.parametrize("seed", range(10))
def test_queues_are_even_within_one_once_settled(seed: int) -> None:
    world = World(seed, nodes=4, slots=1 + seed % 3)
    world.run(1.0)
    world.nodes[3].crash()
    for number in range(37):
        world.submit(world.nodes[number % 3], Sleep(600_000))
    world.run(4.0)
    world.nodes[3].start()
    world.run(8.0)
    held = [len(node.jobs) for node in world.core.ledger.nodes.values() if node.link is not None]
    assert len(held) == 4
    assert sum(held) == 37
    assert max(held) - min(held) <= 1


def test_a_cancelled_job_does_not_start_again() -> None:
    world = World(7)
    world.run(1.0)
    for _ in range(20):
        world.submit(world.nodes[0], Command("30"))
    world.run(1.0)
    for ticket in world.issued:
        world.cancel(ticket)
    world.run_until(lambda: len(world.cancel_shown) == 20, within=5.0)
    started = len(world.attempts_started)
    world.nodes[1].crash()
    world.crash_balancer()
    world.start_balancer()
    world.run(10.0)
    assert len(world.attempts_started) == started
