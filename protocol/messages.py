"""The messages between a ClusterNode and the load balancer: typed here, `[type, status, payload]` outside.

Every class is one message of the table in docs/protocol.md. `decode` validates all that a peer can get
wrong, so that what passes can be used without another check. Nothing is left out of a row and nothing is
optional: a version that adds a field is another PROTOCOL_VERSION, named in the first message of each side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgpack

from protocol import fields, relay
from protocol.errors import ProtocolError
from protocol.frames import encode_frame
from protocol.job import Ended, Outcome, is_ticket
from protocol.limits import (
    ATTEMPT_LIMIT,
    BATCH_BYTES,
    BATCH_ITEMS,
    HELD_LIMIT,
    PRIORITY_LIMIT,
    QUERY_LIMIT,
    RETRIES_LIMIT,
    SLOTS_LIMIT,
)
from protocol.relay import Ask, Claim, Claimed, Told

PROTOCOL_VERSION = 3

OK = 200
NOT_FOUND = 404

T = TypeVar("T")


class JobItem(NamedTuple):
    """One job of a JOB message. `attempt` is 0 when an origin hands it in, from 1 when it is to be run.

    `submitted_at` is in seconds since the epoch, `body` a packed `JobSpec`; `retries`, `at_most_once` and
    `priority` are those of the job, for the load balancer, which does not look inside the body.
    """

    ticket: str
    attempt: int
    submitted_at: float
    body: bytes
    retries: int = 0
    at_most_once: bool = False
    priority: int = 0


class Held(NamedTuple):
    """An attempt of a job, where a message needs no more of it."""

    ticket: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Hello:
    """node -> LB, first. `held`, `running`, `finished`: the attempts that it has, by how far they are."""

    node_id: str
    instance: str
    name: str
    slots: int
    held: tuple[Held, ...] = ()
    running: tuple[Held, ...] = ()
    finished: tuple[Held, ...] = ()
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Welcome:
    """LB -> node, first. `balancer_id` and `epoch` name the incarnation; times in seconds."""

    balancer_id: str
    epoch: int
    request_result_period: float
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Refuse:
    """LB -> node in place of WELCOME: `reason` says why, `status` whether to come again (5xx) as it is."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """node -> LB: submitted here; LB -> node: run these."""

    jobs: Sequence[JobItem]


@dataclass(frozen=True, slots=True)
class Info:
    """Either side, every INFO_PERIOD. `queue`: waiting jobs; `memory`: bytes available."""

    queue: int
    running: int
    free_slots: int
    load: float
    memory: int


@dataclass(frozen=True, slots=True)
class RequestOfRes:
    """Either side asks for the results of these tickets."""

    tickets: Sequence[str]


@dataclass(frozen=True, slots=True)
class Result:
    """Either side delivers; repeated until acknowledged."""

    results: Sequence[Ended]


@dataclass(frozen=True, slots=True)
class ResReq:
    """RESULT and REQUEST_OF_RES in one."""

    results: Sequence[Ended]
    tickets: Sequence[str]


@dataclass(frozen=True, slots=True)
class NotHere:
    """RESULT with status 404: of these, asked for, the sender holds neither the job nor its result."""

    tickets: Sequence[str]


@dataclass(frozen=True, slots=True)
class AckJobs:
    """LB -> node: these submissions are durable."""

    tickets: Sequence[str]


@dataclass(frozen=True, slots=True)
class AckResults:
    """Either side: these results are durable here, the sender of them may forget them."""

    results: Sequence[Held]


@dataclass(frozen=True, slots=True)
class Started:
    """node -> LB: these attempts run."""

    jobs: Sequence[Held]


@dataclass(frozen=True, slots=True)
class Leaving:
    """node -> LB: these attempts have ended; their files are still on their way home."""

    jobs: Sequence[Held]


@dataclass(frozen=True, slots=True)
class Recall:
    """LB -> node: give back those of these that have not started."""

    jobs: Sequence[Held]


@dataclass(frozen=True, slots=True)
class Returned:
    """node -> LB, answers RECALL: these were taken out of the queue, and no others."""

    jobs: Sequence[Held]


@dataclass(frozen=True, slots=True)
class Cancel:
    """origin -> LB: end these jobs (attempt 0); LB -> executor: end these attempts, report them."""

    jobs: Sequence[Held]


@dataclass(frozen=True, slots=True)
class Drop:
    """LB -> executor: these attempts are stale. End them and report nothing."""

    jobs: Sequence[Held]


@dataclass(frozen=True, slots=True)
class Query:
    """node -> LB: `what` is "nodes", "stats" or "status" (of `tickets`); answered under the same number."""

    number: int
    what: str
    tickets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """LB -> node: the answer to QUERY `number`, a JSON text."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Check:
    """LB -> origin, after a restart: before these run again, are their results home already?"""

    tickets: Sequence[str]


