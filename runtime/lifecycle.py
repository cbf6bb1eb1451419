"""How a program starts, stops, and says so."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import uvloop

from protocol.limits import MIB
from runtime.errors import Damaged, InternalFault, StartError, StorageError, one_line

T = TypeVar("T")
#: Connections that the kernel holds for us before we accept them.
BACKLOG = 1024
#: Open files as the user who started us has them limited; jobs are given this back.
SOFT_FILE_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
#: Freed memory that is kept for the next large result, twice what may be under way to a peer: to give it back
#: and to take it again costs more than all that is done with the result (a page fault for each 4 KiB).
KEPT_MEMORY = 32 * MIB
#: `mallopt` of glibc, by its numbers in malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: Objects from one look for cyclic garbage to the next, and how many of those make a deeper one: rare, as the
#: programs hold up to millions of small objects, none of them in a cycle, and a look at all takes seconds.
GC_THRESHOLDS = (50_000, 20, 20)


def run(program: str, main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> int:
    """Runs `main(stop)` on uvloop until it returns; `stop` is set by SIGTERM and SIGINT.

    Returns the exit code: 0, 2 if the program could not start, 1 if its storage or itself failed.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s {program} %(levelname)s %(message)s"
    )
    raise_file_limit()
    keep_memory()
    gc.set_threshold(*GC_THRESHOLDS)

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_fault)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop_or_exit, stop, program)
        await main(stop)

    try:
        uvloop.run(body())
    except StartError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except Damaged as error:
        print(f"{program}: {error}; it ends here", file=sys.stderr)
        return 1
    except StorageError as error:
        print(f"{program}: {error}; nothing that was acknowledged is lost, it ends here", file=sys.stderr)
        return 1
    except Exception as error:
        fault = str(error) if isinstance(error, InternalFault) else one_line(error)
        print(f"{program}: a fault of its own, it ends here: {fault}", file=sys.stderr)
        return 1
    return 0


def _log_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a callback raised concerns its connection alone: a line in the log, and the rest goes on."""
    error = context.get("exception")
    logging.getLogger("runtime").error(
        "a fault of its own: %s", one_line(error) if error else context.get("message")
    )


def _stop_or_exit(stop: asyncio.Event, program: str) -> None:
    if stop.is_set():
        print(f"{program}: asked twice to stop, it ends at once", file=sys.stderr)
        os._exit(0)
    stop.set()


def raise_file_limit() -> None:
    """As many open files as we may have: each client is one."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_memory() -> None:
    """Has the allocator keep what large results leave behind, where it is one that can be told."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, KEPT_MEMORY // 2)
        mallopt(_M_TRIM_THRESHOLD, KEPT_MEMORY)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """What is made in here stays: no looks for garbage meanwhile, nor at it later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


async def until_stopped(stop: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Returns when `stop` is set; raises what one of the tasks raised first."""
    waiting = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        waiting.cancel()


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks and waits for them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def listen(
    factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, flag: str
) -> asyncio.Server:
    """A TCP server. `flag` names the setting that gives another port.

    Raises:
        StartError: if the address cannot be had.
    """
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(factory, host, port, backlog=BACKLOG)
    except OSError as error:
        # The loop's own text names the address once more.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        is_name = isinstance(error, socket.gaierror)
        another = "--bind gives another address" if is_name else f"{flag} gives another port"
        raise StartError(f"cannot listen on {host}:{port}: {reason.lower()}; {another}") from None


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """As asyncio.to_thread; but who is cancelled goes on when the thread is through, which nothing stops."""
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.gather(thread, return_exceptions=True)
        raise


class Background:
    """Tasks that nobody awaits; the first that fails is told to `failed`."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed = failed

    def start(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    async def end(self) -> None:
        await end(*self._tasks)
