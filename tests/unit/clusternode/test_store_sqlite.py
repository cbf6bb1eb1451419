import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusternode.core.events import CancelAsked, Done, Kept, Record, Released, Submitted
from clusternode.core.openjob import Stored
from clusternode.store.sqlite import (
    BLOB_BYTES,
    PAGE_BYTES,
    PAGE_ROWS,
    SqliteStore,
    TicketRow,
    _kept_and_released,
)
from protocol.job import Ended
from runtime.errors import Damaged, StartError, StorageError

FILE = "clusternode.sqlite3"

#: A file as version 1 made it, with what a node may have left in it. Not to be changed.
VERSION_1 = """
    CREATE TABLE node (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, name TEXT NOT NULL);
    CREATE TABLE tickets (
        seq INTEGER PRIMARY KEY, ticket TEXT NOT NULL UNIQUE, submitted_at REAL NOT NULL,
        cancelled INTEGER NOT NULL, attempt INTEGER NOT NULL, outcome TEXT, body BLOB NOT NULL
    );
    CREATE INDEX open_tickets ON tickets (seq) WHERE outcome IS NULL;
    CREATE TABLE reports (seq INTEGER PRIMARY KEY, report BLOB NOT NULL);
    CREATE TABLE kept (
        ticket TEXT PRIMARY KEY, attempt INTEGER NOT NULL, outcome TEXT NOT NULL, report BLOB NOT NULL
    );
    INSERT INTO node VALUES (1, 'n1', 'alpha');
    INSERT INTO tickets VALUES (1, 'T000000000000001', 5.5, 0, 2, 'failed', x'01');
    INSERT INTO tickets VALUES (2, 'T000000000000002', 6.5, 1, 0, NULL, x'02');
    INSERT INTO reports VALUES (1, x'0304');
    INSERT INTO kept VALUES ('T000000000000009', 3, 'succeeded', x'050607');
    PRAGMA application_id = 0x45564e44;
    PRAGMA user_version = 1;
"""

#: The same as version 2 made it. Not to be changed.
VERSION_2 = """
    CREATE TABLE node (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, name TEXT NOT NULL);
    CREATE TABLE tickets (
        seq INTEGER PRIMARY KEY, ticket TEXT NOT NULL UNIQUE, submitted_at REAL NOT NULL,
        cancelled INTEGER NOT NULL, attempt INTEGER NOT NULL, outcome TEXT, body BLOB NOT NULL
    );
    CREATE INDEX open_tickets ON tickets (seq) WHERE outcome IS NULL;
    CREATE TABLE reports (seq INTEGER PRIMARY KEY, report BLOB NOT NULL);
    CREATE TABLE kept (
        ticket TEXT PRIMARY KEY, attempt INTEGER NOT NULL, outcome TEXT NOT NULL, report BLOB NOT NULL
    );
    INSERT INTO node VALUES (1, x'c12b6e8f296e31', 'alpha');
    INSERT INTO tickets VALUES (1, 'T000000000000001', 5.5, 0, 2, 'failed', x'c1401aa69701');
    INSERT INTO tickets VALUES (2, 'T000000000000002', 6.5, x'c11ad5be0d', 0, NULL, x'c14d322a6d02');
    INSERT INTO reports VALUES (1, x'c1e5571a140304');
    INSERT INTO kept VALUES ('T000000000000009', 3, 'succeeded', x'c10b6212a3050607');
    PRAGMA application_id = 0x45564e44;
    PRAGMA user_version = 2;
"""


def ticket(seq: int) -> str:
    return f"T{seq:015d}"


def submitted(seq: int) -> Submitted:
    return Submitted(seq, ticket(seq), 5.0, b"body")


def ended(seq: int, attempt: int = 1, outcome: str = "succeeded", report: bytes = b"report") -> Ended:
    return Ended(ticket(seq), attempt, outcome, report)


def open_row(seq: int) -> TicketRow:
    return TicketRow(seq, ticket(seq), 5.0, b"body", None)


