"""`evenly status`, `result`, `wait`, `tail`, `cancel`, `explain`: questions about jobs by their tickets."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import click

from evenly.cli import exits
from evenly.cli.app import say
from evenly.cli.common import (
    coloured,
    emit,
    ending,
    json_option,
    nodes_option,
    printable,
    run,
    tickets_argument,
    where,
    write,
)
from evenly.cli.submit import follow, follow_array, tell_end
from evenly.client import AsyncClient, Result


@click.command()
@tickets_argument
@nodes_option
@json_option
def status(tickets: tuple[str, ...], nodes: str | None, as_json: bool) -> None:
    """Says where each job is: queued, running and on which node, or how it ended."""

    async def work(client: AsyncClient) -> None:
        for ticket in tickets:
            said = await client.status(ticket)
            if as_json:
                emit(said.raw)
            else:
                click.echo(f"{said.ticket}  {printable_but_colours(where(said))}")

    run(nodes, work)


def printable_but_colours(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\x1b" else " " for c in text)


@click.command()
@tickets_argument
@nodes_option
@json_option
def result(tickets: tuple[str, ...], nodes: str | None, as_json: bool) -> None:
    """Writes what jobs wrote, stdout to stdout and stderr to stderr. Exits with 0 if all have succeeded, 1 if
    one has not, 5 if one has not ended yet."""

    async def work(client: AsyncClient) -> int:
        code = exits.OK
        for ticket in tickets:
            said = await client.result(ticket)
            if said is None:
                say(f"{ticket} has not ended yet")
                code = exits.NOT_YET
                continue
            if not said.ok:
                code = code or exits.FAILED
            if as_json:
                emit(said.raw)
            else:
                show(said)
        return code

    sys.exit(run(nodes, work))


def show(said: Result) -> None:
    """A result's output, and on stderr what it does not say itself. An array has no output, but its sum."""
    if said.raw.get("array") is not None:
        click.echo(f"{said.ticket}  {ending(said)}")
        return
    write(said.stdout, sys.stdout)
    write(said.stderr, sys.stderr)
    tell_end(said)
    if said.truncated:
        kept = f"{said.raw.get('stdout_bytes')} bytes on stdout, {said.raw.get('stderr_bytes')} on stderr"
        say(f"it wrote more than is kept: {kept}")


@click.command()
@tickets_argument
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait no longer than that.")
@nodes_option
@json_option
def wait(tickets: tuple[str, ...], timeout: float | None, nodes: str | None, as_json: bool) -> None:
    """Waits for each job and says how it ended. Exits with 0 if all have succeeded, 1 if one has not, 5 if
    they have not ended in time."""

    async def one(client: AsyncClient) -> AsyncIterator[Result]:
        yield await client.wait(tickets[0], timeout)

    async def work(client: AsyncClient) -> int:
        code = exits.OK
        many = client.results(tickets, timeout) if len(tickets) > 1 else one(client)
        async for said in many:
            code = code if said.ok else exits.FAILED
            if as_json:
                emit(said.raw)
            else:
                click.echo(f"{said.ticket}  {ending(said)}")
        return code

    sys.exit(run(nodes, work))


@click.command()
@click.argument("ticket")
@nodes_option
@json_option
def tail(ticket: str, nodes: str | None, as_json: bool) -> None:
    """Writes the output of a job as it comes, from its start to its end; of an array, that of one job after
    the other, each when it has ended. Exits with 0 if it has succeeded."""

    async def work(client: AsyncClient) -> int:
        if (await client.status(ticket)).raw.get("array"):
            return await follow_array(client, ticket, as_json)
        if as_json:
            async for chunk in client.tail(ticket):
                text = chunk.data.decode("utf-8", "replace")
                emit({"stream": chunk.stream, "attempt": chunk.attempt, "at": chunk.at, "text": text})
        else:
            await follow(client, ticket)
        said = await client.wait(ticket)
        if not as_json:
            tell_end(said)
        return exits.OK if said.ok else exits.FAILED

    sys.exit(run(nodes, work))


@click.command()
@tickets_argument
@nodes_option
@json_option
def cancel(tickets: tuple[str, ...], nodes: str | None, as_json: bool) -> None:
    """Ends jobs, whether they run or wait. Of an array, all its jobs."""
    requested = "to be cancelled once the cluster is whole"
    words = {"done": "cancelled", "requested": requested, "too late": "has ended already"}

    async def work(client: AsyncClient) -> None:
        for ticket in tickets:
            said = await client.cancel(ticket)
            if as_json:
                emit({"ticket": ticket.upper(), "cancel": said})
            else:
                click.echo(f"{ticket.upper()}  {words.get(said, said)}")

    run(nodes, work)


@click.command()
@tickets_argument
@nodes_option
@json_option
def explain(tickets: tuple[str, ...], nodes: str | None, as_json: bool) -> None:
    """Says why a job waits or how it ended, where it ran, and each attempt at it."""

    async def work(client: AsyncClient) -> None:
        for ticket in tickets:
            said = await client.explain(ticket)
            if as_json:
                emit(said)
            else:
                _tell(said)

    run(nodes, work)


def _tell(said: dict[str, Any]) -> None:
    click.echo(f"{said['ticket']}  {coloured(str(said.get('outcome') or said['state']))}")
    if said.get("why"):
        click.echo(f"  {printable(said['why'])}")
    for attempt in said.get("attempts") or ():
        began, ended = (_at(attempt.get(key)) for key in ("from", "to"))
        until = f"to {ended}" if ended else "until now"
        how = f": {printable(attempt['how'])}" if attempt.get("how") else ""
        since = f" from {began} {until}" if began else ""
        click.echo(
            f"  attempt {attempt.get('attempt')} on {printable(attempt.get('node') or '-')}{since}{how}"
        )
    known = ("ticket", "state", "outcome", "why", "attempts")
    for key, value in said.items():
        if key not in known and value not in (None, [], {}, ""):
            is_time = key.endswith("_at") or key == "until"
            shown = value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
            click.echo(f"  {key.replace('_', ' ')}: {printable(_at(value) if is_time else shown)}")


def _at(seconds: Any) -> str:
    """A moment, or a text as it is."""
    if not isinstance(seconds, int | float):
        return str(seconds or "")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
