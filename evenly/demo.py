"""`python -m evenly.demo`, `make demo`: a cluster of three nodes does a few hundred commands over real files.

All goes through the client port of one node, and ends by itself in a few seconds: exit code 0 if every job
succeeded and every checksum is the one that Python computes here, 1 with one line that says what is wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenly._lines import LineClient
from evenly.cli.app import mend_streams
from evenly.local import ClusterError, LocalCluster, end_by_signals
from runtime.settings import parse

PROGRAM = "evenly.demo"
NODES = 3
SLOTS = 2
#: So many files, the largest there are; each is one job of each kind.
FILES = 250
#: Seconds that all jobs together may take; they take a few.
WORK_TIMEOUT = 40.0
#: Seconds between two looks at the cluster, and between two lines where nobody can see a line redrawn.
LOOK_PERIOD, LINE_PERIOD = 0.1, 0.5
JOBS_SHOWN = 8
BAR_WIDTH = 40


class DemoError(Exception):
    """What is not as it should be."""


@dataclass(frozen=True, slots=True)
class Task:
    """A job to be, and what is known beforehand of its output: a checksum (None for a compression)."""

    command: str
    file: Path
    checksum: str | None


# --- the work ------------------------------------------------------------------------------------


def make_tasks() -> list[Task]:
    """Checksums and compressions of the standard library's sources, in turn."""
    checksum, compression = commands()
    tasks = []
    for file in standard_library(FILES):
        name = shlex.quote(str(file))
        tasks.append(Task(checksum.format(name), file, hashlib.sha256(file.read_bytes()).hexdigest()))
        tasks.append(Task(compression.format(name), file, None))
    return tasks


def commands() -> tuple[str, str]:
    """Command lines with the file as `{}`: the usual tools, or Python where one is missing."""
    python = shlex.quote(sys.executable)
    checksum, compression = "sha256sum < {}", "gzip -9 -c {} | wc -c"
    if not shutil.which("sha256sum"):
        code = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
        checksum = f"{python} -c '{code}' < {{}}"
    if not shutil.which("gzip") or not shutil.which("wc"):
        code = "import gzip, sys; print(len(gzip.compress(sys.stdin.buffer.read())))"
        compression = f"{python} -c '{code}' < {{}}"
    return checksum, compression