@dataclass(frozen=True, slots=True)
class Checked:
    """origin -> LB, answers CHECK: of these, no result is here. Of the others an ACK has come before."""

    tickets: Sequence[str]


@dataclass(frozen=True, slots=True)
class Drain:
    """node -> LB: it is about to stop. It takes no more jobs, and finishes what runs."""


@dataclass(frozen=True, slots=True)
class Bye:
    """node -> LB: it stops and holds nothing any more; no need to wait for it."""


@dataclass(frozen=True, slots=True)
class Error:
    """Either side, last before it closes: what the peer did wrong."""

    status: int
    reason: str


Message = (
    Hello
    | Welcome
    | Refuse
    | Job
    | Info
    | RequestOfRes
    | Result
    | ResReq
    | NotHere
    | AckJobs
    | AckResults
    | Started
    | Leaving
    | Recall
    | Returned
    | Cancel
    | Drop
    | Query
    | Answer
    | Ask
    | Told
    | Claim
    | Claimed
    | Check
    | Checked
    | Drain
    | Bye
    | Error
)

QUERIES = ("nodes", "stats", "status", "health")


# --- object -> bytes -----------------------------------------------------------------------------

#: class -> (type, status, payload of an instance)
_ENCODERS: dict[type, tuple[str, int, Callable[[Any], Any]]] = {
    Hello: (
        "HELLO",
        OK,
        lambda m: (m.version, m.node_id, m.instance, m.name, m.slots, m.held, m.running, m.finished),
    ),
    Welcome: ("WELCOME", OK, lambda m: (m.version, m.balancer_id, m.epoch, m.request_result_period)),
    Job: ("JOB", OK, lambda m: m.jobs),
    Info: ("INFO", OK, lambda m: (m.queue, m.running, m.free_slots, m.load, m.memory)),
    RequestOfRes: ("REQUEST_OF_RES", OK, lambda m: m.tickets),
    Result: ("RESULT", OK, lambda m: m.results),
    NotHere: ("RESULT", NOT_FOUND, lambda m: m.tickets),
    ResReq: ("RES_REQ", OK, lambda m: (m.results, m.tickets)),
    AckJobs: ("ACK", OK, lambda m: ("JOB", m.tickets)),
    AckResults: ("ACK", OK, lambda m: ("RESULT", m.results)),
    Started: ("STARTED", OK, lambda m: m.jobs),
    Leaving: ("LEAVING", OK, lambda m: m.jobs),
    Recall: ("RECALL", OK, lambda m: m.jobs),
    Returned: ("RETURNED", OK, lambda m: m.jobs),
    Cancel: ("CANCEL", OK, lambda m: m.jobs),
    Drop: ("DROP", OK, lambda m: m.jobs),
    Query: ("QUERY", OK, lambda m: (m.number, m.what, m.tickets)),
    Answer: ("ANSWER", OK, lambda m: (m.number, m.text)),
    Ask: ("ASK", OK, lambda m: (m.number, m.whom, m.name, m.what, m.body)),
    Told: ("TOLD", OK, lambda m: (m.number, m.name, m.status, m.body)),
    Claim: ("CLAIM", OK, lambda m: (m.number, m.claims)),
    Claimed: ("CLAIMED", OK, lambda m: (m.number, m.owners)),
    Check: ("CHECK", OK, lambda m: m.tickets),
    Checked: ("CHECKED", OK, lambda m: m.tickets),
    Drain: ("DRAIN", OK, lambda m: None),
    Bye: ("BYE", OK, lambda m: None),
}


def encode(message: Message) -> bytes:
    """The frame of `message`."""
    if isinstance(message, Refuse):
        row: tuple[str, int, Any] = ("WELCOME", message.status, message.reason)
    elif isinstance(message, Error):
        row = ("ERROR", message.status, message.reason)
    else:
        kind, status, payload = _ENCODERS[type(message)]
        row = (kind, status, payload(message))
    return encode_frame(msgpack.packb(row))


