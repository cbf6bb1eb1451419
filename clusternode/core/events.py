"""What comes into the core, what it records, and what goes out of it.

A client is a connection, by number; `seq` numbers its lines, so that replies find their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.dialogue import CancelJob, Explain, GetResult, Status, Submit, Subscribe, Unsubscribe, Wait
from protocol.dialogue import Nodes as NodesRequest
from protocol.dialogue import Stats as StatsRequest
from protocol.explain import Attempt
from protocol.job import Ended, Extras, ResultFile
from protocol.messages import Message
from protocol.replies import JobEnded, JobView, Reply
from protocol.tasks import Signature

# --- events --------------------------------------------------------------------------------------


class StatesOf(NamedTuple):
    """Where are these open tickets? Asked by `list`, piece by piece; `StatesAre` follows."""

    tickets: Sequence[str]


Asked = (
    Submit
    | GetResult
    | Wait
    | Status
    | Explain
    | CancelJob
    | Subscribe
    | Unsubscribe
    | NodesRequest
    | StatsRequest
    | StatesOf
)


class Line(NamedTuple):
    """One request of a client. `ticket` is a new one where it submits; `as_json`: it reads JSON.

    `tickets`: where it submits an array, those of its jobs.
    """

    seq: int
    asked: Asked
    ticket: str
    as_json: bool
    tickets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LinesReceived:
    client: int
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class ClientGone:
    client: int


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Connected to the load balancer; it does not know us yet."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    pass


@dataclass(frozen=True, slots=True)
class FromBalancer:
    message: Message


class CommandEnded(NamedTuple):
    """A command or a task that was spawned is over; nothing of it runs any more."""

    ticket: str
    attempt: int
    started_at: float
    finished_at: float
    #: None where its worker was lost with it.
    exit_code: int | None
    timed_out: bool = False
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_total: int = 0
    stderr_total: int = 0
    reason: str = ""
    #: What a task returned, as JSON text.
    value: str = ""
    #: Partial results that a task has handed out.
    partials: int = 0


class Shipped(NamedTuple):
    """What a job left, and handed out, is at its origin; or `fault` says what of it was refused, and why."""

    ticket: str
    attempt: int
    files: Sequence[ResultFile]
    fault: str = ""


class Progressed(NamedTuple):
    """How far a task says it is: a part of 1, and words."""

    ticket: str
    attempt: int
    part: float
    text: str


class TakenBack(NamedTuple):
    """A command that was behind another has not started, and will not."""

    ticket: str
    attempt: int


@dataclass(frozen=True, slots=True)
class FromHelpers:
    """What helpers say, in order: the end of a command means that the one behind it, if any, has started."""

    news: Sequence[CommandEnded | TakenBack | Progressed]


@dataclass(frozen=True, slots=True)
class TasksKnown:
    """The tasks that workers have here."""

    tasks: Mapping[str, Signature]


@dataclass(frozen=True, slots=True)
class Found:
    """What the store says to `Find`, or at the start: how these tickets ended, None where it has none.

    `counts`: at the start, of each open array, how many of its jobs have ended how. `keys`: the tickets that
    it has for keys.
    """

    number: int
    outcomes: Mapping[str, str | None]
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)


class Posted(NamedTuple):
    """What came of `Post`: its HTTP status, or None and why; `is_hopeless`: no use to try again."""

    seq: int
    ticket: str
    status: int | None
    why: str
    is_hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """This machine: load average over a minute, bytes of memory available."""

    load: float
    memory: int


@dataclass(frozen=True, slots=True)
class Tick:
    """A deadline has come. `deaf`: nothing is read at the moment, as the disk is behind."""

    deaf: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """The operator wants this node to stop: no new jobs; what runs may end. Drained says when it has."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The operator stops this node: nothing starts any more, what runs is ended."""


Event = (
    LinesReceived
    | ClientGone
    | LinkUp
    | LinkDown
    | FromBalancer
    | FromHelpers
    | Shipped
    | Found
    | TasksKnown
    | Posted
    | Measured
    | Tick
    | Drain
    | Stop
)


# --- records: `seq` is the order of submission on this node, the key in its store ---------------------


class Submitted(NamedTuple):
    """`key`: the one that it came with, or empty."""

    seq: int
    ticket: str
    submitted_at: float
    body: bytes
    key: str = ""


