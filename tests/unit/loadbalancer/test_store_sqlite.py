import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadbalancer.core.jobs import Forget, JobRecord, Row, State
from loadbalancer.core.keys import KeyRow, KeysGone
from loadbalancer.store import Fenced, Opened
from loadbalancer.store.sqlite import SqliteStore, coalesce
from protocol.explain import Attempt
from runtime.errors import Damaged, StartError, StorageError

FILE = "loadbalancer.sqlite3"

#: A file as version 1 made it, with what a balancer may have left in it. Not to be changed.
VERSION_1 = """
    CREATE TABLE balancer (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, epoch INTEGER NOT NULL);
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY, ticket TEXT NOT NULL, version INTEGER NOT NULL, state INTEGER NOT NULL,
        origin TEXT NOT NULL, attempt INTEGER NOT NULL, losses INTEGER NOT NULL, node TEXT,
        submitted_at REAL NOT NULL, outcome TEXT NOT NULL, result_size INTEGER NOT NULL,
        failures INTEGER NOT NULL, not_before REAL NOT NULL, retries INTEGER NOT NULL,
        at_most_once INTEGER NOT NULL, body BLOB NOT NULL
    );
    CREATE TABLE results (seq INTEGER PRIMARY KEY, result BLOB NOT NULL);
    INSERT INTO balancer VALUES (1, 'b1', 4);
    INSERT INTO jobs VALUES (2, 'T000000000000002', 3, 1, 'n1', 2, 1, 'n2', 5.5, '', 0, 0, 0.0, 0, 1, x'01');
    INSERT INTO jobs VALUES (3, 'T000000000000003', 4, 4, 'n1', 3, 0, NULL, 5.5, '', 0, 2, 7.5, 3, 0, x'05');
    INSERT INTO jobs
        VALUES (5, 'T000000000000005', 2, 3, 'n1', 1, 0, NULL, 6.5, 'failed', 2, 0, 0.0, 0, 0, x'02');
    INSERT INTO results VALUES (5, x'0304');
    PRAGMA application_id = 0x45564c42;
    PRAGMA user_version = 1;
"""

#: As version 3 made it: values sealed, and some jobs with a priority. Not to be changed.
VERSION_3 = """
    CREATE TABLE balancer (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, epoch INTEGER NOT NULL);
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY, version INTEGER NOT NULL, state BLOB NOT NULL, job BLOB NOT NULL
    );
    CREATE TABLE results (seq INTEGER PRIMARY KEY, result BLOB NOT NULL);
    INSERT INTO balancer VALUES (1, x'c1da369d416231', 4);
    INSERT INTO jobs VALUES (2, 3, x'c1ebb58b9a98010201a26e32a00000cb0000000000000000',
        x'c1010a58a297b054303030303030303030303030303032a26e31cb401600000000000000c3c40101fd');
    INSERT INTO jobs VALUES (5, 2, x'c1123b8d9498030100c0a66661696c65640200cb0000000000000000',
        x'c188fc910196b054303030303030303030303030303035a26e31cb401a00000000000000c2c40102');
    INSERT INTO results VALUES (5, x'c1f1a169b30304');
    PRAGMA application_id = 0x45564c42;
    PRAGMA user_version = 3;
"""


def ticket(seq: int) -> str:
    return f"T{seq:015d}"


def row(seq: int, version: int = 1, **fields: object) -> Row:
    """A job that waits, unless `fields` says otherwise."""
    made = Row(
        seq, ticket(seq), version, State.QUEUED, "n1", 1, 0, None, 5.0, "", 0, 0, 0.0, 0, 0, 0, b"body", None
    )
    return made._replace(**fields)


def loaded(made: Row, body: bytes = b"body") -> Row:
    """`made` as the store gives it back: with its body, without its result."""
    return made._replace(body=body, result=None)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path)
    await opened.acquire("b1")
    yield opened
    await opened.close()


async def reopened(tmp_path: Path) -> list[Row]:
    """What is on the disk: read by another store, as after a crash of the first."""
    other = await SqliteStore.open(tmp_path)
    try:
        return await other.load_open(1)
    finally:
        await other.close()


# --- epochs --------------------------------------------------------------------------------------------


async def test_each_acquisition_has_the_next_epoch_and_the_first_id(tmp_path: Path) -> None:
    for epoch, new_id in enumerate(["first", "second", "third"], 1):
        store = await SqliteStore.open(tmp_path)
        assert await store.acquire(new_id) == Opened("first", epoch)
        await store.close()


async def test_another_epoch_is_fenced_and_nothing_of_it_is_written(store: SqliteStore) -> None:
    for epoch in (0, 2):
        with pytest.raises(Fenced, match=f"since epoch {epoch}$"):
            await store.apply(epoch, [row(1)])
    assert await store.load_open(1) == []


