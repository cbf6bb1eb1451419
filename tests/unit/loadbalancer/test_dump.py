"""The balancer's state as a file: what is in it, and that it is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadbalancer import dump
from loadbalancer.core.balancer import Balancer
from protocol.messages import Drain, Held, Info, Result, Started

from .test_balancer import Bench, ended, ticket

NOW = 1600000000.5


def written(core: Balancer, directory: Path) -> dict[str, Any]:
    path = dump.write(core, directory, NOW)
    assert path == directory / "dump.json"
    value = json.loads(path.read_text("utf-8"))
    assert isinstance(value, dict)
    return value


def busy() -> Bench:
    """Two nodes, and a job in each state."""
    bench = Bench(eager=False, dispatch_period=5.0)
    bench.join(1, slots=2, name="nœud")
    bench.submit(1, 1, 2, 3, 4, retries=1)
    bench.tick(5.0)
    bench.say(1, Info(2, 1, 1, 0.25, 4096))
    bench.say(1, Started([Held(ticket(1), 1)]))
    bench.say(1, Result([ended(3), ended(4, outcome="failed")]))
    bench.submit(1, 5)
    bench.join(2)
    bench.say(2, Drain())
    return bench


def test_the_file_has_these_keys(tmp_path: Path) -> None:
    value = written(busy().core, tmp_path)
    assert list(value) == [
        *("version", "written_at", "balancer", "settings", "counters", "jobs_in_all", "nodes", "jobs"),
    ]
    assert (value["version"], value["written_at"], value["balancer"]) == (1, NOW, "lb")
    assert value["settings"] == {
        "eager": False,
        "dispatch_period": 5.0,
        "max_num_jobs_dispatch": 30,
        "request_result_period": 3.0,
        "max_num_nodes": 10,
        "node_grace_period": 10.0,
        "crash_limit": 3,
    }


def test_the_counters_are_those_that_stats_shows(tmp_path: Path) -> None:
    bench = busy()
    counters = written(bench.core, tmp_path)["counters"]
    assert counters == bench.core.stats()
    assert {key: counters[key] for key in ("queued", "delayed", "assigned", "undelivered", "submitted")} == {
        "queued": 1,
        "delayed": 1,
        "assigned": 2,
        "undelivered": 1,
        "submitted": 5,
    }


def test_every_node_is_there_as_nodes_shows_it(tmp_path: Path) -> None:
    bench = busy()
    nodes = written(bench.core, tmp_path)["nodes"]
    assert nodes == [node.fields() for node in bench.core.ledger.nodes.values()]
    assert [(node["name"], node["draining"], node["load"]) for node in nodes] == [
        ("nœud", False, 0.25),
        ("n2", True, None),
    ]


def test_every_job_is_there_with_where_it_is(tmp_path: Path) -> None:
    bench = busy()
    value = written(bench.core, tmp_path)
    assert value["jobs_in_all"] == 5
    jobs = {job["ticket"]: job for job in value["jobs"]}
    assert list(jobs) == [ticket(number) for number in range(1, 6)]
    assert jobs[ticket(1)] == {
        "ticket": ticket(1),
        "state": "running",
        "attempt": 1,
        "losses": 0,
        "failures": 0,
        "node": "nœud",
        "origin": "nœud",
        "outcome": None,
        "submitted_at": 1000.0,
        "since": 1005.0,
    }
    assert [
        (job["state"], job["attempt"], job["failures"], job["node"], job["outcome"]) for job in jobs.values()
    ] == [
        ("running", 1, 0, "nœud", None),
        ("assigned", 1, 0, "nœud", None),
        ("passing", 1, 0, None, "succeeded"),
        ("delayed", 2, 1, None, None),
        ("queued", 1, 0, None, None),
    ]


def test_a_balancer_that_knows_nothing_gives_a_file_that_parses(tmp_path: Path) -> None:
    value = written(Bench().core, tmp_path)
    assert (value["nodes"], value["jobs"], value["jobs_in_all"]) == ([], [], 0)


def test_each_node_and_each_job_has_its_line(tmp_path: Path) -> None:
    bench = busy()
    dump.write(bench.core, tmp_path, NOW)
    lines = (tmp_path / "dump.json").read_text("utf-8").splitlines()
    own = [json.loads(line.rstrip(",")) for line in lines if line.startswith('{"')]
    assert [row.get("ticket") or row["name"] for row in own] == [
        "nœud",
        "n2",
        *(ticket(number) for number in range(1, 6)),
    ]


@pytest.mark.parametrize("limit", [0, 1, 4, 5, 6])
def test_so_many_jobs_are_listed_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(dump, "JOBS_LIMIT", limit)
    value = written(busy().core, tmp_path)
    assert [job["ticket"] for job in value["jobs"]] == [ticket(n) for n in range(1, 1 + min(limit, 5))]
    assert value["jobs_in_all"] == 5


def test_the_next_dump_takes_the_place_of_the_last(tmp_path: Path) -> None:
    bench = busy()
    written(bench.core, tmp_path)
    bench.submit(1, 6)
    assert written(bench.core, tmp_path)["jobs_in_all"] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["dump.json"]


def test_a_write_that_fails_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    bench = busy()
    written(bench.core, tmp_path)
    before = (tmp_path / "dump.json").read_bytes()
    bench.submit(1, 6)
    (tmp_path / "dump.json.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        dump.write(bench.core, tmp_path, NOW)
    assert (tmp_path / "dump.json").read_bytes() == before


def test_a_write_that_ends_half_way_leaves_the_old_file_and_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = busy()
    written(bench.core, tmp_path)
    before = (tmp_path / "dump.json").read_bytes()

    def broken(*_: Any) -> Any:
        yield "{" * 1_000_000
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(dump, "lines", broken)
        with pytest.raises(OSError, match="Input/output error"):
            dump.write(bench.core, tmp_path, NOW)
    assert (tmp_path / "dump.json").read_bytes() == before
    bench.submit(1, 6)
    assert written(bench.core, tmp_path)["jobs_in_all"] == 6


def test_a_directory_that_is_gone_is_an_error_for_its_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        dump.write(Bench().core, tmp_path / "gone", NOW)
