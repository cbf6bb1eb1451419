"""Removing what jobs left, whatever it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusternode.executor import removal
from clusternode.executor.removal import remove_tree

DEEP = 3000


def deep(top: Path) -> None:
    """Deeper than any recursion goes, and than a path can say."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("nested", dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        inner = os.open("nested", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def closed(top: Path) -> None:
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/b/c/file").touch()
    for path in ("a/b/c", "a/b", "a", "."):
        (top / path).chmod(0)


def nameless(top: Path) -> None:
    inside = os.fsencode(top) + b"/\xff\xfe"
    os.mkdir(inside)
    for name in (b"\xc3\x28", b" ", b"\n", b"-rf", b"x" * 255):
        os.mkdir(inside + b"/" + name)
        with open(inside + b"/" + name + b"/\x80", "w"):
            pass


def special(top: Path) -> None:
    os.mkfifo(top / "fifo")
    (top / "dangling").symlink_to("/no/such/file")
    (top / "to-itself").symlink_to(top)
    (top / "nested").mkdir()
    os.symlink("..", top / "nested/up")


@pytest.mark.parametrize("fill", [deep, closed, nameless, special])
def test_whatever_is_in_it_goes(fill: object, tmp_path: Path) -> None:
    assert callable(fill)
    top = tmp_path / "top"
    top.mkdir()
    fill(top)
    remove_tree(str(top))
    assert not os.path.lexists(top)


def test_directories_with_more_entries_than_are_looked_at_at_once_go_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "AT_ONCE", 3)
    for number in range(20):
        (tmp_path / f"top/{number % 7}/{number}/x").mkdir(parents=True)
        (tmp_path / f"top/{number % 7}/file{number}").touch()
        (tmp_path / f"top/file{number}").touch()
    remove_tree(str(tmp_path / "top"))
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    (tmp_path / "top").mkdir()
    (tmp_path / "top/link").symlink_to(tmp_path / "other")
    (tmp_path / "itself").symlink_to(tmp_path / "other")
    for name in ("top", "itself"):
        remove_tree(str(tmp_path / name))
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "other",
        "other/file",
    ]


def test_what_is_not_there_or_no_directory_is_no_fault(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "nothing"))
    (tmp_path / "file").touch()
    remove_tree(str(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_stays_and_the_rest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "stays", "z"):
        (tmp_path / "top/nested").mkdir(parents=True, exist_ok=True)
        (tmp_path / "top/nested" / name).touch()
    unlink = os.unlink

    def refuse(name: str, **how: int) -> None:
        if name == "stays":
            raise PermissionError(1, "no")
        unlink(name, **how)

    monkeypatch.setattr(os, "unlink", refuse)
    remove_tree(str(tmp_path / "top"))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["stays"]
