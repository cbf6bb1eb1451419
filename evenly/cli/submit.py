"""`evenly submit`: one job, and with `--wait` all that running it here would show."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from base64 import b64encode
from collections import Counter
from typing import Any, TypeAlias

import click

from evenly.cli import exits
from evenly.cli.app import OutputLost, Text, say
from evenly.cli.common import echo, emit, ending, json_option, nodes_option, run, show_one_of_many, write
from evenly.cli.jobs import job_of, job_options
from evenly.cli.progress import Bar
from evenly.client import AsyncClient, EvenlyError, Job, Result
from evenly.client.lines import submission
from evenly.client.shell import as_command

#: Seconds in which what nobody waits for any more is cancelled; then it is said that it was not.
GIVE_UP = 5.0
#: Bytes of a job's output that came here, by attempt and stream.
Written: TypeAlias = "Counter[tuple[int | None, str]]"


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, type=Text(), metavar="[--] CMD…")
@click.option(
    "--task", type=Text(), metavar="NAME", help="A named task; in place of CMD its payload, as a JSON object."
)
@click.option("-w", "--wait", is_flag=True, help="Show its output as it comes, and exit as it does.")
@job_options
@nodes_option
@json_option
def submit(
    words: tuple[str, ...], task: str | None, wait: bool, nodes: str | None, as_json: bool, **options: Any
) -> None:
    """Submits CMD and prints its ticket. Several words are a command and its arguments, each as it is; a
    single one is a line for the shell, as in: evenly submit -- 'sort data | uniq -c'

    With --wait, Ctrl-C cancels the job. What the jobs of an --array write is shown one job after the other.
    """
    job = submission_of(words, task, job_of(options | {"task": task}, nodes))
    sys.exit(run(nodes, lambda client: _submit(client, job, wait, as_json)))


def submission_of(words: tuple[str, ...], task: str | None, options: dict[str, Any]) -> dict[str, Any]:
    if task is None:
        if not words:
            raise click.UsageError("What to run is missing, as in: evenly submit -- make test")
        return submission(line_of(words), None, None, None, options)
    if len(words) > 1:
        raise click.UsageError("A task takes its payload as one JSON object.")
    try:
        payload = json.loads(words[0]) if words else {}
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"The payload is not JSON: {error}.") from None
    if not isinstance(payload, dict):
        raise click.UsageError('The payload is a JSON object, as {"path": "/etc/hostname"}.')
    return submission(None, task, payload, None, options)


def line_of(words: tuple[str, ...]) -> str:
    """For the shell: a single word is a line already."""
    return words[0] if len(words) == 1 else f"{as_command(words[0])} {shlex.join(words[1:])}"


async def _submit(client: AsyncClient, given: dict[str, Any], wait: bool, as_json: bool) -> int:
    submitted = client.start(given)
    try:
        job = await asyncio.shield(submitted)
    except asyncio.CancelledError:
        # Its ticket is wanted also after Ctrl-C: it may be a job by now.
        await asyncio.wait([submitted], timeout=GIVE_UP)
        if not submitted.done():
            say("it is not known whether the job was taken; evenly list shows it if it was")
        elif submitted.exception() is None:
            if wait:
                await give_up(client, submitted.result(), is_quiet=False)
            else:
                say(f"{submitted.result().ticket} is submitted")
        raise
    if not wait:
        if as_json:
            emit({"ticket": job.ticket, "node": job.node or None})
        else:
            echo(job.ticket)
        return exits.OK
    try:
        # Which of both it is: with a key it may be what somebody else submitted.
        if array := (await client.status(job)).raw.get("array"):
            return await follow_array(client, job, array["size"], as_json)
        written = None if as_json else await follow(client, job)
        result = await client.wait(job)
    except BaseException as error:
        # Also where its output is not taken any more: run here, it would end with that.
        if not isinstance(error, Exception) or isinstance(error, OutputLost):
            await give_up(client, job, is_quiet=isinstance(error, OutputLost) and error.is_quiet)
        raise
    if written is None:
        emit(result.raw)
        return code_of(result)
    tell_end(result)
    is_missing = tell_missing(written, result)
    return code_of(result) or (exits.FAILED if is_missing else exits.OK)


async def give_up(client: AsyncClient, job: Job, is_quiet: bool) -> None:
    try:
        async with asyncio.timeout(GIVE_UP):
            said = await client.cancel(job)
    except (TimeoutError, EvenlyError) as error:
        why = f"no answer for {GIVE_UP:g} s" if isinstance(error, TimeoutError) else error
        say(f"{job.ticket} could not be cancelled: {why}; evenly cancel {job.ticket} tries again")
    else:
        if said == "requested":
            say(f"{job.ticket} is to be cancelled once the cluster is whole")
        elif not is_quiet:
            say(f"{job.ticket} {'had ended' if said == 'too late' else 'is cancelled'}")


async def follow(client: AsyncClient, job: Job | str, as_json: bool = False) -> Written:
    """Its output to ours, as it comes; returns how much of it came."""
    written: Written = Counter()
    async for chunk in client.tail(job):
        written[chunk.attempt, chunk.stream] += len(chunk.data)
        if as_json:
            emit({"stream": chunk.stream, "attempt": chunk.attempt, "at": chunk.at, **_said(chunk.data)})
        else:
            write(chunk.data, sys.stdout if chunk.stream == "stdout" else sys.stderr)
    return written


def _said(data: bytes) -> dict[str, str]:
    """As text, and where it is none, in base64 too, as it is in a result."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"text": data.decode("utf-8", "replace"), "base64": b64encode(data).decode()}


