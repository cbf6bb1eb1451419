"""The directories of jobs with files: what is cancelled while it is made leaves none."""

import asyncio
import threading
from pathlib import Path
from typing import cast

import pytest

from clusternode.core.events import FromHelpers, Shipped, Spawn, SpawnTask
from clusternode.files import stage as module
from clusternode.files.moving import Mover
from clusternode.files.stage import Stager
from protocol.job import Extras
from runtime.lifecycle import Background

TICKET = "T" * 16


class SlowMover:
    """Copies in a thread that makes the directory and goes on when it may."""

    def __init__(self) -> None:
        self.begun, self.may = threading.Event(), threading.Event()

    async def copy(self, ticket: str, digest: str, target: Path) -> None:
        await module.in_thread(self.block, target)

    def block(self, target: Path) -> None:
        self.begun.set()
        self.may.wait()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"x")


@pytest.mark.parametrize("when", ["its directories are made", "a file is copied"])
async def test_one_that_is_killed_before_it_starts_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    failures: list[BaseException] = []
    background = Background(failures.append)
    mover = SlowMover()
    spawned: list[Spawn | SpawnTask] = []

    def heard(event: FromHelpers | Shipped) -> None:
        assert isinstance(event, FromHelpers)
        stager.settle(event)

    stager = Stager(
        tmp_path / "stage",
        cast(Mover, mover),
        spawned.append,
        heard,
        background.start,
        lambda: 0.0,
        address="127.0.0.1:1",
        most_bytes=1000,
        checkpoint_period=60.0,
    )
    if when == "its directories are made":
        make = module._make

        def slow(stage: module.Stage) -> None:
            mover.begun.set()
            mover.may.wait()
            make(stage)

        monkeypatch.setattr(module, "_make", slow)
    stager.begin(Spawn(TICKET, 1, "true", None, extras=Extras(files=(("x", "0" * 64),))))
    await asyncio.to_thread(mover.begun.wait)
    assert stager.kill(TICKET, 1)
    await asyncio.sleep(0.05)
    mover.may.set()
    while background._tasks:
        await asyncio.wait(background._tasks)
    assert (spawned, failures) == ([], [])
    assert list((tmp_path / "stage").iterdir()) == []
