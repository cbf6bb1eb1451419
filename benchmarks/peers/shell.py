"""GNU parallel and task-spooler, by their command lines."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.client import BenchError
from benchmarks.peers.measured import Measured, Work, median_seconds, rate

#: Seconds for one command line.
TIMEOUT = 120.0


def shell(line: str, environment: Mapping[str, str] | None = None) -> str:
    """What the command line says. Raises BenchError."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            env=os.environ | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"not done within {TIMEOUT:g} s: {line}") from None
    if done.returncode:
        raise BenchError(f"exit code {done.returncode}: {line}: {done.stderr.strip()[-200:]}")
    return done.stdout


def version(line: str) -> str:
    found = re.search(r"v?(\d+[\d.]*)", shell(line).partition("\n")[0])
    return found[1] if found else ""


def parallel(work: Work) -> Measured:
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "joblog"

        def run(count: int) -> None:
            # `-n0`: the numbers only count.
            shell(f"seq {count} | parallel --will-cite -j2 -n0 --joblog {log} true")

        return Measured(version("parallel --version"), commands=rate(work.commands, run))


def task_spooler(work: Work) -> Measured:
    with tempfile.TemporaryDirectory() as directory:
        environment = {
            "TMPDIR": directory,
            "TS_SOCKET": str(Path(directory) / "socket"),
            "TS_MAXFINISHED": str(2 * work.commands),
        }

        def run(count: int) -> None:
            shell(f"for i in $(seq {count}); do tsp true; done; tsp -w", environment)

        def one() -> None:
            shell("tsp -f true", environment)

        shell("tsp -S 2", environment)
        try:
            commands = rate(work.commands, run)
            latency = median_seconds(work.latencies, one)
        finally:
            shell("tsp -K", environment)
        return Measured(version("tsp -V"), commands=commands, latency=latency)
