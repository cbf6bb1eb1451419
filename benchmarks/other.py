"""A process beside this one, for a client that must not share this one's interpreter."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.client import BenchError

#: Seconds until the process is ready, and until it is gone.
TIMEOUT = 60.0


class Other:
    """A function that is called once in another process."""

    def __init__(self, link: Connection[Any, Any]) -> None:
        self._link = link

    def start(self) -> None:
        self._link.send(None)

    @property
    def is_done(self) -> bool:
        return self._link.poll()

    def result(self) -> Any:
        """Waits for it. Raises BenchError if the function raised anything, or its process died."""
        try:
            value, failure = self._link.recv()
        except EOFError:
            raise BenchError("the process beside this one has died") from None
        if failure is not None:
            raise BenchError(failure)
        return value


@contextmanager
def other_process(function: Callable[..., Any], *arguments: Any) -> Iterator[Other]:
    """The process is up inside the block; `start` calls `function(*arguments)` there."""
    # Not forked: it would have our sockets open.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_call, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(TIMEOUT):
            raise BenchError(f"the process beside this one was not ready within {TIMEOUT:g} s")
        ours.recv()
        yield Other(ours)
    except EOFError:
        raise BenchError("the process beside this one could not start") from None
    finally:
        process.kill()  # what is left of it is of no use
        process.join(TIMEOUT)
        ours.close()


def _call(link: Connection[Any, Any], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends this one
    link.send("ready")
    link.recv()
    try:
        link.send((function(*arguments), None))
    except (OSError, BenchError) as error:
        link.send((None, str(error) or type(error).__name__))
