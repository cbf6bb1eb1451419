"""What the helpers have: each one command, and behind it those that it starts by itself, in order.

Between two commands a slot would idle for the way from its helper to the node and back. So while commands are
short, helpers get some ahead. One of these has not started until the end of the one before it is known here:
a helper reports an end before it starts the next. Until then it can be taken back, which the helper answers
unless it starts first.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from clusternode.core.events import Spawn
from protocol.job import Command
from protocol.messages import Held, JobItem

#: Seconds. Commands that take less, on the moving average, are handed ahead: the way to and fro takes about a
#: millisecond.
SHORT = 0.01
#: A longer one counts as this: a few short ones later it is forgotten.
LONGEST_COUNTED = 4 * SHORT
WEIGHT = 0.2
#: A helper gets so much ahead, in seconds of work and in commands: more than the node is ever busy elsewhere,
#: and no more, for what waits in the queue can still go anywhere.
AHEAD_FOR = 0.01
AHEAD_MOST = 12
#: Seconds after which what is behind a command that is not short after all is taken back.
PATIENCE = 0.02


class Fate(enum.Enum):
    """What becomes of a command that is ahead when it comes back."""

    WAITS = enum.auto()
    RETURNED = enum.auto()
    CANCELLED = enum.auto()
    DROPPED = enum.auto()


@dataclass(slots=True)
class Ahead:
    """`asked`: its helper was asked to give it back."""

    item: JobItem
    spec: Command
    fate: Fate = Fate.WAITS
    asked: bool = False

    @property
    def key(self) -> Held:
        return Held(self.item.ticket, self.item.attempt)


@dataclass(slots=True)
class Lane:
    """A helper from here: the command that it has, since when, and those behind it."""

    current: Held
    since: float
    ahead: deque[Ahead] = field(default_factory=deque)
    #: Its command is to end, or runs long: nothing more goes behind it.
    closed: bool = False


class Lanes:
    """All lanes, by the command that each has."""

    def __init__(self) -> None:
        self._lanes: dict[Held, Lane] = {}
        #: Lanes with commands ahead, and when these are to be taken back; in order of time.
        self._patience: dict[Held, float] = {}
        #: The moving average of what commands take.
        self._typical = LONGEST_COUNTED

    def start(self, key: Held, now: float, closed: bool = False) -> None:
        """A helper was given this command, to start at once; `closed`: nothing is to go behind it."""
        self._lanes[key] = Lane(key, now, closed=closed)

    def end(self, key: Held, now: float) -> Ahead | None:
        """This command has ended; the one behind it, if any, has started."""
        lane = self._lanes.pop(key, None)
        self._patience.pop(key, None)
        if lane is None or not lane.ahead:
            return None
        ahead = lane.ahead.popleft()
        lane.current, lane.since, lane.closed = ahead.key, now, False
        self._lanes[lane.current] = lane
        if lane.ahead:
            self._patience[lane.current] = now + PATIENCE
        return ahead

    def took(self, seconds: float) -> None:
        """A command took so long."""
        self._typical += WEIGHT * (min(seconds, LONGEST_COUNTED) - self._typical)

    def takers(self, waiting: int, now: float) -> Iterator[tuple[Lane, int]]:
        """Lanes that may get commands ahead, and how many, while so many wait: an even share at most."""
        if self._typical > SHORT or not self._lanes:
            return
        share = -(-(waiting + sum(len(lane.ahead) for lane in self._lanes.values())) // len(self._lanes))
        depth = min(AHEAD_MOST, max(1, int(AHEAD_FOR / self._typical)), share)
        for lane in self._lanes.values():
            room = depth - len(lane.ahead)
            if room > 0 and not lane.closed and now < lane.since + PATIENCE:
                yield lane, room

    def hand(self, lane: Lane, ahead: Ahead, now: float) -> Spawn:
        """Puts it behind all that the lane has."""
        lane.ahead.append(ahead)
        self._patience.setdefault(lane.current, now + PATIENCE)
        spec = ahead.spec
        return Spawn(*ahead.key, spec.line, spec.time_limit, lane.current, spec.extras.for_running)

    def overdue(self, now: float) -> Iterator[Lane]:
        """Lanes whose command is not short after all."""
        while self._patience:
            key, at = next(iter(self._patience.items()))
            if at > now:
                return
            del self._patience[key]
            yield self._lanes[key]

    def next_deadline(self) -> float | None:
        return next(iter(self._patience.values()), None)

    def of(self, key: Held) -> Lane | None:
        """The lane that has this command, not one ahead."""
        return self._lanes.get(key)

    def all(self) -> list[Lane]:
        return list(self._lanes.values())

    def take_out(self, key: Held) -> Ahead | None:
        """The helper has given this one back."""
        for lane in self._lanes.values():
            for ahead in lane.ahead:
                if ahead.key == key:
                    lane.ahead.remove(ahead)
                    if not lane.ahead:
                        self._patience.pop(lane.current, None)
                    return ahead
        return None