class Withdrawn(NamedTuple):
    """The tickets from `seq` on, so many of them, are taken back: nobody has seen them."""

    seq: int
    size: int


class KeyFreed(NamedTuple):
    """The key does not stand for this ticket: another one had it before."""

    key: str
    ticket: str


class CancelAsked(NamedTuple):
    seq: int


class Done(NamedTuple):
    """The one outcome of a ticket of ours; `tried`: what came of attempts before the last one."""

    seq: int
    ended: Ended
    tried: tuple[Attempt, ...] = ()


class Kept(NamedTuple):
    """A result of an attempt that ran here, kept until the load balancer has it."""

    ended: Ended


class Released(NamedTuple):
    """The load balancer has it."""

    ticket: str


class Noticed(NamedTuple):
    """A notice is pending since its job's end, after so many tries; the next one is `due`."""

    seq: int
    since: float
    tries: int
    due: float


class NoticeOver(NamedTuple):
    """It was delivered, or is given up."""

    seq: int


Record = Submitted | Withdrawn | KeyFreed | CancelAsked | Done | Kept | Released | Noticed | NoticeOver


# --- actions -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    client: int
    seq: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class StatesAre:
    """Answers `StatesOf`: those that are still open. `note`: why no more is known than this node does."""

    client: int
    seq: int
    views: Mapping[str, JobView]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Tell:
    """A line for each of these clients, between its replies."""

    clients: Sequence[int]
    news: JobEnded


@dataclass(frozen=True, slots=True)
class LookUp:
    """Answer from the store: the ticket is not open, so it is done or not ours."""

    client: int
    seq: int
    asked: GetResult | Wait | Status | Explain | CancelJob
    ticket: str


@dataclass(frozen=True, slots=True)
class Find:
    """Find in the store how these tickets ended, which are not open, and which tickets have these keys, which
    no open one has; `Found` follows."""

    number: int
    tickets: Sequence[str]
    keys: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Send:
    """To the load balancer."""

    message: Message


@dataclass(frozen=True, slots=True)
class SendKept:
    """Read these results from the store and send them; ask for `tickets` in the same breath."""

    kept: Sequence[str]
    tickets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Disconnect:
    reason: str


@dataclass(frozen=True, slots=True)
class Spawn:
    """`behind` (ticket, attempt): the helper that runs that one starts this by itself, after all it has.

    `extras` stand where some of them change how it is run. `output`: a directory where the whole of its
    output is kept as well.
    """

    ticket: str
    attempt: int
    line: str
    time_limit: float | None
    behind: tuple[str, int] | None = None
    extras: Extras | None = None
    output: str = ""


@dataclass(frozen=True, slots=True)
class SpawnTask:
    """A worker process is to run it; CommandEnded follows."""

    ticket: str
    attempt: int
    name: str
    payload: str
    time_limit: float | None
    at_most_once: bool
    extras: Extras | None = None


@dataclass(frozen=True, slots=True)
class Ship:
    """A job has ended: what it left in its result directory, and handed out, is to be at its origin before
    its result; Shipped follows."""

    ticket: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Unship:
    """Nobody wants that any more."""

    ticket: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Forget:
    """A ticket of this node with a checkpoint is done: nothing goes on from that any more."""

    ticket: str


@dataclass(frozen=True, slots=True)
class TakeBack:
    """A command that is behind another: TakenBack follows, unless it starts first."""

    ticket: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End the command or task of this attempt with its process group; CommandEnded follows."""

    ticket: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Post:
    """Send the notice of this job's end to whom it is for; Posted follows."""

    seq: int


@dataclass(frozen=True, slots=True)
class Drained:
    """Nothing runs here any more; the load balancer, if it is there, has every result."""


@dataclass(frozen=True, slots=True)
class Log:
    text: str
    warning: bool = False


Action = (
    Answer
    | StatesAre
    | Tell
    | LookUp
    | Find
    | Send
    | SendKept
    | Disconnect
    | Spawn
    | SpawnTask
    | Ship
    | Unship
    | Forget
    | TakeBack
    | Kill
    | Post
    | Drained
    | Log
)


@dataclass(slots=True)
class Outcome:
    """Records to commit; what may happen only after that, in order; and what need not wait.

    `prompt` holds what follows from no record of this store: heartbeats, and whatever concerns jobs that
    are on record elsewhere. It must not wait for a slow disk here.
    """

    records: list[Record] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    prompt: list[Action] = field(default_factory=list)
