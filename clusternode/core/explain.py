"""Why a job waits and what came of it, as far as its origin knows without asking anybody, or was told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from clusternode.core.openjob import OpenJob
from protocol.errors import ProtocolError
from protocol.explain import HOW_LIMIT, Attempt, Explained, attempt, moment
from protocol.job import JobState
from protocol.replies import JobView, counted, ending, some_of

if TYPE_CHECKING:
    from clusternode.core.origin import Origin


def explain_here(origin: Origin, ticket: str, job: OpenJob, connected: bool) -> Explained:
    """Of an open job that the load balancer has not been told of, or that cannot be asked."""
    away = "" if connected else f"{origin.why_away}; "
    gate = origin.gate(ticket, job)
    if awaited := origin.after.awaited_by(gate):
        more = {"waits_for": list(awaited)}
        return Explained(ticket, JobState.QUEUED, f"it waits for {some_of(awaited)}", more=more)
    if gate in origin.keys.unclaimed:
        why = f"{away}it is handed in as soon as its key is known to be its own"
    elif job.array is not None:
        array = job.array.view()
        why = f"it ends with its {array.size} jobs: {counted(array.counts, array.open)}"
        return Explained(ticket, JobState.RUNNING, why)
    elif origin.runs_here(ticket):
        return Explained(ticket, JobState.RUNNING, f"{away}it runs on this node")
    elif job.acked:
        why = f"{away}where the job is, is not known until that is back"
    else:
        why = f"{away}it is handed in as soon as that is back"
    return Explained(ticket, JobState.QUEUED, why)


def explain_told(ticket: str, told: dict[str, Any] | None) -> Explained:
    """Of an open job, from what the load balancer says of it; None where it has not heard of it.

    Raises ValueError, TypeError, KeyError or ProtocolError if that is none of this version.
    """
    if told is None:
        return Explained(ticket, JobState.QUEUED, "it is on its way to the ReverseProxy")
    rows = [attempt(tuple(row), may_go_on=True) for row in told.pop("attempts")]
    state, why, until = _STATES[told.pop("state")], told.pop("why"), told.pop("until")
    if type(why) is not str:
        raise ProtocolError("an explanation without its words")
    until = None if until is None else moment(until, "until when it waits")
    return Explained(ticket, state, why, rows, until, told)


def explain_done(view: JobView, tried: Iterable[Attempt] = ()) -> Explained:
    """`tried`: what came of its attempts before the last one."""
    report = view.report
    if report is None or view.outcome is None:
        return Explained(view.ticket, view.state, "it has not ended")
    told = {each.attempt: each for each in tried}
    if report.node and view.attempt is not None:
        how = f"{view.outcome}, {report.reason}" if report.reason else str(view.outcome)
        told[view.attempt] = Attempt(
            view.attempt, report.node, report.started_at, report.finished_at, how[:HOW_LIMIT]
        )
    rows = [told[number] for number in sorted(told)]
    more = {"outcome": str(view.outcome)}
    return Explained(view.ticket, JobState.DONE, f"it has ended: {ending(view)}", rows, more=more)


#: The load balancer's states in the words that clients read: a job is done when its result is here.
_STATES = {
    "queued": JobState.QUEUED,
    "delayed": JobState.QUEUED,
    "assigned": JobState.ASSIGNED,
    "running": JobState.RUNNING,
    "passing": JobState.RUNNING,
    "done": JobState.RUNNING,
}
