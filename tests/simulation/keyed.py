"""Clients of a simulated cluster that submit with keys, and again, to whichever node, whatever happened.

They have chance of their own: runs without them are what they were before there were any.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from protocol.arrays import size_of
from protocol.job import Command, Extras, Task, unpack_report, unpack_spec
from protocol.replies import TicketIssued

if TYPE_CHECKING:
    from cluster import SimNode, World
    from machinery import Process

#: How the reason of a job begins whose key was another's.
REFUSED = "not started: its key was submitted before"
#: Seconds in which a calm cluster answers a submission.
ANSWERED_WITHIN = 30.0


class Sent(NamedTuple):
    """A line with a key. `link`: the one over which the key can be claimed, 0 where there was none."""

    key: str
    node: SimNode
    link: int
    client: int
    process: Process | None

    @property
    def may_be_answered(self) -> bool:
        return self.process is self.node.process is not None and self.client == self.node.client


class KeyedClients:
    """What they sent, and what they read."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = random.Random(world.seed)
        #: By the number of the line, until it is answered.
        self._sent: dict[int, Sent] = {}
        self._next_key = 0
        #: Every ticket that was made for a key; of each key those that were read, and that was started.
        self.key_of: dict[str, str] = {}
        self.read: defaultdict[str, set[str]] = defaultdict(set)
        self._started: dict[str, str] = {}
        self._array_of: dict[str, str] = {}

    # --- what they do ----------------------------------------------------------------------------

    def disturb(self) -> None:
        """Something new, or once more what was submitted lately; perhaps a crash just behind it."""
        chance, world = self._random, self._world
        if chance.random() < 0.6:
            return
        node = chance.choice(world.nodes)
        if self._next_key and chance.random() < 0.6:
            self._submit(node, f"k{max(0, self._next_key - chance.choice((1, 1, 2, 5, 20)))}")
        else:
            self._next_key += 1
            for _ in range(chance.choice((1, 1, 2))):
                self._submit(node, f"k{self._next_key - 1}")
        what = chance.random()
        if what < 0.05:
            world.after(chance.choice((0.0005, 0.003, 0.01)), node.crash_and_return)
        elif what < 0.08:
            world.after(chance.choice((0.0005, 0.003, 0.01)), world.crash_balancer_and_return)
        elif what < 0.12:
            world.after(chance.choice((0.0005, 0.003, 0.01)), node.cut)

    def _submit(self, node: SimNode, key: str) -> None:
        chance, world = self._random, self._world
        spec = Command(chance.choice(("0.001", "0.001 1", "0.7", "4")), retries=chance.choice((0, 0, 1)))
        extras = Extras(key=key)
        known = [ticket for ticket, where in world.issued.items() if where is node]
        if known and chance.random() < 0.1:
            extras = replace(extras, after=(chance.choice(known[-30:]),))
        if chance.random() < 0.1:
            extras = replace(extras, array=chance.randint(2, 4))
        spec = replace(spec, extras=extras)
        process = node.process
        is_there = process is not None and not process.paused and process.core.connected
        link = node.link if is_there else 0
        ticket, number = world.submit(node, spec)
        self.key_of[ticket] = key
        self._array_of.update(dict.fromkeys(world.arrays.get(ticket, ()), ticket))
        self._sent[number] = Sent(key, node, link, node.client, process)
        world.seen["with keys"] += 1

    # --- what must hold --------------------------------------------------------------------------

    def answered(self, node: SimNode, number: int, reply: object) -> None:
        """A client has read this: a ticket of that key, on the disk of its node."""
        sent = self._sent.pop(number, None)
        if sent is None or not isinstance(reply, TicketIssued):
            return
        world, ticket = self._world, reply.ticket
        where = f"seed {world.seed}: {ticket}, read for {sent.key},"
        assert self.key_of[ticket] == sent.key, f"{where} is of another key"
        owner = world.submitted[ticket]
        assert reply.node == ("" if owner is node else owner.name), f"{where} is said to be of {reply.node}"
        assert owner.disk.find(ticket) is not None, f"{where} is on no disk"
        self.read[sent.key].add(ticket)
        if sent.link and sent.link == node.link and node.wire is not None:
            # All that while it could reach the balancer.
            assert world.balancer_disk.owner(sent.key) == ticket, f"{where} is not the one that has it"
            world.seen["claimed"] += 1

    def started(self, ticket: str) -> None:
        """A job starts, or one of an array."""
        within = self._array_of.get(ticket, ticket)
        key = self.key_of.get(within)
        if key is not None:
            first = self._started.setdefault(key, within)
            assert first == within, f"seed {self._world.seed}: of {key} both {first} and {within} started"

    def ask_all_again(self) -> None:
        """The cluster is calm: of each key that somebody has read, all nodes give one ticket."""
        world = self._world
        nodes = [node for node in world.nodes if not node.gone]
        for key in list(self.read):
            for node in nodes:
                self._submit(node, key)
        waiting = self._sent.values()
        world.run_until(lambda: not any(sent.may_be_answered for sent in waiting), within=ANSWERED_WITHIN)

    def check(self) -> None:
        """All is over: of each key one job at most was handed in, and had an end of its own."""
        ends: defaultdict[str, list[str]] = defaultdict(list)
        for node in self._world.nodes:
            done = node.disk.done
            for seq in done:
                row = node.disk.tickets[seq]
                spec = unpack_spec(row.body)
                key = spec.extras.key if isinstance(spec, Command | Task) else ""
                places = range(seq, seq + size_of(spec) + 1)
                was_handed_in = any(done[place].attempt for place in places if place in done)
                is_refused = unpack_report(done[seq].body).reason.startswith(REFUSED)
                assert not (is_refused and was_handed_in)
                if key and was_handed_in:
                    ends[key].append(row.ticket)
        for key, tickets in ends.items():
            assert len(tickets) == 1, f"seed {self._world.seed}: of {key} there are {tickets}"
