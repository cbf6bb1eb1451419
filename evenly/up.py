"""`evenly up`, `make up`: a cluster on this machine, in the foreground until Ctrl-C.

A program that dies is started again, so one may kill -9 any of them and watch. The data directory stays:
tickets of one run are answered in the next.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from evenly.local import ClusterError, LocalCluster, Program, end_by_signals
from runtime.settings import Setting, integer, parse, text

PROGRAM = "evenly.up"
#: Taken where they are free, so that the printed commands stay the same: the balancer's, the first node's.
BALANCER_PORT, FIRST_CLIENT_PORT = 8080, 9000
#: Unless told otherwise; and how many there may be.
NODES, NODES_MOST, SLOTS_MOST = 3, 100, 4096
DATA_DIR = "evenly-data/up"
#: Seconds between two looks whether all programs live.
LOOK_PERIOD = 0.2
#: A program that dies so often within so many seconds is not started again.
DEATHS, DEATHS_PERIOD = 5, 10.0

SETTINGS = [
    Setting("NODES", integer(1, NODES_MOST), NODES, "nodes"),
    Setting("SLOTS", integer(1, SLOTS_MOST), None, "jobs that run at once on a node (default: the CPUs)"),
    Setting("DATA_DIR", text("a directory"), DATA_DIR, "data and logs of all programs", "--data"),
]


def print_ready(cluster: LocalCluster, as_json: bool) -> None:
    if as_json:
        balancer, *nodes = map(_as_json, (cluster.balancer, *cluster.nodes))
        _emit({"event": "ready", "balancer": balancer, "nodes": nodes, "data": str(cluster.directory)})
        return
    print(f"Evenly is up: a balancer on port {cluster.balancer.port}, clients go to any node:")
    for node in cluster.nodes:
        print(f"  nc 127.0.0.1 {node.port}    # {node.name}, process {node.pid}")
    print("Type there, say, run sha256sum /etc/passwd to get a ticket, and wait TICKET for its result;")
    print("nodes shows the cluster, help the rest. kill -9 any of the processes: it starts again.")
    print(f"Data and logs are in {cluster.directory}. Ctrl-C ends it; the tickets stay.", flush=True)


def print_restarted(program: Program, code: int, as_json: bool) -> None:
    """`code`: how it ended, -N after signal N."""
    if as_json:
        _emit({"event": "restarted", **_as_json(program), "exit_code": code})
        return
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    print(f"{program.name} {how}; it runs again as process {program.pid}", flush=True)


def _as_json(program: Program) -> dict[str, object]:
    return {"name": program.name, "address": f"127.0.0.1:{program.port}", "pid": program.pid}


def _emit(event: dict[str, object]) -> None:
    print(json.dumps(event), flush=True)


def watch(cluster: LocalCluster, as_json: bool) -> None:
    """Starts again what died. Raises ClusterError if that does not help."""
    deaths: list[float] = []
    while True:
        for program in (cluster.balancer, *cluster.nodes):
            if program.is_running:
                continue
            now = time.monotonic()
            deaths = [at for at in deaths if at > now - DEATHS_PERIOD] + [now]
            if len(deaths) > DEATHS:
                program.fail("died too often")
            code = program.exit_code or 0
            cluster.start(program.name)
            print_restarted(program, code, as_json)
        time.sleep(LOOK_PERIOD)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    description = "A balancer and nodes on this machine, in the foreground until Ctrl-C."
    arguments = sys.argv[1:] if argv is None else argv
    values = parse(PROGRAM, description, [], SETTINGS, arguments, os.environ)
    return keep_up(values["NODES"], values["SLOTS"], Path(values["DATA_DIR"]))


def keep_up(
    nodes: int, slots: int | None, directory: Path, program: str = PROGRAM, as_json: bool = False
) -> int:
    """The cluster until a signal ends it; returns the exit code. `program`: who says what went wrong."""
    ports = [BALANCER_PORT, *range(FIRST_CLIENT_PORT, FIRST_CLIENT_PORT + nodes)]
    end_by_signals()
    try:
        with LocalCluster(nodes, slots=slots, directory=directory, ports=ports) as cluster:
            print_ready(cluster, as_json)
            watch(cluster, as_json)
    except KeyboardInterrupt:
        print(f"\n{program}: the cluster is stopped", file=sys.stderr)
        return 0
    except (ClusterError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
