"""`python -m benchmarks [WORK ...]`: what Evenly does, beside what the machine and other systems do.

Every figure is with full durability: a ticket is shown after an fsync, and so is a result.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import report, stored
from benchmarks.client import BenchError
from benchmarks.figures import Figure, Measure, Sample, figures_of
from benchmarks.machine import commit, data_in_memory, machine
from benchmarks.peers.compare import measure_peers
from benchmarks.table import table
from benchmarks.work import Work
from benchmarks.works import WORKS
from evenly.local import ClusterError, end_by_signals

PROGRAM = "benchmarks"
#: Runs unless asked for otherwise, and at most.
RUNS, MOST_RUNS = 3, 100
#: The share of the jobs at most, and the fewest that a scaled work does.
MOST_SCALE, FEWEST = 100.0, 4


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the usage as well."""
        print(f"{PROGRAM}: {message}; --help shows what is there", file=sys.stderr)
        sys.exit(2)


def runs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_RUNS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MOST_RUNS}, not {text!r}")
    return int(text)


def scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MOST_SCALE:
        raise argparse.ArgumentTypeError(f"must be a number above 0, at most {MOST_SCALE:g}, not {text!r}")
    return value


def work(text: str) -> Work:
    if text.upper() not in WORKS:
        raise argparse.ArgumentTypeError(f"must be of {' '.join(WORKS)}, not {text!r}")
    return WORKS[text.upper()]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    known = "\n".join(
        f"  {each.letter}  {each.title}: {each.full:,} {each.counted}" for each in WORKS.values()
    )
    parser = _Parser(
        f"python -m {PROGRAM}",
        description=f"{__doc__}\nworks:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("works", nargs="*", type=work, metavar="WORK", help="letters (default all)")
    parser.add_argument("--runs", type=runs, metavar="N", help=f"medians of N runs (default {RUNS})")
    parser.add_argument("--scale", type=scale, default=1.0, metavar="X", help="share of the jobs (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures; a plot FILE.svg beside it")
    parser.add_argument("--peers", action="store_true", help="other systems on the works A, B and C, too")
    parser.add_argument("--quick", action="store_true", help="one run of fewer jobs; warns of what fell")
    parser.add_argument("--store", action="store_true", help="with --quick: stores the ratios")
    arguments = parser.parse_args(argv)
    if arguments.store and not arguments.quick:
        parser.error("--store goes with --quick")
    return arguments


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(
    works: Sequence[Work], number_of_runs: int, share: float, quick: bool
) -> tuple[list[Sample], list[str]]:
    """(all samples, a line for each work that failed): run by run, so that what is slow for a while is slow
    for every work."""
    samples: list[Sample] = []
    failures: list[str] = []
    for number in range(1, number_of_runs + 1):
        for each in works:
            if number > each.most_runs:
                continue
            count = max(FEWEST, int((each.quick if quick else each.full) * share))
            began = time.perf_counter()
            try:
                samples += each.run(count)
            except (BenchError, ClusterError, OSError) as error:
                failures.append(f"did not work: {each.letter}, {each.title}, run {number}: {error}")
            took = time.perf_counter() - began
            say(f"run {number}: {each.letter}, {each.title}, {count:,} {each.counted}: {took:.0f} s")
    return samples, failures


def run(arguments: argparse.Namespace) -> int:
    works: list[Work] = list(dict.fromkeys(arguments.works)) or list(WORKS.values())
    number_of_runs = arguments.runs or (1 if arguments.quick else RUNS)
    about: dict[str, Any] = {"machine": machine(), "commit": commit(), "load_before": os.getloadavg()[0]}
    samples, failures = measure(works, number_of_runs, arguments.scale, arguments.quick)
    measures: list[Measure] = [each for work in works for each in work.measures]
    figures: list[Figure] = figures_of(measures, samples)
    notes = list(failures)
    if arguments.peers:
        letters = {each.letter for each in works}
        compared, about["peers"], more = measure_peers(letters, arguments.scale, say)
        notes += more
        figures = sorted([*figures, *compared], key=lambda figure: figure.measure.key[0])
    hardware = about["machine"]
    print(
        f"{hardware['cpus']} CPUs, {hardware['file_system']}, Python {hardware['python']}, "
        f"Linux {hardware['kernel']}; medians of {number_of_runs} runs, of fewer for "
        f"{', '.join(each.letter for each in works if each.most_runs < number_of_runs) or 'none'}"
    )
    print("\n".join([table(figures), *notes]))
    if arguments.json:
        print(f"figures in {arguments.json}, a plot in {report.write(arguments.json, figures, about)}")
    if arguments.quick:
        before = stored.read()
        good = "nothing fell by more than a third" if before else "nothing is stored to compare with"
        print("\n".join(stored.warnings_of(figures, before)) or good)
        if arguments.store:
            stored.write(figures, about["machine"])
        return 1 if failures else 0
    return 0 if not failures and all(figure.is_reached is not False for figure in figures) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if an aim was missed or something did not work."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    if (wrong := data_in_memory()) is not None:
        say(f"{PROGRAM}: {wrong}")
        return 2
    end_by_signals()
    try:
        return run(arguments)
    except KeyboardInterrupt:
        say(f"\n{PROGRAM}: interrupted; nothing is left running")
        return 130
    except (BenchError, ClusterError, OSError) as error:
        say(f"{PROGRAM}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
