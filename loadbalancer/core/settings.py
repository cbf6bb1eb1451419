"""What an operator can set, as the core takes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Periods in seconds."""

    eager: bool = True
    dispatch_period: float = 5.0
    max_num_jobs_dispatch: int = 30
    request_result_period: float = 3.0
    max_num_nodes: int = 10
    node_grace_period: float = 10.0
    crash_limit: int = 3