def standard_library(count: int) -> list[Path]:
    """The `count` largest sources of this Python's standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    others = {"site-packages", "dist-packages", "test", "tests"}
    files = [path for path in root.rglob("*.py") if others.isdisjoint(path.parts[len(root.parts) :])]
    files = [path for path in files if path.is_file() and os.access(path, os.R_OK)]
    if not files:
        raise DemoError(f"no sources of the standard library are in {root}")
    return sorted(files, key=lambda path: path.stat().st_size, reverse=True)[:count]


def verify(tasks: Sequence[Task], results: Sequence[dict[str, Any]]) -> None:
    """Raises DemoError for the first job that did not do what it should."""
    for task, result in zip(tasks, results, strict=True):
        said = (result["stdout"] or "").split()
        if result["outcome"] != "succeeded":
            why = result["reason"] or result["stderr"] or result["state"]
            raise DemoError(f"{result['ticket']} ({task.command}) ended as {result['outcome']}: {why}")
        if task.checksum is not None and said[:1] != [task.checksum]:
            raise DemoError(f"{result['ticket']} ({task.command}) gave {said}, not {task.checksum}")
        if task.checksum is None and not (said and said[0].isdecimal() and int(said[0]) > 0):
            raise DemoError(f"{result['ticket']} ({task.command}) gave {said}, not a size")


# --- what is shown -------------------------------------------------------------------------------


class View:
    """The nodes' load: a few lines redrawn in a terminal, else a line now and then."""

    def __init__(self, full: int) -> None:
        """A node that holds `full` jobs has a full bar."""
        self._full = max(1, full)
        self._redraws = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colours = self._redraws and not os.environ.get("NO_COLOR")
        self._drawn = 0
        self._next_line = 0.0

    def show(self, nodes: Sequence[dict[str, Any]], is_last: bool = False) -> None:
        if self._redraws:
            self._redraw(nodes)
        elif is_last or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_PERIOD
            loads = ", ".join(f"{each['name']} {held(each):3} (done {each['done']:3})" for each in nodes)
            print(f"  jobs held: {loads}", flush=True)

    def _redraw(self, nodes: Sequence[dict[str, Any]]) -> None:
        back = f"\x1b[{self._drawn}A" if self._drawn else ""
        width = shutil.get_terminal_size().columns - 1
        lines = []
        for node in nodes:
            bar = "#" * -(-min(held(node), self._full) * BAR_WIDTH // self._full)
            line = f"  {node['name']:3} holds {held(node):3}, done {node['done']:3}  {bar}"[:width]
            lines.append(f"\x1b[32m{line}\x1b[0m" if self._colours else line)
        sys.stdout.write(back + "".join(f"\x1b[2K{line}\n" for line in lines))
        sys.stdout.flush()
        self._drawn = len(lines)


def held(node: dict[str, Any]) -> int:
    return int(node["running"] + node["queued"])


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def shown_command(task: Task) -> str:
    """The command with the file's bare name: paths are long."""
    return task.command.replace(shlex.quote(str(task.file)), task.file.name)


def print_tables(tasks: Sequence[Task], results: Sequence[dict[str, Any]]) -> None:
    names = sorted({result["node"] for result in results})
    rows = []
    for name in names:
        own = [result for result in results if result["node"] == name]
        busy = sum(result["finished_at"] - result["started_at"] for result in own)
        rows.append((name, len(own), f"{100 * len(own) / len(results):.0f} %", f"{busy:.2f} s"))
    print("\nNodes")
    print_table(("NODE", "JOBS DONE", "SHARE", "BUSY"), rows)
    print(f"\nJobs ({JOBS_SHOWN} of {len(results)})")
    jobs = []
    step = max(1, len(results) // 2 // JOBS_SHOWN)
    for turn in range(JOBS_SHOWN):
        at = min(2 * turn * step + turn % 2, len(results) - 1)  # by turns of one kind and of the other
        result = results[at]
        jobs.append((result["ticket"], result["node"], shown_command(tasks[at]), shorten(result["stdout"])))
    print_table(("TICKET", "NODE", "COMMAND", "RESULT"), jobs)


def shorten(output: str) -> str:
    text = " ".join(output.split())
    return text if len(text) <= 20 else f"{text[:16]}…"


def prove(port: int, tasks: Sequence[Task], results: Sequence[dict[str, Any]]) -> None:
    """One result by its ticket, as a person would ask for it, beside Python's own."""
    sums = [pair for pair in zip(tasks, results, strict=True) if pair[0].checksum]
    task, result = next((pair for pair in sums if pair[1]["node"] != "n1"), sums[0])
    line = f"result {result['ticket']}"
    with LineClient(port) as client:
        reply = client.ask(line)
    expected = hashlib.sha256(task.file.read_bytes()).hexdigest()
    print(f"\nOne result by its ticket, over nc 127.0.0.1 {port}: the checksum of {task.file.name}")
    print(f"  > {line}\n  < {reply}\n  hashlib in this process: {expected}")
    if expected not in reply:
        raise DemoError(f"the result of {result['ticket']} is not Python's {expected}")
    print("  They are the same.")


# --- the run -------------------------------------------------------------------------------------


def work(cluster: LocalCluster, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Submits all, shows how they spread until they are done; their results in order."""
    view = View(-(-len(tasks) // NODES))
    with cluster.client("n1") as client:
        tickets = []
        for reply in client.ask_all(f"run {task.command}" for task in tasks):
            if "ticket" not in reply:
                raise DemoError(f"a submission was refused: {reply.get('error', reply)}")
            tickets.append(reply["ticket"])
        deadline = time.monotonic() + WORK_TIMEOUT
        while True:
            # Asked before the nodes, so that the last picture shows all as done.
            left = client.ask_json("stats")["node"]["open"]
            nodes = sorted(client.ask_json("nodes")["nodes"], key=lambda node: str(node["name"]))
            view.show(nodes, is_last=not left)
            if not left:
                break
            if time.monotonic() > deadline:
                raise DemoError(f"{left} of {len(tickets)} jobs are not done after {WORK_TIMEOUT:g} s")
            time.sleep(LOOK_PERIOD)
        return client.ask_all(f"result {ticket}" for ticket in tickets)


def run() -> None:
    """Raises DemoError, ClusterError, OSError where anything is wrong."""
    began = time.monotonic()
    tasks = make_tasks()
    print(f"Starting a balancer and {NODES} nodes of {SLOTS} slots on loopback ports …", flush=True)
    with LocalCluster(NODES, slots=SLOTS) as cluster:
        print(f"Submitting {len(tasks)} commands over {len(tasks) // 2} files of Python's library to n1.")
        started = time.monotonic()
        try:
            results = work(cluster, tasks)
            seconds = time.monotonic() - started
            verify(tasks, results)
            print_tables(tasks, results)
            prove(cluster["n1"].port, tasks, results)
        except BrokenPipeError:
            raise
        except OSError:
            cluster.check(within=1.0)  # the program that ended tells more than its lost connection
            raise
    seconds_in_all = time.monotonic() - began
    print(f"\nAll {len(tasks)} jobs succeeded, in {seconds:.1f} s; the demo took {seconds_in_all:.1f} s.")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    description = "Shows Evenly at work: a balancer, three nodes and a few hundred jobs, on this machine."
    parse(PROGRAM, description, [], [], sys.argv[1:] if argv is None else argv, os.environ)
    mend_streams()
    end_by_signals()
    try:
        run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted; the cluster is stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has left; Python would try once more at its end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DemoError, ClusterError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