async def test_a_balancer_is_fenced_once_another_has_taken_over(store: SqliteStore, tmp_path: Path) -> None:
    await store.apply(1, [row(1)])
    other = await SqliteStore.open(tmp_path)
    assert (await other.acquire("b2")).epoch == 2
    with pytest.raises(Fenced):
        await store.apply(1, [row(2)])
    await other.apply(2, [row(3)])
    assert [each.seq for each in await other.load_open(2)] == [1, 3]
    await other.close()


async def test_a_store_that_nobody_acquired_takes_nothing(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path)
    with pytest.raises(Fenced):
        await store.apply(1, [row(1)])
    await store.close()


def test_being_fenced_ends_the_process_as_a_failed_commit_does() -> None:
    assert issubclass(Fenced, StorageError)


# --- rows ----------------------------------------------------------------------------------------------


async def test_what_was_applied_is_there_after_a_crash_in_order_of_arrival(
    store: SqliteStore, tmp_path: Path
) -> None:
    rows = [row(3), row(1, node="n2", state=State.ASSIGNED), row(2, body=b"\0\xff")]
    await store.apply(1, rows)
    assert await reopened(tmp_path) == [rows[1], rows[2], rows[0]]


async def test_every_field_of_a_row_comes_back(store: SqliteStore, tmp_path: Path) -> None:
    await store.apply(1, [row(1, retries=6, at_most_once=1)])
    changed = row(
        1,
        2,
        state=State.DONE,
        attempt=3,
        losses=2,
        node="n9",
        outcome="lost",
        result_size=7,
        failures=5,
        not_before=8.25,
        retries=6,
        at_most_once=1,
        body=None,
    )
    await store.apply(1, [changed])
    assert await reopened(tmp_path) == [loaded(changed)]


async def test_a_job_of_one_batch_comes_back_with_its_retries(store: SqliteStore, tmp_path: Path) -> None:
    rows = [
        row(1, retries=1000, failures=3, attempt=4, state=State.DELAYED, not_before=1600000000.125),
        row(2, at_most_once=True),
    ]
    await store.apply(1, rows)
    assert await reopened(tmp_path) == rows


async def test_a_delay_that_is_over_is_overwritten(store: SqliteStore, tmp_path: Path) -> None:
    delayed = row(1, 2, retries=2, failures=1, attempt=2, state=State.DELAYED, not_before=9.5, body=None)
    queued = delayed._replace(version=3, state=State.QUEUED, not_before=0.0)
    again = row(1, 4, retries=2, failures=2, attempt=3, state=State.DELAYED, not_before=11.5)
    await store.apply(1, [row(1, retries=2)])
    for changed in (delayed, queued, again):
        await store.apply(1, [changed])
        assert await reopened(tmp_path) == [loaded(changed)]


async def test_applying_a_batch_twice_is_harmless(store: SqliteStore, tmp_path: Path) -> None:
    await store.apply(1, [row(1), row(2), row(3)])
    batch: list[JobRecord] = [
        row(4),
        row(2, 2, body=None, node="n2", state=State.ASSIGNED),
        row(3, 2, body=None, state=State.DONE, outcome="failed", result=b"why", result_size=3),
        Forget(1),
    ]
    await store.apply(1, batch)
    once = (await store.load_open(1), await store.results([1, 2, 3, 4]))
    await store.apply(1, batch)
    assert (await store.load_open(1), await store.results([1, 2, 3, 4])) == once
    assert await reopened(tmp_path) == once[0]
    assert [each.seq for each in once[0]] == [2, 3, 4]
    assert once[1] == {3: b"why"}


@pytest.mark.parametrize("body", [b"body", None])
@pytest.mark.parametrize("version", [1, 4, 5])
async def test_an_older_version_does_not_overwrite(
    store: SqliteStore, version: int, body: bytes | None
) -> None:
    newest = row(1, 5, state=State.ASSIGNED, node="n2", attempt=2)
    await store.apply(1, [newest])
    await store.apply(1, [row(1, version, body=body, node="stale")])
    assert await store.load_open(1) == [newest]


async def test_a_newer_version_overwrites_with_or_without_a_body(store: SqliteStore) -> None:
    await store.apply(1, [row(1)])
    await store.apply(1, [row(1, 2, node="n2", state=State.ASSIGNED)])
    await store.apply(1, [row(1, 3, body=None)])
    assert await store.load_open(1) == [row(1, 3)]


async def test_a_forgotten_job_leaves_nothing(store: SqliteStore) -> None:
    await store.apply(1, [row(1, state=State.DONE, result=b"why"), row(2)])
    await store.apply(1, [Forget(1), Forget(99)])
    assert await store.load_open(1) == [row(2)]
    assert await store.results([1, 2, 99]) == {}


