"""Partial results, as their origin keeps them."""

import os
from pathlib import Path

import pytest

from clusternode.files import partials as module
from clusternode.files.partials import Partials, TooMuch
from protocol.limits import JSON_DEPTH_LIMIT, PARTIAL_LIMIT, PARTIALS_BYTES

T = "ABCDEFGHIJ012345"


def test_values_are_kept_in_order_and_once(tmp_path: Path) -> None:
    partials = Partials(tmp_path / "p")
    assert partials.read(T) == []
    for attempt, number in ((1, 0), (1, 1), (1, 1), (1, 0), (2, 0)):
        partials.keep(T, attempt, number, f'"{attempt}.{number}"')
    kept = [(1, 0, "1.0"), (1, 1, "1.1"), (2, 0, "2.0")]
    assert partials.read(T) == kept
    # After a restart as well.
    again = Partials(tmp_path / "p")
    again.keep(T, 2, 0, '"2.0"')
    again.keep(T, 2, 1, "null")
    assert again.read(T) == [*kept, (2, 1, None)]


def test_a_line_that_a_crash_cut_off_is_none(tmp_path: Path) -> None:
    partials = Partials(tmp_path)
    partials.keep(T, 1, 0, "1")
    with (tmp_path / f"{T}.jsonl").open("ab") as file:
        file.write(b'[1,1,"half')
    assert partials.read(T) == [(1, 0, 1)]
    again = Partials(tmp_path)
    again.keep(T, 1, 1, '"whole"')
    assert again.read(T) == [(1, 0, 1), (1, 1, "whole")]


def test_half_a_line_that_a_full_disk_left_costs_nothing_that_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partials = Partials(tmp_path)
    partials.keep(T, 1, 0, "1")

    def fail(file: int) -> None:
        os.truncate(file, os.fstat(file).st_size - 3)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            partials.keep(T, 1, 1, '"whole"')
    partials.keep(T, 1, 1, '"whole"')
    partials.keep(T, 1, 2, "3")
    assert partials.read(T) == [(1, 0, 1), (1, 1, "whole"), (1, 2, 3)]


def test_only_so_many_tickets_are_remembered_and_the_others_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    partials = Partials(tmp_path)
    tickets = ["ABCDEFGHIJ01234" + each for each in "567"]
    for number in (0, 1):
        for ticket in tickets:
            partials.keep(ticket, 1, number, "1")
    for ticket in tickets:
        partials.keep(ticket, 1, 1, "2")
        assert partials.read(ticket) == [(1, 0, 1), (1, 1, 1)]


DEEP = "[" * (JSON_DEPTH_LIMIT + 1) + "]" * (JSON_DEPTH_LIMIT + 1)


@pytest.mark.parametrize("value", [DEEP, "[" * 30_000, "[1", ""])
def test_what_no_reply_can_hold_is_refused_and_passed_over_where_it_is(tmp_path: Path, value: str) -> None:
    partials = Partials(tmp_path)
    partials.keep(T, 1, 0, "1")
    with pytest.raises(TooMuch, match="no JSON, or nested deeper"):
        partials.keep(T, 1, 1, value)
    with (tmp_path / f"{T}.jsonl").open("a") as file:
        file.write(f"[1,1,{value}]\n")
    assert Partials(tmp_path).read(T) == [(1, 0, 1)]


def test_there_is_a_bound_on_each_and_on_all(tmp_path: Path) -> None:
    partials = Partials(tmp_path)
    with pytest.raises(TooMuch, match=f"over {PARTIAL_LIMIT} characters"):
        partials.keep(T, 1, 0, '"' + "x" * PARTIAL_LIMIT + '"')
    with (tmp_path / f"{T}.jsonl").open("wb") as file:
        file.truncate(PARTIALS_BYTES + 1)
    with pytest.raises(TooMuch, match=f"over {PARTIALS_BYTES} bytes"):
        partials.keep(T, 1, 0, "1")