def done_row(seq: int, *fields: object) -> TicketRow:
    return TicketRow(seq, ticket(seq), 5.0, b"body", ended(seq, *fields))  # type: ignore[arg-type]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def after_crash(store: SqliteStore, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Another store on the same directory, while the first was never closed."""
    other = await SqliteStore.open(tmp_path)
    yield other
    await other.close()


async def all_pages(store: SqliteStore) -> list[list[TicketRow]]:
    pages = []
    after = 0
    while page := await store.page(after):
        pages.append(page)
        after = page[-1].seq
    return pages


# --- identity ------------------------------------------------------------------------------------------


async def test_a_node_keeps_the_identity_of_its_first_start(store: SqliteStore) -> None:
    assert await store.identity("n1", None, "host-1") == ("n1", "host-1")
    assert await store.identity("n2", None, "host-2") == ("n1", "host-1")


async def test_a_given_name_replaces_the_kept_one(store: SqliteStore, after_crash: SqliteStore) -> None:
    assert await store.identity("n1", "alpha", "host") == ("n1", "alpha")
    assert await store.identity("n1", "beta", "host") == ("n1", "beta")
    assert await after_crash.identity("n3", None, "host") == ("n1", "beta")


# --- tickets ---------------------------------------------------------------------------------------------


async def test_a_new_store_is_empty(store: SqliteStore) -> None:
    assert await store.load() == ([], 1, [])
    assert await store.page(0) == []


async def test_what_was_committed_is_there_after_a_crash(
    store: SqliteStore, after_crash: SqliteStore
) -> None:
    await store.commit([submitted(1), submitted(2), submitted(3)])
    await store.commit([CancelAsked(2), Done(1, ended(1)), Kept(ended(9, report=b"12345"))])
    assert await after_crash.load() == (
        [
            Stored(2, ticket(2), 5.0, b"body", True),
            Stored(3, ticket(3), 5.0, b"body", False),
        ],
        4,
        [(ticket(9), 1, 5)],
    )
    assert await after_crash.page(0) == [done_row(1), open_row(2), open_row(3)]


async def test_the_next_number_is_above_all_that_were_done(store: SqliteStore) -> None:
    await store.commit([submitted(7), Done(7, ended(7))])
    assert await store.load() == ([], 8, [])


async def test_a_ticket_may_come_and_end_in_one_batch(store: SqliteStore) -> None:
    await store.commit([submitted(1), CancelAsked(1), Done(1, ended(1, 0, "cancelled"))])
    assert await store.page(0) == [done_row(1, 0, "cancelled")]
    assert (await store.load())[0] == []


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_an_outcome_never_changes(store: SqliteStore, in_one_batch: bool) -> None:
    first, second = Done(1, ended(1, 1, "failed", b"first")), Done(1, ended(1, 2, "succeeded", b"second"))
    await store.commit([submitted(1)])
    for batch in [[first, second]] if in_one_batch else [[first], [second]]:
        await store.commit(batch)
    assert await store.page(0) == [done_row(1, 1, "failed", b"first")]


async def test_applying_a_batch_of_what_follows_a_submission_twice_is_harmless(store: SqliteStore) -> None:
    await store.commit([submitted(1), submitted(2), Kept(ended(8))])
    batch: list[Record] = [CancelAsked(2), Done(1, ended(1)), Kept(ended(9)), Released(ticket(8))]
    await store.commit(batch)
    once = (await store.load(), await store.page(0), await store.kept([ticket(8), ticket(9)]))
    await store.commit(batch)
    assert (await store.load(), await store.page(0), await store.kept([ticket(8), ticket(9)])) == once


@pytest.mark.parametrize("again", [submitted(1), submitted(2)._replace(ticket=ticket(1))])
async def test_a_ticket_issued_twice_fails_the_whole_batch(
    store: SqliteStore, after_crash: SqliteStore, again: Submitted
) -> None:
    await store.commit([submitted(1)])
    with pytest.raises(StorageError, match=r"^cannot write .*clusternode\.sqlite3: UNIQUE"):
        await store.commit([submitted(3), Done(1, ended(1)), again])
    assert await after_crash.page(0) == [open_row(1)]
    await store.commit([submitted(4)])
    assert await after_crash.page(0) == [open_row(1), open_row(4)]


