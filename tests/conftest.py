"""Fixtures for tests with real programs; a failing test shows the log of each of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from support import Cluster

#: Their tests start programs, and wait for them most of the time; some take ports that are fixed. `make test`
#: does these in one process, one after the other, and the others beside them in a second one.
WITH_PROGRAMS = {"integration", "processes"}


def pytest_itemcollected(item: pytest.Item) -> None:
    starts_programs = item.path.relative_to(Path(__file__).parent).parts[0] in WITH_PROGRAMS
    item.add_marker(pytest.mark.xdist_group("with programs" if starts_programs else "alone"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for cluster in Cluster.alive:
            for name, text in cluster.logs():
                report.sections.append((f"log of {name}", text))
    return report


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters; each is ended after the test, and its logs are looked through."""
    clusters: list[Cluster] = []

    def make(**settings: object) -> Cluster:
        directory = tmp_path / f"cluster{len(clusters)}"
        directory.mkdir()
        clusters.append(Cluster(directory, **settings))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.end()


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes of two slots that a module's tests share: for what hurts nobody else."""
    cluster = Cluster(tmp_path_factory.mktemp("shared"))
    try:
        cluster.start("alpha", "beta", "gamma")
        yield cluster
    finally:
        cluster.end()
