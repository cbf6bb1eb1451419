"""`evenly run FILE`: submits the jobs of a workload file, follows them, and reports."""

from __future__ import annotations

import json
import shlex
import sqlite3
import sys
from pathlib import Path

import click

from evenly.cli import exits
from evenly.cli.app import Finite
from evenly.cli.common import json_option, nodes_option
from evenly.client import Client
from evenly.client.addresses import addresses
from evenly.client.errors import EvenlyError
from evenly.workload.errors import WorkloadError
from evenly.workload.progress import View
from evenly.workload.reader import FORMATS
from evenly.workload.report import as_json as report_json
from evenly.workload.report import as_text, report_of
from evenly.workload.session import Wishes, perform, prepare
from evenly.workload.state import State, unusable


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@nodes_option
@click.option("--format", type=click.Choice(FORMATS), help="What FILE is, where it is not recognised.")
@click.option("--speed", type=Finite(0, min_open=True), metavar="N", help="Replay N times as fast.")
@click.option("--resume", is_flag=True, help="Go on with the run of FILE that was stopped.")
@click.option("--retry-failed", is_flag=True, help="Submit what did not succeed again.")
@click.option(
    "--skip-bad", is_flag=True, help="Leave bad lines out; else nothing of a bad file is submitted."
)
@click.option("--no-wait", is_flag=True, help="Submit only; --resume follows the jobs later.")
@click.option("--state", type=click.Path(path_type=Path), metavar="PATH", help="Its tickets.  [FILE.run]")
@json_option
def run(
    file: Path,
    nodes: str | None,
    format: str | None,
    speed: float | None,
    resume: bool,
    retry_failed: bool,
    skip_bad: bool,
    no_wait: bool,
    state: Path | None,
    as_json: bool,
) -> None:
    """Submits the jobs of FILE, follows them to their end, and reports.

    FILE has one job a line: `sleep MS` or a number of ms, a shell command, a JSON object with any option of a
    job, or a line of the Standard Workload Format, which is replayed. It may be gzipped. Where the run is
    stopped, by Ctrl-C or because no node can be reached, --resume goes on; no line is submitted twice.

    Exit code: 0 if all jobs succeeded, 1 if some did not, 2 for a bad file, 3 if no node can be reached, 130
    after Ctrl-C.
    """
    group = click.get_current_context().parent
    if nodes is None and group is not None:
        nodes = group.params.get("nodes")  # of `evenly -s … run`
    wishes = Wishes(file, state, format, speed, skip_bad, resume, retry_failed, not no_wait)
    try:
        try:
            sys.exit(_run(wishes, nodes, as_json))
        except sqlite3.Error as error:  # while it is read
            raise unusable(wishes.state_path, error) from None
    except WorkloadError as error:
        _tell("\n".join(f"evenly: {line}" for line in str(error).splitlines()))
        sys.exit(exits.USAGE)


def _run(wishes: Wishes, nodes: str | None, as_json: bool) -> int:
    where = addresses(nodes)
    if not (wishes.resumes or wishes.retries) and wishes.state_path.exists():
        with Client(nodes) as client:
            client.nodes()  # before what an earlier run left is overwritten
    workload, state = prepare(wishes, _tell)
    with state:
        span = 0.0 if wishes.resumes or wishes.retries else float(state.get("span"))
        try:
            with View(follows=wishes.follows, span=span) as view:
                number = perform(wishes, workload, state, where, view)
        except (EvenlyError, WorkloadError):
            if state.get("begun"):
                _tell(_how_to_resume(wishes, nodes, state))
            raise
        if number is not None:
            _tell(_how_to_resume(wishes, nodes, state))
            return 128 + number
        return _report(wishes, nodes, state, as_json)


def _report(wishes: Wishes, nodes: str | None, state: State, as_json: bool) -> int:
    report = report_of(state)
    named = _named(wishes, nodes)
    if as_json:
        print(json.dumps(report_json(report), ensure_ascii=False))
    elif wishes.follows:
        print(as_text(report))
    else:
        resume = f"evenly run {named} --resume"
        print(f"{report.submitted} of {report.jobs} jobs are submitted; {resume} follows them.")
    if report.failed and wishes.follows:
        _tell(f"evenly run {named} --retry-failed submits the failed ones again")
    return 0 if report.is_good or not (wishes.follows or report.failed) else 1


def _how_to_resume(wishes: Wishes, nodes: str | None, state: State) -> str:
    return f"{state.counts()}; go on with: evenly run {_named(wishes, nodes)} --resume"


def _named(wishes: Wishes, nodes: str | None) -> str:
    server = f" -s {shlex.quote(nodes)}" if nodes else ""
    where = f" --state {shlex.quote(str(wishes.state))}" if wishes.state else ""
    name = str(wishes.file)  # a Path has forgotten the ./ that keeps a name from being an option
    return shlex.quote(f"./{name}" if name.startswith("-") else name) + where + server


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
