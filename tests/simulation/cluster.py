"""A whole cluster in one process: the real cores, a virtual clock, a seeded network, disks that forget.

Nothing here decides anything about jobs: it moves events, commits records after a while, loses what was
not committed when a process crashes, and remembers what clients were shown.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from checks import (
    check_arrays,
    check_dependants,
    check_files,
    check_ledger,
    check_nothing_runs_in_vain,
    step_balancer,
    step_node,
)
from clusternode.core import events as node_events
from clusternode.core.done import reply_of_done, view_of_done
from clusternode.core.node import Identity, NodeCore
from clusternode.core.openjob import Stored
from clusternode.core.submissions import AT_START
from helpers import SimPool
from keyed import KeyedClients
from loadbalancer.core import events as balancer_events
from loadbalancer.core.balancer import Balancer
from loadbalancer.core.settings import Settings
from machinery import COMMIT_DELAY, WIRE_DELAYS, BalancerDisk, NodeDisk, Process, Wire
from protocol.arrays import size_of
from protocol.dialogue import ALL, CancelJob, GetResult, Submit, Subscribe, Wait
from protocol.job import Command, Ended, JobSpec, ResultFile, Sleep
from protocol.messages import Hello, Job, Message, RequestOfRes, Result
from protocol.replies import CancelOf, ResultOf, TicketIssued, UnknownTicket
from receivers import Receivers
from specs import TASKS, is_endless

#: Steps, or seconds, from one look at all the books to the next: it takes as long as many steps.
CHECK_EVERY = 20
CHECK_WITHIN = 0.5
#: How long the balancer may take to see that a link is gone, whatever the node does meanwhile.
LOSS_DELAYS = (0.001, 0.001, 0.2, 3.0)
#: Where what comes to the balancer gathers, as in a turn of its event loop: for so long.
TURN = 0.002
#: From here on a node that has been connected ought to have heard what is cancelled.
CANCEL_REACHES = 10.0


class SimNode:
    """A node, through all its incarnations."""

    def __init__(self, world: World, number: int, slots: int) -> None:
        self.world = world
        self.node_id = f"id{number}"
        self.name = f"n{number}"
        self.slots = slots
        self.disk = NodeDisk()
        self.process: Process | None = None
        self.pool: SimPool | None = None
        self.wire: Wire | None = None
        self.link = 0
        #: Since when it has been connected, and since when nothing has been in its way.
        self.linked_at = self.healed_at = self.calm_since = world.now
        #: Attempts sent to it that have not arrived.
        self.on_their_way: set[tuple[str, int]] = set()
        #: Attempts whose command runs, whatever the core knows of it.
        self.commands: set[tuple[str, int]] = set()
        #: What was said of it to who has subscribed.
        self.told: set[str] = set()
        #: It never comes back, nor does its disk.
        self.gone = False
        #: To the balancer, from the balancer: nothing comes through.
        self.blocked = [False, False]
        self.delay = WIRE_DELAYS[0]
        #: The longest delay since all was calm.
        self.slowest = self.delay[1]
        #: The one client that is there; who hung up reads nothing more.
        self.client = next(world.counter)

    def start(self) -> None:
        if self.process is not None or self.gone:
            return
        disk = self.disk
        stored = [
            Stored(seq, row.ticket, row.submitted_at, row.body, seq in disk.cancelled)
            for seq, row in disk.tickets.items()
            if seq not in disk.done
        ]
        kept = [(ended.ticket, ended.attempt, len(ended.body)) for ended in disk.kept.values()]
        identity = Identity(self.node_id, f"i{next(self.world.counter)}", self.name, self.slots)
        core = NodeCore(identity, stored, max(disk.tickets, default=0) + 1, kept, self.world.now)
        core.origin.notices.restore(disk.pending_notices(), self.world.now)
        process = Process(self.world, core, node_events.Tick(), disk.apply)
        process.step = lambda event, now: step_node(self, core, event, now)
        process.perform = lambda action: self._perform(process, action)
        process.died = self.crash_and_return
        self.process = process
        self.pool = SimPool(self, process)
        awaited, arrays = core.origin.to_find(), core.origin.to_count()
        if awaited or arrays:
            counts = {ticket: disk.count(*place) for ticket, place in arrays.items()}
            process.submit(node_events.Found(AT_START, self._outcomes(awaited), counts))
        process.submit(node_events.TasksKnown(TASKS))
        self._connect_later(process, 0.0)
        self._subscribe()

    def _subscribe(self) -> None:
        if self.world.seed % 3 != 1:
            self.ask(Subscribe(ALL))

    def _outcomes(self, tickets: Sequence[str]) -> dict[str, str | None]:
        return {ticket: self.disk.outcome(ticket) for ticket in tickets}

    def crash(self) -> None:
        if self.process is not None:
            self.process.alive = False
            self.process = None
        if self.pool is not None:
            self.pool.leave()
            self.pool = None
        wire, link = self.wire, self.link
        if wire is not None and self.world.random.random() < 0.5:
            # The kernel still delivers what was sent; a new incarnation may be heard before that.
            self.wire = None
            wire.end(0, lambda: self.world.link_lost(link))
        else:
            self.cut()

    def die(self) -> None:
        """For good."""
        self.gone = True
        self.crash()

    def crash_and_return(self) -> None:
        self.crash()
        self.world.after(0.5, self.start)

    def restart(self) -> None:
        """As an operator does: drain, stop, start again."""
        process = self.process
        if process is None:
            return

        def end() -> None:
            if self.process is process:
                self.crash()
                self.world.after(0.3, self.start)

        process.submit(node_events.Drain())
        self.world.after(1.0, lambda: process.submit(node_events.Stop()))
        self.world.after(1.1, end)

    @property
    def is_cut_off(self) -> bool:
        """It cannot hear the balancer."""
        known = self.world.links.get(self.link)
        return self.wire is None or known is None or known.wire is not self.wire or any(self.blocked)

    def block(self, ways: list[bool]) -> None:
        """A partition, perhaps one-way; [False, False] heals it."""
        self.blocked[:] = ways
        self.healed_at = self.world.now
        if self.wire is not None:
            self.wire.pass_on()

    def lost_by_peer(self, link: int) -> None:
        """The balancer has closed this link; we learn it if anything comes through."""
        if self.wire is not None and self.link == link and not self.blocked[1]:
            self.cut()

    def balancer_died(self) -> None:
        """What it sent may still arrive, or not."""
        wire, link = self.wire, self.link
        if wire is None or self.world.random.random() < 0.5:
            self.cut()
        else:
            wire.end(1, lambda: self.lost_by_peer(link))

    def cut(self) -> None:
        wire, self.wire = self.wire, None
        if wire is None:
            return
        wire.close()
        if self.process is not None:
            process = self.process
            self.world.after(0.001, lambda: process.submit(node_events.LinkDown()))
            self._connect_later(process, self.world.random.uniform(0.05, 0.5))
        if not self.blocked[0]:
            link = self.link
            self.world.after(self.world.random.choice(LOSS_DELAYS), lambda: self.world.link_lost(link))

    def _connect_later(self, process: Process, delay: float) -> None:
        def connect() -> None:
            if not process.alive or self.wire is not None:
                return
            if any(self.blocked) or self.world.balancer is None:
                self._connect_later(process, self.world.random.uniform(0.05, 0.5))
                return
            self.wire = Wire(self.world, self.blocked)
            self.wire.delay = self.delay
            self.link = self.world.connected(self, self.wire)
            self.on_their_way.clear()
            self.linked_at = self.world.now
            process.submit(node_events.LinkUp())

        self.world.after(delay + 0.002, connect)

    def ask(self, asked: Any, ticket: str = "", tickets: Sequence[str] = ()) -> int:
        """A client's line, and its number; what it is answered ends up in the world's books."""
        number = next(self.world.counter) if self.process is not None else 0
        if self.process is not None:
            line = node_events.Line(number, asked, ticket, False, tickets)
            self.process.submit(node_events.LinesReceived(self.client, [line]))
        return number

    def hang_up(self) -> None:
        """The client goes, whatever it is owed; another comes."""
        if self.process is not None:
            self.process.submit(node_events.ClientGone(self.client))
        self.client = next(self.world.counter)
        self._subscribe()

    def kill_helper(self) -> None:
        if self.pool is not None:
            self.pool.kill_one()

    def slow_down(self, delay: tuple[float, float]) -> None:
        """The way to the balancer takes so long from here on."""
        self.delay = delay
        self.slowest = max(self.slowest, delay[1])
        if self.wire is not None:
            self.wire.delay = delay

    # --- what the core decides -------------------------------------------------------------------

    def _perform(self, process: Process, action: Any) -> None:
        match action:
            case node_events.Answer(client, seq, reply):
                self._answer(client, reply)
                if client == self.client:
                    self.world.keyed.answered(self, seq, reply)
            case node_events.LookUp(client, _, asked, ticket):
                seq = self.disk.find(ticket)
                if seq is None or seq not in self.disk.done:
                    self._answer(client, UnknownTicket(ticket))
                else:
                    row = self.disk.tickets[seq]
                    view = view_of_done(ticket, row.submitted_at, row.body, self.disk.done[seq])
                    self._answer(client, reply_of_done(asked, view))
            case node_events.Tell(_, news):
                view = news.job
                assert view.ticket not in self.told, f"{view.ticket} is told twice"
                self.told.add(view.ticket)
                assert self.disk.outcome(view.ticket) == view.outcome, f"{view.ticket} is told too early"
                self.world.seen["told"] += 1
            case node_events.Find(number, tickets, keys):

                def find() -> None:
                    outcomes, known = self._outcomes(tickets), self.disk.tickets_of(keys)
                    process.submit(node_events.Found(number, outcomes, keys=known))

                self.world.after(self.world.random.uniform(*COMMIT_DELAY), find)
            case node_events.Send(message):
                self._send(message)
            case node_events.SendKept(kept, tickets):
                results = [self.disk.kept[ticket] for ticket in kept if ticket in self.disk.kept]
                if results:
                    self._send(Result(results))
                if tickets:
                    self._send(RequestOfRes(list(tickets)))
            case node_events.Spawn() | node_events.SpawnTask() | node_events.TakeBack() | node_events.Kill():
                assert self.pool is not None
                self.pool.perform(action)
            case node_events.Post(seq):
                self.world.receivers.post(self, process, seq)
            case node_events.Ship(ticket, attempt):
                self._ship(process, ticket, attempt)
            case node_events.Disconnect():
                self.cut()

    def _ship(self, process: Process, ticket: str, attempt: int) -> None:
        """The files of a job go home in their own time, or are refused."""
        self.world.seen["shipped"] += 1
        chance = self.world.random
        fault = "refused" if chance.random() < 0.1 else ""
        files = () if fault else (ResultFile("out", 1, "0" * 64),)
        shipped = node_events.Shipped(ticket, attempt, files, fault)
        self.world.after(
            chance.choice((0.0, 0.01, 2.0)), lambda: process.awake(lambda: process.submit(shipped))
        )

    def _answer(self, client: int, reply: Any) -> None:
        if client == self.client:
            self.world.shown(self, reply)

    def _send(self, message: Message) -> None:
        if self.wire is not None:
            link = self.link
            self.wire.send(0, message, lambda received: self.world.to_balancer(link, received))


class Known(NamedTuple):
    """What the balancer's end of a link leads to."""

    node: SimNode
    wire: Wire


