import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.blobs import Place, Segments
from runtime.database import BrokenSeal
from runtime.errors import StartError

SIZE = 100


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    made = Segments(tmp_path / "blobs", "things", SIZE)
    yield made
    made.close()


def files(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "blobs").iterdir()}


def test_values_are_read_where_they_were_put(segments: Segments, tmp_path: Path) -> None:
    first, second = segments.append([b"one", b"two!"])
    (third,) = segments.append([b"three"])
    assert [place[:3] for place in (first, second, third)] == [(1, 0, 3), (1, 3, 4), (1, 7, 5)]
    assert [segments.read(place) for place in (third, first, second)] == [b"three", b"one", b"two!"]
    assert files(tmp_path) == {"things-1": b"onetwo!three"}


def test_nothing_is_made_for_nothing(segments: Segments, tmp_path: Path) -> None:
    assert segments.append([]) == []
    assert segments.is_empty
    assert files(tmp_path) == {}


def test_a_file_that_is_large_enough_is_followed_by_another(segments: Segments, tmp_path: Path) -> None:
    places = segments.append([bytes(60)] * 5)
    assert [place[:2] for place in places] == [(1, 0), (1, 60), (2, 0), (2, 60), (3, 0)]
    assert all(segments.read(place) == bytes(60) for place in places)


@given(st.lists(st.lists(st.binary(max_size=80), max_size=4), max_size=6), st.data())
def test_all_is_there_after_any_number_of_restarts(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[bytes]], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("segments")
    segments = Segments(directory, "things", SIZE)
    put: list[tuple[Place, bytes]] = []
    for group in groups:
        put += zip(segments.append(group), group, strict=True)
        if data.draw(st.booleans()):
            segments.close()
            segments = Segments(directory, "things", SIZE)
    assert [segments.read(place) for place, _ in put] == [value for _, value in put]
    segments.close()


def test_what_a_crash_left_behind_is_not_overwritten(segments: Segments, tmp_path: Path) -> None:
    (place,) = segments.append([b"value"])
    with (tmp_path / "blobs/things-1").open("ab") as file:
        file.write(b"torn")
    after_crash = Segments(tmp_path / "blobs", "things", SIZE)
    (later,) = after_crash.append([b"later"])
    after_crash.close()
    assert later[:3] == (1, 9, 5)
    assert [segments.read(each) for each in (place, later)] == [b"value", b"later"]


def test_only_those_to_be_kept_are(segments: Segments, tmp_path: Path) -> None:
    segments.append([bytes(SIZE)] * 4)
    segments.keep({2, 9})
    assert list(files(tmp_path)) == ["things-2"]
    # The number of one that was removed is not given again.
    (place,) = segments.append([b"next"])
    assert place.segment == 5
    assert segments.read(place) == b"next"
    segments.keep(())
    assert segments.is_empty
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda path: path.write_bytes(b"firstvaluE"), "a value in .*/things-1 has changed"),
        (lambda path: path.write_bytes(b"firstvalu"), ".*/things-1 ends too early"),
        (lambda path: path.write_bytes(b""), ".*/things-1 ends too early"),
        (lambda path: path.unlink(), ".*/things-1 cannot be read: No such file or directory"),
    ],
)
def test_damage_is_found(
    segments: Segments, tmp_path: Path, change: Callable[[Path], object], what: str
) -> None:
    _, place = segments.append([b"first", b"value"])
    change(tmp_path / "blobs/things-1")
    with pytest.raises(BrokenSeal, match=f"^{what}$"):
        segments.read(place)


def test_a_place_that_is_none_costs_no_memory(segments: Segments) -> None:
    (place,) = segments.append([b"value"])
    with pytest.raises(BrokenSeal, match="ends too early"):
        segments.read(place._replace(length=2**32 - 1))


def test_an_error_names_the_file(segments: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for call in ("pwrite", "fdatasync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(OSError, match="No space left") as caught:
                segments.append([b"value"])
        assert caught.value.filename == tmp_path / "blobs/things-1"


def test_a_disk_that_takes_part_of_it_gets_the_rest(
    segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[:7], offset))
    value = bytes(range(50))
    (place,) = segments.append([value])
    assert segments.read(place) == value


def test_a_new_file_is_durable_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def note(file: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{file}").removeprefix(f"{tmp_path}/"))

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "fdatasync", note)
    (tmp_path / "data").mkdir()
    segments = Segments(tmp_path / "data/blobs", "things", SIZE)
    assert synced == ["data"]
    synced.clear()
    segments.append([bytes(60), bytes(60), bytes(60)])
    assert synced == ["data/blobs", "data/blobs/things-1", "data/blobs", "data/blobs/things-2"]
    synced.clear()
    segments.append([bytes(1)])
    assert synced == ["data/blobs/things-2"]
    segments.close()


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="blobs cannot be used: No such file or directory"):
        Segments(tmp_path / "none/blobs", "things", SIZE)
