"""`make simulate RUNS=1000` runs many seeds; `make simulate SEED=17` replays one, exactly.

A failing seed is printed with what was violated: put it into `KEPT_SEEDS` of test_faults.py.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from typing import NamedTuple

from test_faults import run_with_faults

WIDTH = 40


class Run(NamedTuple):
    seed: int
    failure: str
    steps: int
    seconds: float
    seen: Counter[str]


def run(seed: int) -> Run:
    """One seed; its failure is one line, empty where all held."""
    try:
        world = run_with_faults(seed)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Run(seed, f"{type(error).__name__}: {error} ({where.name}:{where.lineno})", 0, 0.0, Counter())
    seen = Counter(map(str, world.outcomes.values())) + world.seen
    seen["tickets"] = len(world.issued)
    seen["late results"] = world.core.ledger.counters["late results"]
    gc.collect()
    return Run(seed, "", world.steps, world.now - world.began, seen)


def show(done: int, runs: int, failed: int, began: float) -> None:
    if sys.stderr.isatty() or done == runs or done % max(1, runs // 10) == 0:
        filled = WIDTH * done // runs
        rate = done / (time.monotonic() - began)
        bar = "#" * filled + "." * (WIDTH - filled)
        line = f"[{bar}] {done}/{runs}, {failed} failed, {rate:.1f} seeds a second"
        print(line, end="\r" if sys.stderr.isatty() and done < runs else "\n", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one, with a traceback if it fails")
    parser.add_argument("--runs", type=int, default=200, help="so many seeds (default: 200)")
    parser.add_argument("--first", type=int, default=0, help="from this seed on (default: 0)")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        world = run_with_faults(arguments.seed)
        print(f"seed {arguments.seed}: {world.steps} steps, {len(world.issued)} tickets, no violation")
        return 0
    began = time.monotonic()
    failures: list[Run] = []
    steps, seconds, seen = 0, 0.0, Counter[str]()
    seeds = range(arguments.first, arguments.first + arguments.runs)
    # What a run leaves behind is collected between runs: a fifth faster.
    with multiprocessing.Pool(len(os.sched_getaffinity(0)), gc.disable) as pool:
        for done, each in enumerate(pool.imap_unordered(run, seeds, chunksize=4), 1):
            if each.failure:
                failures.append(each)
                print(f"seed {each.seed}: {each.failure}", file=sys.stderr)
            steps, seconds = steps + each.steps, seconds + each.seconds
            seen.update(each.seen)
            show(done, arguments.runs, len(failures), began)
    took = time.monotonic() - began
    print(f"{arguments.runs} seeds, {len(failures)} with a violation, in {took:.0f} s")
    print(f"{steps:,} steps, {steps / took:,.0f} a second; {seconds / 60 / took:.1f} cluster-hours a minute")
    print(", ".join(f"{count:,} {name}" for name, count in sorted(seen.items())))
    for each in failures:
        print(f"make simulate SEED={each.seed}    # {each.failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
