"""`evenly status`, `result`, `wait`, `tail`, `cancel`, `explain`: questions about jobs by their tickets."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import time
from typing import Any

import click

from evenly.cli import exits
from evenly.cli.app import Finite, say
from evenly.cli.common import (
    ask_each,
    coloured,
    echo,
    emit,
    ending,
    for_each,
    json_option,
    named,
    nodes_option,
    run,
    tickets_argument,
    where,
    write,
)
from evenly.cli.submit import follow, follow_array, tell_end, tell_missing
from evenly.client import AsyncClient, Job, Result, UnknownTicket
from evenly.words import printable


@click.command()
@tickets_argument
@nodes_option
@json_option
def status(tickets: tuple[str, ...], nodes: str | None, as_json: bool) -> None:
    """Says where each job is: queued, running and on which node, or how it ended."""

    async def one(client: AsyncClient, ticket: str) -> int:
        said = await client.status(ticket)
        if as_json:
            emit(said.raw)
        elif said.is_done and (ended := await client.result(ticket)):
            echo(f"{said.ticket}  {ending(ended)}")
        else:
            echo(f"{said.ticket}  {printable_but_colours(where(said))}")
        return exits.OK

    sys.exit(ask_each(nodes, tickets, one))


def printable_but_colours(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\x1b" else " " for c in text)


@click.command()
@tickets_argument
@nodes_option
@json_option
def result(tickets: tuple[str, ...], nodes: str | None, as_json: bool) -> None:
    """Writes what jobs wrote, stdout to stdout and stderr to stderr. Exits with 0 if all have succeeded, 1 if
    one has not, 5 if one has not ended yet: as the first that has not succeeded."""

    async def one(client: AsyncClient, ticket: str) -> int:
        said = await client.result(ticket)
        if said is None:
            say(f"{ticket} has not ended yet")
            return exits.NOT_YET
        if as_json:
            emit(await whole(client, said))
        else:
            show(said)
        return exits.OK if said.ok else exits.FAILED

    sys.exit(ask_each(nodes, tickets, one))


async def whole(client: AsyncClient, said: Result) -> dict[str, Any]:
    """The result as it came; of an array, in which only the first jobs are listed, with all of them."""
    raw = dict(said.raw)
    if (array := raw.get("array")) is not None:
        jobs = raw["jobs"] = list(raw.get("jobs") or ())
        if len(jobs) < array["size"]:
            jobs += [row async for row in client.rows(said.ticket, len(jobs))]
    return raw


def show(said: Result) -> None:
    """A result's output, and on stderr what it does not say itself. An array has no output, but its sum."""
    if said.raw.get("array") is not None:
        echo(f"{said.ticket}  {ending(said)}")
        return
    write(said.output("stdout"), sys.stdout)
    write(said.output("stderr"), sys.stderr)
    tell_end(said)
    if said.truncated:
        wrote = f"{said.raw.get('stdout_bytes')} bytes on stdout, {said.raw.get('stderr_bytes')} on stderr"
        if (said.raw.get("job") or {}).get("keep_output"):
            say(f"it wrote more than is shown: {wrote}; evenly fetch {said.ticket} brings all of it")
        else:
            say(f"it wrote more than is kept: {wrote}")


@click.command()
@tickets_argument
@click.option("--timeout", type=Finite(min=0), metavar="SECONDS", help="Wait no longer than that.")
@nodes_option
@json_option
def wait(tickets: tuple[str, ...], timeout: float | None, nodes: str | None, as_json: bool) -> None:
    """Waits for each job and says how it ended. Exits with 0 if all have succeeded, 1 if one has not, 5 if
    one has not ended in time: as the first that has not succeeded."""

    async def one(client: AsyncClient, ticket: str) -> tuple[int, str]:
        """Its line is all that is kept, until those before it have ended."""
        said = await client.wait(ticket, timeout)
        line = (
            json.dumps(await whole(client, said), ensure_ascii=False)
            if as_json
            else f"{said.ticket}  {ending(said)}"
        )
        return exits.OK if said.ok else exits.FAILED, line

    async def shown(ended: asyncio.Future[tuple[int, str]]) -> int:
        code, line = await ended
        echo(line)
        return code

    async def work(client: AsyncClient) -> int:
        # All at once: the time is that of all, and one that is late or unknown takes no other's result along.
        ends = {ticket: client.keep(functools.partial(one, client, ticket)) for ticket in tickets}
        return await for_each(tickets, lambda ticket: shown(ends[ticket]))

    sys.exit(run(nodes, work))


