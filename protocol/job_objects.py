"""A job as a JSON object, as programs read it."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from protocol.file_replies import files_fields
from protocol.job import Extras, JobSpec, Outcome, Report, Sleep, Task

if TYPE_CHECKING:
    from protocol.replies import ArrayView, JobView


def spec_fields(spec: JobSpec) -> dict[str, Any]:
    if isinstance(spec, Sleep):
        return {"sleep": spec.ms, "key": spec.key} if spec.key else {"sleep": spec.ms}
    return {
        **({"task": spec.name, "payload": _payload(spec)} if isinstance(spec, Task) else {"run": spec.line}),
        "time": spec.time_limit,
        "retries": spec.retries,
        "at_most_once": spec.at_most_once,
        **_extras_fields(spec.extras),
    }


def _extras_fields(extras: Extras) -> dict[str, Any]:
    """By the names that a submission gives them."""
    given = extras.given()
    if "env" in given:
        given["env"] = dict(extras.env)
    if files := given.pop("files", None):
        given["file"] = dict(files)
    return given


def _payload(spec: Task) -> Any:
    try:
        return json.loads(spec.payload)
    except (ValueError, RecursionError):
        return spec.payload


def job_fields(job: JobView) -> dict[str, Any]:
    """The object of `result`: every key is always there, null where there is nothing to say yet.

    Times are seconds since the epoch. Bytes of the output that are no UTF-8 stand as U+FFFD, and all of that
    output once more under `stdout_base64` or `stderr_base64`.
    """
    report = job.report
    stdout, more = _text("stdout", report.stdout) if report else (None, {})
    stderr, more_of_stderr = _text("stderr", report.stderr) if report else (None, {})
    return {
        **_state_fields(job),
        "exit_code": report.exit_code if report else None,
        "stdout": stdout,
        "stderr": stderr,
        "truncated": report.truncated if report else False,
        **_place_fields(job),
        "reason": (report.reason or None) if report else None,
        "stdout_bytes": report.stdout_total if report else None,
        "stderr_bytes": report.stderr_total if report else None,
        "value": value_of(report) if report else None,
        **more,
        **more_of_stderr,
        **({"files": files_fields(report.files)} if report and report.files else {}),
        "job": spec_fields(job.spec),
    }


def _state_fields(job: JobView) -> dict[str, Any]:
    outcome = None if job.outcome is None else str(job.outcome)
    return {"ticket": job.ticket, "state": str(job.state), "outcome": outcome}


def _place_fields(job: JobView) -> dict[str, Any]:
    report = job.report
    return {
        "attempt": job.attempt,
        "node": (report.node or None) if report else job.node,
        "submitted_at": job.submitted_at,
        "started_at": report.started_at if report else job.started_at,
        "finished_at": report.finished_at if report else None,
    }


def _text(stream: str, output: bytes) -> tuple[str, dict[str, str]]:
    try:
        return output.decode(), {}
    except UnicodeDecodeError:
        return output.decode("utf-8", "replace"), {f"{stream}_base64": b64encode(output).decode()}


def array_fields(array: ArrayView) -> dict[str, Any]:
    counts = {str(outcome): array.counts.get(outcome, 0) for outcome in Outcome}
    return {"size": array.size, "open": array.open, **counts}


def status_fields(job: JobView) -> dict[str, Any]:
    value = _state_fields(job) | _place_fields(job)
    if job.waits_for:
        value["waits_for"] = job.waits_for
    if job.array is not None:
        value["array"] = array_fields(job.array)
    return value


def value_of(report: Report) -> Any:
    """What a task returned; None where there is nothing."""
    try:
        return json.loads(report.value) if report.value else None
    except (ValueError, RecursionError):
        return report.value  # another program's: as it is
