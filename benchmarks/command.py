"""`python -m benchmarks.command`: what the command `evenly` costs beside bare lines, in the same run.

A job for each of 10,000 files, by `evenly map` and as lines of a bare client; `evenly --help`; and, with
`--million`, the memory of a client that submits a million jobs from a file of JSON Lines.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.client import BenchError, connect, run_all, usual_cluster
from evenly.local import LocalCluster

FILES, TURNS = 10_000, 4
PROGRAM = "/bin/true"
EVENLY = (sys.executable, "-m", "evenly.cli")
HELPS = 11
MILLION = 1_000_000
#: What is to be reached.
LEAST_RATIO, MOST_HELP, MOST_MEMORY = 0.8, 0.3, 150 * 2**20


def timed(words: list[str], nodes: str = "") -> float:
    """Seconds of the command `evenly` with these words. Raises BenchError if it fails."""
    began = time.perf_counter()
    environment = os.environ | {"EVENLY_NODES": nodes}
    ended = subprocess.run([*EVENLY, *words], env=environment, capture_output=True, text=True)
    took = time.perf_counter() - began
    if ended.returncode:
        raise BenchError(f"evenly {words[0]} ended with {ended.returncode}: {ended.stderr[-300:]}")
    return took


def address(cluster: LocalCluster) -> str:
    return f"127.0.0.1:{cluster['n1'].port}"


def mapped(directory: Path) -> float:
    """How many times as fast `evenly map` is as bare lines: the median of turns, the two side by side."""
    names = [str(directory / f"file-{number}") for number in range(FILES)]
    part = FILES // TURNS
    rates = []
    with usual_cluster() as cluster, connect(cluster) as client:
        for turn in range(TURNS):
            (directory / "names").write_text("\n".join(names[turn * part : (turn + 1) * part]))
            bare = part / run_all(client, f"run {PROGRAM} {names[turn]}", part)
            words = ["map", "-a", str(directory / "names"), "--", PROGRAM, "{}"]
            rates.append((part / timed(words, address(cluster)), bare))
    ours, bare = (statistics.median(each) for each in zip(*rates, strict=True))
    ratio = statistics.median(one / other for one, other in rates)
    print(f"evenly map, {FILES:,} files: {ours:,.0f} jobs a second; as lines {bare:,.0f}; ratio {ratio:.2f}")
    return ratio


def million(directory: Path) -> int:
    """Bytes of memory that the client had at most."""
    path = directory / "million.jsonl"
    with path.open("w") as file:
        file.writelines('{"sleep": 0}\n' for _ in range(MILLION))
    with usual_cluster() as cluster:
        took = timed(["run", str(path), "--state", str(directory / "state")], address(cluster))
        # Before the programs of the cluster end, which are our children, too.
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"evenly run, {MILLION:,} jobs of JSON Lines: {MILLION / took:,.0f} jobs a second, ", end="")
    print(f"{most / 2**20:.0f} MiB at most, of its largest process")
    return most


def main(arguments: list[str]) -> int:
    helps = statistics.median(timed(["--help"]) for _ in range(HELPS))
    print(f"evenly --help: {helps * 1000:.0f} ms")
    with tempfile.TemporaryDirectory() as place:
        is_good = mapped(Path(place)) >= LEAST_RATIO and helps < MOST_HELP
        if "--million" in arguments:
            is_good &= million(Path(place)) < MOST_MEMORY
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
