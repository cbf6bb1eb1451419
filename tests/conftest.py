"""Fixtures for tests with real programs; a failing test shows the log of each of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from support import Cluster


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
