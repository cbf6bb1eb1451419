"""The output of jobs, while somebody watches it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusternode.core.events import CommandEnded
from clusternode.executor import watching as watching_module
from clusternode.executor.watching import WINDOW, Piece, Watching, _Stream
from protocol.limits import PIECE_BYTES

KEY, OTHER = ("T" * 16, 1), ("O" * 16, 1)


class Bench:
    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[str, int]]] = []
        self.watching = Watching(lambda what, key: self.told.append((what, key)))

    async def ask(self, *offsets: int) -> "asyncio.Task[object]":
        first, second = offsets or (0, 0)
        task: asyncio.Task[object] = asyncio.ensure_future(self.watching.after(KEY, (first, second)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        return task

    def end(self, code: int | None = 0, key: tuple[str, int] = KEY) -> None:
        self.watching.ended(CommandEnded(*key, 1.0, 2.0, code, reason="why"))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.watching.close()


async def test_what_nobody_watches_costs_nothing(bench: Bench) -> None:
    bench.watching.came(KEY, 1, 0, b"x")
    bench.end()
    assert bench.told == []
    assert bench.watching._watched == {}


async def test_what_comes_is_the_answer_and_nothing_else_is(bench: Bench) -> None:
    asking = await bench.ask()
    assert bench.told == [("watch", KEY)]
    bench.watching.came(OTHER, 1, 0, b"of another")
    bench.watching.came(KEY, 3, 0, b"no stream")
    for _ in range(3):
        await asyncio.sleep(0)
    assert not asking.done()
    bench.watching.came(KEY, 2, 5, b"late")
    assert await asking == ([Piece(2, 5, b"late")], False, -1, "")


async def test_both_streams_from_where_each_is(bench: Bench) -> None:
    asking = await bench.ask()
    bench.watching.came(KEY, 1, 0, b"abcdef")
    bench.watching.came(KEY, 2, 0, b"123")
    await asking
    seen = await bench.watching.after(KEY, (4, 1))
    assert seen is not None
    assert seen.pieces == [Piece(1, 4, b"ef"), Piece(2, 1, b"23")]


async def test_all_watchers_are_answered(bench: Bench) -> None:
    tasks = [await bench.ask() for _ in range(50)]
    assert bench.told == [("watch", KEY)]
    bench.watching.came(KEY, 1, 0, b"x")
    assert {repr(await task) for task in tasks} == {repr(await tasks[0])}


async def test_the_end_comes_after_all_that_was_written(bench: Bench) -> None:
    asking = await bench.ask()
    bench.watching.came(KEY, 1, 0, b"last words")
    bench.end(3)
    assert await asking == ([Piece(1, 0, b"last words")], True, 3, "why")
    assert await bench.watching.after(KEY, (10, 0)) == ([], True, 3, "why")


async def test_the_end_is_told_with_the_last_piece_and_not_before(bench: Bench) -> None:
    await bench.ask()
    bench.watching.came(KEY, 1, 0, bytes(PIECE_BYTES + 1))
    bench.watching.came(KEY, 2, 0, b"x")
    bench.end()
    first = await bench.watching.after(KEY, (0, 0))
    assert first is not None
    assert ([len(piece.data) for piece in first.pieces], first.is_over) == ([PIECE_BYTES, 1], False)
    assert await bench.watching.after(KEY, (PIECE_BYTES, 1)) == (
        [Piece(1, PIECE_BYTES, b"\0")],
        True,
        0,
        "why",
    )


async def test_an_end_without_a_code_is_told_so(bench: Bench) -> None:
    asking = await bench.ask()
    bench.end(None)
    assert await asking == ([], True, -1, "why")


async def test_silence_is_answered_with_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching_module, "HOLD", 0.01)
    assert await bench.watching.after(KEY, (0, 0)) == ([], False, -1, "")


async def test_where_nobody_asks_any_more_it_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching_module, "HOLD", 0.005)
    monkeypatch.setattr(watching_module, "IDLE", 0.005)
    await bench.watching.after(KEY, (0, 0))
    while bench.watching.has(KEY):  # noqa: ASYNC110, a timer tells nobody
        await asyncio.sleep(0.001)
    # Of what has ended as well: who is to start it may have been told and never had it.
    await bench.ask()
    bench.end()
    while bench.watching.has(KEY):  # noqa: ASYNC110, a timer tells nobody
        await asyncio.sleep(0.001)
    assert bench.told == [("watch", KEY), ("unwatch", KEY)] * 2


async def test_as_many_as_may_be_and_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching_module, "WATCHED_LIMIT", 1)
    await bench.ask()
    assert await bench.watching.after(OTHER, (0, 0)) is None
    assert len(bench.told) == 1


async def test_a_slow_watcher_finds_a_gap_and_memory_is_bounded(bench: Bench) -> None:
    await bench.ask()
    for number in range(80):
        bench.watching.came(KEY, 1, number * 65536, bytes([number]) * 65536)
    (stream,) = [bench.watching._watched[KEY].streams[1]]
    assert len(stream.data) <= WINDOW
    at, seen = 100, b""
    while at < 80 * 65536:
        answer = await bench.watching.after(KEY, (at, 0))
        assert answer is not None
        (piece,) = answer.pieces
        assert piece.at >= at
        assert len(piece.data) <= PIECE_BYTES
        at = piece.at + len(piece.data)
        seen += piece.data
    assert len(seen) == WINDOW
    assert seen.endswith(bytes([79]) * 65536)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.binary(min_size=1, max_size=20)), max_size=30),
    st.integers(0, 300),
)
def test_a_stream_gives_what_was_written_where_it_was(came: list[tuple[int, bytes]], offset: int) -> None:
    """With gaps where something was left out before it came here."""
    stream, written = _Stream(), {}
    at = 0
    for gap, data in came:
        at += gap
        stream.add(at, data)
        written |= {at + number: byte for number, byte in enumerate(data)}
        at += len(data)
    begins, data = stream.after(offset)
    assert begins >= offset
    assert all(written[begins + number] == byte for number, byte in enumerate(data))
    # Nothing of what follows the last gap is missing.
    assert stream.end == at
    if offset >= stream.base:
        assert begins + len(data) == max(at, offset)
