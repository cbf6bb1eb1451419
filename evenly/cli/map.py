"""`evenly map`: a job for each item, and their output in the order of the items."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import click

from evenly.cli import exits
from evenly.cli.app import OutputLost, is_utf8, say
from evenly.cli.common import emit, json_option, nodes_option, run, show_one_of_many
from evenly.cli.jobs import job_of, job_options
from evenly.cli.progress import Bar
from evenly.cli.submit import GIVE_UP
from evenly.client import AsyncClient, EvenlyError, Job, Refused, Result
from evenly.client.aio import WINDOW
from evenly.client.bridge import Inlet
from evenly.client.feed import fed
from evenly.client.template import compile_words
from evenly.words import jobs, jobs_are, printable
from protocol.limits import LINE_LIMIT

LIST = ":::"
#: Bytes of the input at once, and pieces of it that are read ahead.
PIECE, PIECES = 64 * 1024, 8
#: Characters of an item that a message shows.
SHOWN = 60
#: Cancels on their way at once after Ctrl-C.
AT_ONCE = 1000
#: Tickets that are named where that did not work.
NAMED = 10
#: What is the same for all items: what has it for one job would give them one job's output, or none.
NOT_EACH = ("key", "array")


class Sent(NamedTuple):
    """An item whose job is submitted, or refused."""

    item: str
    job: asyncio.Future[Job]

    @property
    def refused(self) -> Refused | None:
        error = self.job.exception() if self.job.done() and not self.job.cancelled() else None
        return error if isinstance(error, Refused) else None


@click.command(name="map", context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--] CMD… [::: ITEM…]")
@click.option("-a", "--arg-file", type=click.Path(exists=True, dir_okay=False), help="Items are its lines.")
@click.option("-0", "--null", is_flag=True, help="Items end with a NUL byte, not with a line.")
@job_options
@nodes_option
@json_option
def map_(
    words: tuple[str, ...], arg_file: str | None, null: bool, nodes: str | None, as_json: bool, **options: Any
) -> None:
    """Runs CMD once for each item: each line of stdin, or of a file (-a), or what stands behind :::

    In CMD, {} is the item, quoted for the shell, {.} without its extension, {/} its name without directories,
    {/.} both, {//} its directory, {#} its number; without any of them the item stands at the end. A single
    word is a line for the shell: evenly map -- 'gzip -c {} > {}.gz'

    Output comes in the order of the items. Exits with 1 if a job does not succeed. Ctrl-C cancels the rest.
    """
    for name in NOT_EACH:
        if options[name] is not None:
            raise click.UsageError(f"--{name} is for a single submission: a map submits a job for each item.")
    listed = None
    if LIST in words:
        at = words.index(LIST)
        words, listed = words[:at], list(words[at + 1 :])
        if arg_file:
            raise click.UsageError("Items come from ::: or from a file, not from both.")
        if LIST in listed:
            raise click.UsageError("There is one list of items, behind one ::: only.")
    elif not arg_file and sys.stdin is None:
        raise click.UsageError("Items come from stdin, which is closed: -a FILE or ::: gives others.")
    if not all(map(is_utf8, words)):
        raise click.UsageError("The command is not UTF-8.")
    if not words:
        raise click.UsageError("What to run is missing, as in: ls *.png | evenly map -- convert {} {.}.webp")
    work = Map(words, job_of(options, nodes), as_json, b"\0" if null else b"\n", listed, arg_file)
    sys.exit(run(nodes, work.run))


class Map:
    def __init__(
        self,
        words: tuple[str, ...],
        options: dict[str, Any],
        as_json: bool,
        separator: bytes,
        listed: list[str] | None,
        file: str | None,
    ) -> None:
        self._fill = compile_words(words)
        self._options = options
        self._as_json = as_json
        self._separator = separator
        self._listed = listed
        self._file = file
        #: Those that are not shown yet.
        self._sent: deque[Sent] = deque()
        self._count = 0
        self._bar = Bar(len(listed) if listed is not None else None, "jobs")

    async def run(self, client: AsyncClient) -> int:
        """The exit code."""
        try:
            with self._bar:
                async for result in client.results(self._jobs(client)):
                    self._show_refused()
                    self._show(self._sent.popleft().item, result)
                self._show_refused()
        except BaseException as error:
            if not isinstance(error, Exception) or isinstance(error, OutputLost):
                await self._give_up(client, is_quiet=isinstance(error, OutputLost) and error.is_quiet)
            raise
        if self._bar.failed:
            say(f"{self._bar.failed} of {self._bar.done} jobs did not succeed")
        return exits.FAILED if self._bar.failed else exits.OK

    async def _jobs(self, client: AsyncClient) -> AsyncIterator[Job]:
        async for sent in fed(self._submit(client), WINDOW, client.keep):
            with contextlib.suppress(Refused):
                yield await asyncio.shield(sent.job)  # also after Ctrl-C its ticket is wanted

    async def _submit(self, client: AsyncClient) -> AsyncIterator[Sent]:
        async for item in self._items():
            self._count += 1
            sent = Sent(item, self._start(client, item))
            self._sent.append(sent)
            yield sent
        self._bar.total = self._count

    def _start(self, client: AsyncClient, item: str) -> asyncio.Future[Job]:
        if is_utf8(item):
            try:
                return client.start({"run": self._fill(item, self._count), **self._options})
            except EvenlyError as error:
                why = str(error)
        else:
            why = "this item is not UTF-8, as what goes to a node has to be"
        refused: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        refused.set_exception(Refused(why))
        refused.exception()  # who reads it may be gone, and asyncio is not to complain of that
        return refused

    async def _items(self) -> AsyncIterator[str]:
        if self._listed is not None:
            for item in self._listed:
                yield item
            return
        if self._file is None and sys.stdin.isatty():
            say("items are read from the terminal, one a line; Ctrl-D ends them")
        cutter = Cutter(self._separator)
        async for data in _read(self._file):
            for item in cutter.cut(data):
                yield item
        for item in cutter.cut(b""):
            yield item

    # --- what is shown ---------------------------------------------------------------------------

    def _show(self, item: str, result: Result) -> None:
        if self._as_json or result.stdout or result.stderr or result.truncated or not result.ok:
            self._bar.clear()
            show_one_of_many(_shown(item), result, {"item": item} if self._as_json else None)
        self._bar.failed += not result.ok
        self._bar.add()

    def _show_refused(self) -> None:
        """Those before the next one that was submitted."""
        while self._sent and (refused := self._sent[0].refused):
            item = self._sent.popleft().item
            self._bar.clear()
            self._bar.failed += 1
            if self._as_json:
                emit({"item": item, "error": str(refused)})
            say(f"{_shown(item)}: {refused}")
            self._bar.add()

    async def _give_up(self, client: AsyncClient, is_quiet: bool) -> None:
        """What was submitted and has not ended is cancelled."""
        self._bar.clear()
        loop = asyncio.get_running_loop()
        end = loop.time() + GIVE_UP
        with contextlib.suppress(EvenlyError, TimeoutError):
            async with asyncio.timeout_at(end):
                await client.stats()  # answered behind all submissions that are on their way
        done = [sent.job for sent in self._sent if sent.job.done() and not sent.job.cancelled()]
        taken = [job.result() for job in done if job.exception() is None]
        count, requested, left = 0, 0, []
        for at in range(0, len(taken), AT_ONCE):
            part = taken[at : at + AT_ONCE]
            asked = [asyncio.ensure_future(client.cancel(job)) for job in part]
            await asyncio.wait(asked, timeout=max(0.0, end - loop.time()))
            for job, future in zip(part, asked, strict=True):
                future.cancel()
                if not future.done() or future.exception() is not None:
                    left.append(job.ticket)
                else:
                    count += future.result() == "done"
                    requested += future.result() == "requested"
        if count and not is_quiet:
            say(f"{jobs_are(count)} cancelled")
        if requested:
            say(f"{jobs_are(requested)} to be cancelled once the cluster is whole")
        # What has no ticket by now may be a job all the same.
        self._tell_left(left, sum(not sent.job.done() for sent in self._sent))

    def _tell_left(self, tickets: list[str], unknown: int) -> None:
        if unknown:
            said = "it is not known whether they were taken; evenly list shows those that were"
            say(f"of {jobs(unknown)} {said}")
        if tickets:
            named = " ".join(tickets[:NAMED]) + (" …" if len(tickets) > NAMED else "")
            say(f"{jobs(len(tickets))} could not be cancelled; evenly cancel {named} tries again")


def _shown(item: str) -> str:
    text = printable(item)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


# --- items -------------------------------------------------------------------------------------------


class Cutter:
    """Cuts bytes, as they come, into items; an empty one is none, and of lines a blank one."""

    def __init__(self, separator: bytes) -> None:
        self._separator = separator
        self._are_lines = separator == b"\n"
        self._rest = b""

    def cut(self, data: bytes) -> list[str]:
        """The items that `data` completes; its end, b"", completes the last one."""
        items = (self._rest + (data or self._separator)).split(self._separator)
        self._rest = items.pop()
        if len(self._rest) > LINE_LIMIT:
            raise click.ClickException(
                f"an item is longer than the {LINE_LIMIT} bytes of a line that a node takes; it begins with"
                f" {_shown(_text(self._rest[: 2 * SHOWN]))!r}"
            )
        if self._are_lines:
            items = [item.removesuffix(b"\r") for item in items if item.strip()]
        return [_text(item) for item in items if item]


def _text(item: bytes) -> str:
    return item.decode("utf-8", "surrogateescape")


async def _read(path: str | None) -> AsyncIterator[bytes]:
    """Of a file, else of stdin; by a thread that nobody waits for at the end, as it may hang in a terminal or
    a pipe for ever. Raises OSError."""
    chunks: Inlet[bytes] = Inlet(asyncio.get_running_loop())
    room = threading.Semaphore(PIECES)
    faults: list[OSError] = []

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is over before the input is
            try:
                file = sys.stdin.fileno() if path is None else os.open(path, os.O_RDONLY)
                while room.acquire() and (data := os.read(file, PIECE)):
                    chunks.put(data)
            except OSError as error:
                error.filename = path or "stdin"
                faults.append(error)
            chunks.end()

    threading.Thread(target=read, daemon=True).start()
    async for data in chunks:
        room.release()
        yield data
    if faults:
        raise faults[0]
