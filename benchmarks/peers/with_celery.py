"""Celery: one worker with two processes, broker and results in Redis. Run by its environment's Python."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from typing import Any

from celery import Celery

from benchmarks.peers.measured import Measured, hand_back, median_seconds, rate, work_of_arguments
from benchmarks.peers.tasks import nothing, run_true

#: How the worker, which imports this file, is told where Redis is.
VARIABLE = "BENCH_REDIS"
MODULE = "benchmarks.peers.with_celery"
#: Seconds for a result.
TIMEOUT = 60.0

url = os.environ.get(VARIABLE, "")
app = Celery(MODULE, broker=url, backend=url)
# A job is taken off the queue when it is done, not when it is handed out: a dead worker loses none.
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=4)
tasks: dict[str, Any] = {
    function.__name__: app.task(name=f"{MODULE}.{function.__name__}")(function)
    for function in (run_true, nothing)
}


def run(task: Any, count: int) -> None:
    results = [task.delay() for _ in range(count)]
    for result in results:
        result.get(timeout=TIMEOUT)


def main() -> None:
    work = work_of_arguments()
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", MODULE, "worker", "--concurrency=2", "--loglevel=ERROR"],
        stdout=subprocess.DEVNULL,
    )
    try:
        commands = rate(work.commands, lambda count: run(tasks["run_true"], count))
        jobs = rate(work.jobs, lambda count: run(tasks["nothing"], count))
        latency = median_seconds(work.latencies, lambda: run(tasks["nothing"], 1))
    finally:
        worker.terminate()
        worker.wait()
    hand_back(Measured(version("celery"), commands, jobs, latency))


if __name__ == "__main__":
    if VARIABLE not in os.environ:  # once more, now that the app knows where Redis is
        os.execve(
            sys.executable,
            [sys.executable, "-m", MODULE, *sys.argv[1:]],
            os.environ | {VARIABLE: sys.argv[2]},
        )
    main()
