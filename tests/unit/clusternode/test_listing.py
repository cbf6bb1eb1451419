"""`list` at a node: what its store has, and where the open ones are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from clusternode.core.events import Done, Record, StatesAre, Submitted
from clusternode.listing import Listing
from clusternode.store import listing as pieces
from clusternode.store.sqlite import SqliteStore
from protocol.job import Command, Ended, Extras, JobState, Report, Sleep
from protocol.listing import ListJobs
from protocol.replies import ArrayView, JobView


def ticket(seq: int) -> str:
    return f"T{seq:015d}"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path)
    yield opened
    await opened.close()


async def put(store: SqliteStore, *outcomes: str | None) -> None:
    """Jobs 1, 2, … that ended so, or are open."""
    records: list[Record] = []
    for seq, outcome in enumerate(outcomes, 1):
        records.append(Submitted(seq, ticket(seq), 5.0, Sleep(7).pack()))
        if outcome is not None:
            report = Report("n", 1.0, 2.0, 0, b"out", b"", 3, 0).pack()
            records.append(Done(seq, Ended(ticket(seq), 1, outcome, report)))
    await store.commit(records)


def views(states: dict[str, JobState], note: str = "", **fields: Any) -> StatesAre:
    return StatesAre(
        1, 1, {name: JobView(name, Sleep(7), 5.0, state, **fields) for name, state in states.items()}, note
    )


async def listed(
    store: SqliteStore,
    asked: ListJobs,
    *answers: StatesAre | Callable[[], StatesAre] | None,
) -> dict[str, Any]:
    """The object; `answers` to what it asks, in turn."""
    left = list(answers)

    def ask(tickets: Sequence[str]) -> None:
        answer = left.pop(0)
        listing.hear(answer() if callable(answer) else answer)

    listing = Listing(asked, True, store, ask)
    value = json.loads(await listing.reply())
    assert not left
    assert isinstance(value, dict)
    return value


def states(value: dict[str, Any]) -> list[tuple[int, str]]:
    return [(int(job["ticket"][1:]), job["state"]) for job in value["jobs"]]


async def test_of_open_ones_it_says_where_they_are(store: SqliteStore) -> None:
    await put(store, "failed", None, None, None)
    answer = views(
        {ticket(2): JobState.RUNNING, ticket(3): JobState.ASSIGNED, ticket(4): JobState.QUEUED}, attempt=3
    )
    value = await listed(store, ListJobs(), answer)
    assert states(value) == [(4, "queued"), (3, "assigned"), (2, "running"), (1, "done")]
    assert (value["jobs"][0]["attempt"], value["jobs"][3]["outcome"]) == (3, "failed")
    assert value["next"] is None


@pytest.mark.parametrize(
    ("state", "found"),
    [("", [4, 3, 2, 1]), ("open", [4, 3, 2]), ("queued", [4, 3]), ("running", [2]), ("done", [1])],
)
async def test_those_of_one_state(store: SqliteStore, state: str, found: list[int]) -> None:
    await put(store, "failed", None, None, None)
    answer = views({ticket(2): JobState.RUNNING, ticket(3): JobState.ASSIGNED, ticket(4): JobState.QUEUED})
    value = await listed(store, ListJobs(state=state), *(() if state == "done" else (answer,)))
    assert [number for number, _ in states(value)] == found


async def test_while_the_balancer_is_away_they_are_open_and_no_more_is_said(store: SqliteStore) -> None:
    await put(store, None, None, None)
    away = views(dict.fromkeys(map(ticket, (1, 2, 3)), JobState.QUEUED), "away")
    waits = JobView(ticket(2), Sleep(7), 5.0, JobState.QUEUED, waits_for=(ticket(1),))
    array = JobView(ticket(3), Sleep(7), 5.0, JobState.RUNNING, array=ArrayView(2, {}))
    away = StatesAre(1, 1, {**away.views, ticket(2): waits, ticket(3): array}, "away")
    value = await listed(store, ListJobs(), away)
    assert states(value) == [(3, "running"), (2, "queued"), (1, "open")]
    assert value["note"] == "away"
    assert states(await listed(store, ListJobs(state="open"), away)) == states(value)
    assert states(await listed(store, ListJobs(state="queued"), away)) == [(2, "queued")]


@pytest.mark.parametrize(("state", "found"), [("", [(1, "done")]), ("open", []), ("running", [])])
async def test_one_that_ends_while_it_is_asked_for_is_done(
    tmp_path: Path, state: str, found: list[tuple[int, str]]
) -> None:
    store = await SqliteStore.open(tmp_path)
    await put(store, None)
    older = store.older

    async def older_then_end(*asked: Any) -> Any:
        piece = await older(*asked)
        ended = Ended(ticket(1), 1, "succeeded", Report("n", 1.0, 2.0, 0).pack())
        await store.commit([Done(1, ended)])
        return piece

    store.older = older_then_end  # type: ignore[method-assign]
    assert states(await listed(store, ListJobs(state=state), views({}))) == found
    await store.close()


async def test_pages_follow_one_another(store: SqliteStore) -> None:
    await put(store, *["lost"] * 5)
    first = await listed(store, ListJobs(limit=2))
    assert (states(first), first["next"]) == ([(5, "done"), (4, "done")], ticket(4))
    second = await listed(store, ListJobs(limit=2, before=first["next"]))
    assert (states(second), second["next"]) == ([(3, "done"), (2, "done")], ticket(2))
    third = await listed(store, ListJobs(limit=2, before=second["next"]))
    assert (states(third), third["next"]) == ([(1, "done")], None)
    exact = await listed(store, ListJobs(limit=5))
    assert exact["next"] is None


async def test_what_no_longer_fits_is_replaced_by_what_is_older(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", 2)
    await put(store, *[None] * 6)
    running, queued = JobState.RUNNING, JobState.QUEUED
    value = await listed(
        store,
        ListJobs(state="running", limit=2),
        views({ticket(6): queued, ticket(5): queued}),
        views({ticket(4): queued, ticket(3): running}),
        views({ticket(2): running}),
    )
    assert states(value) == [(3, "running"), (2, "running")]
    assert value["next"] == ticket(2)


async def test_a_page_ends_after_so_many_bytes(store: SqliteStore) -> None:
    body = Command("x" * 60_000).pack()
    report = Report("n", 1.0, 2.0, 0).pack()
    for seq in range(1, 101):
        ended = Ended(ticket(seq), 1, "failed", report)
        await store.commit([Submitted(seq, ticket(seq), 5.0, body), Done(seq, ended)])
    value = await listed(store, ListJobs())
    assert 2**21 // 61_000 < len(value["jobs"]) < 2 * 2**21 // 60_000
    assert value["next"] == value["jobs"][-1]["ticket"]


async def test_a_done_array_says_what_came_of_it(store: SqliteStore) -> None:
    report = Report("n", 1.0, 2.0, 0).pack()
    array = Command("x", extras=Extras(array=2)).pack()
    records: list[Record] = [Submitted(1, ticket(1), 5.0, array)]
    records += [Submitted(seq, ticket(seq), 5.0, Command("x").pack()) for seq in (2, 3)]
    outcomes = {1: "failed", 2: "failed", 3: "succeeded"}
    records += [Done(seq, Ended(ticket(seq), 1, outcome, report)) for seq, outcome in outcomes.items()]
    await store.commit(records)
    value = await listed(store, ListJobs())
    counts = {"succeeded": 1, "failed": 1, "timed-out": 0, "cancelled": 0, "lost": 0}
    assert value["jobs"][2]["array"] == {"size": 2, "open": 0, **counts}


@pytest.mark.parametrize("as_json", [True, False])
async def test_a_ticket_of_another_node_is_refused(store: SqliteStore, as_json: bool) -> None:
    listing = Listing(ListJobs(before=ticket(7)), as_json, store, lambda tickets: None)
    said = f"--before takes a ticket of this node, which {ticket(7)} is not."
    reply = (await listing.reply()).decode().rstrip("\n")
    assert (json.loads(reply)["error"] if as_json else reply) == said


async def test_a_stored_job_that_cannot_be_read_has_its_row(store: SqliteStore) -> None:
    await store.commit([Submitted(1, ticket(1), 5.0, b"\1")])
    await store.commit([Done(1, Ended(ticket(1), 1, "failed", b"\2"))])
    (row,) = (await listed(store, ListJobs()))["jobs"]
    assert row["ticket"] == ticket(1)
    assert row["error"].startswith(f"The stored job {ticket(1)} cannot be read: ")


async def test_a_client_that_leaves_leaves_nothing_behind(store: SqliteStore) -> None:
    await put(store, *[None] * 3)
    listing = Listing(ListJobs(), True, store, lambda tickets: listing.hear(None))
    assert json.loads(await listing.reply())["jobs"] == []
