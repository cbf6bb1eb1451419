"""What a client reads: replies as objects, and their bytes in both modes.

Text: one line a reply; where there is more to say, the line says so, the rest follows, and a line `.`
ends it (dots at the start of a line are doubled, as in SMTP). JSON: one object on one line, always.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from protocol import explain, file_replies
from protocol.dialogue import HELP
from protocol.explain import Explained, shown_time
from protocol.file_replies import FileReply, compact_json, json_line
from protocol.job import JobSpec, JobState, Outcome, Report, Sleep
from protocol.job_objects import array_fields, job_fields, status_fields, value_of

NOT_EXECUTED = "Result has not been executed yet, come back later."
NOT_FOUND = "This job could not be found on this node."
#: Of what a job waits for, as many are named on a line.
SHOWN = 3
GOODBYE = "Come back later to check your results."


@dataclass(frozen=True, slots=True)
class TicketIssued:
    """`node`: the name of the one that answers for it, where that is another."""

    ticket: str
    node: str = ""


class ArrayView(NamedTuple):
    """What has come of an array: how many of its jobs ended how.

    `jobs`: (ticket, outcome or None) of those from `first` on, a page of them, where they were asked for.
    """

    size: int
    counts: Mapping[str, int]
    jobs: Sequence[tuple[str, str | None]] | None = None
    first: int = 0

    @property
    def open(self) -> int:
        return self.size - sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as its client sees it; `outcome` and `report` stand when it is done."""

    ticket: str
    spec: JobSpec
    submitted_at: float
    state: JobState
    attempt: int | None = None
    node: str | None = None
    started_at: float | None = None
    outcome: Outcome | None = None
    report: Report | None = None
    #: Tickets that have to succeed before it is handed in.
    waits_for: tuple[str, ...] = ()
    #: Where it is an array and that was looked into.
    array: ArrayView | None = None


@dataclass(frozen=True, slots=True)
class ResultOf:
    """Answers `result` and `wait`."""

    job: JobView


@dataclass(frozen=True, slots=True)
class StatusOf:
    job: JobView
    #: Said where the cluster could not be asked.
    note: str = ""
    #: How far a task says it is, where this node runs it: a part of 1, and words.
    progress: tuple[float, str] | None = None


@dataclass(frozen=True, slots=True)
class CancelOf:
    """`requested`: noted durably, and not known to be done yet. Else the job's end tells how it went."""

    job: JobView
    requested: bool = False


@dataclass(frozen=True, slots=True)
class UnknownTicket:
    ticket: str


@dataclass(frozen=True, slots=True)
class Failure:
    """One line that says what was wrong and what would have been right."""

    reason: str


@dataclass(frozen=True, slots=True)
class Subscribed:
    tag: str


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    pass


@dataclass(frozen=True, slots=True)
class JobEnded:
    """No reply: a line between them, for a client that has subscribed."""

    job: JobView


@dataclass(frozen=True, slots=True)
class LeftOut:
    """So many such lines had no room, as the client does not read."""

    count: int


