"""The node's side of its supervisors, without processes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from clusternode.core.events import CommandEnded, FromHelpers, Progressed, SpawnTask, TasksKnown
from clusternode.executor import tasks as tasks_module
from clusternode.executor.tasks import AHEAD_MOST, SPARE_TRIES, TaskPool
from protocol.tasks import Parameter, Signature

from .test_pool import FakeHelper, helpers, settle

__all__ = ["helpers"]

SIGNATURE = Signature((Parameter("a", ("int",)),))
READY = ("ready", {"x": SIGNATURE.pack()}, ["broken: ImportError: no"])


class FakeSupervisor(FakeHelper):
    async def start(self, soft_limit: int) -> None:
        self.up.set()
        await super().start(soft_limit)


@pytest.fixture(autouse=True)
def _supervisors(helpers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "Helper", FakeSupervisor)


class Rig:
    def __init__(self, slots: int) -> None:
        self.told: list[Any] = []
        self._tasks: set[asyncio.Future[None]] = set()
        self.pool = TaskPool(
            *(slots, Path("/nowhere"), "id", 0.0, self._tell, self._start),
            modules="a,b",
            most_tasks=7,
            hang_period=9.0,
        )

    def _tell(self, event: FromHelpers | TasksKnown) -> None:
        self.told += event.news if isinstance(event, FromHelpers) else [event]

    def _start(self, work: Any) -> None:
        self._tasks.add(asyncio.ensure_future(work))

    async def ahead(self) -> None:
        self._start(self.pool.start_ahead())
        await settle()

    def run(self, number: int) -> None:
        self.pool.run(SpawnTask(str(number), 1, "x", "{}", 5.0, False))


def ended(number: int) -> tuple[Any, ...]:
    return ("ended", (str(number), 1), 1.0, 2.0, 0, False, b"", b"", 0, 0, "", "5")


async def test_workers_are_started_ahead_one_after_the_other() -> None:
    rig = Rig(slots=3)
    await rig.ahead()
    for count in (1, 2, 3):
        assert len(FakeHelper.made) == count
        FakeHelper.made[-1].says(READY)
        await settle()
    assert len(FakeHelper.made) == 3, "one a slot"


async def test_no_more_are_started_ahead_than_a_bound() -> None:
    rig = Rig(slots=AHEAD_MOST + 5)
    await rig.ahead()
    for _ in range(AHEAD_MOST + 2):
        FakeHelper.made[-1].says(READY)
        await settle()
    assert len(FakeHelper.made) == AHEAD_MOST


async def test_the_first_says_which_tasks_there_are_and_each_failure_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig(slots=2)
    await rig.ahead()
    assert not rig.pool.known.is_set()
    with caplog.at_level(logging.INFO):
        for helper in FakeHelper.made:
            helper.says(READY)
            await settle()
    assert rig.pool.known.is_set()
    assert rig.told == [TasksKnown({"x": SIGNATURE})]
    assert [record.message for record in caplog.records] == [
        "task module broken: ImportError: no; its tasks are not served here",
        "tasks: x",
    ]


async def test_a_task_goes_to_a_supervisor_whose_worker_is_ready() -> None:
    rig = Rig(slots=2)
    await rig.ahead()
    first = FakeHelper.made[0]
    first.says(READY)
    await settle()
    second = FakeHelper.made[1]
    rig.run(1)
    await settle()
    assert first.got() == [("run", ("1", 1))]
    rig.run(2)
    await settle()
    assert second.got() == [("run", ("2", 1))]
    rig.run(3)
    first.says(("progress", ("1", 1), 0.5, "half"), ended(1))
    await settle()
    assert first.got() == [("run", ("3", 1))]
    assert rig.told[1] == Progressed("1", 1, 0.5, "half")
    assert isinstance(rig.told[2], CommandEnded)
    assert (rig.told[2].ticket, rig.told[2].value) == ("1", "5")


async def test_a_supervisor_that_says_how_far_it_is_is_not_free() -> None:
    rig = Rig(slots=1)
    await rig.ahead()
    (helper,) = FakeHelper.made
    helper.says(READY)
    rig.run(1)
    rig.run(2)
    helper.says(("progress", ("1", 1), 0.5, ""))
    await settle()
    assert helper.got() == [("run", ("1", 1))]
    helper.says(ended(1))
    helper.says(READY)
    await settle()
    assert helper.got() == [("run", ("2", 1))]


async def test_a_supervisor_that_dies_loses_its_task_and_another_takes_the_next() -> None:
    rig = Rig(slots=1)
    await rig.ahead()
    (helper,) = FakeHelper.made
    helper.says(READY)
    rig.run(1)
    await settle()
    helper.far_end.close()
    helper.connection_lost(None)
    await settle()
    _, news = rig.told
    assert (news.ticket, news.exit_code, news.reason) == ("1", None, "its worker process was killed")
    rig.run(2)
    await settle()
    assert FakeHelper.made[-1] is not helper


async def test_a_task_that_waits_is_cancelled_before_it_starts() -> None:
    rig = Rig(slots=1)
    rig.run(1)
    rig.run(2)
    rig.pool.kill("2", 1)
    rig.pool.kill("9", 1)
    await settle()
    assert [(news.ticket, news.reason) for news in rig.told] == [("2", "before it started")]


async def test_supervisors_that_die_at_the_start_are_not_started_for_ever() -> None:
    rig = Rig(slots=1)
    await rig.ahead()
    for _ in range(10):
        helper = FakeHelper.made[-1]
        helper.far_end.close()
        if helper in rig.pool._helpers:
            helper.connection_lost(None)
        await settle()
    assert len(FakeHelper.made) == 1 + SPARE_TRIES
    assert rig.told == [TasksKnown({})], "clients are told that there are none"
    rig.run(1)
    await settle()
    FakeHelper.made[-1].says(READY)
    assert rig.told[-1] == TasksKnown({"x": SIGNATURE})
