"""`evenly fetch`: what a job left, brought here."""

from __future__ import annotations

from pathlib import Path

import click

from evenly.cli.app import say
from evenly.cli.common import emit, json_option, nodes_option, printable, run, table
from evenly.cli.progress import Bar
from evenly.client import AsyncClient, File


@click.command()
@click.argument("ticket")
@click.argument("directory", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("-l", "--list", "only_list", is_flag=True, help="Say what there is, and bring nothing.")
@nodes_option
@json_option
def fetch(ticket: str, directory: Path | None, only_list: bool, nodes: str | None, as_json: bool) -> None:
    """Writes the files that a job left (--result-dir, --keep-output) into DIRECTORY, by default one named
    TICKET, and prints where they are. Each is whole and checked, or not there. Of an array: those of all its
    jobs, each in a directory that is named by its number."""
    place = directory or Path(ticket.upper())

    async def work(client: AsyncClient) -> None:
        files = await client.files(ticket)
        if only_list:
            _show(files, as_json)
            return
        with Bar(sum(file.size for file in files), "bytes") as bar:
            paths = await client.fetch(ticket, place, told=lambda file: bar.add(file.size))
        for file, path in zip(files, paths, strict=True):
            if as_json:
                emit({"path": str(path), "bytes": file.size, "sha256": file.sha256})
            else:
                click.echo(str(path))
        if not files:
            say(f"{ticket.upper()} has left no files")

    run(nodes, work)


def _show(files: tuple[File, ...], as_json: bool) -> None:
    if as_json:
        for file in files:
            emit({"path": file.path, "bytes": file.size, "sha256": file.sha256})
        return
    table(
        ("BYTES", "SHA256", "PATH"), [(file.size, file.sha256[:16], printable(file.path)) for file in files]
    )
