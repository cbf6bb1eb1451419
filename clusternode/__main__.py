"""`clusternode HOST PORT`, or `python -m clusternode HOST PORT`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clusternode.node import Options, serve
from protocol.fields import is_name
from protocol.limits import GIB, NAME_LIMIT, SLOTS_LIMIT
from runtime.datadir import locked_directory
from runtime.lifecycle import run
from runtime.settings import ADDRESS, PORT, Argument, Setting, integer, parse, text

PROGRAM = "clusternode"
CPUS = len(os.sched_getaffinity(0))


def are_modules(value: str) -> bool:
    return all(part.isidentifier() for name in value.split(",") for part in name.strip().split("."))


ARGUMENTS = [
    Argument("host", text("a host name or address"), "host of the ReverseProxy"),
    Argument("port", PORT, "port of the ReverseProxy"),
]
SETTINGS = [
    Setting("CLIENT_PORT", PORT, 9000, "port for clients"),
    Setting("BIND", ADDRESS, "127.0.0.1", "address to listen on"),
    Setting("DATA_DIR", text("a directory"), None, "state (default: evenly-data/node-CLIENT_PORT)", "--data"),
    Setting(
        "SLOTS", integer(1, SLOTS_LIMIT), None, f"jobs that run at once (default: the CPUs, here {CPUS})"
    ),
    Setting(
        "DRAIN_PERIOD",
        integer(0, 24 * 3600 * 1000, "milliseconds"),
        5000,
        "ms that running jobs have to end when the node is asked to stop",
    ),
    Setting(
        "NODE_NAME",
        text(f"1 to {NAME_LIMIT} printable characters without spaces", is_name),
        None,
        "name shown to people (default: the one kept in the data directory)",
        "--name",
    ),
    Setting(
        "TASKS",
        text("module names with commas between, as mytasks,lib.more", are_modules),
        None,
        "Python modules with tasks, beside those that are installed (default: none)",
    ),
    Setting("MAX_TASKS_PER_WORKER", integer(1, 10**9), 100, "tasks after which a worker process is replaced"),
    Setting(
        "TASK_HANG_PERIOD",
        integer(2000, 24 * 3600 * 1000, "milliseconds"),
        60_000,
        "ms without a sign of life after which the worker of a task is killed as hung",
    ),
    Setting(
        "NOTIFY_SECRET",
        text("a text"),
        None,
        "what notices of --notify are signed with (default: they are not); better in the environment than "
        "as a flag, which every user of this machine can read in the list of processes",
    ),
    Setting(
        "MAX_RESULT_BYTES",
        integer(0, 2**50, "bytes"),
        4 * GIB,
        "bytes that one job may leave in files, or have as its checkpoint",
    ),
    Setting(
        "CHECKPOINT_PERIOD",
        integer(100, 24 * 3600 * 1000, "milliseconds"),
        60_000,
        "ms from one checkpoint of a job with --checkpoint to the next, beside those that it asks for",
    ),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    description = "A ClusterNode of Evenly: takes jobs from clients (nc), gives tickets, runs jobs."
    arguments = sys.argv[1:] if argv is None else argv
    values = parse(PROGRAM, description, ARGUMENTS, SETTINGS, arguments, os.environ)
    options = Options(
        host=values["host"],
        port=values["port"],
        bind=values["BIND"],
        client_port=values["CLIENT_PORT"],
        slots=values["SLOTS"] or CPUS,
        name=values["NODE_NAME"],
        drain_period=values["DRAIN_PERIOD"] / 1000,
        tasks=values["TASKS"] or "",
        max_tasks_per_worker=values["MAX_TASKS_PER_WORKER"],
        task_hang_period=values["TASK_HANG_PERIOD"] / 1000,
        max_result_bytes=values["MAX_RESULT_BYTES"],
        checkpoint_period=values["CHECKPOINT_PERIOD"] / 1000,
        notify_secret=values["NOTIFY_SECRET"] or "",
    )
    os.environ.pop("NOTIFY_SECRET", None)  # jobs find the node's environment
    directory = Path(values["DATA_DIR"] or f"evenly-data/node-{options.client_port}")

    async def body(stop: asyncio.Event) -> None:
        with locked_directory(directory):
            await serve(stop, options, directory)

    return run(PROGRAM, body)


if __name__ == "__main__":
    sys.exit(main())
