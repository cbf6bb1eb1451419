"""What an executor holds of an attempt that has begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from protocol.job import JobSpec, Report, Sleep
from protocol.job import Outcome as JobOutcome


@dataclass(slots=True)
class Running:
    """`cancelled`: its end, however it comes, is to be taken as that. `progress`: what a task said last."""

    attempt: int
    spec: JobSpec
    started_at: float
    cancelled: bool = False
    progress: tuple[float, str] | None = None


class Shipping(NamedTuple):
    """An attempt that has ended so, as soon as its files are at its origin."""

    attempt: int
    outcome: JobOutcome
    report: Report


def leaves_files(spec: JobSpec) -> bool:
    return not isinstance(spec, Sleep) and spec.extras.leaves_files
