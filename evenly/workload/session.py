"""A run from its file to its report: what is begun, gone on with, tried again."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from evenly.client.errors import EvenlyError
from evenly.client.model import Address
from evenly.workload.errors import WorkloadError
from evenly.workload.progress import View
from evenly.workload.reader import Workload
from evenly.workload.runner import Run
from evenly.workload.state import SUFFIX, State

#: Bytes of randomness in a run's name, from which its keys come.
RUN_BYTES = 8


class BadFile(WorkloadError):
    """Lines of the file are wrong; nothing was submitted."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asks of a run. None: as the file, or the run that is gone on with, has it."""

    file: Path
    state: Path | None = None
    format: str | None = None
    speed: float | None = None
    skips_bad: bool = False
    resumes: bool = False
    retries: bool = False
    follows: bool = True

    @property
    def state_path(self) -> Path:
        return self.state or Path(f"{self.file}{SUFFIX}")


def prepare(wishes: Wishes, told: Callable[[str], None]) -> tuple[Workload, State]:
    """The file, looked through, and the state of a run that is begun or gone on with.

    Raises:
        BadFile: with each line that is wrong, and how.
        WorkloadError: where there is nothing to go on with, or something that would be lost.
    """
    path = wishes.state_path
    earlier = State.open(path)
    if wishes.resumes or wishes.retries:
        if earlier is None:
            raise WorkloadError(f"there is no run of {wishes.file} to go on with: {path} is not there")
        try:
            return _go_on(wishes, earlier), earlier
        except BaseException:
            earlier.close()
            raise
    if earlier is not None:
        with earlier:
            earlier.refuse_unless_over()
    workload = Workload(wishes.file, wishes.format, wishes.speed)
    survey = workload.survey()
    if survey.fault_count and not wishes.skips_bad:
        raise BadFile(f"{workload.told(survey)}\nnothing was submitted; --skip-bad leaves such lines out")
    if survey.fault_count:
        told(workload.told(survey))
        told(f"bad lines that are left out: {survey.fault_count}")
    if (skipped := survey.first_skipped) is not None:
        told(f"jobs that are left out: {survey.skipped}, the first in line {skipped.line}: {skipped.why}")
    facts = {
        "file": os.fsencode(wishes.file).decode("utf-8", "replace"),
        "digest": workload.digest(),
        "format": workload.format,
        "speed": workload.speed,
        "skip_bad": int(wishes.skips_bad),
        "jobs": survey.jobs,
        "span": survey.span,
        "begun": 0,
        "over": 0,
    }
    return workload, State.create(path, secrets.token_hex(RUN_BYTES), facts)


def _go_on(wishes: Wishes, state: State) -> Workload:
    format, speed = state.get("format"), state.get("speed")
    if wishes.format not in (None, format):
        raise WorkloadError(f"that run has read {wishes.file} as {format}: it goes on so, without --format")
    speed = wishes.speed or (speed if format == "swf" else None)
    workload = Workload(wishes.file, format, speed)
    if workload.digest() != state.get("digest"):
        raise WorkloadError(
            f"{wishes.file} is not the file it was when its run began: its lines would be taken for others; "
            f"a run without --resume and with another --state is a new one"
        )
    if workload.speed != state.get("speed") and workload.survey().jobs != state.get("jobs"):
        raise WorkloadError(
            f"with --speed {workload.speed:g} other lines of {wishes.file} are bad than with "
            f"{state.get('speed'):g}, as its run has them: its jobs would be taken for others"
        )
    if wishes.retries:
        state.retry_failed()
    state.set(over=0, speed=workload.speed)
    return workload


def perform(wishes: Wishes, workload: Workload, state: State, nodes: list[Address], view: View) -> int | None:
    """Runs it. Returns None at its end, the number of the signal that stopped it before.

    Raises:
        EvenlyError: where no node can be reached (any more).
        WorkloadError: where the file or the state cannot be used any more.
    """
    came: list[int] = []

    async def body() -> bool:
        run = Run(workload, state, nodes, told=view.tell, seen=view.update)

        def stop(number: int) -> None:
            if came:
                os._exit(128 + number)  # what is not in the state is submitted again with the same key
            came.append(number)
            view.tell("stopping: what is on its way is written down; once more ends at once")
            run.stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        is_over = await run.go(follows=wishes.follows)
        view.update(run.books, is_last=True)
        return is_over

    is_over = uvloop.run(body())
    if is_over:
        # Without following them, jobs are open: their tickets are not for the next run to overwrite.
        state.set(over=int(not state.counts().open))
        return None
    return came[0] if came else None


__all__ = ["BadFile", "EvenlyError", "Wishes", "perform", "prepare"]