class World:
    """Everything, and the one clock."""

    def __init__(self, seed: int, nodes: int = 3, slots: int = 2, settings: Settings | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = self.began = 1000.0
        self.steps = 0
        self._check_at = 0
        self._check_by = self.now
        self.counter = itertools.count(1)
        self.receivers = Receivers(self)
        self.keyed = KeyedClients(self)
        self.settings = settings or Settings(node_grace_period=2.0, request_result_period=1.0)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.balancer: Process | None = None
        self.balancer_disk = BalancerDisk()
        #: In some runs what comes at about the same time is one step of the balancer.
        self._gathers = seed % 4 == 1
        self._came: list[Any] | None = None
        self.links: dict[int, Known] = {}
        self.nodes = [SimNode(self, number, slots) for number in range(nodes)]
        #: What clients sent: ticket -> node, whether they read the ticket or not.
        self.submitted: dict[str, SimNode] = {}
        #: What clients read: ticket -> node, ticket -> outcome; of cancelled ones also when.
        self.issued: dict[str, SimNode] = {}
        self.outcomes: dict[str, str] = {}
        self.cancel_shown: dict[str, float] = {}
        #: Tickets of jobs that would run for days.
        self.endless: set[str] = set()
        #: (ticket, attempt, node) of what runs and should not, and since when.
        self.in_vain: dict[tuple[str, int, str], float] = {}
        #: How often things happened that a run is to have had.
        self.seen: Counter[str] = Counter()
        self.attempts_started: list[tuple[str, int, str]] = []
        self._starts: dict[str, set[int]] = {}
        self.at_most_once: set[str] = set()
        #: What a job comes after.
        self.after_others: dict[str, tuple[str, ...]] = {}
        #: The jobs of an array.
        self.arrays: dict[str, list[str]] = {}
        self.start_balancer()
        for node in self.nodes:
            node.start()

    # --- time ------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self.counter), what))

    def after(self, delay: float, what: Callable[[], None]) -> None:
        self.at(self.now + delay, what)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            self.now, _, what = heapq.heappop(self._agenda)
            what()
            if self.steps >= self._check_at or self.now >= self._check_by:
                self._check_at, self._check_by = self.steps + CHECK_EVERY, self.now + CHECK_WITHIN
                self.check()
        self.now = end
        self.check()

    def run_until(self, condition: Callable[[], bool], within: float) -> None:
        end = self.now + within
        while not condition():
            assert self.now < end, f"seed {self.seed}: not so within {within} s"
            self.run(0.5)

    def started(self, ticket: str, attempt: int, node: SimNode) -> None:
        """A command starts. Each attempt does so once, on one node; an at-most-once job has one start."""
        starts = self._starts.setdefault(ticket, set())
        assert attempt not in starts, f"seed {self.seed}: {ticket} attempt {attempt} started twice"
        assert ticket not in self.arrays, f"seed {self.seed}: the array {ticket} itself starts"
        assert not (starts and ticket in self.at_most_once), f"seed {self.seed}: {ticket} started again"
        cancelled_at = self.cancel_shown.get(ticket, self.now)
        reached_at = max(cancelled_at, node.linked_at) + CANCEL_REACHES
        assert node.is_cut_off or self.now <= reached_at, f"seed {self.seed}: {ticket} starts, cancelled"
        disk = self.submitted[ticket].disk
        for awaited in self.after_others.get(ticket, ()):
            assert disk.outcome(awaited) == "succeeded", f"seed {self.seed}: {ticket} starts before {awaited}"
        self.keyed.started(ticket)
        starts.add(attempt)
        self.attempts_started.append((ticket, attempt, node.node_id))

    # --- the balancer ----------------------------------------------------------------------------

    def start_balancer(self) -> None:
        if self.balancer is not None:
            return
        disk = self.balancer_disk
        disk.epoch += 1
        rows = [row._replace(result=None) for _, row in sorted(disk.rows.items())]
        core = Balancer(self.settings, "lb", disk.epoch, rows, self.now, disk.restored_keys())
        process = Process(self, core, balancer_events.Tick(), disk.apply)
        process.step = lambda event, now: step_balancer(self, core, event, now)
        process.perform = self._perform
        process.died = self.crash_balancer_and_return
        self.balancer = process
        process.submit(balancer_events.Tick())

    def crash_balancer(self) -> None:
        if self.balancer is not None:
            self.balancer.alive = False
            self.balancer, self._came = None, None
            self.links.clear()
        for node in self.nodes:
            node.balancer_died()

    def crash_balancer_and_return(self) -> None:
        self.crash_balancer()
        self.after(0.5, self.start_balancer)

    def connected(self, node: SimNode, wire: Wire) -> int:
        link = next(self.counter)
        self.links[link] = Known(node, wire)
        return link

    def link_lost(self, link: int) -> None:
        if self.links.pop(link, None) is not None:
            self._to_balancer(balancer_events.LinkLost(link))

    def to_balancer(self, link: int, message: Message) -> None:
        if self.balancer is None:
            return
        if link not in self.links:
            for node in self.nodes:  # a reset answers what comes on a closed link
                node.lost_by_peer(link)
            return
        if isinstance(message, Hello):
            self._to_balancer(balancer_events.HelloReceived(link, message))
        else:
            self._to_balancer(balancer_events.MessageReceived(link, message))

    def _to_balancer(self, event: Any) -> None:
        process = self.balancer
        if process is None:
            return
        if not self._gathers:
            process.submit(event)
            return
        if self._came is None:
            came = self._came = []
            self.after(TURN, lambda: self._step_together(process, came))
        self._came.append(event)

    def _step_together(self, process: Process, came: list[Any]) -> None:
        if process is self.balancer:
            self._came = None
            process.submit(balancer_events.Together(came))

    def _perform(self, action: Any) -> None:
        match action:
            case balancer_events.Send(link, message):
                self._to_node(link, message)
            case balancer_events.Deliver(link, stored, tickets):
                rows = self.balancer_disk.rows
                results = [
                    Ended(each.ticket, each.attempt, each.outcome, rows[each.seq].result or b"")
                    for each in stored
                    if each.seq in rows
                ]
                if results:
                    self._to_node(link, Result(results))
                if tickets:
                    self._to_node(link, RequestOfRes(list(tickets)))
            case balancer_events.Close(link) if link in self.links:
                node = self.links.pop(link).node
                self.after(0.001, lambda: node.lost_by_peer(link))

    def _to_node(self, link: int, message: Message) -> None:
        known = self.links.get(link)
        if known is None or known.node.process is None:
            return
        node, process = known.node, known.node.process
        attempts = [(item.ticket, item.attempt) for item in message.jobs] if isinstance(message, Job) else []
        node.on_their_way.update(attempts)

        def receive(received: Message) -> None:
            node.on_their_way.difference_update(attempts)
            process.submit(node_events.FromBalancer(received))

        known.wire.send(1, message, receive)

    # --- clients ---------------------------------------------------------------------------------

    def submit(self, node: SimNode, spec: JobSpec) -> tuple[str, int]:
        """The ticket that it gets, if it is not refused, and the number of the line."""
        ticket, *jobs = (self._new_ticket() for _ in range(1 + size_of(spec)))
        for each in (ticket, *jobs):
            self.submitted[each] = node
            if not isinstance(spec, Sleep) and spec.at_most_once:
                self.at_most_once.add(each)
            if is_endless(spec):
                self.endless.add(each)
            if isinstance(spec, Command) and spec.extras.after:
                self.after_others[each] = spec.extras.after
        if jobs:
            self.arrays[ticket] = jobs
        return ticket, node.ask(Submit(spec), ticket, jobs)

    def _new_ticket(self) -> str:
        return "".join(self.random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=16))

    def wait(self, ticket: str) -> None:
        self.issued[ticket].ask(Wait(ticket))

    def result(self, ticket: str) -> None:
        self.issued[ticket].ask(GetResult(ticket))

    def cancel(self, ticket: str) -> None:
        self.submitted[ticket].ask(CancelJob(ticket))

    def shown(self, node: SimNode, reply: Any) -> None:
        """A client reads this. From here on it must stay true."""
        match reply:
            case TicketIssued(ticket):
                node = self.submitted[ticket]  # with a key it may be another's
                self.issued.update(dict.fromkeys((ticket, *self.arrays.get(ticket, ())), node))
                for awaited in self.after_others.get(ticket, ()):
                    assert self.submitted[awaited] is node, f"seed {self.seed}: {ticket} was not refused"
            case ResultOf(view) | CancelOf(view) if view.outcome is not None:
                known = self.outcomes.setdefault(view.ticket, view.outcome)
                assert known == view.outcome, (
                    f"seed {self.seed}: {view.ticket} was {known}, is {view.outcome}"
                )
                if view.outcome == "cancelled":
                    self.cancel_shown.setdefault(view.ticket, self.now)
            case UnknownTicket(ticket) if ticket in self.issued:
                raise AssertionError(f"seed {self.seed}: the ticket {ticket} was issued and is not known")

    # --- what must hold after every step ---------------------------------------------------------

    @property
    def core(self) -> Balancer:
        assert self.balancer is not None
        core: Balancer = self.balancer.core
        return core

    def check(self) -> None:
        if self.balancer is not None:
            check_ledger(self.core)
        check_nothing_runs_in_vain(self)
        check_dependants(self)
        check_arrays(self)
        check_files(self)