async def test_tickets_come_in_the_order_asked_for_and_none_for_those_of_others(store: SqliteStore) -> None:
    await store.commit([submitted(1), submitted(2), Done(2, ended(2))])
    asked = [ticket(2), ticket(7), ticket(1), ticket(2)]
    assert await store.tickets(asked) == [done_row(2), None, open_row(1), done_row(2)]
    assert await store.tickets([]) == []


async def test_a_report_of_nothing_is_a_report(store: SqliteStore) -> None:
    await store.commit([submitted(1), Done(1, ended(1, report=b""))])
    assert await store.tickets([ticket(1)]) == [done_row(1, 1, "succeeded", b"")]


# --- pages -----------------------------------------------------------------------------------------------


async def test_pages_have_a_bounded_number_of_rows_and_leave_none_out(store: SqliteStore) -> None:
    count = 2 * PAGE_ROWS + 1
    await store.commit([submitted(seq) for seq in range(count, 0, -1)])
    pages = await all_pages(store)
    assert [len(page) for page in pages] == [PAGE_ROWS, PAGE_ROWS, 1]
    assert [row.seq for page in pages for row in page] == list(range(1, count + 1))


async def test_pages_end_after_so_many_bytes_of_reports(store: SqliteStore) -> None:
    half = bytes(PAGE_BYTES // 2)
    for seq in range(1, 6):
        await store.commit([submitted(seq), Done(seq, ended(seq, 1, "succeeded", half))])
    assert [[row.seq for row in page] for page in await all_pages(store)] == [[1, 2, 3], [4, 5]]
    asked = [ticket(seq) for seq in range(1, 6)]
    assert [row and row.seq for row in await store.tickets(asked)] == [1, 2, 3]


async def test_a_report_larger_than_a_page_comes_alone(store: SqliteStore) -> None:
    large = bytes(PAGE_BYTES + 1)
    for seq in (1, 2):
        await store.commit([submitted(seq), Done(seq, ended(seq, 1, "succeeded", large))])
    assert [[row.seq for row in page] for page in await all_pages(store)] == [[1], [2]]
    assert len(await store.tickets([ticket(2), ticket(1)])) == 1


# --- kept results ------------------------------------------------------------------------------------------


async def test_kept_results_are_given_until_they_are_released(
    store: SqliteStore, after_crash: SqliteStore
) -> None:
    await store.commit([Kept(ended(1)), Kept(ended(2, 4, "failed", b""))])
    asked = [ticket(2), ticket(5), ticket(1)]
    assert await after_crash.kept(asked) == [ended(2, 4, "failed", b""), ended(1)]
    await store.commit([Released(ticket(2)), Released(ticket(5))])
    assert await after_crash.kept(asked) == [ended(1)]
    assert (await after_crash.load())[2] == [(ticket(1), 1, len(b"report"))]


async def test_a_later_attempt_replaces_the_kept_result(store: SqliteStore) -> None:
    await store.commit([Kept(ended(1, 1, "failed"))])
    await store.commit([Kept(ended(1, 2, "succeeded", b"again"))])
    assert await store.kept([ticket(1)]) == [ended(1, 2, "succeeded", b"again")]


@pytest.mark.parametrize(
    ("batch", "left"),
    [
        ([Kept(ended(1)), Released(ticket(1))], []),
        ([Released(ticket(1)), Kept(ended(1))], [ended(1)]),
        ([Kept(ended(1)), Released(ticket(1)), Kept(ended(1, 2))], [ended(1, 2)]),
        ([Kept(ended(1)), Kept(ended(1, 2))], [ended(1, 2)]),
    ],
)
async def test_in_one_batch_the_last_word_on_a_kept_result_counts(
    store: SqliteStore, batch: list[Record], left: list[Ended]
) -> None:
    await store.commit(batch)
    assert await store.kept([ticket(1)]) == left


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), max_size=10))
def test_the_last_words_lead_where_all_of_them_lead(history: list[tuple[int, int]]) -> None:
    """Attempt 0 stands for a release."""
    records: list[Record] = [
        Kept(ended(seq, attempt)) if attempt else Released(ticket(seq)) for seq, attempt in history
    ]
    expected: dict[str, Ended] = {}
    for record in records:
        if isinstance(record, Kept):
            expected[record.ended.ticket] = record.ended
        elif isinstance(record, Released):
            expected.pop(record.ticket, None)
    kept, released = _kept_and_released(records)
    assert {each.ticket: each for each in kept} == expected
    assert len(kept) == len(expected)
    assert {name for (name,) in released} == {ticket(seq) for seq, _ in history} - expected.keys()


