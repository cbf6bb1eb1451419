"""HyperQueue: a server and two workers of one core each. Run by its environment's Python.

Its own way to wait looks once a second, which would be all that is measured; so a last command, which depends
on all others, makes a file, and that is waited for.
"""

from __future__ import annotations

import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

from benchmarks.peers.measured import Measured, hand_back, median_seconds, rate, work_of_arguments

#: Seconds for a submission, and between two looks for the file.
TIMEOUT, LOOK_PERIOD = 60.0, 0.001


def main() -> None:
    work = work_of_arguments()
    with tempfile.TemporaryDirectory() as directory, LocalCluster(directory) as cluster:
        done = Path(directory) / "done"
        for _ in range(2):
            cluster.start_worker(WorkerConfig(cores=1))
        client = cluster.client()

        def run(count: int) -> None:
            job = Job(directory)
            first = [job.program(["true"]) for _ in range(count)]
            job.program(["touch", str(done)], deps=first)
            submit(job)

        def one() -> None:
            job = Job(directory)
            job.program(["touch", str(done)])
            submit(job)

        def submit(job: Job) -> None:
            client.submit(job)
            deadline = time.monotonic() + TIMEOUT
            while not done.exists():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not done within {TIMEOUT:g} s")
                time.sleep(LOOK_PERIOD)
            done.unlink()

        commands = rate(work.commands, run)
        latency = median_seconds(work.latencies, one)
        hand_back(Measured(version("hyperqueue"), commands=commands, latency=latency))


if __name__ == "__main__":
    main()
