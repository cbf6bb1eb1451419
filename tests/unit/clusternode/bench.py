"""A node's core at a bench: one event at a time, and what each step gave."""

from __future__ import annotations

from typing import Any, TypeVar

from clusternode.core.events import (
    Answer,
    CommandEnded,
    FromBalancer,
    FromHelpers,
    Line,
    LinesReceived,
    LinkUp,
    Outcome,
    Send,
    TakenBack,
)
from clusternode.core.node import Identity, NodeCore
from clusternode.core.openjob import Stored
from protocol.job import Ended, JobSpec, Report
from protocol.messages import Job, JobItem, Welcome

M = TypeVar("M")


def ticket(number: int) -> str:
    return f"T{number:015d}"


def ended(number: int, outcome: str = "succeeded", attempt: int = 1) -> Ended:
    return Ended(ticket(number), attempt, outcome, Report("n", 1.0, 2.0, 0, b"hi\n", b"", 3, 0).pack())


class Bench:
    """A node, its clock, and what the last step gave."""

    def __init__(self, slots: int = 1, stored: list[Stored] | None = None, kept: Any = ()) -> None:
        self.now = 1000.0
        identity = Identity("id", "i", "n", slots)
        self.core = NodeCore(identity, stored or [], 1 + len(stored or []), kept, self.now)
        self.out = Outcome()
        self._line = 0

    def step(self, event: Any, after: float = 0.0) -> Outcome:
        self.now += after
        self.out = self.core.step(event, self.now)
        return self.out

    def connect(self, epoch: int = 1) -> Outcome:
        self.step(LinkUp())
        return self.hear(Welcome("lb", epoch, 3.0))

    def hear(self, message: Any, after: float = 0.0) -> Outcome:
        return self.step(FromBalancer(message), after)

    def say(self, *news: CommandEnded | TakenBack, after: float = 0.0) -> Outcome:
        """A helper does."""
        return self.step(FromHelpers(news), after)

    def line(self, asked: Any, new: str = "", as_json: bool = False) -> Line:
        self._line += 1
        return Line(self._line, asked, new, as_json)

    def receive(self, *lines: Line, client: int = 1) -> Outcome:
        return self.step(LinesReceived(client, lines))

    def ask(self, asked: Any, new: str = "", client: int = 1, as_json: bool = False) -> Outcome:
        return self.receive(self.line(asked, new, as_json), client=client)

    def give(self, *specs: JobSpec, attempt: int = 1) -> Outcome:
        jobs = [JobItem(ticket(number), attempt, self.now, spec.pack()) for number, spec in enumerate(specs)]
        return self.hear(Job(jobs))

    @property
    def actions(self) -> list[Any]:
        return [*self.out.prompt, *self.out.actions]

    def sent(self, kind: type[M]) -> list[M]:
        return [a.message for a in self.actions if isinstance(a, Send) and isinstance(a.message, kind)]

    def replies(self) -> list[Any]:
        return [action.reply for action in self.out.actions if isinstance(action, Answer)]

    def did(self, kind: type[M]) -> list[M]:
        return [action for action in self.actions if isinstance(action, kind)]
