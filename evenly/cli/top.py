"""`evenly top`: nodes and open jobs, again and again in a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING

import click

from evenly.cli.look import Line, Look, lines
from evenly.client.aio import AsyncClient
from evenly.client.errors import EvenlyError, NodesUnreachable, Refused

if TYPE_CHECKING:
    from rich.text import Text

#: Open jobs that are asked for: what the tallest terminal shows; a single look has fewer.
JOBS, JOBS_ONCE = 200, 20
UNREACHABLE = 3


@click.command(short_help="Watch nodes and jobs.")
@click.option("-s", "--server", "nodes", metavar="HOST:PORT,…", help="Nodes.  [EVENLY_NODES; 127.0.0.1:9000]")
@click.option("--once", is_flag=True, help="A single look, as where the output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="A single look as one JSON object.")
@click.option(
    "--period",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between looks.",
)
def top(nodes: str | None, once: bool, as_json: bool, period: float) -> None:
    """Shows each node (slots, running and queued jobs, done, load, free memory) and the open jobs of the
    nodes that are named, the newest first. Ctrl-C ends it."""
    try:
        if once or as_json or not sys.stdout.isatty():
            look = asyncio.run(_look_once(nodes))
            if as_json:
                print(json.dumps(look.as_json(), ensure_ascii=False))
            else:
                print("\n".join(line.text.rstrip() for line in lines(look)))
            return
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_watch(nodes, period))
    except EvenlyError as error:
        print(f"evenly: {error}", file=sys.stderr)
        sys.exit(UNREACHABLE if isinstance(error, NodesUnreachable) else 2)


async def _look_once(nodes: str | None) -> Look:
    async with AsyncClient(nodes) as client:
        return await look_at(client, JOBS_ONCE)


async def look_at(client: AsyncClient, limit: int) -> Look:
    """Asks for all of it. Raises EvenlyError."""
    cluster, stats = await asyncio.gather(client.nodes(), client.stats())
    try:
        jobs = [dict(job.raw) for job in await client.list(state="open", limit=limit)]
    except Refused:  # an older node
        jobs = None
    ordered = sorted(cluster, key=lambda node: str(node["name"]))
    return Look(time.time(), stats["node"]["name"], ordered, stats, jobs)


async def _watch(nodes: str | None, period: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    before: Look | None = None
    async with AsyncClient(nodes) as client:
        before = await look_at(client, JOBS)  # where no node is there, that is said and it ends
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    look = await look_at(client, JOBS)
                    shown = lines(look, before, console.width, console.height - 1)
                    before = look
                except NodesUnreachable as error:
                    shown = [Line(f"{error}; trying again", "bold red")]
                live.update(_drawn(shown), refresh=True)
                await asyncio.sleep(period)


def _drawn(shown: list[Line]) -> Text:
    from rich.text import Text

    return Text("\n", overflow="crop", no_wrap=True).join(Text(line.text, style=line.style) for line in shown)
