"""A process beside this one, for a client that must not share this one's interpreter."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


def _nothing() -> None:
    """What a fresh process does first, so that its start is not measured."""


@contextmanager
def other_process() -> Iterator[ProcessPoolExecutor]:
    """It runs one function at a time, given by `submit`; it is up inside the block."""
    # Not forked: it would have our sockets open.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        other.submit(_nothing).result()
        yield other
