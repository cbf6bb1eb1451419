"""What a simulated cluster is made of: processes around the real cores, wires, disks that forget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clusternode.core import events as node_events
from clusternode.core.notices import StoredNotice
from loadbalancer.core.jobs import Forget, Row
from loadbalancer.core.keys import KeyRow, Keys
from loadbalancer.store.sqlite import coalesce
from protocol.job import Ended, unpack_spec
from protocol.messages import Message, decode, encode

if TYPE_CHECKING:
    from cluster import World

COMMIT_DELAY = (0.0002, 0.004)
#: Of a wire in a machine room, across a country, and of one that should not be used.
WIRE_DELAYS = ((0.0001, 0.01), (0.02, 0.2), (0.2, 1.5))


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
        self.woke_at = world.now
        self._unseen: list[Callable[[], None]] = []
        self.fail_next_commit = False
        self.perform: Callable[[Any], None] = lambda action: None
        self.died: Callable[[], None] = lambda: None

    def pause(self, seconds: float) -> None:
        self.paused = True
        self.world.after(seconds, self._go_on)

    def _go_on(self) -> None:
        self.paused, self.woke_at = False, self.world.now
        unseen, self._unseen = self._unseen, []
        for see in unseen:
            see()
        self._commit()

    def awake(self, see: Callable[[], None]) -> None:
        """Does it now, or when it goes on, in its turn."""
        if self.paused:
            self._unseen.append(see)
        else:
            see()

    def submit(self, event: Any) -> None:
        if not self.alive:
            return
        if self.paused:
            self._unseen.append(lambda: self.submit(event))
            return
        outcome = self.step(event, self.world.now)
        self.world.steps += 1
        self._perform_all(outcome.prompt)
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
        if not self.alive or self._committing or self.paused or not (self._records or self._actions):
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
        self._perform_all(actions)
        self._commit()

    def _perform_all(self, actions: list[Any]) -> None:
        for action in actions:
            if self.alive:  # one of them may have killed it
                self.perform(action)


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

    def pass_on(self) -> None:
        """What was held up on a way that is open again comes through, in order, before all that follows."""
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
    keys: dict[int, KeyRow] = field(default_factory=dict)
    epoch: int = 0

    def owner(self, key: str) -> str | None:
        """The ticket that has this key."""
        return next((row.ticket for row in self.keys.values() if row.key == key), None)

    def restored_keys(self) -> Keys:
        keys = Keys()
        keys.restore(self.keys.values())
        return keys

    def apply(self, records: list[Any]) -> None:
        for record in records:
            if isinstance(record, KeyRow):
                assert self.owner(record.key) is None, f"{record.key} is claimed twice"
                self.keys[record.seq] = record
        for record in coalesce([each for each in records if isinstance(each, Row | Forget)]):
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
    seqs: dict[str, int] = field(default_factory=dict)
    notices: dict[int, node_events.Noticed] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def apply(self, records: list[Any]) -> None:
        for record in records:
            match record:
                case node_events.Submitted():
                    assert record.seq not in self.tickets
                    self.tickets[record.seq] = record
                    self.seqs[record.ticket] = record.seq
                    if record.key:
                        assert record.key not in self.keys, f"{record.key} is used twice on one node"
                        self.keys[record.key] = record.ticket
                case node_events.Withdrawn(seq, size):
                    for place in range(seq, seq + size):
                        assert place not in self.done, "what has ended is taken back"
                        del self.seqs[self.tickets.pop(place).ticket]
                case node_events.KeyFreed(key, ticket):
                    assert self.keys.pop(key) == ticket
                case node_events.CancelAsked(seq):
                    self.cancelled.add(seq)
                case node_events.Done(seq, ended):
                    assert seq not in self.done, f"a second outcome was recorded for {ended.ticket}"
                    self.done[seq] = ended
                case node_events.Kept(ended):
                    self.kept[ended.ticket] = ended
                case node_events.Released(ticket):
                    self.kept.pop(ticket, None)
                case node_events.Noticed(seq):
                    assert seq in self.done, "a notice is pending before its job has ended"
                    self.notices[seq] = record
                case node_events.NoticeOver(seq):
                    del self.notices[seq]

    def pending_notices(self) -> list[StoredNotice]:
        urls = {seq: unpack_spec(self.tickets[seq].body).extras.notify for seq in self.notices}  # type: ignore[union-attr]
        return [StoredNotice(seq, urls[seq], *progress) for seq, *progress in self.notices.values()]

    def find(self, ticket: str) -> int | None:
        return self.seqs.get(ticket)

    def tickets_of(self, keys: Sequence[str]) -> dict[str, str]:
        return {key: self.keys[key] for key in keys if key in self.keys}

    def outcome(self, ticket: str) -> str | None:
        ended = self.done.get(self.seqs.get(ticket, 0))
        return None if ended is None else ended.outcome

    def count(self, seq: int, size: int) -> dict[str, int]:
        """How the jobs of that array ended."""
        places = range(seq + 1, seq + size + 1)
        return Counter(self.done[place].outcome for place in places if place in self.done)

    def is_done(self, ticket: str) -> bool:
        return self.seqs.get(ticket) in self.done
