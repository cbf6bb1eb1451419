"""Evenly and the other systems side by side: one after the other, and before each of them Evenly again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from statistics import median

from benchmarks.client import BenchError, connect, latencies, run_all, usual_cluster
from benchmarks.figures import Aim, Figure, Measure, Sample, figures_of
from benchmarks.peers.catalog import PEERS, Peer
from benchmarks.peers.measured import Measured
from evenly._lines import LineClient

#: What Evenly does before each of the others: commands, jobs of 0 ms, latencies.
COMMANDS, JOBS, LATENCIES = 2_000, 10_000, 200
MS = 1000.0


def measure_peers(
    letters: Collection[str], scale: float, say: Callable[[str], None]
) -> tuple[list[Figure], dict[str, str], list[str]]:
    """(figures, versions by name, a line for each that is missing or failed).

    `letters`: which of the works A, B and C are of interest.
    """
    figures: list[Figure] = []
    versions: dict[str, str] = {}
    notes: list[str] = []
    there = [peer for peer in PEERS if not peer.missing]
    notes += [f"not installed: {peer.name} ({peer.missing})" for peer in PEERS if peer.missing]
    if not there:
        return figures, versions, notes
    with usual_cluster() as cluster, connect(cluster) as client:
        for peer in there:
            say(f"beside {peer.name}")
            try:
                measured = peer.measure(replace(peer, work=peer.work.scaled(scale)))
            except BenchError as error:
                notes.append(f"did not work: {peer.name}: {error}")
                continue
            versions[peer.name] = measured.version
            figures += [
                figure
                for figure in compared(client, peer, measured, scale)
                if figure.measure.key[0] in letters
            ]
    return figures, versions, notes


def compared(client: LineClient, peer: Peer, measured: Measured, scale: float) -> list[Figure]:
    """What Evenly does of the same, beside it."""
    samples = []
    if measured.commands:
        count = max(1, int(COMMANDS * scale))
        samples.append(Sample("A", count / run_all(client, "run true", count), measured.commands))
    if measured.jobs:
        count = max(1, int(JOBS * scale))
        samples.append(Sample("B", count / run_all(client, "0", count), measured.jobs))
    if measured.latency:
        line = "0" if measured.jobs else "run true"
        seconds = median(latencies(client, line, max(1, int(LATENCIES * scale))))
        samples.append(Sample("C", seconds * MS, measured.latency * MS))
    measures = _measures(peer, of_true=not measured.jobs)
    return figures_of(measures.values(), [each._replace(key=measures[each.key].key) for each in samples])


def _measures(peer: Peer, of_true: bool) -> dict[str, Measure]:
    """By the work's letter. Only where it is durable, too, is it asked for that Evenly be as good."""
    aim = Aim(1.0, of_ratio=True) if peer.is_durable else None
    beside = f"{peer.name} ({peer.keeps})"
    rates = {"A": "commands `true`", "B": "jobs of 0 ms"}
    measures = {
        letter: Measure(f"{letter}.{peer.key}", title, "a second", beside, more_is_better=True, aim=aim)
        for letter, title in rates.items()
    }
    title = "one `true`, p50" if of_true else "one job of 0 ms, p50"
    return measures | {"C": Measure(f"C.{peer.key}", title, "ms", beside, aim=aim)}