@click.command()
@click.argument("ticket")
@nodes_option
@json_option
def tail(ticket: str, nodes: str | None, as_json: bool) -> None:
    """Writes the output of a job as it comes, from its start to its end; of an array, that of one job after
    the other, each when it has ended. Exits with 0 if it has succeeded."""

    async def work(client: AsyncClient) -> int:
        try:
            array = (await client.status(ticket)).raw.get("array")
        except UnknownTicket as error:
            # Any node shows what a job of another node writes; how it ends is known to that one alone.
            await follow(client, Job(error.ticket, client.nodes_known[0]), as_json)
            say(f"how {error.ticket} ended is known to the node that gave this ticket")
            return exits.OK
        if array:
            return await follow_array(client, ticket, array["size"], as_json)
        written = await follow(client, ticket, as_json)
        said = await client.wait(ticket)
        if not as_json:
            tell_end(said)
        is_missing = tell_missing(written, said)
        return exits.OK if said.ok and not is_missing else exits.FAILED

    sys.exit(run(nodes, work))


@click.command()
@tickets_argument
@nodes_option
@json_option
def cancel(tickets: tuple[str, ...], nodes: str | None, as_json: bool) -> None:
    """Ends jobs, whether they run or wait. Of an array, all its jobs."""
    requested = "to be cancelled once the cluster is whole"
    words = {"done": "cancelled", "requested": requested, "too late": "has ended already"}

    async def one(client: AsyncClient, ticket: str) -> int:
        said = await client.cancel(ticket)
        if as_json:
            emit({"ticket": ticket.upper(), "cancel": said})
        else:
            echo(f"{ticket.upper()}  {words.get(said, said)}")
        return exits.OK

    sys.exit(ask_each(nodes, tickets, one))


@click.command()
@tickets_argument
@nodes_option
@json_option
def explain(tickets: tuple[str, ...], nodes: str | None, as_json: bool) -> None:
    """Says why a job waits or how it ended, where it ran, and each attempt at it."""

    async def one(client: AsyncClient, ticket: str) -> int:
        said = await client.explain(ticket)
        if as_json:
            emit(said)
        else:
            _tell(said)
        return exits.OK

    sys.exit(ask_each(nodes, tickets, one))


def _tell(said: dict[str, Any]) -> None:
    echo(f"{said['ticket']}  {coloured(str(said.get('outcome') or said['state']))}")
    if said.get("why"):
        echo(f"  {printable(named(said['why']))}")
    for attempt in said.get("attempts") or ():
        began, ended = (_at(attempt.get(key)) for key in ("from", "to"))
        until = f"to {ended}" if ended else "until now"
        how = f": {printable(attempt['how'])}" if attempt.get("how") else ""
        since = f" from {began} {until}" if began else ""
        echo(f"  attempt {attempt.get('attempt')} on {printable(attempt.get('node') or '-')}{since}{how}")
    # Whom it waits for stands in `why`.
    known = ("ticket", "state", "outcome", "why", "attempts", "waits_for")
    for key, value in said.items():
        if key not in known and value not in (None, [], {}, ""):
            is_time = key.endswith("_at") or key == "until"
            shown = value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
            echo(f"  {key.replace('_', ' ')}: {printable(_at(value) if is_time else shown)}")


def _at(seconds: Any) -> str:
    """A moment, or a text as it is."""
    if not isinstance(seconds, int | float):
        return str(seconds or "")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
