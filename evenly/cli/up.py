"""`evenly up`: a cluster on this machine, in the foreground until Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from evenly.cli.common import json_option
from evenly.up import DATA_DIR, NODES, NODES_MOST, SLOTS_MOST, keep_up


@click.command()
@click.option("-n", "--nodes", type=click.IntRange(1, NODES_MOST), default=NODES, show_default=True)
@click.option(
    "--slots", type=click.IntRange(1, SLOTS_MOST), help="Jobs at once on a node.  [default: the CPUs]"
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path(DATA_DIR),
    show_default=True,
    help="Data and logs of all programs.",
)
@json_option
def up(nodes: int, slots: int | None, data: Path, as_json: bool) -> None:
    """Starts a balancer and nodes, prints where they listen, and keeps them up until Ctrl-C. Tickets stay.

    With --json: an object when all is ready, and one for each program that was started again.
    """
    sys.exit(keep_up(nodes, slots, data, "evenly", as_json))
