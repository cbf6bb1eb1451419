"""`evenly submit`: one job, and with `--wait` all that running it here would show."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

import click

from evenly.cli import exits
from evenly.cli.app import say
from evenly.cli.common import emit, ending, json_option, nodes_option, run, show_one_of_many, write
from evenly.cli.jobs import job_of, job_options
from evenly.cli.progress import Bar
from evenly.client import AsyncClient, Job, Result
from evenly.client.lines import submission


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--] CMD…")
@click.option("--task", metavar="NAME", help="A named task; in place of CMD its payload, as a JSON object.")
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
    except ValueError as error:
        raise click.UsageError(f"The payload is not JSON: {error}.") from None
    if not isinstance(payload, dict):
        raise click.UsageError('The payload is a JSON object, as {"path": "/etc/hostname"}.')
    return submission(None, task, payload, None, options)


def line_of(words: tuple[str, ...]) -> str:
    """For the shell: a single word is a line already."""
    return words[0] if len(words) == 1 else shlex.join(words)


async def _submit(client: AsyncClient, given: dict[str, Any], wait: bool, as_json: bool) -> int:
    (job,) = [job async for job in client.submit_many([given])]
    if not wait:
        if as_json:
            emit({"ticket": job.ticket, "node": job.node or None})
        else:
            click.echo(job.ticket)
        return exits.OK
    try:
        if given.get("array"):
            return await follow_array(client, job, as_json)
        if not as_json:
            await follow(client, job)
        result = await client.wait(job)
    except BaseException as error:
        # Also where nobody reads the output any more: run here, it would end with that.
        if not isinstance(error, Exception) or isinstance(error, BrokenPipeError):
            await give_up(client, job, is_quiet=isinstance(error, BrokenPipeError))
        raise
    if as_json:
        emit(result.raw)
    else:
        tell_end(result)
    return code_of(result)


async def give_up(client: AsyncClient, job: Job, is_quiet: bool) -> None:
    await client.cancel(job)
    if not is_quiet:
        say(f"{job.ticket} is cancelled")


async def follow(client: AsyncClient, job: Job | str) -> None:
    """Its output to ours, as it comes; what was too fast for that is counted."""
    read: dict[tuple[int, str], int] = {}
    lost = 0
    async for chunk in client.tail(job):
        key = chunk.attempt, chunk.stream
        lost += max(0, chunk.at - read.get(key, 0))
        read[key] = chunk.at + len(chunk.data)
        write(chunk.data, sys.stdout if chunk.stream == "stdout" else sys.stderr)
    if lost:
        say(f"{lost} bytes of it came too fast to be followed; result shows more")


async def follow_array(client: AsyncClient, array: Job | str, as_json: bool) -> int:
    """What its jobs write, one after the other, each when it has ended. Returns the exit code."""
    status = await client.status(array)
    with Bar(status.raw["array"]["size"], "jobs") as bar:
        async for result in client.results(client.jobs(array)):
            bar.clear()
            show_one_of_many(str(bar.done), result, {"index": bar.done} if as_json else None)
            bar.failed += not result.ok
            bar.add()
    if bar.failed:
        say(f"{bar.failed} of {bar.done} jobs did not succeed")
    return exits.FAILED if bar.failed else exits.OK


def tell_end(result: Result) -> None:
    """What the output does not say: a task's value, and an end that was not its own, as by --memory. Why a
    task failed stands in its traceback."""
    if result.value is not None:
        click.echo(result.value if isinstance(result.value, str) else json.dumps(result.value))
    was_killed = "run" in (result.raw.get("job") or {}) and (result.exit_code or 0) > 128
    is_said = result.ok or (result.exit_code is not None and not (was_killed and result.reason))
    if not is_said or result.outcome not in ("succeeded", "failed"):
        say(f"{result.ticket} {ending(result)}")


def code_of(result: Result) -> int:
    """That of the command where it has one."""
    if result.ok:
        return exits.OK
    return result.exit_code or exits.FAILED