async def test_a_job_that_comes_and_goes_in_one_batch_leaves_nothing(store: SqliteStore) -> None:
    await store.apply(1, [row(1), row(1, 2, body=None, result=b"why", state=State.DONE), Forget(1)])
    assert await store.load_open(1) == []
    assert await store.results([1]) == {}


async def test_a_batch_of_nothing_is_applied(store: SqliteStore) -> None:
    await store.apply(1, [])
    assert await store.load_open(1) == []


async def test_a_batch_is_applied_whole_or_not_at_all(store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^cannot write .*loadbalancer\.sqlite3: "):
        await store.apply(1, [row(1), row(2)._replace(version=None)])  # type: ignore[arg-type]
    assert await reopened(tmp_path) == []
    await store.apply(1, [row(3)])
    assert await reopened(tmp_path) == [row(3)]


async def test_results_are_those_asked_for_that_are_there(store: SqliteStore) -> None:
    done = [row(seq, state=State.DONE, result=bytes([seq])) for seq in range(1, 6)]
    await store.apply(1, [*done, row(6)])
    assert await store.results(iter([4, 2, 6, 77])) == {4: b"\4", 2: b"\2"}
    assert await store.results([]) == {}


async def test_a_result_of_nothing_is_a_result(store: SqliteStore) -> None:
    await store.apply(1, [row(1, state=State.DONE, result=b"")])
    assert await store.results([1]) == {1: b""}


# --- coalesce --------------------------------------------------------------------------------------------


def test_the_last_row_of_a_job_stands_with_the_body_and_result_before_it() -> None:
    changes = [row(1), row(2), row(1, 2, body=None, result=b"r"), row(1, 3, body=None, node="n2")]
    assert coalesce(changes) == [row(1, 3, body=b"body", result=b"r", node="n2"), row(2)]


def test_what_is_forgotten_is_a_delete_alone() -> None:
    assert coalesce([row(1), Forget(1)]) == [Forget(1)]
    assert coalesce([Forget(1), row(1)]) == [row(1)]


histories = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from(["change", "result", "forget"])), max_size=12
)


def records_of(history: list[tuple[int, str]]) -> list[JobRecord]:
    """Records as a core makes them: the body with the first row of a job, versions that grow, no return."""
    records: list[JobRecord] = []
    versions: dict[int, int] = {}
    over: set[int] = set()
    for seq, what in history:
        if seq in over:
            continue
        if what == "forget":
            over.add(seq)
            records.append(Forget(seq))
            continue
        versions[seq] = versions.get(seq, 0) + 1
        body = b"body" if versions[seq] == 1 else None
        result = bytes([versions[seq]]) if what == "result" else None
        records.append(row(seq, versions[seq], attempt=versions[seq], body=body, result=result))
    return records


@given(histories)
def test_coalesced_changes_lead_where_the_changes_lead(history: list[tuple[int, str]]) -> None:
    records = records_of(history)
    latest: dict[int, JobRecord] = {}
    for record in records:
        before = latest.get(record.seq)
        if isinstance(record, Row) and isinstance(before, Row):
            record = record._replace(body=before.body, result=record.result or before.result)
        latest[record.seq] = record
    assert {record.seq: record for record in coalesce(records)} == latest
    assert len(coalesce(records)) == len(latest)


# --- files -------------------------------------------------------------------------------------------------


