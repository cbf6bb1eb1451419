"""Runs against nodes that are not real, and break where it hurts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from evenly.client.errors import NodesUnreachable
from evenly.workload import runner, stations
from evenly.workload.errors import WorkloadError
from evenly.workload.reader import Workload
from evenly.workload.report import report_of
from evenly.workload.runner import Run
from evenly.workload.session import Wishes, prepare
from evenly.workload.state import State, unusable

from ..fake_node import FakeCluster, FakeNode

Job = dict[str, object]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (stations, "QUIET", 0.02),
        (stations, "LOOK_PERIOD", 0.2),
        (stations, "RETRY", 0.02),
        (runner, "PERIOD", 0.005),
        (runner, "TIMEOUT", 0.5),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
async def node(cluster: FakeCluster) -> FakeNode:
    return (await cluster.start())[0]


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (what is waited for is not ours)
            await asyncio.sleep(0.001)


class Going:
    """A run in the background, with what it told."""

    def __init__(self, state: State, workload: Workload, nodes: list[str], follows: bool) -> None:
        self.told: list[str] = []
        self.state = state
        self.run = Run(workload, state, nodes, told=self.told.append, seen=lambda books: None)
        self.task = asyncio.ensure_future(self.run.go(follows=follows))

    async def end(self) -> bool:
        async with asyncio.timeout(30):
            return await self.task


@asynccontextmanager
async def going(
    directory: Path, commands: list[str | Job], nodes: list[str], *, follows: bool = True, **how: object
) -> AsyncIterator[Going]:
    """A run of these commands or jobs; what is there of an earlier one is gone on with."""
    path = directory / "jobs.jsonl"
    jobs = ({"run": each} if isinstance(each, str) else each for each in commands)
    path.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    resumes = path.with_name("jobs.jsonl.run").exists()
    workload, state = prepare(Wishes(path, **({"resumes": resumes} | how)), print)  # type: ignore[arg-type]
    with state:
        it = Going(state, workload, nodes, follows)
        try:
            yield it
        finally:
            it.task.cancel()
            await asyncio.gather(it.task, return_exceptions=True)


def commands_of(*nodes: FakeNode) -> list[str]:
    return sorted(command for node in nodes for command in node.submitted())


async def test_each_line_is_submitted_and_its_end_is_heard(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    """The fake node tells of ends before it shows the tickets."""
    commands = [f"make {number}" for number in range(500)]
    async with going(tmp_path, commands, cluster.addresses) as it:
        assert await it.end()
        report = report_of(it.state)
    assert (report.succeeded, report.open) == (500, 0)
    assert commands_of(node) == sorted(commands)
    assert not any(line.startswith(("result", "wait", "status")) for line in node.lines), "none is asked for"


async def test_only_for_failed_jobs_it_is_asked_why(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    async with going(tmp_path, ["true", "false", "refuse", "false 2"], cluster.addresses) as it:
        assert await it.end()
        report = report_of(it.state)
    assert [(each.outcome, each.reason, each.lines) for each in report.failures] == [
        ("failed", "exit code 1", (2, 4)),
        ("refused", "run needs a command line.", (3,)),
    ]
    assert sum(line.startswith("result") for line in node.lines) == 2


async def test_ends_that_were_left_out_are_asked_for(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    async with going(tmp_path, ["hold 1", "hold 2", "true"], cluster.addresses) as it:
        await eventually(lambda: it.run.books.submitted == 3 and node.subscribers)
        node.subscribers, heard = set(), node.subscribers
        first, second, _ = node.jobs
        node.finish(first)
        node.subscribers = heard
        node.leave_out()
        await eventually(lambda: it.run.books.ended == 2)
        node.finish(second)
        assert await it.end()


async def test_what_nobody_tells_is_found_in_the_end(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    async with going(tmp_path, ["hold"], cluster.addresses) as it:
        await eventually(lambda: it.run.books.submitted == 1 and node.subscribers)
        node.subscribers = set()
        node.finish(*node.jobs)
        assert await it.end()


@pytest.mark.parametrize("replies", [0, 1, 7, 50, 120])
async def test_a_connection_that_is_lost_costs_no_job_and_makes_none_twice(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path, replies: int
) -> None:
    commands = [f"make {number}" for number in range(200)]
    node.replies_left = replies
    async with going(tmp_path, commands, cluster.addresses) as it:
        if replies == 0:  # the very first: there is no node at all
            with pytest.raises(NodesUnreachable):
                await it.end()
            assert not it.state.get("begun")
            return
        assert await it.end()
    assert commands_of(node) == sorted(commands)


async def test_another_node_takes_over_and_jobs_are_followed_where_they_are(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    """The first has taken all of them, and says so of some only: the second names it by its name."""
    first, second = await cluster.start(2)
    commands = [f"hold {number}" for number in range(100)]
    first.replies_left = 40
    async with going(tmp_path, commands, cluster.addresses) as it:
        await eventually(lambda: it.run.books.submitted == 100)
        assert commands_of(first, second) == sorted(commands)
        for node in (first, second):
            for ticket in node.jobs:
                node.finish(ticket)
        assert await it.end()
        assert report_of(it.state).succeeded == 100


async def test_a_node_that_is_about_to_stop_gets_none(cluster: FakeCluster, tmp_path: Path) -> None:
    first, second = await cluster.start(2)
    first.is_stopping = True
    async with going(tmp_path, ["true"] * 10, cluster.addresses) as it:
        assert await it.end()
    assert (len(first.jobs), len(second.jobs)) == (0, 10)


async def test_a_node_that_is_away_is_waited_for(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    async with going(tmp_path, ["hold 1", "true"], cluster.addresses) as it:
        await eventually(lambda: it.run.books.ended == 1)
        await node.stop()
        node.finish(next(iter(node.jobs)))
        await node.start()
        assert await it.end()
        assert report_of(it.state).succeeded == 2


async def test_a_ticket_that_its_node_has_lost_ends_as_lost(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    async with going(tmp_path, ["hold"], cluster.addresses, follows=False) as it:
        assert await it.end()
    node.jobs.clear()
    async with going(tmp_path, ["hold"], cluster.addresses) as it:
        assert await it.end()
        (failure,) = report_of(it.state).failures
    assert (failure.outcome, failure.reason) == ("lost", "its node does not know the ticket any more")


async def test_it_stops_when_it_is_asked_to_and_goes_on(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    commands = [f"hold {number}" for number in range(20)]
    async with going(tmp_path, commands, cluster.addresses) as it:
        await eventually(lambda: it.run.books.submitted == 20)
        it.run.stop.set()
        assert not await it.end()
    for ticket in node.jobs:
        node.finish(ticket)
    async with going(tmp_path, commands, cluster.addresses) as it:
        assert await it.end()
    assert commands_of(node) == sorted(commands)


async def test_a_lost_state_is_made_up_for_by_keys(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    """As after a power cut: the run is known, and none of its tickets."""
    commands = ["make 1", "hold 2", "make 3"]
    async with going(tmp_path, commands, cluster.addresses, follows=False) as it:
        assert await it.end()
        with it.state.database as database:
            database.execute("DELETE FROM job")
    node.finish(list(node.jobs)[1])
    async with going(tmp_path, commands, cluster.addresses) as it:
        assert await it.end()
        assert report_of(it.state).succeeded == 3
    assert commands_of(node) == sorted(commands)


async def test_failed_jobs_are_submitted_again_as_new_ones(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    commands = ["true", "false", "hold"]
    async with going(tmp_path, commands, cluster.addresses) as it:
        await eventually(lambda: it.run.books.submitted == 3)
        node.finish(list(node.jobs)[2], outcome="timed-out")
        assert await it.end()
    async with going(tmp_path, commands, cluster.addresses, retries=True) as it:
        await eventually(lambda: len(node.jobs) == 5)
        node.finish(list(node.jobs)[4])
        assert await it.end()
        assert report_of(it.state).succeeded == 2
    assert node.submitted() == ["true", "false", "hold", "false", "hold"]


# --- keys of their own ---------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [1, 2, 3])
async def test_a_ticket_of_a_node_that_is_not_named_is_told(
    cluster: FakeCluster, tmp_path: Path, named: int
) -> None:
    *_, last = await cluster.start(3)
    (ticket,) = [last._submit({"run": "hold", "key": "mine"})["ticket"]]
    jobs: list[str | Job] = ["true", {"run": "hold", "key": "mine"}]
    async with going(tmp_path, jobs, cluster.addresses[:named]) as it:
        if named < 3:
            await eventually(lambda: it.told)
            assert not it.task.done()
        else:
            await eventually(lambda: any(line.startswith("result") for line in last.lines))
        last.finish(ticket)
        if named == 3:
            assert await it.end()
    said = (
        f"none of these nodes answers for {ticket}, which another one gave for the same key before: -s has "
    )
    assert it.told == ([f"{said}to name that one, too"] if named < 3 else [])


async def test_jobs_of_own_keys_that_have_ended_already_take_one_sweep(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stations, "LOOK_PERIOD", 1e9)
    monkeypatch.setattr(stations, "PAGE", 10)
    jobs: list[str | Job] = [{"run": "true", "key": f"mine{number}"} for number in range(35)]
    for job in jobs:
        assert isinstance(job, dict)
        node._submit(job)
    async with going(tmp_path, jobs, cluster.addresses) as it:
        assert await it.end()
        assert report_of(it.state).succeeded == 35
    assert sum(line.startswith("result") for line in node.lines) == len(node.jobs) == 35


async def test_a_failed_job_with_a_key_of_its_own_is_tried_again_as_a_new_one(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    jobs: list[str | Job] = [{"run": "hold", "key": "mine"}, {"run": "true", "key": "other"}]
    async with going(tmp_path, jobs, cluster.addresses) as it:
        await eventually(lambda: it.run.books.submitted == 2)
        node.finish(next(iter(node.jobs)), exit_code=1)
        assert await it.end()
    async with going(tmp_path, jobs, cluster.addresses, retries=True) as it:
        await eventually(lambda: it.run.books.submitted == 2)
        first, _, again = node.jobs
        assert again != first
        node.finish(again)
        assert await it.end()
        assert report_of(it.state).succeeded == 2
    assert [job["job"]["key"] for job in node.jobs.values()][:2] == ["mine", "other"]


# --- what goes wrong ------------------------------------------------------------------------------------


async def test_a_node_that_has_answered_and_goes_is_not_waited_for_where_there_are_others(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    first, second = await cluster.start(2)
    line = first._line

    async def and_goes(*given: object) -> None:
        await line(*given)  # type: ignore[arg-type]
        if first.lines == ["json", "json"]:  # the greeting, and the first question
            asyncio.get_running_loop().call_soon(lambda: gone.append(asyncio.ensure_future(first.stop())))

    gone: list[asyncio.Future[None]] = []
    first._line = and_goes  # type: ignore[method-assign, assignment]
    async with going(tmp_path, ["true", "false"], cluster.addresses) as it:
        assert await it.end()
    assert gone
    assert second.submitted() == ["true", "false"]


async def test_who_stops_it_does_not_wait_for_the_reasons(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    async def silent(verb: str, rest: str, writer: object) -> None:
        assert verb == "result"

    about, node._about = node._about, silent  # type: ignore[method-assign, assignment]
    async with going(tmp_path, ["false"], cluster.addresses) as it:
        await eventually(lambda: any(line.startswith("result") for line in node.lines))
        it.run.stop.set()
        assert not await it.end()
        assert report_of(it.state).failures[0].reason == ""
    node._about = about  # type: ignore[method-assign]
    async with going(tmp_path, ["false"], cluster.addresses) as it:
        assert await it.end()
        assert report_of(it.state).failures[0].reason == "exit code 1"


async def test_a_disk_that_is_full_when_the_first_ticket_comes_ends_it(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: State, address: str) -> int:
        raise unusable(state.path, Exception("database or disk is full"))

    async with going(tmp_path, ["hold"], cluster.addresses, follows=False) as it:
        with monkeypatch.context() as patch:
            patch.setattr(State, "origin", full)
            with pytest.raises(WorkloadError, match="the disk is full; --resume goes on once there is room"):
                await it.end()
    async with going(tmp_path, ["hold"], cluster.addresses) as it:
        await eventually(lambda: it.run.books.submitted == 1)
        node.finish(*node.jobs)
        assert await it.end()


async def test_a_file_that_becomes_shorter_while_it_runs_is_told(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"run": "true"}\n' * 3)
    workload, state = prepare(Wishes(path), print)
    path.write_text('{"run": "true"}\n' * 2)
    with state:
        run = Run(workload, state, cluster.addresses, told=print, seen=lambda books: None)
        with pytest.raises(WorkloadError, match="has changed while it was run: it had 3 jobs, and 2 were"):
            await run.go()
    with pytest.raises(WorkloadError, match=r"is not over \(2 of 3 submitted, . done\)"):
        prepare(Wishes(path), print)


async def test_a_file_that_changes_while_it_runs_is_noticed(
    cluster: FakeCluster, node: FakeNode, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"run": "true"}\n')
    workload, state = prepare(Wishes(path), print)
    path.write_text("nonsense\n")
    with state:
        run = Run(workload, state, cluster.addresses, told=print, seen=lambda books: None)
        with pytest.raises(WorkloadError, match=r"jobs.jsonl:1: 'nonsense' is no job"):
            await run.go()