def in_batches(items: Iterable[T], size: Callable[[T], int] = lambda _: 0) -> Iterator[list[T]]:
    """Splits `items` so that a message of each part stays within BATCH_ITEMS and near BATCH_BYTES.

    One item larger than BATCH_BYTES is a batch of its own. Items without `size` are small by nature.
    """
    batch: list[T] = []
    total = 0
    for item in items:
        cost = size(item)
        if batch and (total + cost > BATCH_BYTES or len(batch) == BATCH_ITEMS):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += cost
    if batch:
        yield batch


def job_size(job: JobItem) -> int:
    return len(job.body)


def result_size(result: Ended) -> int:
    return len(result.body)


# --- bytes -> object -----------------------------------------------------------------------------


def decode(body: bytes | memoryview) -> Message:
    """The message in a frame's body.

    Raises:
        ProtocolError: for whatever is no message of this version, with the reason.
    """
    try:
        row = msgpack.unpackb(body, use_list=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        detail = str(error) or type(error).__name__
        raise ProtocolError(f"a frame that holds no MessagePack: {detail}") from None
    if type(row) is not tuple or len(row) != 3 or type(row[0]) is not str or type(row[1]) is not int:
        raise ProtocolError("a frame that is not [type, status, payload]")
    kind, status, payload = row
    if kind == "ERROR" or (kind == "WELCOME" and status != OK):
        reason = fields.text(payload, f"the reason of {kind}", 4096)
        return Error(status, reason) if kind == "ERROR" else Refuse(status, reason)
    decoder = _DECODERS.get((kind, status))
    if decoder is None:
        raise ProtocolError(f"no message of type {kind[:40]!r} with status {status}")
    return decoder(payload)


def _tickets(payload: Any, what: str = "tickets") -> tuple[str, ...]:
    rows = fields.rows(payload, what, BATCH_ITEMS)
    for ticket in rows:
        if not is_ticket(ticket):
            raise ProtocolError("a ticket that is not 16 capital letters and digits")
    return rows


def _held(payload: Any, low: int = 1, limit: int = BATCH_ITEMS) -> tuple[Held, ...]:
    attempts = []
    for row in fields.rows(payload, "attempts", limit):
        if (
            type(row) is not tuple
            or len(row) != 2
            or not is_ticket(row[0])
            or type(row[1]) is not int
            or not low <= row[1] <= ATTEMPT_LIMIT
        ):
            raise ProtocolError("an attempt that is not (ticket, number)")
        attempts.append(Held._make(row))
    return tuple(attempts)


def _jobs(payload: Any) -> Job:
    jobs = []
    for row in fields.rows(payload, "jobs", BATCH_ITEMS):
        if (
            type(row) is not tuple
            or len(row) != 7
            or not is_ticket(row[0])
            or type(row[1]) is not int
            or not 0 <= row[1] <= ATTEMPT_LIMIT
            or type(row[2]) is not float
            or not 0 <= row[2] < 1e18
            or type(row[3]) is not bytes
            or type(row[4]) is not int
            or not 0 <= row[4] <= RETRIES_LIMIT
            or type(row[5]) is not bool
            or type(row[6]) is not int
            or not -PRIORITY_LIMIT <= row[6] <= PRIORITY_LIMIT
        ):
            raise ProtocolError(
                "a job that is not (ticket, attempt, time, bytes, retries, at most once, priority)"
            )
        jobs.append(JobItem._make(row))
    return Job(jobs)


_OUTCOMES = frozenset(str(outcome) for outcome in Outcome)


def _results(payload: Any) -> list[Ended]:
    results = []
    for row in fields.rows(payload, "results", BATCH_ITEMS):
        if (
            type(row) is not tuple
            or len(row) != 4
            or not is_ticket(row[0])
            or type(row[1]) is not int
            or not 0 <= row[1] <= ATTEMPT_LIMIT
            or type(row[2]) is not str
            or row[2] not in _OUTCOMES
            or type(row[3]) is not bytes
        ):
            raise ProtocolError("a result that is not (ticket, attempt, outcome, bytes)")
        results.append(Ended._make(row))
    return results


def _versioned(payload: Any, kind: str, count: int) -> tuple[Any, ...]:
    # The version comes first, and alone: a later version may have other fields behind it.
    said = payload[0] if type(payload) is tuple and payload and type(payload[0]) is int else "none"
    if said != PROTOCOL_VERSION:
        raise ProtocolError(f"protocol version {said}: this side speaks {PROTOCOL_VERSION}", 426)
    return fields.exactly(payload, kind, count)


def _hello(payload: Any) -> Hello:
    version, node_id, instance, name, slots, held, running, finished = _versioned(payload, "HELLO", 8)
    return Hello(
        fields.name(node_id, "the node's id"),
        fields.name(instance, "the instance"),
        fields.name(name, "the node's name"),
        fields.integer(slots, "slots", 1, SLOTS_LIMIT),
        _held(held, limit=HELD_LIMIT),
        _held(running, limit=HELD_LIMIT),
        _held(finished, limit=HELD_LIMIT),
        version,
    )


def _welcome(payload: Any) -> Welcome:
    version, balancer_id, epoch, period = _versioned(payload, "WELCOME", 4)
    return Welcome(
        fields.name(balancer_id, "the balancer's id"),
        fields.integer(epoch, "epoch", 1, 2**62),
        fields.number(period, "the period of result requests"),
        version,
    )


def _info(payload: Any) -> Info:
    queue, running, free_slots, load, memory = fields.exactly(payload, "INFO", 5)
    return Info(
        fields.integer(queue, "the queue size", 0, 2**62),
        fields.integer(running, "running", 0, 2**62),
        fields.integer(free_slots, "free slots", 0, 2**62),
        fields.number(load, "the load"),
        fields.integer(memory, "the memory", 0, 2**62),
    )


def _ack(payload: Any) -> AckJobs | AckResults:
    of, rows = fields.exactly(payload, "ACK", 2)
    if of == "JOB":
        return AckJobs(_tickets(rows))
    if of == "RESULT":
        return AckResults(_held(rows, low=0))
    raise ProtocolError("an ACK of neither JOB nor RESULT")


def _query(payload: Any) -> Query:
    number, what, tickets = fields.exactly(payload, "QUERY", 3)
    if what not in QUERIES:
        raise ProtocolError(f"a QUERY for none of {', '.join(QUERIES)}")
    return Query(fields.integer(number, "the number", 0, 2**62), what, _tickets(tickets))


def _answer(payload: Any) -> Answer:
    number, text = fields.exactly(payload, "ANSWER", 2)
    return Answer(
        fields.integer(number, "the number", 0, 2**62), fields.text(text, "the answer", QUERY_LIMIT)
    )


def _res_req(payload: Any) -> ResReq:
    results, tickets = fields.exactly(payload, "RES_REQ", 2)
    return ResReq(_results(results), _tickets(tickets))


_DECODERS: dict[tuple[str, int], Callable[[Any], Message]] = {
    ("HELLO", OK): _hello,
    ("WELCOME", OK): _welcome,
    ("JOB", OK): _jobs,
    ("INFO", OK): _info,
    ("REQUEST_OF_RES", OK): lambda payload: RequestOfRes(_tickets(payload)),
    ("RESULT", OK): lambda payload: Result(_results(payload)),
    ("RESULT", NOT_FOUND): lambda payload: NotHere(_tickets(payload)),
    ("RES_REQ", OK): _res_req,
    ("ACK", OK): _ack,
    ("STARTED", OK): lambda payload: Started(_held(payload)),
    ("LEAVING", OK): lambda payload: Leaving(_held(payload)),
    ("RECALL", OK): lambda payload: Recall(_held(payload)),
    ("RETURNED", OK): lambda payload: Returned(_held(payload)),
    ("CANCEL", OK): lambda payload: Cancel(_held(payload, low=0)),
    ("DROP", OK): lambda payload: Drop(_held(payload)),
    ("QUERY", OK): _query,
    ("ANSWER", OK): _answer,
    ("ASK", OK): relay.ask,
    ("TOLD", OK): relay.told,
    ("CLAIM", OK): relay.claim,
    ("CLAIMED", OK): relay.claimed,
    ("CHECK", OK): lambda payload: Check(_tickets(payload)),
    ("CHECKED", OK): lambda payload: Checked(_tickets(payload)),
    ("DRAIN", OK): lambda payload: Drain(),
    ("BYE", OK): lambda payload: Bye(),
}
