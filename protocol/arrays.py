"""The jobs that a command with `--array N` stands for, packed: they differ in one variable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgpack

from protocol.job import Command, JobSpec

#: Set for each of its jobs: which it is, from 0 on, and of what array.
INDEX = "EVENLY_ARRAY_INDEX"
TICKET = "EVENLY_ARRAY_TICKET"
_INDEX_OF_ONE = INDEX.encode() + bytes(msgpack.packb("\0"))


def size_of(spec: JobSpec) -> int:
    """Of how many jobs it is an array; 0 for a job."""
    return spec.extras.array if isinstance(spec, Command) else 0


def jobs_of(spec: Command, ticket: str) -> tuple[Command, Iterator[bytes]]:
    """What the jobs of the array with this ticket have in common, and the body of each.

    What the array comes after, it waits for in their place; its key and whom it tells are its own. The bodies
    differ in one text; each is made by putting it in, as so many are made in one step.
    """
    extras = replace(spec.extras, array=0, after=(), notify="", key="")
    # A NUL is in no text of a client's.
    env = (*extras.env, (INDEX, "\0"), (TICKET, ticket))
    one = replace(spec, extras=replace(extras, env=env)).pack()
    head, _, tail = one.partition(_INDEX_OF_ONE)
    head += _INDEX_OF_ONE[:-2]
    return replace(spec, extras=extras), (
        b"".join((head, msgpack.packb(str(index)), tail)) for index in range(spec.extras.array)
    )
