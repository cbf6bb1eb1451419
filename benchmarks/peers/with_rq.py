"""RQ: two workers, each of which forks for a job, as it does by default. Run by its environment's Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from redis import Redis
from rq import Queue

from benchmarks.peers.measured import Measured, hand_back, median_seconds, rate, work_of_arguments
from benchmarks.peers.tasks import nothing, run_true

#: Seconds for a result.
TIMEOUT = 60


def main() -> None:
    work, url = work_of_arguments(), sys.argv[2]
    queue = Queue(connection=Redis.from_url(url))
    command = [str(Path(sys.executable).with_name("rq")), "worker", "--quiet", "--url", url, "--path", "."]
    workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]

    def run(count: int, function: Callable[[], object]) -> None:
        jobs = [queue.enqueue(function) for _ in range(count)]
        for job in jobs:
            job.latest_result(timeout=TIMEOUT)

    try:
        commands = rate(work.commands, lambda count: run(count, run_true))
        jobs = rate(work.jobs, lambda count: run(count, nothing))
        latency = median_seconds(work.latencies, lambda: run(1, nothing))
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
    hand_back(Measured(version("rq"), commands, jobs, latency))


if __name__ == "__main__":
    main()
