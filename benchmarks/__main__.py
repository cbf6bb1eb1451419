"""`python -m benchmarks`: one table of what Evenly does a second, beside what the machine can do.

Every figure is with full durability: the ticket is shown after an fsync, and so is the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from evenly.local import HOST, LocalCluster

COMMANDS = 5_000
SLEEPS = 50_000
LATENCIES = 300
FSYNCS = 200


class Figure(NamedTuple):
    """`beside`: the same measure of something else in the same run; `aim`: what issue or design asks for."""

    name: str
    value: float
    unit: str
    beside: str
    ratio: float | None
    aim: str
    reached: bool


class Pipe:
    """One client connection whose lines are sent by a thread, so that replies are read meanwhile."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb")

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        self._replies.close()
        self._socket.close()

    def ask(self, line: bytes) -> bytes:
        self._socket.sendall(line + b"\n")
        return self._replies.readline()

    def ask_all(self, lines: list[bytes]) -> list[bytes]:
        data = b"".join(line + b"\n" for line in lines)
        sender = threading.Thread(target=self._socket.sendall, args=(data,))
        sender.start()
        replies = [self._replies.readline() for _ in lines]
        sender.join()
        return replies

    def run_all(self, line: bytes, count: int) -> float:
        """Seconds from the first line of `count` such jobs to the last result."""
        began = time.perf_counter()
        tickets = [ticket_of(reply) for reply in self.ask_all([line] * count)]
        results = self.ask_all([b"wait " + ticket for ticket in tickets])
        took = time.perf_counter() - began
        wrong = [
            reply for reply in results if not reply.startswith((b"Result: succeeded", b"Result: Executed"))
        ]
        if wrong:
            sys.exit(f"{len(wrong)} of {count} jobs went wrong, the first: {wrong[0]!r}")
        return took

    def latencies(self, line: bytes, count: int) -> list[float]:
        """Seconds of each of `count` such jobs, one after the other, submit to result; sorted."""
        times = []
        for _ in range(count):
            began = time.perf_counter()
            self.ask(b"wait " + ticket_of(self.ask(line)))
            times.append(time.perf_counter() - began)
        return sorted(times)


def ticket_of(reply: bytes) -> bytes:
    prefix, _, ticket = reply.strip().rpartition(b" ")
    if prefix != b"Ticket ID:":
        sys.exit(f"no ticket but {reply!r}")
    return ticket


def xargs_rate(count: int) -> float:
    """Commands `true` a second of `xargs -P2 -n1`, which keeps nothing."""
    words = " ".join(map(str, range(count))).encode()
    began = time.perf_counter()
    subprocess.run(["xargs", "-P2", "-n1", "true"], input=words, check=True)
    return count / (time.perf_counter() - began)


def fsync_seconds(count: int) -> float:
    """The median time of writing one page and making it durable, where the clusters keep their data."""
    times = []
    with tempfile.TemporaryFile() as file:
        for at in range(count):
            os.pwrite(file.fileno(), b"x" * 4096, at * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def percentile(times: list[float], of: float) -> float:
    return times[min(len(times) - 1, int(len(times) * of))]


def measure(runs: int, scale: float, say: Callable[[str], None]) -> list[Figure]:
    """All figures, medians of `runs`, on a balancer and two nodes of one slot each."""
    commands, sleeps = int(COMMANDS * scale), int(SLEEPS * scale)
    rates: dict[str, list[float]] = {
        name: [] for name in ("xargs", "commands", "sleeps", "true", "zero", "fsync")
    }
    tails: dict[str, list[float]] = {"true": [], "zero": []}
    for number in range(1, runs + 1):
        say(f"run {number} of {runs}")
        with LocalCluster(2, slots=1) as cluster, Pipe(cluster.nodes[0].port) as pipe:
            pipe.run_all(b"run true", 20)  # the helpers are up
            # What is compared runs next to each other, twice, so that a slow minute of the machine hits both.
            for _ in range(2):
                rates["xargs"].append(xargs_rate(commands // 2))
                rates["commands"].append(commands / 2 / pipe.run_all(b"run true", commands // 2))
            rates["sleeps"].append(sleeps / pipe.run_all(b"0", sleeps))
            rates["fsync"].append(fsync_seconds(FSYNCS))
            for name, line in (("true", b"run true"), ("zero", b"0")):
                times = pipe.latencies(line, LATENCIES)
                rates[name].append(percentile(times, 0.5))
                tails[name].append(percentile(times, 0.99))
    median = {name: statistics.median(values) for name, values in rates.items()}
    tail = {name: statistics.median(values) * 1000 for name, values in tails.items()}
    fsync = median["fsync"] * 1000
    ratio = median["commands"] / median["xargs"]

    def latency(name: str, title: str, aim: float) -> Figure:
        value = median[name] * 1000
        beside = f"one fsync: {fsync:.2f} ms; p99 {tail[name]:.1f} ms"
        return Figure(title, value, "ms", beside, value / fsync, f"under {aim:g} ms", value < aim)

    return [
        Figure(
            f"{commands:,} commands `true`",
            median["commands"],
            "a second",
            f"xargs -P2 -n1 true: {median['xargs']:,.0f} a second, which keeps nothing",
            ratio,
            "0.6 of xargs",
            ratio >= 0.6,
        ),
        Figure(
            f"{sleeps:,} jobs of 0 ms, one connection",
            median["sleeps"],
            "a second",
            f"one fsync each: {1000 / fsync:,.0f} a second",
            median["sleeps"] * fsync / 1000,
            "5,000 a second",
            median["sleeps"] >= 5000,
        ),
        latency("true", "one `true`, submit to result, p50", 10),
        latency("zero", "one job of 0 ms, submit to result, p50", 10),
    ]


def table(figures: list[Figure]) -> str:
    rows = [("work", "Evenly", "ratio", "beside it", "aim", "")]
    rows += [
        (
            figure.name,
            f"{figure.value:,.0f} {figure.unit}"
            if figure.value >= 100
            else f"{figure.value:.2f} {figure.unit}",
            f"{figure.ratio:.2f}" if figure.ratio is not None else "",
            figure.beside,
            figure.aim,
            "reached" if figure.reached else "MISSED",
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def machine() -> dict[str, Any]:
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="medians of so many runs (default: 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the jobs (default: 1.0)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = measure(arguments.runs, arguments.scale, lambda text: print(text, file=sys.stderr))
    about = machine()
    where = f"{about['cpus']} CPUs, Python {about['python']}, Linux {about['kernel']}"
    print(f"{where}; medians of {arguments.runs} runs")
    print(table(figures))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": about, "figures": [figure._asdict() for figure in figures]}, indent=2)
            + "\n"
        )
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
