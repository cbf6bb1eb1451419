"""A job that is done, as its client sees it."""

from __future__ import annotations

from collections.abc import Iterable

from clusternode.core.explain import explain_done
from protocol.dialogue import CancelJob, Explain, GetResult, Status, Wait
from protocol.explain import Attempt
from protocol.job import Ended, JobState, Outcome, unpack_report, unpack_spec
from protocol.replies import CancelOf, JobView, Reply, ResultOf, StatusOf


def view_of_done(ticket: str, submitted_at: float, body: bytes, ended: Ended) -> JobView:
    """A done job for its client.

    Raises:
        ProtocolError: if the stored bytes are of another version.
    """
    report = unpack_report(ended.body)
    outcome = Outcome(ended.outcome)
    spec = unpack_spec(body)
    return JobView(
        ticket,
        spec,
        submitted_at,
        JobState.DONE,
        ended.attempt,
        report.node or None,
        report.started_at,
        outcome,
        report,
    )


def reply_of_done(
    asked: GetResult | Wait | Status | Explain | CancelJob, view: JobView, tried: Iterable[Attempt] = ()
) -> Reply:
    """What a client that asked so reads of a job that is done; `tried`: its attempts before the last one."""
    if isinstance(asked, Status):
        return StatusOf(view)
    if isinstance(asked, Explain):
        return explain_done(view, tried)
    return CancelOf(view) if isinstance(asked, CancelJob) else ResultOf(view)