def tell_missing(written: Written, result: Result) -> bool:
    """Whether some of its last attempt's output was too fast for who follows it, and is missing; says so."""
    if "task" in (result.raw.get("job") or {}) and (result.reason or "").startswith("started "):
        what = "what is shown may be of several starts; evenly result has that of the last one"
        say(f"{result.ticket} was started again: {what}")
        return True
    total = missing = 0
    for stream in ("stdout", "stderr"):
        size = result.raw.get(f"{stream}_bytes") or 0
        total += size
        missing += max(0, size - written[result.attempt, stream])
    if missing:
        is_kept = (result.raw.get("job") or {}).get("keep_output")
        keeps = f"evenly fetch {result.ticket} brings" if is_kept else "--keep-output keeps"
        for_fetch = "" if is_kept else ", for evenly fetch"
        say(f"{missing} of {total} bytes of its output are missing; {keeps} all of it{for_fetch}")
    return missing > 0


async def follow_array(client: AsyncClient, array: Job | str, size: int, as_json: bool) -> int:
    """What its jobs write, one after the other, each when it has ended. Returns the exit code."""
    with Bar(size, "jobs") as bar:
        async for result in client.results(client.jobs(array)):
            bar.clear()
            show_one_of_many(str(bar.done), result, {"index": bar.done} if as_json else None)
            bar.failed += not result.ok
            bar.add()
    if bar.failed:
        say(f"{bar.failed} of {bar.done} jobs did not succeed")
    return exits.FAILED if bar.failed else exits.OK


def tell_end(result: Result) -> None:
    """What the output does not say: a task's value, and why it did not succeed, unless that is the command's
    own exit code, or stands in the task's traceback."""
    if result.value is not None:
        echo(result.value if isinstance(result.value, str) else json.dumps(result.value))
    is_task = "task" in (result.raw.get("job") or {})
    is_said = result.exit_code == 1 and bool(result.stderr) if is_task else not result.reason
    if not result.ok and not (result.outcome == "failed" and result.exit_code is not None and is_said):
        say(f"{result.ticket} {ending(result)}")


def code_of(result: Result) -> int:
    """That of the command where it has one."""
    if result.ok:
        return exits.OK
    return result.exit_code or exits.FAILED
