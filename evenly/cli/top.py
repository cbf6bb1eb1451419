"""`evenly top`: nodes and open jobs, again and again in a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING

import click

from evenly.cli.app import Finite
from evenly.cli.common import echo, emit, json_option, nodes_option, run
from evenly.cli.look import Line, Look, lines
from evenly.client import AsyncClient, NodesUnreachable, Refused

if TYPE_CHECKING:
    from rich.text import Text

#: Open jobs that are asked for: what the tallest terminal shows; a single look has fewer.
JOBS, JOBS_ONCE = 200, 20
#: Seconds without an answer after which that is shown.
STALE = 5.0


@click.command()
@nodes_option
@click.option("--once", is_flag=True, help="A single look, as where the output is no terminal.")
@json_option
@click.option(
    "--period",
    type=Finite(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between looks.",
)
def top(nodes: str | None, once: bool, as_json: bool, period: float) -> None:
    """Shows each node (slots, running and queued jobs, done, load, free memory) and the open jobs of the
    nodes that are named, the newest first. Ctrl-C ends it. With --json it is a single look."""
    if once or as_json or not sys.stdout.isatty():
        look = run(nodes, lambda client: look_at(client, JOBS_ONCE))
        if as_json:
            emit(look.as_json())
        else:
            echo("\n".join(line.text.rstrip() for line in lines(look)))
        return
    with contextlib.suppress(KeyboardInterrupt):
        run(nodes, lambda client: _watch(client, period))


async def look_at(client: AsyncClient, limit: int) -> Look:
    """Asks for all of it. Raises EvenlyError."""
    cluster, stats = await asyncio.gather(client.nodes(), client.stats())
    try:
        jobs = [dict(job.raw) for job in await client.list(state="open", limit=limit)]
    except Refused:  # an older node
        jobs = None
    ordered = sorted(cluster, key=lambda node: str(node["name"]))
    return Look(time.time(), stats["node"]["name"], ordered, stats, jobs)


async def _watch(client: AsyncClient, period: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    before = await look_at(client, JOBS)  # where no node is there, that is said and it ends
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                async with asyncio.timeout(STALE):
                    look = await look_at(client, JOBS)
                shown = lines(look, before, console.width, console.height - 1)
                before = look
            except TimeoutError:
                since = f"no node has answered for {time.time() - before.at:.0f} s; trying again"
                shown = [Line(since, "bold red"), *lines(before, None, console.width, console.height - 2)[1:]]
            except NodesUnreachable as error:
                shown = [Line(f"{error}; trying again", "bold red")]
            live.update(_drawn(shown), refresh=True)
            await asyncio.sleep(period)


def _drawn(shown: list[Line]) -> Text:
    from rich.text import Text

    drawn = (Text(line.text, style=line.style) for line in shown)
    return Text("\n", overflow="crop", no_wrap=True).join(drawn)
