"""The works A to H, each in a module of its own."""

from __future__ import annotations

from benchmarks.work import Work
from benchmarks.works import backlog, commands, crowd, idle, large, latency, sleeps, traffic

WORKS: dict[str, Work] = {
    work.letter: work
    for work in (
        commands.WORK,
        sleeps.WORK,
        latency.WORK,
        traffic.WORK,
        backlog.WORK,
        crowd.WORK,
        large.WORK,
        idle.WORK,
    )
}
