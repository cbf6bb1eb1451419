import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.database import BrokenSeal, Database, seal, unseal
from runtime.errors import StartError, StorageError

ID = 0x54455354
V1 = "CREATE TABLE things (name TEXT PRIMARY KEY)"
V2 = "ALTER TABLE things ADD COLUMN size INTEGER NOT NULL DEFAULT 5; CREATE TABLE more (x)"


def put(*names: str) -> Callable[[sqlite3.Connection], None]:
    def change(connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT INTO things (name) VALUES (?)", [(name,) for name in names])

    return change


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM things ORDER BY name")]


def pragma(name: str) -> Callable[[sqlite3.Connection], object]:
    return lambda connection: connection.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.sqlite3"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(path, ID, [V1])
    yield opened
    await opened.close()


def on_disk(path: Path) -> list[str]:
    """What another process reads, while the writer is still there or long gone."""
    connection = sqlite3.connect(path)
    try:
        return names(connection)
    finally:
        connection.close()


def make_file(path: Path, script: str) -> bytes:
    """The bytes of a database that `script` made."""
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path.read_bytes()


async def refused(path: Path, migrations: list[str]) -> str:
    with pytest.raises(StartError) as caught:
        await Database.open(path, ID, migrations)
    said = str(caught.value)
    assert said.startswith(f"{path} ")
    assert "\n" not in said
    return said


def refusal(path: Path, migrations: list[str]) -> str:
    return asyncio.run(refused(path, migrations))


# --- writes and reads -----------------------------------------------------------------------------------


async def test_what_write_returned_from_is_on_the_disk(database: Database, path: Path) -> None:
    await database.write(put("a", "b"))
    assert on_disk(path) == ["a", "b"]


async def test_a_write_gives_what_its_change_gave(database: Database) -> None:
    assert await database.write(names) == []


async def test_a_read_sees_every_write_before_it(database: Database) -> None:
    writes = [asyncio.ensure_future(database.write(put(name))) for name in "abc"]
    await asyncio.gather(*writes)
    assert await database.read(names) == ["a", "b", "c"]


async def test_a_write_that_fails_leaves_nothing_and_the_next_goes_through(
    database: Database, path: Path
) -> None:
    with pytest.raises(StorageError, match=f"^cannot write {path}: UNIQUE constraint failed"):
        await database.write(put("a", "a"))
    await database.write(put("b"))
    assert on_disk(path) == ["b"]


async def test_an_error_of_the_change_itself_rolls_back_too(database: Database, path: Path) -> None:
    def change(connection: sqlite3.Connection) -> None:
        put("a")(connection)
        raise KeyError("ours")

    with pytest.raises(KeyError):
        await database.write(change)
    await database.write(put("b"))
    assert on_disk(path) == ["b"]


async def test_a_read_that_fails_is_a_storage_error(database: Database, path: Path) -> None:
    with pytest.raises(StorageError, match=f"^cannot read {path}: no such table"):
        await database.read(lambda connection: connection.execute("SELECT * FROM absent"))


async def test_a_cancelled_write_is_there_whole(database: Database) -> None:
    write = asyncio.ensure_future(database.write(put("a", "b")))
    begun = asyncio.Event()
    asyncio.get_running_loop().call_soon(begun.set)
    await begun.wait()
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert await database.read(names) == ["a", "b"]


async def test_a_writer_that_holds_the_file_fails_the_others_and_breaks_nothing(
    database: Database, path: Path
) -> None:
    await database.write(lambda connection: None)
    await database.read(lambda connection: connection.execute("PRAGMA busy_timeout = 0").fetchone())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="database is locked"):
        await database.write(put("a"))
    other.execute("ROLLBACK")
    other.close()
    await database.write(put("b"))
    assert on_disk(path) == ["b"]


async def test_commits_are_durable_through_power_loss(database: Database) -> None:
    assert await database.read(pragma("journal_mode")) == "wal"
    assert await database.read(pragma("synchronous")) == 2  # FULL


# --- schema -------------------------------------------------------------------------------------------------


async def test_a_new_file_has_the_last_version_and_the_mark_of_its_program(database: Database) -> None:
    assert await database.read(pragma("user_version")) == 1
    assert await database.read(pragma("application_id")) == ID


