"""The jobs of simulated clusters."""

from __future__ import annotations

import json

from protocol.job import Command, JobSpec, Sleep, Task
from protocol.tasks import Parameter, Signature

DAY = 24 * 3600.0
#: A command that takes three days.
LONG = f"{3 * DAY:.0f}"
#: What nodes have for tasks: one that does as a command of this line.
TASKS = {"as": Signature((Parameter("line", ("str",)),))}


def is_endless(spec: JobSpec) -> bool:
    if isinstance(spec, Sleep):
        return spec.ms > DAY * 1000
    return spec.line == LONG if isinstance(spec, Command) else LONG in spec.payload


def as_task(command: Command) -> Task:
    """A task that does the same."""
    how = (command.time_limit, command.retries, command.at_most_once)
    return Task("as", json.dumps({"line": command.line}), *how)
