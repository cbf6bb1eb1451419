"""A whole cluster in one process: the real cores, a virtual clock, a seeded network, disks that forget.

Nothing here decides anything about jobs: it moves events, commits records after a while, loses what was
not committed when a process crashes, and remembers what clients were shown.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clusternode.core import events as node_events
from clusternode.core.node import Identity, NodeCore
from clusternode.core.origin import Stored, reply_of_done, view_of_done
from loadbalancer.core import events as balancer_events
from loadbalancer.core.balancer import Balancer
from loadbalancer.core.jobs import Forget, Row, State
from loadbalancer.core.settings import Settings
from loadbalancer.store.sqlite import coalesce
from protocol.dialogue import CancelJob, GetResult, Submit, Wait
from protocol.job import Command, Ended, JobSpec, Sleep
from protocol.messages import Hello, Message, RequestOfRes, ResReq, Result, decode, encode
from protocol.replies import CancelOf, ResultOf, TicketIssued, UnknownTicket

#: A command that takes its node along.
POISON = "poison"
DAY = 24 * 3600.0
#: A command that takes three days.
LONG = f"{3 * DAY:.0f}"
#: Steps from one look at all the books to the next: it takes as long as many steps.
CHECK_EVERY = 20
COMMIT_DELAY = (0.0002, 0.004)
#: Of a wire in a machine room, across a country, and of one that should not be used.
WIRE_DELAYS = ((0.0001, 0.01), (0.02, 0.2), (0.2, 1.5))
#: How long the balancer may take to see that a link is gone, whatever the node does meanwhile.
LOSS_DELAYS = (0.001, 0.001, 0.2, 3.0)
#: From here on a node that has been connected ought to have heard what is cancelled.
CANCEL_REACHES = 10.0


class Process:
    """One incarnation of a program around its core, as `runtime.engine.Engine` runs it."""

    def __init__(self, world: World, core: Any, tick: Any, apply: Callable[[list[Any]], None]) -> None:
        self.world = world
        self.core = core
        self.step = core.step
        self.alive = True
        self._tick = tick
        self._apply = apply
        self._records: list[Any] = []
        self._actions: list[Any] = []
        self._committing = False
        self._timer_at = float("inf")
        self._timer = 0
        #: Stopped, as by SIGSTOP: what comes is seen when it goes on.
        self.paused = False
        self._unseen: list[Any] = []
        self.fail_next_commit = False
        self.perform: Callable[[Any], None] = lambda action: None
        self.died: Callable[[], None] = lambda: None

    def pause(self, seconds: float) -> None:
        self.paused = True
        self.world.after(seconds, self._go_on)

    def _go_on(self) -> None:
        self.paused = False
        unseen, self._unseen = self._unseen, []
        for event in unseen:
            self.submit(event)
        self._commit()

    def submit(self, event: Any) -> None:
        if not self.alive:
            return
        if self.paused:
            self._unseen.append(event)
            return
        outcome = self.step(event, self.world.now)
        self.world.steps += 1
        for action in outcome.prompt:
            self.perform(action)
        self._records += outcome.records
        self._actions += outcome.actions
        self._commit()
        deadline = self.core.next_deadline()
        if deadline is not None and deadline < self._timer_at:
            self._timer_at = deadline
            self._timer = timer = next(self.world.counter)
            self.world.at(max(deadline, self.world.now), lambda: self._on_timer(timer))

    def _on_timer(self, timer: int) -> None:
        if timer == self._timer:
            self._timer_at = float("inf")
            self.submit(self._tick)

    def _commit(self) -> None:
        if self._committing or self.paused or not (self._records or self._actions):
            return
        records, self._records = self._records, []
        actions, self._actions = self._actions, []
        self._committing = True
        delay = self.world.random.uniform(*COMMIT_DELAY) if records else 0.0
        self.world.after(delay, lambda: self._committed(records, actions))

    def _committed(self, records: list[Any], actions: list[Any]) -> None:
        if not self.alive:
            return  # crashed before the disk had it
        if records and self.fail_next_commit:
            self.died()  # the disk is full: nothing of it is there, and the program ends
            return
        self._apply(records)
        if self.paused:
            self.world.after(0.01, lambda: self._released(actions))
        else:
            self._released(actions)

    def _released(self, actions: list[Any]) -> None:
        if not self.alive:
            return
        if self.paused:
            self.world.after(0.01, lambda: self._released(actions))
            return
        self._committing = False
        for action in actions:
            self.perform(action)
        self._commit()


class Wire:
    """A TCP connection: in order each way, until it is cut. `blocked`: way by way, nothing comes through.

    Each way closes by itself: what a process has sent before it died still arrives.
    """

    def __init__(self, world: World, blocked: list[bool]) -> None:
        self.world = world
        self.open = [True, True]
        self.delay = WIRE_DELAYS[0]
        self._blocked = blocked
        self._held: tuple[list[Callable[[], None]], list[Callable[[], None]]] = ([], [])
        self._ready = [0.0, 0.0]

    def send(self, way: int, message: Message, receive: Callable[[Message], None]) -> None:
        """Delivers through the real encoding, after what went the same way before."""
        body = encode(message)[4:]
        self._pass(way, lambda: receive(decode(body)))

    def close(self) -> None:
        """At once, both ways; what was under way is gone."""
        self.open = [False, False]

    def end(self, way: int, arrive: Callable[[], None]) -> None:
        """The sender of that way is dead: `arrive` comes after what it sent; the other way is closed."""
        self.open[1 - way] = False
        self._pass(way, arrive)

    def unblocked(self) -> None:
        """What was held up comes through, as TCP sends it again."""
        for way, held in enumerate(self._held):
            arrivals, held[:] = list(held), []
            for arrival in arrivals:
                self._pass(way, arrival)

    def _pass(self, way: int, arrive: Callable[[], None]) -> None:
        if self._blocked[way]:
            self._held[way].append(arrive)
            return
        at = max(self._ready[way], self.world.now + self.world.random.uniform(*self.delay))
        self._ready[way] = at
        self.world.at(at, lambda: self._arrive(way, arrive))

    def _arrive(self, way: int, arrive: Callable[[], None]) -> None:
        if self._blocked[way]:
            self._held[way].append(arrive)
        elif self.open[way]:
            arrive()


@dataclass
class BalancerDisk:
    rows: dict[int, Row] = field(default_factory=dict)
    epoch: int = 0

    def apply(self, records: list[Any]) -> None:
        for record in coalesce(records):
            if isinstance(record, Forget):
                self.rows.pop(record.seq, None)
                continue
            old = self.rows.get(record.seq)
            if old is not None:
                assert record.version > old.version
                body = old.body if record.body is None else record.body
                record = record._replace(
                    body=body, result=old.result if record.result is None else record.result
                )
            assert record.body is not None
            self.rows[record.seq] = record


@dataclass
class NodeDisk:
    tickets: dict[int, node_events.Submitted] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    done: dict[int, Ended] = field(default_factory=dict)
    kept: dict[str, Ended] = field(default_factory=dict)

    def apply(self, records: list[Any]) -> None:
        for record in records:
            match record:
                case node_events.Submitted():
                    self.tickets[record.seq] = record
                case node_events.CancelAsked(seq):
                    self.cancelled.add(seq)
                case node_events.Done(seq, ended):
                    assert seq not in self.done, f"a second outcome was recorded for {ended.ticket}"
                    self.done[seq] = ended
                case node_events.Kept(ended):
                    self.kept[ended.ticket] = ended
                case node_events.Released(ticket):
                    self.kept.pop(ticket, None)

    def find(self, ticket: str) -> int | None:
        return next((seq for seq, row in self.tickets.items() if row.ticket == ticket), None)


class SimNode:
    """A node, through all its incarnations."""

    def __init__(self, world: World, number: int, slots: int) -> None:
        self.world = world
        self.node_id = f"id{number}"
        self.name = f"n{number}"
        self.slots = slots
        self.disk = NodeDisk()
        self.process: Process | None = None
        self.wire: Wire | None = None
        self.link = 0
        self.linked_at = world.now
        #: To the balancer, from the balancer: nothing comes through.
        self.blocked = [False, False]
        self.delay = WIRE_DELAYS[0]
        #: The one client that is there; who hung up reads nothing more.
        self.client = next(world.counter)

    def start(self) -> None:
        if self.process is not None:
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
        process = Process(self.world, core, node_events.Tick(), disk.apply)
        process.step = lambda event, now: self._step(core, event, now)
        process.perform = lambda action: self._perform(process, action)
        process.died = self.crash_and_return
        self.process = process
        self._connect_later(process, 0.0)

    def crash(self) -> None:
        if self.process is not None:
            self.process.alive = False
            self.process = None
        wire, link = self.wire, self.link
        if wire is not None and self.world.random.random() < 0.5:
            # The kernel still delivers what was sent; a new incarnation may be heard before that.
            self.wire = None
            wire.end(0, lambda: self.world.link_lost(link))
        else:
            self.cut()

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
        return self.wire is None or not self.wire.open[1] or any(self.blocked)

    def block(self, ways: list[bool]) -> None:
        """A partition, perhaps one-way; [False, False] heals it."""
        self.blocked[:] = ways
        if self.wire is not None and not any(ways):
            self.wire.unblocked()

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
            self.link = self.world.connected(self)
            self.linked_at = self.world.now
            process.submit(node_events.LinkUp())

        self.world.after(delay + 0.002, connect)

    def ask(self, asked: Any, ticket: str = "") -> None:
        """A client's line; what it is answered ends up in the world's books."""
        if self.process is not None:
            line = node_events.Line(next(self.world.counter), asked, ticket, False)
            self.process.submit(node_events.LinesReceived(self.client, [line]))

    def hang_up(self) -> None:
        """The client goes, whatever it is owed; another comes."""
        if self.process is not None:
            self.process.submit(node_events.ClientGone(self.client))
        self.client = next(self.world.counter)

    def slow_down(self, delay: tuple[float, float]) -> None:
        """The way to the balancer takes so long from here on."""
        self.delay = delay
        if self.wire is not None:
            self.wire.delay = delay

    # --- what the core decides -------------------------------------------------------------------

    def _step(self, core: NodeCore, event: Any, now: float) -> Any:
        """Each result that comes home ends an open ticket, or is stale."""
        message = event.message if isinstance(event, node_events.FromBalancer) else None
        if not isinstance(message, Result | ResReq) or not core.connected:
            return core.step(event, now)
        origin = core.origin
        before = origin.stale - len(origin.open)
        outcome = core.step(event, now)
        came = origin.stale - len(origin.open) - before
        assert came == len(message.results), f"seed {self.world.seed}: a result went uncounted at its origin"
        return outcome

    def _perform(self, process: Process, action: Any) -> None:
        match action:
            case node_events.Answer(client, _, reply):
                self._answer(client, reply)
            case node_events.LookUp(client, _, asked, ticket):
                seq = self.disk.find(ticket)
                if seq is None or seq not in self.disk.done:
                    self._answer(client, UnknownTicket(ticket))
                else:
                    row = self.disk.tickets[seq]
                    view = view_of_done(ticket, row.submitted_at, row.body, self.disk.done[seq])
                    self._answer(client, reply_of_done(asked, view))
            case node_events.Send(message):
                self._send(message)
            case node_events.SendKept(kept, tickets):
                results = [self.disk.kept[ticket] for ticket in kept if ticket in self.disk.kept]
                if results:
                    self._send(Result(results))
                if tickets:
                    self._send(RequestOfRes(list(tickets)))
            case node_events.Spawn(ticket, attempt, line, _):
                self.world.started(ticket, attempt, self)
                if line == POISON:
                    self.crash_and_return()
                    return
                seconds, _, code = line.partition(" ")
                self.world.after(
                    float(seconds), lambda: self._ended(process, ticket, attempt, int(code or 0))
                )
            case node_events.Kill(ticket, attempt):
                self.world.after(0.01, lambda: self._ended(process, ticket, attempt, 143))
            case node_events.Disconnect():
                self.cut()

    def _answer(self, client: int, reply: Any) -> None:
        if client == self.client:
            self.world.shown(self, reply)

    def _ended(self, process: Process, ticket: str, attempt: int, code: int) -> None:
        now = self.world.now
        process.submit(node_events.CommandEnded(ticket, attempt, now, now, code))

    def _send(self, message: Message) -> None:
        if self.wire is not None:
            link = self.link
            self.wire.send(0, message, lambda received: self.world.to_balancer(link, received))


class World:
    """Everything, and the one clock."""

    def __init__(self, seed: int, nodes: int = 3, slots: int = 2, settings: Settings | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = self.began = 1000.0
        self.steps = 0
        self._check_at = 0
        self.counter = itertools.count(1)
        self.settings = settings or Settings(node_grace_period=2.0, request_result_period=1.0)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.balancer: Process | None = None
        self.balancer_disk = BalancerDisk()
        self.links: dict[int, SimNode] = {}
        self.nodes = [SimNode(self, number, slots) for number in range(nodes)]
        #: What clients sent: ticket -> node, whether they read the ticket or not.
        self.submitted: dict[str, SimNode] = {}
        #: What clients read: ticket -> node, ticket -> outcome; of cancelled ones also when.
        self.issued: dict[str, SimNode] = {}
        self.outcomes: dict[str, str] = {}
        self.cancel_shown: dict[str, float] = {}
        #: Tickets of jobs that would run for days.
        self.endless: set[str] = set()
        self.attempts_started: list[tuple[str, int, str]] = []
        self._starts: dict[str, set[int]] = {}
        self.at_most_once: set[str] = set()
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
            if self.steps >= self._check_at:
                self._check_at = self.steps + CHECK_EVERY
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
        assert not (starts and ticket in self.at_most_once), f"seed {self.seed}: {ticket} started again"
        cancelled_at = self.cancel_shown.get(ticket, self.now)
        reached_at = max(cancelled_at, node.linked_at) + CANCEL_REACHES
        assert node.is_cut_off or self.now <= reached_at, f"seed {self.seed}: {ticket} starts, cancelled"
        starts.add(attempt)
        self.attempts_started.append((ticket, attempt, node.node_id))

    # --- the balancer ----------------------------------------------------------------------------

    def start_balancer(self) -> None:
        if self.balancer is not None:
            return
        disk = self.balancer_disk
        disk.epoch += 1
        rows = [row._replace(result=None) for _, row in sorted(disk.rows.items())]
        core = Balancer(self.settings, "lb", disk.epoch, rows, self.now)
        process = Process(self, core, balancer_events.Tick(), disk.apply)
        process.step = lambda event, now: self._step_balancer(core, event, now)
        process.perform = self._perform
        process.died = self.crash_balancer_and_return
        self.balancer = process
        process.submit(balancer_events.Tick())

    def crash_balancer(self) -> None:
        if self.balancer is not None:
            self.balancer.alive = False
            self.balancer = None
            self.links.clear()
        for node in self.nodes:
            node.balancer_died()

    def _step_balancer(self, core: Balancer, event: Any, now: float) -> Any:
        """Each result that comes is used, or stale; and one of a job that is over changes nothing."""
        message = event.message if isinstance(event, balancer_events.MessageReceived) else None
        node = self.links.get(event.link) if message is not None else None
        ledger = core.ledger
        known = ledger.nodes.get(node.node_id) if node is not None else None
        is_result = isinstance(message, Result | ResReq)
        if known is None or known.link != event.link or not is_result:
            return core.step(event, now)
        over = {
            ended.ticket: job
            for ended in message.results
            if (job := ledger.jobs.get(ended.ticket)) is None or job.state is State.DONE
        }
        before = {ticket: job and (job.attempt, job.outcome, job.version) for ticket, job in over.items()}
        used, stale = known.done + ledger.counters["lost attempts"], ledger.counters["stale"]
        outcome = core.step(event, now)
        used = known.done + ledger.counters["lost attempts"] - used
        stale = ledger.counters["stale"] - stale
        assert used + stale == len(message.results), f"seed {self.seed}: a result went uncounted"
        assert stale >= len(over), f"seed {self.seed}: a stale result was used"
        for ticket, job in over.items():
            after = job and (job.attempt, job.outcome, job.version)
            assert after == before[ticket], f"seed {self.seed}: {ticket} was changed by a stale result"
        return outcome

    def crash_balancer_and_return(self) -> None:
        self.crash_balancer()
        self.after(0.5, self.start_balancer)

    def connected(self, node: SimNode) -> int:
        link = next(self.counter)
        self.links[link] = node
        return link

    def link_lost(self, link: int) -> None:
        process = self.balancer
        if self.links.pop(link, None) is not None and process is not None:
            process.submit(balancer_events.LinkLost(link))

    def to_balancer(self, link: int, message: Message) -> None:
        if self.balancer is None:
            return
        if link not in self.links:
            for node in self.nodes:  # a reset answers what comes on a closed link
                node.lost_by_peer(link)
            return
        if isinstance(message, Hello):
            self.balancer.submit(balancer_events.HelloReceived(link, message))
        else:
            self.balancer.submit(balancer_events.MessageReceived(link, message))

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
                node = self.links.pop(link)
                self.after(0.001, lambda: node.lost_by_peer(link))

    def _to_node(self, link: int, message: Message) -> None:
        node = self.links.get(link)
        if node is None or node.wire is None or node.process is None:
            return
        process = node.process
        node.wire.send(1, message, lambda received: process.submit(node_events.FromBalancer(received)))

    # --- clients ---------------------------------------------------------------------------------

    def submit(self, node: SimNode, spec: JobSpec) -> None:
        ticket = "".join(self.random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=16))
        self.submitted[ticket] = node
        if isinstance(spec, Command) and spec.at_most_once:
            self.at_most_once.add(ticket)
        if is_endless(spec):
            self.endless.add(ticket)
        node.ask(Submit(spec), ticket)

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
                self.issued[ticket] = node
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


def is_endless(spec: JobSpec) -> bool:
    if isinstance(spec, Sleep):
        return spec.ms > DAY * 1000
    return spec.line == LONG


def check_ledger(core: Balancer) -> None:
    """Each job is in exactly one place, and the books agree."""
    ledger = core.ledger
    held = [job for node in ledger.nodes.values() for job in node.jobs.values()]
    owed = [job for node in ledger.nodes.values() for job in node.undelivered.values()]
    assert len(held) + len(owed) + ledger.waiting + ledger.delayed == len(ledger.jobs)
    for node in ledger.nodes.values():
        assert all(job.node == node.node_id for job in node.jobs.values())
        assert all(job.state in (State.ASSIGNED, State.RUNNING) for job in node.jobs.values())
        assert all(job.state is State.DONE and job.node is None for job in node.undelivered.values())
        assert len(node.owed) == len(node.undelivered)
