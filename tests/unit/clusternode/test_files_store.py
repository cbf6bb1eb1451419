"""Files by their digest."""

import errno
import hashlib
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from clusternode.files import store as store_module
from clusternode.files.store import UNFINISHED, Files, Mismatch
from runtime.errors import StartError


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def keep(files: Files, content: bytes, piece: int = 0) -> str:
    incoming = files.begin(digest_of(content), len(content))
    for at in range(0, len(content), piece or len(content) or 1):
        incoming.write(content[at : at + (piece or len(content))])
    incoming.finish()
    return incoming.digest


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "files")


def names(files: Files) -> list[str]:
    return sorted(each.name for each in files.directory.iterdir())


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class TestComingIn:
    @pytest.mark.parametrize("piece", [1, 7, 0])
    def test_what_came_whole_is_there_also_after_a_restart(self, files: Files, piece: int) -> None:
        content = bytes(range(100))
        digest = keep(files, content, piece)
        for each in (files, Files(files.directory)):
            assert digest in each
            assert each.size(digest) == 100
            assert each.piece(digest, 10, 5) == content[10:15]
            assert each.piece(digest, 98, 5) == content[98:]
            assert each.piece(digest, 1000, 5) == b""
            assert names(each) == [digest]
        assert digest_of(b"x") not in files

    def test_nobody_sees_it_before_it_is_whole(self, files: Files) -> None:
        incoming = files.begin(digest_of(b"ab"), 2)
        incoming.write(b"a")
        assert incoming.digest not in files
        assert names(files) == [f"{UNFINISHED}1"]
        assert incoming.digest not in Files(files.directory)
        assert names(files) == []  # what never became whole is gone at the next start

    @pytest.mark.parametrize(
        ("size", "sent", "said"),
        [
            (3, b"ab", "2 bytes and not the 3 that were announced"),
            (2, b"ba", "what came has the SHA-256"),
            (None, b"ba", "what came has the SHA-256"),
        ],
    )
    def test_what_is_not_what_was_announced_is_not_kept(
        self, files: Files, size: int | None, sent: bytes, said: str
    ) -> None:
        before = open_files()
        incoming = files.begin(digest_of(b"ab"), size)
        incoming.write(sent)
        with pytest.raises(Mismatch, match=said):
            incoming.finish()
        assert names(files) == []
        assert open_files() == before

    def test_more_than_was_announced_is_refused_at_once(self, files: Files) -> None:
        incoming = files.begin(digest_of(b"ab"), 2)
        incoming.write(b"a")
        with pytest.raises(Mismatch, match="more than the 2 bytes"):
            incoming.write(b"bc")
        assert names(files) == []
        with pytest.raises(OSError, match="it was given up"):
            incoming.write(b"b")

    def test_the_same_file_twice_at_once_is_there_once(self, files: Files) -> None:
        first, second = (files.begin(digest_of(b"ab"), 2) for _ in range(2))
        first.write(b"ab")
        second.write(b"a")
        first.finish()
        second.write(b"b")
        second.finish()
        assert names(files) == [digest_of(b"ab")]

    def test_a_full_disk_leaves_nothing(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        before = open_files()
        incoming = files.begin(digest_of(b"ab"), 2)
        write = os.write

        def full(file: int, data: bytes) -> int:
            if len(data) > 1:
                return write(file, data[:1])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(store_module.os, "write", full)
        with pytest.raises(OSError, match="No space"):
            incoming.write(b"ab")
        assert names(files) == []
        assert open_files() == before

    @pytest.mark.parametrize("point", ["fsync", "replace"])
    def test_what_cannot_be_made_durable_is_not_there(
        self, files: Files, monkeypatch: pytest.MonkeyPatch, point: str
    ) -> None:
        incoming = files.begin(digest_of(b"ab"), 2)
        incoming.write(b"ab")

        def broken(*_: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(store_module.os, point, broken)
        with pytest.raises(OSError, match="Input/output"):
            incoming.finish()
        assert digest_of(b"ab") not in files
        assert names(files) == []

    def test_giving_it_up_twice_is_once(self, files: Files) -> None:
        incoming = files.begin(digest_of(b"ab"), 2)
        incoming.abort()
        incoming.abort()
        assert names(files) == []

    def test_giving_up_closes_no_file_under_a_thread_that_writes(
        self, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The number of a closed file is soon another's: what the thread wrote would go there."""
        incoming = files.begin(digest_of(b"ab"), 2)
        inside, go_on = threading.Event(), threading.Event()
        write = os.write

        def slow(file: int, data: bytes) -> int:
            inside.set()
            assert go_on.wait(20)
            return write(file, data)

        monkeypatch.setattr(store_module.os, "write", slow)
        thread = threading.Thread(target=incoming.write, args=(b"ab",))
        thread.start()
        assert inside.wait(20)
        incoming.abort()  # returns at once
        assert incoming._file is not None
        go_on.set()
        thread.join()
        assert incoming._file is None
        assert names(files) == []

    def test_a_directory_that_cannot_be_used_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("x")
        with pytest.raises(StartError, match="taken cannot be used"):
            Files(tmp_path / "taken")


class TestGoingOut:
    def test_a_copy_is_executable_and_its_own(self, files: Files, tmp_path: Path) -> None:
        digest = keep(files, b"#!/bin/sh\n")
        target = tmp_path / "work" / "bin" / "x"
        files.copy(digest, target)
        assert target.stat().st_mode & 0o777 == 0o755
        target.write_bytes(b"changed")
        assert files.piece(digest, 0, 100) == b"#!/bin/sh\n"
        with pytest.raises(FileExistsError):
            files.copy(digest, target)

    def test_kernels_that_copy_nothing_by_themselves_have_it_copied(
        self, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = random.Random(1).randbytes(3 * 1024 * 1024 + 5)
        digest = keep(files, content)

        def unknown(*_: object) -> int:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(store_module.os, "copy_file_range", unknown)
        files.copy(digest, tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == content

    def test_a_full_disk_is_no_reason_to_copy_by_hand(
        self, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest = keep(files, b"x")

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(store_module.os, "copy_file_range", full)
        with pytest.raises(OSError, match="No space"):
            files.copy(digest, tmp_path / "x")

    def test_one_that_somebody_removed_is_not_there_any_more(self, files: Files, tmp_path: Path) -> None:
        digest = keep(files, b"x")
        files.path(digest).unlink()
        with pytest.raises(FileNotFoundError):
            files.copy(digest, tmp_path / "x")
        assert digest not in files  # so it is fetched again
        assert not (tmp_path / "x").exists()

    def test_a_link_takes_the_place_of_what_was_there(self, files: Files, tmp_path: Path) -> None:
        target = tmp_path / "results" / "r" / "a" / "b"
        for content in (b"one", b"two", b"two"):
            files.link(keep(files, content), target)
            assert target.read_bytes() == content
            assert [each.name for each in target.parent.iterdir()] == ["b"]
        assert target.stat().st_nlink == 2

    def test_where_no_more_names_can_be_had_there_is_a_copy(
        self, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest = keep(files, b"")

        def too_many(*_: object) -> None:
            raise OSError(errno.EMLINK, "Too many links")

        monkeypatch.setattr(store_module.os, "link", too_many)
        files.link(digest, tmp_path / "r" / "empty")
        assert (tmp_path / "r" / "empty").read_bytes() == b""

    @pytest.mark.parametrize(
        "take",
        [
            lambda place: (place / "a").write_text("a file"),
            lambda place: (place / "a" / "b").mkdir(parents=True),
        ],
    )
    def test_a_name_that_is_taken_by_another_kind_is_refused_and_leaves_nothing(
        self, files: Files, tmp_path: Path, take: Callable[[Path], object]
    ) -> None:
        digest = keep(files, b"x")
        place = tmp_path / "results"
        place.mkdir()
        take(place)
        before = sorted(place.rglob("*"))
        with pytest.raises(OSError):  # noqa: PT011, which one the system says
            files.link(digest, place / "a" / "b")
        assert sorted(place.rglob("*")) == before


class TestBound:
    def test_what_was_used_least_goes_first(self, tmp_path: Path) -> None:
        files = Files(tmp_path / "cache", 10)
        a, b = keep(files, b"aaaa"), keep(files, b"bbbb")
        files.copy(a, tmp_path / "a")
        c = keep(files, b"cccc")
        assert [each in files for each in (a, b, c)] == [True, False, True]
        assert len(names(files)) == 2

    def test_that_is_known_after_a_restart_too(self, tmp_path: Path) -> None:
        files = Files(tmp_path / "cache", 10)
        a, b = keep(files, b"aaaa"), keep(files, b"bbbb")
        os.utime(files.path(b), (1, 1))
        files = Files(tmp_path / "cache", 10)
        c = keep(files, b"cccc")
        assert [each in files for each in (a, b, c)] == [True, False, True]

    def test_one_that_is_larger_than_all_there_may_be_is_there_alone(self, tmp_path: Path) -> None:
        files = Files(tmp_path / "cache", 10)
        keep(files, b"aaaa")
        large = keep(files, bytes(100))
        assert names(files) == [large]

    def test_all_others_can_be_removed(self, files: Files) -> None:
        a, b = keep(files, b"a"), keep(files, b"b")
        files.keep_only({b})
        assert (a in files, b in files, names(files)) == (False, True, [b])


def test_threads_do_not_disturb_one_another(files: Files, tmp_path: Path) -> None:
    faults: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                digest = keep(files, b"%d" % (turn % 5), 1)
                files.piece(digest, 0, 1)
                files.link(digest, tmp_path / f"r{number}" / f"{turn % 3}")
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(names(files)) == 5
