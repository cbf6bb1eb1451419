"""The helper processes of a simulated node: each runs its commands one after the other, by itself."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from clusternode.core.events import (
    CommandEnded,
    FromHelpers,
    Kill,
    Spawn,
    SpawnTask,
    TakeBack,
    TakenBack,
)
from machinery import Process
from protocol.messages import Held

if TYPE_CHECKING:
    from cluster import SimNode

#: A command that takes its node along, and one that takes its helper along.
POISON = "poison"
VENOM = "venom"
#: From the node to a helper, or back: usually, and where one of them is busy elsewhere.
SOCKET_DELAYS = ((0.0, 0.0005), (0.0, 0.0005), (0.0, 0.0005), (0.0, 0.03))
#: What a helper says gathers for so long before the node hears it.
GATHERS = (0.0, 0.0, 0.0025)


class SimHelper:
    """One helper and the socket to it, which keeps order each way."""

    def __init__(self, node: SimNode, process: Process) -> None:
        self._node = node
        self._world = node.world
        self._process = process
        #: What the node has given it and has not heard the end of.
        self.known: list[Held] = []
        #: What it has itself: the command that runs, and those behind it.
        self.running: Held | None = None
        self._began = 0.0
        self._ahead: deque[tuple[Held, str]] = deque()
        self.dead = False
        #: The node knows it, too.
        self.gone = False
        self._arrives = [0.0, 0.0]
        self._said: list[CommandEnded | TakenBack] = []

    # --- the node's side -------------------------------------------------------------------------

    def give(self, key: Held, line: str) -> None:
        self.known.append(key)
        self._pass(0, lambda: self._on_run(key, line))

    def take(self, key: Held) -> None:
        self._pass(0, lambda: self._on_take(key))

    def kill(self, key: Held) -> None:
        self._pass(0, lambda: self._on_kill(key))

    def leave(self) -> None:
        """The node is dead: what it sent still arrives before the end."""
        self._pass(0, self._end_all)

    def _hear(self, news: CommandEnded | TakenBack) -> None:
        if not self._said:
            gathers = self._world.random.choice(GATHERS)
            self._world.after(gathers, lambda: self._process.awake(self._tell))
        self._said.append(news)

    def _hear_death(self) -> None:
        self.gone = True
        self._process.awake(self._tell)

    def _tell(self) -> None:
        said, self._said = self._said, []
        for news in said:
            self.known.remove(Held(news.ticket, news.attempt))
        if self.gone:
            said += [TakenBack(*key) for key in reversed(self.known[1:])]
            now = self._world.now
            said += [CommandEnded(*key, now, now, None) for key in self.known[:1]]
            self.known.clear()
        if said:
            self._world.seen["taken back"] += sum(isinstance(news, TakenBack) for news in said)
            self._process.submit(FromHelpers(said))

    # --- its own side ----------------------------------------------------------------------------

    def _on_run(self, key: Held, line: str) -> None:
        if not self.dead:
            self._ahead.append((key, line))
            self._world.seen["handed ahead"] += self.running is not None
            self._start_next()

    def _on_take(self, key: Held) -> None:
        for each in self._ahead:
            if each[0] == key and not self.dead:
                self._ahead.remove(each)
                self._pass(1, lambda: self._hear(TakenBack(*key)))
                return

    def _on_kill(self, key: Held) -> None:
        if self.running == key:
            self._world.after(0.01, lambda: self._on_end(key, 143))

    def _start_next(self) -> None:
        if self.running is not None or not self._ahead:
            return
        key, line = self._ahead.popleft()
        self.running, self._began = key, self._world.now
        self._world.started(*key, self._node)
        self._node.commands.add(key)
        if line == POISON:
            if self._process.alive:
                self._node.crash_and_return()
            self._end_all()
        elif line == VENOM:
            self.die()
        else:
            seconds, _, code = line.partition(" ")
            self._world.after(float(seconds), lambda: self._on_end(key, int(code or 0)))

    def _on_end(self, key: Held, code: int) -> None:
        if self.dead or self.running != key:
            return
        if not self._process.alive:
            self._end_all()  # nobody hears of it
            return
        self.running = None
        self._node.commands.discard(key)
        ended = CommandEnded(*key, self._began, self._world.now, code)
        self._pass(1, lambda: self._hear(ended))
        self._start_next()

    def die(self) -> None:
        """Its command ends with it; the node learns it after all that it has said."""
        if not self.dead:
            self._world.seen["dead helpers"] += 1
            self._end_all()
            self._pass(1, self._hear_death)

    def _end_all(self) -> None:
        self.dead = True
        if self.running is not None:
            self._node.commands.discard(self.running)
        self._ahead.clear()

    def _pass(self, way: int, arrive: Callable[[], None]) -> None:
        chance = self._world.random
        at = max(self._arrives[way], self._world.now + chance.uniform(*chance.choice(SOCKET_DELAYS)))
        self._arrives[way] = at
        self._world.at(at, arrive)


class SimPool:
    """The helpers of one process of a node, and its supervisors of tasks, which do as helpers do; one more
    where all are busy with what is to end."""

    def __init__(self, node: SimNode, process: Process) -> None:
        self._node = node
        self._process = process
        self._helpers: list[SimHelper] = []
        self._supervisors: list[SimHelper] = []
        #: Slots that were asked for, where these are more than one.
        self.wide: dict[Held, int] = {}
        #: What is to find files that cannot be had here: given back after a while, unless it is killed.
        self._unready: set[Held] = set()

    def perform(self, action: Spawn | SpawnTask | TakeBack | Kill) -> None:
        key = Held(action.ticket, action.attempt)
        if isinstance(action, Spawn | SpawnTask) and action.extras is not None and action.extras.cpus > 1:
            self.wide[key] = action.extras.cpus
            self._node.world.seen["wide"] += 1
        if isinstance(action, Kill) and key in self._unready:
            self._unready.remove(key)
            self._tell(CommandEnded(*key, self._node.world.now, self._node.world.now, None), after=0.0)
            return
        if isinstance(action, Spawn | SpawnTask) and self._lacks_files(action):
            self._node.world.seen["given back"] += 1
            self._unready.add(key)
            self._tell(TakenBack(*key), after=self._node.world.random.choice((0.0, 1.0, 5.0)))
            return
        if isinstance(action, Spawn):
            self._spawn(key, action)
            return
        if isinstance(action, SpawnTask):
            self._node.world.seen["tasks"] += 1
            self._free(self._supervisors).give(key, json.loads(action.payload)["line"])
            return
        for helper in (*self._helpers, *self._supervisors):
            if key in helper.known:
                helper.take(key) if isinstance(action, TakeBack) else helper.kill(key)

    def _spawn(self, key: Held, action: Spawn) -> None:
        if action.behind is not None:
            (helper,) = (each for each in self._helpers if each.known[:1] == [action.behind])
        else:
            helper = self._free(self._helpers)
        helper.give(key, action.line)

    def _lacks_files(self, action: Spawn | SpawnTask) -> bool:
        has_files = action.extras is not None and bool(action.extras.result_dir)
        return has_files and self._node.world.random.random() < 0.2

    def _tell(self, news: CommandEnded | TakenBack, after: float) -> None:
        key = Held(news.ticket, news.attempt)

        def tell() -> None:
            if isinstance(news, CommandEnded) or key in self._unready:
                self._unready.discard(key)
                self.wide.pop(key, None)
                self._process.submit(FromHelpers([news]))

        self._node.world.after(after, lambda: self._process.awake(tell))

    def _free(self, helpers: list[SimHelper]) -> SimHelper:
        for each in helpers:
            if not each.known and not each.gone:
                return each
        helpers[:] = [each for each in helpers if not each.gone]
        helpers.append(SimHelper(self._node, self._process))
        return helpers[-1]

    def running(self) -> list[Held]:
        """Whatever the core knows of it."""
        helpers = (*self._helpers, *self._supervisors)
        return [each.running for each in helpers if each.running is not None and not each.dead]

    def kill_one(self) -> None:
        living = [each for each in (*self._helpers, *self._supervisors) if not each.dead]
        if living:
            self._node.world.random.choice(living).die()

    def leave(self) -> None:
        for helper in (*self._helpers, *self._supervisors):
            helper.leave()
