"""What subcommands have in common: where the nodes are, JSON, tables, colours, bytes to the terminal."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TextIO, TypeVar

import click

from evenly.cli import exits
from evenly.cli.app import Text, exit_code_of, say, written_to
from evenly.client import (
    AsyncClient,
    EvenlyError,
    JobTimeout,
    NodesUnreachable,
    Refused,
    Result,
    Status,
    UnknownTicket,
)
from evenly.words import printable

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "timed-out": "red",
    "lost": "red",
    "cancelled": "yellow",
    "running": "cyan",
}


def nodes_option(command: Command) -> Command:
    return click.option(
        "-s",
        "--nodes",
        "--server",
        "nodes",
        type=Text(),
        metavar="HOST:PORT,…",
        help="Nodes to ask.  [EVENLY_NODES; 127.0.0.1:9000]",
    )(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="JSON, an object a line.")(command)


def tickets_argument(command: Command) -> Command:
    return click.argument("tickets", nargs=-1, required=True, metavar="TICKET…")(command)


def run(nodes: str | None, work: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
    """Does it with a client, which is closed afterwards."""

    def quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A second Ctrl-C ends tasks whose errors nobody is there to read."""
        if not isinstance(context.get("exception"), EvenlyError):
            loop.default_exception_handler(context)

    async def main() -> T:
        asyncio.get_running_loop().set_exception_handler(quiet)
        async with AsyncClient(nodes) as client:
            return await work(client)

    waiting = _Waiting()
    logger = logging.getLogger("evenly.client")
    logger.addHandler(waiting)
    try:
        return asyncio.run(main())
    finally:
        logger.removeHandler(waiting)


class _Waiting(logging.Handler):
    """The client says what it waits for: nobody is to look at a command that seems to hang."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def ask_each(
    nodes: str | None, tickets: Sequence[str], ask: Callable[[AsyncClient, str], Awaitable[int]]
) -> int:
    """`for_each` with a client."""
    return run(nodes, lambda client: for_each(tickets, lambda ticket: ask(client, ticket)))


async def for_each(tickets: Sequence[str], work: Callable[[str], Awaitable[int]]) -> int:
    """Does it for one after the other. What cannot be done for one is said, and the others go on. `work`
    gives an exit code; returns the first that is not 0."""
    code = exits.OK
    for ticket in tickets:
        try:
            said = await work(ticket)
        except (UnknownTicket, NodesUnreachable, Refused, JobTimeout) as error:
            say(str(error))
            said = exit_code_of(error) or exits.FAILED
        code = code or said
    return code


# --- what is written ---------------------------------------------------------------------------------


def echo(line: str) -> None:
    """Raises OutputLost, as all that writes."""
    with written_to(sys.stdout):
        click.echo(line)


def emit(value: Mapping[str, Any]) -> None:
    echo(json.dumps(value, ensure_ascii=False))


def write(data: bytes, stream: TextIO) -> None:
    """Output of a job, byte for byte, at once."""
    if not data:
        return  # what of ours is still in the buffer, and is not taken, does not change how it ends
    with written_to(stream):
        stream.flush()
        stream.buffer.write(data)
        stream.buffer.flush()


def has_colours(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(word: str, stream: TextIO | None = None) -> str:
    """A state or an outcome."""
    colour = COLOURS.get(word)
    return click.style(word, fg=colour) if colour and has_colours(stream or sys.stdout) else word


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as what is in them; the last one as it is. A cell of a colour has it."""
    cells = [[printable("-" if cell in (None, "") else cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for number, row in enumerate([list(head), *cells]):
        words = [word.ljust(width) for word, width in zip(row, widths, strict=True)]
        line = "  ".join(coloured_cell(word) if number else word for word in words)
        echo(line.rstrip())


def coloured_cell(padded: str) -> str:
    word = padded.rstrip()
    return coloured(word) + padded[len(word) :]


def named(said: str) -> str:
    """What nodes say, with the word for the balancer that all pages and commands have."""
    return said.replace("ReverseProxy", "balancer")


def ending(result: Result) -> str:
    """`succeeded, exit code 0, in 0.100 s on n1`"""
    text = result.ending
    if result.started_at is not None and result.finished_at is not None:
        text += f", in {max(0.0, result.finished_at - result.started_at):.3f} s on {result.node}"
    word, comma, rest = text.partition(",")
    return coloured(word) + comma + printable(rest)


def show_one_of_many(name: str, result: Result, as_json: Mapping[str, Any] | None = None) -> None:
    """What it wrote, or in JSON all of it; on stderr, under that name, how it ended unless it succeeded."""
    if as_json is not None:
        emit({**as_json, **result.raw})
    else:
        write(result.output("stdout"), sys.stdout)
        write(result.output("stderr"), sys.stderr)
        if result.truncated:
            say(f"{name}: more output than is kept ({result.ticket})")
    if not result.ok:
        say(f"{name}: {ending(result)} ({result.ticket})")


def where(status: Status) -> str:
    """Of one that has not ended: `running on n2, attempt 1, 40% done: resizing`"""
    raw = status.raw
    text = coloured(status.state)
    if status.node:
        text += f" on {status.node}, attempt {status.attempt}"
    elif status.waits_for:
        text += f", waits for {', '.join(status.waits_for)}"
    if status.progress is not None:
        part, words = status.progress
        text += f", {part:.0%} done" + (f": {words}" if words else "")
    if raw.get("array"):
        counts = {name: count for name, count in raw["array"].items() if count and name != "size"}
        text += ": " + ", ".join(f"{count} {name}" for name, count in counts.items())
    if raw.get("note"):
        text += f" ({named(raw['note'])})"
    return text
