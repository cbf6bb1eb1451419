"""`evenly generate N MS`: a workload file of sleeps."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from evenly.cli.app import Finite, written_to
from evenly.workload.generate import DISTRIBUTIONS, lines
from evenly.workload.reader import FORMATS
from protocol.limits import SLEEP_LIMIT_MS


@click.command()
@click.argument("count", type=click.IntRange(0), metavar="N")
@click.argument("mean", type=Finite(0, SLEEP_LIMIT_MS), metavar="MS")
@click.option("--distribution", type=click.Choice(list(DISTRIBUTIONS)), default="constant", show_default=True)
@click.option("--seed", type=int, help="The same seed makes the same file.")
@click.option("--format", type=click.Choice(FORMATS), default="sleeps", show_default=True)
@click.option("--json", "format", flag_value="jsonl", help="JSON, an object a line: as --format jsonl.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="[default: stdout]")
def generate(
    count: int, mean: float, distribution: str, seed: int | None, format: str, output: Path | None
) -> None:
    """Writes N jobs that sleep MS milliseconds on average, for `evenly run`."""
    made = lines(count, mean, distribution, seed, format)
    if output is None:
        with written_to(sys.stdout):
            sys.stdout.writelines(f"{line}\n" for line in made)
        return
    try:
        with output.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in made)
    except OSError as error:
        raise click.ClickException(f"{output}: {(error.strerror or str(error)).lower()}") from None