async def test_an_older_file_is_brought_forward_with_what_is_in_it(database: Database, path: Path) -> None:
    await database.write(put("a"))
    newer = await Database.open(path, ID, [V1, V2])
    assert await newer.read(pragma("user_version")) == 2
    assert await newer.read(lambda c: c.execute("SELECT * FROM things").fetchall()) == [("a", 5)]
    assert await newer.read(lambda c: c.execute("SELECT * FROM more").fetchall()) == []
    await newer.close()


async def test_a_migration_that_fails_leaves_the_file_at_its_version(database: Database, path: Path) -> None:
    await database.write(put("a"))
    said = await refused(path, [V1, f"{V2}; CREATE TABLE things (again)"])
    assert said == f"{path} cannot be used: table things already exists"
    assert await database.read(pragma("user_version")) == 1
    assert await database.read(lambda c: c.execute("SELECT * FROM things").fetchall()) == [("a",)]


def test_a_file_of_a_later_version_is_refused_by_its_number_and_left_alone(path: Path) -> None:
    before = make_file(path, f"{V1}; PRAGMA application_id = {ID}; PRAGMA user_version = 7")
    said = refusal(path, [V1])
    assert said == f"{path} is of schema version 7, this program knows 1: a later one wrote it"
    assert path.read_bytes() == before


@pytest.mark.parametrize("mark", [0, 1, ID + 1])
def test_a_database_of_another_program_is_refused_and_left_alone(path: Path, mark: int) -> None:
    before = make_file(path, f"CREATE TABLE theirs (x); PRAGMA application_id = {mark}")
    said = refusal(path, [V1])
    assert said == f"{path} is a database of another program; --data names the directory to use"
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database at all\n" * 500, b"x" * 100, bytes(range(256)) * 64])
def test_a_garbage_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refusal(path, [V1]) == f"{path} cannot be used: file is not a database"
    assert path.read_bytes() == content


def test_a_file_cut_short_is_refused(path: Path) -> None:
    whole = make_file(
        path, f"{V1}; CREATE TABLE b (x); PRAGMA application_id = {ID}; PRAGMA user_version = 1"
    )
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be used: " in refusal(path, [V1])


def test_an_empty_file_is_a_new_database(path: Path) -> None:
    path.touch()

    async def things() -> list[str]:
        database = await Database.open(path, ID, [V1])
        try:
            return await database.read(names)
        finally:
            await database.close()

    assert asyncio.run(things()) == []


def test_a_directory_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    assert refusal(path, [V1]) == f"{path} cannot be used: unable to open database file"


def test_a_file_in_the_place_of_its_directory_is_refused(path: Path) -> None:
    path.touch()
    assert "cannot be used: unable to open" in refusal(path / "inside.sqlite3", [V1])


def test_a_file_that_cannot_be_written_is_refused_at_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the file is opened read-only, which is what SQLite sees of both."""
    make_file(path, f"{V1}; PRAGMA journal_mode = WAL; PRAGMA application_id = {ID}; PRAGMA user_version = 1")
    real = sqlite3.connect

    def read_only(database: Path, **options: object) -> sqlite3.Connection:
        return real(f"file:{database}?mode=ro", uri=True, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(sqlite3, "connect", read_only)
    assert "cannot be used: attempt to write a readonly database" in refusal(path, [V1])


def test_a_refusal_leaves_no_thread_behind(path: Path) -> None:
    """A thread that reports to a loop that has ended would put a traceback below the one line."""
    path.mkdir()
    before = set(threading.enumerate())

    async def left_by_a_refusal() -> set[threading.Thread]:
        await refused(path, [V1])
        return set(threading.enumerate()) - before

    for _ in range(20):
        assert asyncio.run(left_by_a_refusal()) == set()


@given(st.binary(), st.text(), st.integers(0, 7), st.integers(0))
def test_a_sealed_value_comes_back_and_a_changed_one_does_not(
    value: bytes, beside: str, bit: int, at: int
) -> None:
    sealed = seal(value, beside, 1)
    assert unseal(sealed, beside, 1) == value
    with pytest.raises(BrokenSeal):
        unseal(sealed, beside + "x", 1)
    place = 1 + at % (len(sealed) - 1)
    changed = bytearray(sealed)
    changed[place] ^= 1 << bit
    with pytest.raises(BrokenSeal):
        unseal(bytes(changed), beside, 1)


def test_a_value_that_was_never_sealed_is_read_as_it_is() -> None:
    assert unseal(b"\x92\x01\x02", "anything") == b"\x92\x01\x02"
