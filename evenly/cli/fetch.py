"""`evenly fetch`: what a job left, brought here."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from evenly.cli import exits
from evenly.cli.app import said_of, say
from evenly.cli.common import echo, emit, json_option, nodes_option, run, table
from evenly.cli.progress import Bar
from evenly.client import AsyncClient, File, Refused
from evenly.words import printable


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

    async def work(client: AsyncClient) -> int:
        try:
            files = await client.files(ticket)
        except Refused as refused:
            if (await client.status(ticket)).is_done:
                raise
            say(str(refused))
            return exits.NOT_YET
        if only_list:
            _show(files, as_json)
            return exits.OK
        with Bar(sum(file.size for file in files), "bytes") as bar:

            def told(file: File) -> None:
                """It is there, whatever becomes of the next one."""
                bar.clear()
                path = str(place / file.path)
                if as_json:
                    emit({"path": path, "bytes": file.size, "sha256": file.sha256})
                else:
                    echo(path)
                bar.add(file.size)

            try:
                await client.fetch(ticket, place, told=told)
            except OSError as error:
                bar.clear()
                say(_unwritten(error))
                return exits.FAILED
        if not files:
            say(f"{ticket.upper()} has left no files")
        return exits.OK

    sys.exit(run(nodes, work))


def _unwritten(error: OSError) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{error.filename}: a file is in the way of a directory"
    return said_of(error)


def _show(files: tuple[File, ...], as_json: bool) -> None:
    if as_json:
        for file in files:
            emit({"path": file.path, "bytes": file.size, "sha256": file.sha256})
        return
    table(
        ("BYTES", "SHA256", "PATH"), [(file.size, file.sha256[:16], printable(file.path)) for file in files]
    )
