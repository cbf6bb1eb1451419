"""`evenly list` and `evenly nodes`."""

from __future__ import annotations

import time
from typing import Any

import click

from evenly.cli.app import Text, say
from evenly.cli.common import emit, json_option, named, nodes_option, run, table
from evenly.client import AsyncClient, Status

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
STATES = ("open", "queued", "running", "done")
OUTCOMES = ("succeeded", "failed", "timed-out", "cancelled", "lost")
#: Characters of a command that a row shows.
SHOWN = 60


class Age(click.ParamType[float]):
    """Seconds, or with a unit: 90s, 15m, 2h, 3d, 1w."""

    name = "AGE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip().lower()
        factor = UNITS.get(text[-1:])
        try:
            seconds = float(text[:-1] if factor else text) * (factor or 1)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            self.fail(f"{value!r} is no age: seconds, or 90s, 15m, 2h, 3d, 1w.", param, ctx)
        return seconds


@click.command(name="list")
@click.option("--state", type=click.Choice(STATES), help="Jobs in that state; open: all that have not ended.")
@click.option("--outcome", type=click.Choice(OUTCOMES), help="Jobs that ended so.")
@click.option("--tag", type=Text(), help="Jobs with that tag.")
@click.option("--name", type=Text(), help="Jobs of that name.")
@click.option("--since", type=Age(), help="Jobs of the last 90s, 15m, 2h, 3d.")
@click.option("-n", "--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True)
@nodes_option
@json_option
def list_(nodes: str | None, as_json: bool, **filters: Any) -> None:
    """Lists the jobs that these nodes gave tickets for, the newest first. Which of them could not be asked is
    said on stderr."""
    found = run(nodes, lambda client: client.list(**filters, missed=say))
    if as_json:
        for each in found:
            emit(each.raw)
        return
    table(
        ("TICKET", "STATE", "NODE", "AGE", "TAG", "JOB"),
        [
            (
                each.ticket,
                each.outcome or each.state,
                each.node,
                age(each.submitted_at),
                each.raw.get("tag"),
                text_of(each),
            )
            for each in found
        ],
    )


@click.command()
@nodes_option
@json_option
def nodes(nodes: str | None, as_json: bool) -> None:
    """Shows the nodes as the cluster knows them; where a node knows itself alone, that is said on stderr."""

    cluster = run(nodes, AsyncClient.cluster)
    if cluster.get("note"):
        say(named(cluster["note"]))
    found = sorted(cluster["nodes"], key=lambda each: str(each["name"]))
    if as_json:
        for each in found:
            emit(each)
        return
    columns = ("name", "connected", "slots", "running", "queued", "done", "load")
    rows = []
    for each in found:
        here = "yes" if each.get("connected") else "no"
        load = f"{each['load']:.2f}" if isinstance(each.get("load"), float) else each.get("load")
        state = "stops" if each.get("draining") else here
        rows.append([each["name"], state, *(each.get(key) for key in columns[2:-1]), load])
    table([column.upper() for column in columns], rows)


def text_of(job: Status) -> str:
    """What it does, on one short line."""
    spec: dict[str, Any] = job.raw.get("job") or {}
    if "run" in spec:
        said = f"{spec['array']} times {spec['run']}" if spec.get("array") else str(spec["run"])
    elif "task" in spec:
        said = f"task {spec['task']}"
    else:
        said = f"sleep {spec.get('sleep', '')} ms"
    name = job.raw.get("name") or spec.get("name")
    text = " ".join(f"[{name}] {said}".split() if name else said.split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def age(submitted_at: float | None) -> str:
    """`12s`, `3m`, `5h`, `2d`."""
    if submitted_at is None:
        return "-"
    seconds = max(0.0, time.time() - submitted_at)
    for unit, least in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * least:
            return f"{seconds // least:.0f}{unit}"
    return f"{seconds:.0f}s"