# --- large reports -----------------------------------------------------------------------------------------

LARGE = bytes(range(256)) * (BLOB_BYTES // 256) + b"end"


def files(directory: Path, name: str = "*") -> list[str]:
    return sorted(path.name for path in (directory / "blobs").glob(name))


async def test_a_large_report_is_in_a_segment_and_a_small_one_is_not(
    store: SqliteStore, after_crash: SqliteStore, tmp_path: Path
) -> None:
    await store.commit([submitted(seq) for seq in (1, 2, 3)])
    assert files(tmp_path) == []
    reports = [LARGE, LARGE[:BLOB_BYTES], LARGE[::-1]]
    await store.commit([Done(seq, ended(seq, report=report)) for seq, report in enumerate(reports, 1)])
    assert (tmp_path / "blobs/reports-1").read_bytes() == LARGE + LARGE[::-1]
    assert await after_crash.page(0) == [
        done_row(seq, 1, "succeeded", report) for seq, report in enumerate(reports, 1)
    ]


async def test_a_large_report_of_one_that_was_stored_before_changes_nothing(store: SqliteStore) -> None:
    await store.commit([submitted(1), Done(1, ended(1, report=LARGE))])
    await store.commit([Done(1, ended(1, 2, "failed", LARGE[::-1]))])
    assert await store.page(0) == [done_row(1, 1, "succeeded", LARGE)]


async def test_pages_end_after_so_many_bytes_of_segments_too(store: SqliteStore) -> None:
    half = LARGE * (PAGE_BYTES // len(LARGE) // 2 + 1)
    await store.commit([submitted(seq) for seq in range(1, 6)])
    await store.commit([Done(seq, ended(seq, report=half)) for seq in range(1, 6)])
    assert [[row.seq for row in page] for page in await all_pages(store)] == [[1, 2], [3, 4], [5]]


async def test_outcomes_are_those_of_what_is_done_here(store: SqliteStore) -> None:
    await store.commit([submitted(seq) for seq in (1, 2, 3)])
    await store.commit([Done(1, ended(1, outcome="failed")), Done(2, ended(2, report=LARGE))])
    asked = [ticket(seq) for seq in (9, 2, 1, 3)]
    assert await store.outcomes(asked) == {
        ticket(9): None,
        ticket(2): "succeeded",
        ticket(1): "failed",
        ticket(3): None,
    }
    assert await store.outcomes([]) == {}


async def test_the_jobs_of_an_array_are_counted_and_listed_in_pages(store: SqliteStore) -> None:
    await store.commit([submitted(seq) for seq in range(1, 8)])
    outcomes = {1: "lost", 3: "succeeded", 4: "failed", 6: "succeeded", 7: "lost"}
    await store.commit([Done(seq, ended(seq, outcome=outcome)) for seq, outcome in outcomes.items()])
    counts, jobs = await store.array(2, 4, 0, 100)
    assert counts == {"succeeded": 2, "failed": 1}
    assert jobs == [
        (ticket(3), "succeeded"),
        (ticket(4), "failed"),
        (ticket(5), None),
        (ticket(6), "succeeded"),
    ]
    assert await store.array(2, 4, 1, 2) == (counts, jobs[1:3])
    assert await store.array(2, 4, 4, 2) == (counts, [])
    assert await store.array(2, 4, 0, 0) == (counts, [])


@pytest.mark.parametrize("outcome", ["succeedes", "succeeded"])
async def test_an_outcome_that_was_changed_is_none(store: SqliteStore, tmp_path: Path, outcome: str) -> None:
    await store.commit([submitted(1), Done(1, ended(1, outcome="failed"))])
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute("UPDATE tickets SET outcome = ?", (outcome,))
    connection.close()
    assert await store.outcomes([ticket(1)]) == {ticket(1): None}


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE reports SET segment = NULL WHERE seq = 1",
        "UPDATE reports SET segment = 2 WHERE seq = 1",
        "UPDATE reports SET segment = 1.5 WHERE seq = 1",
        "UPDATE reports SET segment = '../../x' WHERE seq = 1",
        "UPDATE reports SET report = x'c100000000' WHERE seq = 1",
        "UPDATE reports SET report = (SELECT report FROM reports WHERE seq = 2) WHERE seq = 1",
        "DELETE FROM reports WHERE seq = 1",
        "UPDATE tickets SET attempt = 2 WHERE seq = 1",
    ],
)
async def test_a_row_that_names_another_place_has_no_report(
    store: SqliteStore, tmp_path: Path, sql: str
) -> None:
    await store.commit([submitted(seq) for seq in (1, 2)])
    await store.commit([Done(seq, ended(seq, report=LARGE)) for seq in (1, 2)])
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute(sql)
    connection.close()
    first, second = await store.page(0)
    assert first.ended is not None
    assert first.ended.body == b""
    assert second == done_row(2, 1, "succeeded", LARGE)
    # Of a report whose row is right no more is read than that: a job that comes after it needs no more.
    found = await store.outcomes([ticket(1), ticket(2)])
    assert found == {ticket(1): None, ticket(2): "succeeded"}