@dataclass(frozen=True, slots=True)
class NodesAre:
    """`nodes`: objects with name, connected, slots, running, queued, and more."""

    nodes: Sequence[dict[str, Any]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class StatsAre:
    """Counters by name, for this node and (None while it is away) for the load balancer."""

    node: dict[str, Any]
    balancer: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class HelpText:
    pass


@dataclass(frozen=True, slots=True)
class JsonMode:
    pass


@dataclass(frozen=True, slots=True)
class Goodbye:
    pass


Reply = (
    TicketIssued
    | ResultOf
    | StatusOf
    | CancelOf
    | UnknownTicket
    | Failure
    | Subscribed
    | Unsubscribed
    | JobEnded
    | LeftOut
    | NodesAre
    | StatsAre
    | HelpText
    | JsonMode
    | Goodbye
    | FileReply
    | Explained
)


# --- text ----------------------------------------------------------------------------------------


def render_text(reply: Reply) -> bytes:
    """The reply for a person: complete lines."""
    return _TEXT[type(reply)](reply)


def _line(text: str) -> bytes:
    return text.encode("utf-8", "replace") + b"\n"


def text_block(head: str, body: bytes) -> bytes:
    """A head line, the body with its dots stuffed, a line with a dot."""
    # Not line by line: a MiB may be a million of them, and other clients wait meanwhile.
    first = b"." if body.startswith(b".") else b""
    end = b"" if body.endswith(b"\n") or not body else b"\n"
    stuffed = body.replace(b"\n.", b"\n..")
    return b"".join((head.encode("utf-8", "replace"), b"\n", first, stuffed, end, b".\n"))


def summary(job: JobView) -> str:
    """How a done job ended, in one line without its output."""
    report = job.report or Report()
    if isinstance(job.spec, Sleep) and job.outcome is Outcome.SUCCEEDED:
        began = shown_time(report.started_at or report.finished_at)
        return (
            f"Executed Job[{job.ticket}] for {job.spec.ms} milliseconds "
            f"from {began} to {shown_time(report.finished_at)}"
        )
    return ending(job)


def ending(job: JobView) -> str:
    """How it ended, whatever it was."""
    report = job.report or Report()
    parts = [str(job.outcome)]
    if report.exit_code is not None:
        parts.append(f"exit code {report.exit_code}")
    if report.reason:
        parts.append(report.reason)
    if report.started_at is not None:
        parts.append(f"in {max(0.0, report.finished_at - report.started_at):.3f} s on {report.node}")
    # What the executor said in words may have line ends.
    return " ".join(", ".join(parts).split())


def _output(report: Report) -> bytes:
    """stdout with what a task returned as its last line, then stderr under a line that says so; a line that
    says what was cut off."""
    out = _with_note(report.stdout, report.stdout_total, "stdout")
    value = value_of(report)
    if value is not None:
        shown = value if isinstance(value, str) else report.value
        out += (b"" if out.endswith(b"\n") or not out else b"\n") + _line(shown)
    err = _with_note(report.stderr, report.stderr_total, "stderr")
    if not err:
        return out
    if not out:
        return err
    separator = b"" if out.endswith(b"\n") else b"\n"
    return out + separator + b"--- stderr ---\n" + err


def _with_note(kept: bytes, total: int, name: str) -> bytes:
    if total <= len(kept):
        return kept
    return kept + f"\n--- {name} truncated: {len(kept)} of {total} bytes kept ---\n".encode()


def _result_text(reply: ResultOf) -> bytes:
    job = reply.job
    if job.outcome is None:
        return _line(NOT_EXECUTED)
    head = f"Result: {summary(job)}"
    output = _output(job.report or Report())
    body = output.removesuffix(b"\n")
    if not body:
        return _line(head)
    if b"\n" not in body:
        return b"".join((head.encode("utf-8", "replace"), b": ", body, b"\n"))
    count = body.count(b"\n") + 1
    return text_block(f"{head}, {count} lines of output up to the line with a single dot:", output)


def _status_text(reply: StatusOf) -> bytes:
    job = reply.job
    text = f"Status: {job.state}"
    if job.outcome is not None:
        text += f", {summary(job)}"
    elif job.node:
        text += f" on {job.node}, attempt {job.attempt}"
    elif job.waits_for:
        text += f", waits for {some_of(job.waits_for)}"
    elif job.array is not None:
        text += f": {counted(job.array.counts, job.array.open)}"
    if reply.progress is not None:
        part, words = reply.progress
        text += f", {part:.0%} done" + (f": {' '.join(words.split())}" if words else "")
    return _line(f"{text} ({reply.note})" if reply.note else text)


def counted(counts: Mapping[str, int], still_open: int = 0) -> str:
    """`40 queued or running, 55 succeeded, 5 failed`."""
    parts = [f"{still_open} queued or running"] if still_open else []
    parts += [f"{counts[outcome]} {outcome}" for outcome in Outcome if counts.get(outcome)]
    return ", ".join(parts)


def some_of(tickets: Sequence[str]) -> str:
    """The first ones by name, and how many more there are."""
    more = len(tickets) - SHOWN
    return ", ".join(tickets[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _cancel_text(reply: CancelOf) -> bytes:
    job = reply.job
    if reply.requested:
        return _line(f"Cancel requested: {job.ticket} is cancelled as soon as the ReverseProxy is back.")
    if job.outcome is Outcome.CANCELLED:
        return _line(f"Cancelled: {job.ticket}")
    return _line(f"Too late to cancel: {job.ticket} is done, {job.outcome}.")


def _nodes_text(reply: NodesAre) -> bytes:
    rows = [("NAME", "CONNECTED", "SLOTS", "RUNNING", "QUEUED", "DONE")]
    for node in reply.nodes:
        here = "stops" if node.get("draining") else "yes" if node["connected"] else "no"
        cells = (node[key] for key in ("slots", "running", "queued", "done"))
        rows.append((str(node["name"]), here, *map(str, cells)))  # type: ignore[arg-type]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    table = "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    note = f" ({reply.note})" if reply.note else ""
    return text_block(f"Nodes: {len(reply.nodes)}{note}", table.encode())


def _stats_text(reply: StatsAre) -> bytes:
    lines = [f"node {key} {value}" for key, value in reply.node.items()]
    if reply.balancer is None:
        lines.append("balancer away")
    else:
        lines += [f"balancer {key} {value}" for key, value in reply.balancer.items()]
    return text_block(f"Stats: {len(lines)}", "\n".join(lines).encode())


_TEXT: dict[type, Callable[[Any], bytes]] = {
    TicketIssued: lambda reply: b"Ticket ID: " + reply.ticket.encode() + b"\n",
    ResultOf: _result_text,
    StatusOf: _status_text,
    CancelOf: _cancel_text,
    UnknownTicket: lambda reply: _line(f"Result: {NOT_FOUND}"),
    Failure: lambda reply: _line(reply.reason),
    Subscribed: lambda reply: _line(f"Subscribed: {reply.tag}"),
    Unsubscribed: lambda reply: _line("Unsubscribed."),
    JobEnded: lambda reply: _line(f"Done: {reply.job.ticket} {ending(reply.job)}"),
    LeftOut: lambda reply: _line(f"Done: {reply.count} more, left out as they were not read in time."),
    NodesAre: _nodes_text,
    StatsAre: _stats_text,
    HelpText: lambda reply: text_block("Commands:", HELP.encode()),
    JsonMode: lambda reply: json_line({"json": True}),
    Goodbye: lambda reply: _line(GOODBYE),
    **file_replies.TEXT,
    **explain.TEXT,
}


# --- JSON ----------------------------------------------------------------------------------------


def render_json(reply: Reply) -> bytes:
    """The reply for a program: one JSON object, one line."""
    return _JSON[type(reply)](reply)


def _result_json(reply: ResultOf) -> bytes:
    job, array = reply.job, reply.job.array
    fields = job_fields(job)
    if array is not None:
        fields["array"] = array_fields(array)
        fields["first"] = array.first
        fields["jobs"] = [{"ticket": ticket, "outcome": outcome} for ticket, outcome in array.jobs or ()]
    return json_line(fields)


def _status_json(reply: StatusOf) -> bytes:
    value = status_fields(reply.job)
    if reply.progress is not None:
        value["progress"] = dict(zip(("part", "text"), reply.progress, strict=True))
    return json_line(value | {"note": reply.note} if reply.note else value)


def _cancel_json(reply: CancelOf) -> bytes:
    job = reply.job
    value: dict[str, Any] = {"ticket": job.ticket, "state": str(job.state)}
    value["outcome"] = None if job.outcome is None else str(job.outcome)
    value["cancel"] = (
        "requested" if reply.requested else "done" if job.outcome is Outcome.CANCELLED else "too late"
    )
    return json_line(value)


def _issued_json(reply: TicketIssued) -> bytes:
    if reply.node:
        return json_line({"ticket": reply.ticket, "node": reply.node})
    return b'{"ticket":"' + reply.ticket.encode() + b'"}\n'


def _nodes_json(reply: NodesAre) -> bytes:
    value: dict[str, Any] = {"nodes": list(reply.nodes)}
    return json_line(value | {"note": reply.note} if reply.note else value)


def _json_of(fields: Callable[[Any], dict[str, Any]]) -> Callable[[Any], bytes]:
    return lambda reply: json_line(fields(reply))


_JSON: dict[type, Callable[[Any], bytes]] = {
    TicketIssued: _issued_json,
    ResultOf: _result_json,
    StatusOf: _status_json,
    CancelOf: _cancel_json,
    UnknownTicket: lambda reply: json_line({"error": NOT_FOUND, "ticket": reply.ticket}),
    Failure: lambda reply: json_line({"error": reply.reason}),
    Subscribed: lambda reply: json_line({"subscribed": reply.tag}),
    Unsubscribed: lambda reply: json_line({"unsubscribed": True}),
    JobEnded: lambda reply: json_line({"done": status_fields(reply.job)}),
    LeftOut: lambda reply: json_line({"left_out": reply.count}),
    NodesAre: _nodes_json,
    StatsAre: lambda reply: json_line({"node": reply.node, "balancer": reply.balancer}),
    HelpText: lambda reply: json_line({"help": HELP.splitlines()}),
    JsonMode: lambda reply: json_line({"json": True}),
    Goodbye: lambda reply: json_line({"goodbye": GOODBYE}),
    **{kind: _json_of(fields) for kind, fields in (file_replies.JSON | explain.JSON).items()},
}


# --- getall, which is streamed -------------------------------------------------------------------


def listing_start(as_json: bool) -> bytes:
    return b'{"results":[' if as_json else b"Results\n"


def listing_row(job: JobView, as_json: bool, first: bool) -> bytes:
    """One ticket of `getall`: in text `<ticket> -> <result>` on one line, without the job's output."""
    if as_json:
        return (b"" if first else b",") + compact_json(job_fields(job))
    said = NOT_EXECUTED if job.outcome is None else _one_line(job)
    return _line(f"{job.ticket} -> {said}")


def listing_failure(ticket: str, reason: str, as_json: bool, first: bool) -> bytes:
    """The row of a ticket that cannot be shown."""
    if as_json:
        return (b"" if first else b",") + compact_json({"error": reason, "ticket": ticket})
    return _line(f"{ticket} -> {reason}")


def _one_line(job: JobView) -> str:
    output = _output(job.report or Report()).removesuffix(b"\n")
    if not output:
        return summary(job)
    if b"\n" in output:
        return f"{summary(job)}, {output.count(10) + 1} lines of output (result {job.ticket} shows them)"
    return f"{summary(job)}: {output.decode('utf-8', 'replace')}"


def listing_end(as_json: bool) -> bytes:
    return b"]}\n" if as_json else b"\n"
