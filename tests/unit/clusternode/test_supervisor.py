"""The supervisor's parts that need no worker."""

from __future__ import annotations

import ast
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clusternode.executor import memory, supervisor, worker
from clusternode.executor.memory import OomKills, oom_kills
from clusternode.executor.supervisor import Supervisor
from clusternode.executor.worker import SetUp


@pytest.mark.parametrize(
    ("module", "beside"),
    [
        (supervisor, ("helper", "memory", "surroundings", "worker")),
        (worker, ("helper", "memory", "surroundings")),
    ],
)
def test_it_imports_only_what_a_start_without_packages_has(module: Any, beside: tuple[str, ...]) -> None:
    """As the helper, but for the helper itself."""
    names = [
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(Path(module.__file__).read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    others = {name for name in names if name and name.partition(".")[0] not in sys.stdlib_module_names}
    assert others == {f"clusternode.executor.{name}" for name in beside}


@pytest.mark.parametrize(
    ("code", "ooms", "hung", "said"),
    [
        (-signal.SIGKILL, 0, False, "killed by SIGKILL"),
        (-signal.SIGKILL, 1, False, "killed by SIGKILL as memory ran out"),
        (-signal.SIGSEGV, 1, False, "killed by SIGSEGV"),
        (-signal.SIGKILL, 0, True, "killed as it hung: no sign of life for 9 s"),
        (-200, 0, False, "killed by signal 200"),
        (3, 0, False, "by exit code 3"),
    ],
)
def test_how_a_worker_died_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, code: int, ooms: int, hung: bool, said: str
) -> None:
    set_up = SetUp([], "", {}, "/", "/", 1, 9.0)
    me: Any = SimpleNamespace(_ooms=OomKills(), _set_up=set_up, _task=None)
    worker: Any = SimpleNamespace(hung=hung)
    before = oom_kills()
    monkeypatch.setattr(memory, "oom_kills", lambda: before + ooms)
    assert Supervisor._how(me, worker, code) == said
    assert not me._ooms.since(), "the next one is not blamed for it"


class FakeWorker:
    def __init__(self) -> None:
        self.heard_at, self.hung, self.signals = 100.0, False, []

    def signal(self, number: int) -> None:
        self.signals.append(number)


@pytest.mark.parametrize(("now", "hung"), [(108.9, False), (109.0, True), (110.0, True), (110.1, False)])
def test_a_silent_worker_hangs_unless_we_were_stopped_as_well(now: float, hung: bool) -> None:
    worker = FakeWorker()
    me: Any = SimpleNamespace(_task=None, _worker=worker, _hangs_at=lambda: worker.heard_at + 9)
    Supervisor._on_time(me, now)
    assert (worker.hung, worker.signals) == ((True, [signal.SIGKILL]) if hung else (False, []))
    assert (worker.heard_at == now) == (now > 110)