async def test_a_file_of_version_1_is_read(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript(VERSION_1)
    connection.close()
    store = await SqliteStore.open(tmp_path)
    assert await store.acquire("other") == Opened("b1", 5)
    assert await store.load_open(5) == [
        Row(2, ticket(2), 3, State.ASSIGNED, "n1", 2, 1, "n2", 5.5, "", 0, 0, 0.0, 0, 1, 0, b"\1", None),
        Row(3, ticket(3), 4, State.DELAYED, "n1", 3, 0, None, 5.5, "", 0, 2, 7.5, 3, 0, 0, b"\5", None),
        Row(5, ticket(5), 2, State.DONE, "n1", 1, 0, None, 6.5, "failed", 2, 0, 0.0, 0, 0, 0, b"\2", None),
    ]
    assert await store.results([2, 5]) == {5: b"\3\4"}
    await store.close()


async def test_a_file_of_version_3_is_read_and_takes_keys(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript(VERSION_3)
    connection.close()
    store = await SqliteStore.open(tmp_path)
    assert await store.acquire("other") == Opened("b1", 5)
    assert await store.load_open(5) == [
        Row(2, ticket(2), 3, State.ASSIGNED, "n1", 2, 1, "n2", 5.5, "", 0, 0, 0.0, 0, 1, -3, b"\1", None),
        Row(5, ticket(5), 2, State.DONE, "n1", 1, 0, None, 6.5, "failed", 2, 0, 0.0, 0, 0, 0, b"\2", None),
    ]
    assert await store.results([5]) == {5: b"\3\4"}
    assert await store.load_keys(5, 0) == []
    await store.apply(5, [key_row(1)])
    assert await store.load_keys(5, 0) == [key_row(1)]
    await store.close()


async def test_what_came_of_attempts_is_kept_with_the_state(store: SqliteStore, tmp_path: Path) -> None:
    told = row(1, story=(Attempt(1, "n1", 5.0, 6.5, "failed"),))
    await store.apply(1, [told, row(2)])
    again = told._replace(version=2, body=None, story=(*told.story, Attempt(2, "n2", 7.0, 8.0, "lost")))
    await store.apply(1, [again])
    assert await reopened(tmp_path) == [loaded(again), row(2)]


def key_row(seq: int) -> KeyRow:
    return KeyRow(seq, f"key-{seq}", ticket(seq), "id1", "n1", 5.5)


async def test_keys_come_back_in_order_page_by_page_and_the_oldest_go(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadbalancer.store.sqlite.KEYS_AT_ONCE", 3)
    await store.apply(1, [row(1), *map(key_row, range(1, 6))])
    await store.apply(1, [KeysGone(1), key_row(6), KeysGone(2)])
    assert await store.load_keys(1, 0) == [key_row(3), key_row(4), key_row(5)]
    assert await store.load_keys(1, 5) == [key_row(6)]
    assert await store.load_keys(1, 6) == []
    assert await store.load_open(1) == [row(1)], "a job and a key of the same number are two things"


async def test_a_key_that_came_and_went_in_one_batch_is_gone(store: SqliteStore) -> None:
    await store.apply(1, [key_row(1), KeysGone(1)])
    assert await store.load_keys(1, 0) == []


async def test_another_epoch_gets_no_keys(store: SqliteStore) -> None:
    with pytest.raises(Fenced):
        await store.load_keys(2, 0)


async def test_no_byte_of_a_value_changes_unnoticed(store: SqliteStore, tmp_path: Path) -> None:
    done = row(1, state=State.DONE, outcome="failed", result_size=6, result=b"result")
    await store.apply(1, [done, row(2, node="n2", state=State.ASSIGNED, not_before=7.5), key_row(1)])
    await store.close()
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    for column in ("version", "state", "job"):
        (value,) = connection.execute(f"SELECT {column} FROM jobs WHERE seq = 2").fetchone()
        for changed in changes_of(value):
            connection.execute(f"UPDATE jobs SET {column} = ? WHERE seq = 2", (changed,))
            with pytest.raises(Damaged, match="a stored value"):
                await reopened(tmp_path)
        connection.execute(f"UPDATE jobs SET {column} = ? WHERE seq = 2", (value,))
    (value,) = connection.execute("SELECT claim FROM keys").fetchone()
    for changed in changes_of(value):
        connection.execute("UPDATE keys SET claim = ?", (changed,))
        other = await SqliteStore.open(tmp_path)
        with pytest.raises(Damaged, match="a stored value"):
            await other.load_keys(1, 0)
        await other.close()
    (value,) = connection.execute("SELECT result FROM results").fetchone()
    for changed in changes_of(value):
        connection.execute("UPDATE results SET result = ?", (changed,))
        other = await SqliteStore.open(tmp_path)
        with pytest.raises(Damaged, match="a stored value"):
            await other.results([1])
        await other.close()
    for column, value in (("id", b"b1"), ("epoch", 1)):
        for changed in changes_of(value):
            connection.execute(f"UPDATE balancer SET {column} = ?", (changed,))
            other = await SqliteStore.open(tmp_path)
            with pytest.raises(Damaged, match="a stored value"):
                await other.acquire("b2")
            await other.close()
    connection.close()


def changes_of(value: int | bytes) -> Iterator[int | bytes]:
    """`value` with one bit changed: another one of each byte, the low ones of a number."""
    if isinstance(value, int):
        yield from (value ^ 1 << bit for bit in range(8))
    else:
        for place in range(len(value)):
            changed = bytearray(value)
            changed[place] ^= 1 << place % 8
            yield bytes(changed)


async def test_a_file_of_a_node_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript("CREATE TABLE tickets (seq); PRAGMA application_id = 0x45564e44")
    connection.close()
    with pytest.raises(StartError, match="is a database of another program"):
        await SqliteStore.open(tmp_path)


async def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript(f"{VERSION_1} PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(
        StartError, match=r"loadbalancer\.sqlite3 is of schema version 99, this program knows"
    ):
        await SqliteStore.open(tmp_path)
