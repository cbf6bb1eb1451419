"""dask.distributed: a scheduler and two worker processes of one thread. Run by its environment's Python."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from distributed import Client, LocalCluster

from benchmarks.peers.measured import Measured, hand_back, median_seconds, rate, work_of_arguments
from benchmarks.peers.tasks import nothing, run_true


def main() -> None:
    work = work_of_arguments()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def run(count: int, function: Callable[[], object]) -> None:
            client.gather([client.submit(function, pure=False) for _ in range(count)])

        commands = rate(work.commands, lambda count: run(count, run_true))
        jobs = rate(work.jobs, lambda count: run(count, nothing))
        latency = median_seconds(work.latencies, lambda: run(1, nothing))
        hand_back(Measured(version("distributed"), commands, jobs, latency))


if __name__ == "__main__":
    main()
