"""A job that is done, as its client sees it."""

from __future__ import annotations

from protocol.dialogue import CancelJob, GetResult, Status, Wait
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


def reply_of_done(asked: GetResult | Wait | Status | CancelJob, view: JobView) -> Reply:
    """What a client that asked so reads of a job that is done."""
    if isinstance(asked, Status):
        return StatusOf(view)
    return CancelOf(view) if isinstance(asked, CancelJob) else ResultOf(view)
