"""`loadbalancer PORT`, or `python -m loadbalancer PORT`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadbalancer.core.settings import Settings
from loadbalancer.server import serve
from runtime.datadir import locked_directory
from runtime.lifecycle import run
from runtime.settings import ADDRESS, PORT, Argument, Setting, choice, integer, parse, text

PROGRAM = "loadbalancer"
DAY_MS = 24 * 3600 * 1000

ARGUMENTS = [Argument("port", PORT, "port for the ClusterNodes", "8080")]
SETTINGS = [
    Setting(
        "DISPATCH_MODE",
        choice("eager", "periodic"),
        "eager",
        "eager: rounds run as soon as there is a job and room for it; periodic: on the timer alone",
    ),
    Setting(
        "DISPATCH_PERIOD",
        integer(1, DAY_MS, "milliseconds"),
        5000,
        "ms between two rounds; in eager mode the longest time until queues are evened out",
    ),
    Setting("MAX_NUM_JOBS_DISPATCH", integer(1, 1000), 30, "most jobs in one round"),
    Setting(
        "REQUEST_RESULT_PERIOD",
        integer(10, DAY_MS, "milliseconds"),
        3000,
        "ms between two exchanges of outstanding results",
    ),
    Setting("MAX_NUM_NODES", integer(1, 100_000), 10, "most nodes connected at once"),
    Setting(
        "NODE_GRACE_PERIOD",
        integer(0, DAY_MS, "milliseconds"),
        10_000,
        "ms that the jobs of a node that is away wait for it",
    ),
    Setting(
        "CRASH_LIMIT", integer(1, 1000), 3, "a job that took its node or worker along so often ends as lost"
    ),
    Setting("BIND", ADDRESS, "127.0.0.1", "address to listen on"),
    Setting(
        "DATA_DIR", text("a directory"), None, "state (default: evenly-data/loadbalancer-PORT)", "--data"
    ),
]


def settings_of(values: dict[str, Any]) -> Settings:
    return Settings(
        eager=values["DISPATCH_MODE"] == "eager",
        dispatch_period=values["DISPATCH_PERIOD"] / 1000,
        max_num_jobs_dispatch=values["MAX_NUM_JOBS_DISPATCH"],
        request_result_period=values["REQUEST_RESULT_PERIOD"] / 1000,
        max_num_nodes=values["MAX_NUM_NODES"],
        node_grace_period=values["NODE_GRACE_PERIOD"] / 1000,
        crash_limit=values["CRASH_LIMIT"],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    description = "The ReverseProxy of Evenly: spreads jobs over the nodes and brings their results home."
    arguments = sys.argv[1:] if argv is None else argv
    values = parse(PROGRAM, description, ARGUMENTS, SETTINGS, arguments, os.environ)
    port = int(values["port"])
    directory = Path(values["DATA_DIR"] or f"evenly-data/loadbalancer-{port}")

    async def body(stop: asyncio.Event) -> None:
        with locked_directory(directory):
            await serve(stop, settings_of(values), values["BIND"], port, directory)

    return run(PROGRAM, body)


if __name__ == "__main__":
    sys.exit(main())