async def test_the_files_of_kept_results_go_with_the_last_of_them(store: SqliteStore, tmp_path: Path) -> None:
    await store.commit([Kept(ended(seq, report=LARGE)) for seq in (1, 2)])
    assert files(tmp_path) == ["kept-1"]
    await store.commit([Released(ticket(1))])
    assert files(tmp_path) == ["kept-1"]
    assert await store.kept([ticket(1), ticket(2)]) == [ended(2, report=LARGE)]
    await store.commit([Released(ticket(2))])
    assert files(tmp_path) == []
    await store.commit([Kept(ended(3, report=LARGE))])
    assert await store.kept([ticket(3)]) == [ended(3, report=LARGE)]
    await store.commit([Kept(ended(3, 2, report=b"small"))])
    assert files(tmp_path) == []


async def test_files_of_kept_results_have_a_bounded_size(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store._kept, "_size", 2 * len(LARGE))
    for seq in range(1, 6):
        await store.commit([Kept(ended(seq, report=LARGE))])
    assert files(tmp_path) == ["kept-1", "kept-2", "kept-3"]
    await store.commit([Released(ticket(seq)) for seq in (1, 3, 4)])
    assert files(tmp_path) == ["kept-1", "kept-3"]
    assert await store.kept([ticket(seq) for seq in range(1, 6)]) == [
        ended(2, report=LARGE),
        ended(5, report=LARGE),
    ]


