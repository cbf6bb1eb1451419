"""What a job has left in a directory: what is taken, and what is refused with which words."""

import hashlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusternode.files.tree import BadTree, Found, copied, find, hashed
from protocol.job import ResultFile, unpack_files
from protocol.limits import PATH_LIMIT, RESULT_FILES_LIMIT

MOST = 10_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "results"
    made.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return made


def put(root: Path, path: str, content: str = "x") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content)


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def test_all_files_are_found_in_order(root: Path) -> None:
    for path in ("b", "a/c", "a/b/d", ".hidden", "a b", "ж/漢字 🙂"):
        put(root, path, path)
    (root / "empty directory").mkdir()
    files = hashed(find(root, MOST))
    assert [each.path for each in files] == sorted(["b", "a/c", "a/b/d", ".hidden", "a b", "ж/漢字 🙂"])
    assert all(each == ResultFile(each.path, len(each.path.encode()), digest(each.path)) for each in files)
    assert unpack_files(files) == tuple(files)


def test_nothing_is_nothing(root: Path) -> None:
    assert find(root, 0) == []


def test_links_to_files_inside_are_taken_as_files(root: Path) -> None:
    put(root, "a/target", "inside")
    (root / "relative").symlink_to("a/target")
    (root / "absolute").symlink_to(root / "a" / "target")
    (root / "a" / "up").symlink_to("../a/target")
    (root / "chain").symlink_to("relative")
    assert {each.digest for each in hashed(find(root, MOST))} == {digest("inside")}
    os.link(root / "a" / "target", root / "hard")
    assert len(find(root, MOST)) == 6


def links(root: Path) -> dict[str, tuple[str, str]]:
    """What is linked, to what, and what is said."""
    return {
        "absolute": (str(root.parent / "outside" / "secret"), "link here leads out of it"),
        "relative": ("../outside/secret", "link here leads out of it"),
        "to a directory": ("../outside", "link here leads out of it"),
        "to the root": ("/", "link here leads out of it"),
        "to itself, all of it": (".", "link here leads out of it"),
        "dangling outside": ("../nothing", "link here leads out of it"),
        "dangling inside": ("nothing", "link here leads to no file"),
        "to a directory inside": ("sub", "link here leads to no file"),
        "through a linked parent": ("sub/out/secret", "link (here|sub/out) leads out of it"),
        "to a neighbour that begins so": ("../results-2", "link here leads out of it"),
        "to a FIFO": ("fifo", "link here leads to no file|fifo is neither a file nor a directory"),
    }


@pytest.mark.parametrize("kind", links(Path("/x/results")))
def test_links_out_of_it_are_refused(root: Path, kind: str) -> None:
    (root / "sub").mkdir()
    (root.parent / "results-2").write_text("x")
    target, said = links(root)[kind]
    if "sub/out" in target:
        (root / "sub" / "out").symlink_to(root.parent / "outside")
    if target == "fifo":
        os.mkfifo(root / "fifo")
    (root / "here").symlink_to(target)
    with pytest.raises(BadTree, match=f"^({said})$"):
        find(root, MOST)


def test_a_loop_of_links_is_refused(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(BadTree, match="leads to no file"):
        find(root, MOST)


@pytest.mark.parametrize("target", ["outside", "/", "outside/secret"])
def test_a_link_in_the_place_of_the_directory_itself_is_refused(root: Path, target: str) -> None:
    root.rmdir()
    root.symlink_to(root.parent / target)
    with pytest.raises(BadTree, match="it is no directory any more"):
        find(root, MOST)


def test_a_file_in_the_place_of_the_directory_is_refused_and_none_is_an_error(root: Path) -> None:
    root.rmdir()
    with pytest.raises(FileNotFoundError):
        find(root, MOST)
    root.write_text("x")
    with pytest.raises(BadTree, match="it is no directory any more"):
        find(root, MOST)


def make_socket(at: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(at))


@pytest.mark.parametrize("make", [os.mkfifo, make_socket])
def test_what_is_no_file_is_refused_and_holds_up_nobody(root: Path, make: Callable[[Path], None]) -> None:
    make(root / "odd")
    with pytest.raises(BadTree, match=r"^odd is neither a file nor a directory$"):
        find(root, MOST)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9", r"'caf\\\\udce9'"),
        (b"a\nb", r"'a\\nb'"),
        (b"\x1b[31m", r"'\\x1b\[31m'"),
        (b"a ", "'a '"),
        (b" a", "' a'"),
    ],
)
def test_names_that_no_line_could_hold_are_refused(root: Path, name: bytes, shown: str) -> None:
    (Path(os.fsdecode(os.fsencode(root) + b"/" + name))).write_text("x")
    with pytest.raises(BadTree, match=f"^{shown} is over {PATH_LIMIT} bytes, not printable, or ends in"):
        find(root, MOST)


def test_a_path_that_is_too_long_is_refused(root: Path) -> None:
    put(root, "/".join(["d" * 50] * 5))
    assert len(find(root, MOST)) == 1
    put(root, "/".join([*["d" * 50] * 4, "d" * 52]))
    with pytest.raises(BadTree, match="is over 255 bytes"):
        find(root, MOST)


def test_too_many_are_refused_empty_directories_among_them(root: Path) -> None:
    for number in range(RESULT_FILES_LIMIT):
        (root / str(number)).touch()
    assert len(find(root, MOST)) == RESULT_FILES_LIMIT
    (root / "d").mkdir()
    with pytest.raises(BadTree, match="it holds more than 5000 files and directories"):
        find(root, MOST)


def test_too_much_is_refused_also_where_it_is_only_holes(root: Path) -> None:
    put(root, "a", "x" * 6000)
    put(root, "b", "x" * 4000)
    assert len(find(root, MOST)) == 2
    put(root, "c")
    with pytest.raises(BadTree, match="it holds more than MAX_RESULT_BYTES=10000"):
        find(root, MOST)
    (root / "a").unlink()
    os.truncate(root / "c", 2**40)
    with pytest.raises(BadTree, match="it holds more than"):
        find(root, MOST)


def test_a_copy_is_of_what_was_found_however_fast_it_grows(root: Path, tmp_path: Path) -> None:
    put(root, "log", "12345")
    found = find(root, MOST)
    put(root, "log", "1234567890")
    (copy,) = copied(found, tmp_path / "copy")
    assert (copy.path, copy.size, copy.at.read_text()) == ("log", 5, "12345")
    put(root, "log", "1")
    (copy,) = copied(found, tmp_path / "copy-2")
    assert (copy.size, copy.at.read_text()) == (1, "1")


def test_a_fifo_that_takes_the_place_of_a_file_holds_up_no_thread(root: Path, tmp_path: Path) -> None:
    put(root, "a")
    found = find(root, MOST)
    (root / "a").unlink()
    os.mkfifo(root / "a")
    faults: list[str] = []

    def work() -> None:
        for call in (lambda: hashed(found), lambda: copied(found, tmp_path / "copy")):
            try:
                call()
            except OSError as error:
                faults.append(str(error.strerror))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert faults == ["it is no file any more"] * 2


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=30)


@given(st.lists(st.lists(names, min_size=1, max_size=3), max_size=5))
def test_whatever_is_found_can_be_said_on_the_wire(paths: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for parts in paths:
            try:
                put(root, "/".join(parts))
            except OSError:
                continue  # "..", or a file where a directory is to be
        found: list[Found] = []
        said = ""
        try:
            found = find(root, MOST)
        except BadTree as fault:
            said = str(fault)
        assert said.isprintable()
        files = hashed(found)
        assert unpack_files(files) == tuple(files)
