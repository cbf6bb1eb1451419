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
from clusternode.relay import Refused
from protocol.job import Extras, ResultFile
from protocol.relay import NOT_FOUND
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


class Checkpoints:
    """An origin where a late checkpoint takes the place of the one that is being fetched."""

    def __init__(self, *known: str) -> None:
        self.known = list(known)

    async def resume(self, ticket: str) -> tuple[ResultFile, ...]:
        return (ResultFile(self.known[0], 1, "0" * 64), ResultFile("last", 1, "0" * 64))

    async def fetch_to(self, ticket: str, file: ResultFile, target: Path) -> None:
        if file.path == "last" and len(self.known) > 1:
            del self.known[0]
            raise Refused(NOT_FOUND, "there is no file")
        target.write_bytes(b"x")  # noqa: ASYNC240 (a test's)


async def test_a_checkpoint_that_is_replaced_meanwhile_is_fetched_anew(tmp_path: Path) -> None:
    mover = cast(Mover, Checkpoints("old", "new"))
    stager = Stager(
        *(tmp_path, mover, lambda _: None, lambda _: None, asyncio.ensure_future, lambda: 0.0),  # type: ignore[arg-type]
        address="127.0.0.1:1",
        most_bytes=1,
        checkpoint_period=60.0,  # type: ignore[arg-type]
    )
    stage = module.Stage(tmp_path / "stage", Extras(checkpoint=True))
    module._make(stage)
    await stager._resume(TICKET, stage)
    assert sorted(each.name for each in stage.checkpoint.iterdir()) == ["last", "new"]