async def test_what_a_crash_left_of_released_results_goes_at_the_next_start(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path)
    await store.commit([submitted(1), Done(1, ended(1, report=LARGE)), Kept(ended(2, report=LARGE))])
    await store.close()
    for name in ("kept-7", "reports-7", "kept-x", "kept-07"):
        (tmp_path / "blobs" / name).write_bytes(b"left")
    store = await SqliteStore.open(tmp_path)
    assert (await store.load())[2] == [(ticket(2), 1, len(LARGE))]
    # History is never removed, and what is not ours is not touched.
    assert files(tmp_path) == ["kept-07", "kept-1", "kept-x", "reports-1", "reports-7"]
    await store.commit([submitted(2), Done(2, ended(2, report=LARGE)), Kept(ended(3, report=LARGE))])
    assert (tmp_path / "blobs/reports-7").read_bytes() == b"left" + LARGE
    assert await store.page(0) == [done_row(seq, 1, "succeeded", LARGE) for seq in (1, 2)]
    assert await store.kept([ticket(2), ticket(3)]) == [ended(seq, report=LARGE) for seq in (2, 3)]
    await store.close()


async def test_a_kept_result_that_is_damaged_is_no_result(store: SqliteStore, tmp_path: Path) -> None:
    await store.commit([Kept(ended(1, report=LARGE))])
    (tmp_path / "blobs/kept-1").write_bytes(LARGE[::-1])
    with pytest.raises(Damaged, match=r"a value in .*blobs/kept-1 has changed"):
        await store.load()
    with pytest.raises(Damaged, match=r"a value in .*blobs/kept-1 has changed"):
        await store.kept([ticket(1)])


async def test_nothing_is_removed_on_the_word_of_a_damaged_row(store: SqliteStore, tmp_path: Path) -> None:
    await store.commit([Kept(ended(1, report=LARGE))])
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute("UPDATE kept SET segment = 3")
    connection.close()
    with pytest.raises(Damaged, match="a stored value"):
        await store.load()
    assert files(tmp_path) == ["kept-1"]


async def test_a_directory_of_blobs_that_cannot_be_had_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_bytes(b"")
    with pytest.raises(StartError, match="blobs cannot be used: File exists"):
        await SqliteStore.open(tmp_path)


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2], ids=["1", "2"])
async def test_a_file_of_an_earlier_version_is_read(tmp_path: Path, version: str) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript(version)
    connection.close()
    store = await SqliteStore.open(tmp_path)
    assert await store.identity("other", None, "other") == ("n1", "alpha")
    assert await store.load() == ([Stored(2, ticket(2), 6.5, b"\2", True)], 3, [(ticket(9), 3, 3)])
    assert await store.page(0) == [
        TicketRow(1, ticket(1), 5.5, b"\1", ended(1, 2, "failed", b"\3\4")),
        TicketRow(2, ticket(2), 6.5, b"\2", None),
    ]
    assert await store.kept([ticket(9)]) == [ended(9, 3, "succeeded", b"\5\6\7")]
    await store.close()


@pytest.mark.parametrize("value", [1, 2, -1, b"", b"\xc1\0\0\0\0"])
async def test_a_job_is_not_cancelled_by_damage(store: SqliteStore, tmp_path: Path, value: object) -> None:
    await store.commit([submitted(1), CancelAsked(1), submitted(2)])
    assert [job.cancelled for job in (await store.load())[0]] == [True, False]
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute("UPDATE tickets SET cancelled = ? WHERE seq = 2", (value,))
    connection.close()
    with pytest.raises(Damaged, match="a stored value"):
        await store.load()


@pytest.mark.parametrize(("column", "value"), [("name", "beta"), ("id", "n2"), ("id", b"n1")])
async def test_a_node_does_not_become_another_by_damage(
    store: SqliteStore, tmp_path: Path, column: str, value: object
) -> None:
    await store.identity("n1", None, "alpha")
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute(f"UPDATE node SET {column} = ?", (value,))
    connection.close()
    with pytest.raises(Damaged, match="a stored value"):
        await store.identity("n1", None, "alpha")


async def test_a_file_of_a_load_balancer_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript("CREATE TABLE jobs (seq); PRAGMA application_id = 0x45564c42")
    connection.close()
    with pytest.raises(StartError, match="is a database of another program"):
        await SqliteStore.open(tmp_path)


async def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript(f"{VERSION_1} PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StartError, match=r"clusternode\.sqlite3 is of schema version 99, this program knows"):
        await SqliteStore.open(tmp_path)
