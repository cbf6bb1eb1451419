"""Commands that are confined to CPUs of their own."""

from __future__ import annotations

import os
import signal

import pytest

from clusternode.executor import cpus as module
from clusternode.executor.cpus import Claim


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Six CPUs, none of which this machine has; what this process was confined to, in order."""
    confined: list[set[int]] = []
    here = {1000, 1001, 1002, 1003, 1004, 1005}
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(here))
    monkeypatch.setattr(module.os, "sched_setaffinity", lambda _, cpus: confined.append(set(cpus)))
    return confined


def test_each_has_its_own(machine: list[set[int]]) -> None:
    first, second = Claim(2), Claim(3)
    assert (first.cpus, second.cpus) == ([1000, 1001], [1002, 1003, 1004])
    with first.applied():
        assert machine == [{1000, 1001}]
    assert machine[1:] == [{1000, 1001, 1002, 1003, 1004, 1005}]
    first.release()
    third = Claim(2)
    assert third.cpus == [1000, 1001]
    for each in (second, third):
        each.release()


def test_where_not_so_many_are_free_it_may_use_all(machine: list[set[int]]) -> None:
    first, second = Claim(4), Claim(3)
    assert second.cpus == []
    with second.applied():
        assert machine == []
    third = Claim(2)
    assert third.cpus == [1004, 1005], "what was tried in vain is free again"
    for each in (first, third):
        each.release()


@pytest.mark.parametrize("count", [0, 6, 64])
def test_who_asks_for_none_or_for_all_claims_nothing(machine: list[set[int]], count: int) -> None:
    assert Claim(count).cpus == []
    other = Claim(5)
    assert len(other.cpus) == 5
    other.release()


def test_it_ends_with_its_process(machine: list[set[int]]) -> None:
    """Also with one that is killed."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        claim = Claim(5)
        os.write(write_end, b"x" * len(claim.cpus))
        signal.pause()
    assert os.read(read_end, 9) == b"x" * 5
    assert Claim(2).cpus == []
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    again = Claim(5)
    assert len(again.cpus) == 5
    again.release()
    os.close(read_end)
    os.close(write_end)
