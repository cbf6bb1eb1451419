import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.datadir import locked_directory
from runtime.errors import StartError

HOLDER = """
import sys
from pathlib import Path
from runtime.datadir import locked_directory

with locked_directory(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def refusal(path: Path) -> str:
    with pytest.raises(StartError) as caught, locked_directory(path):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_directory_is_made_with_all_above_it_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with locked_directory(path) as made:
        assert made == path
        assert path.is_dir()
        assert path.stat().st_mode & 0o777 == 0o700
        assert (path / "lock").stat().st_mode & 0o777 == 0o600


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("12345678901234567890 of an earlier process\n")
    with locked_directory(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_second_lock_is_refused_and_hurts_the_first_nothing(tmp_path: Path) -> None:
    with locked_directory(tmp_path):
        for _ in range(2):
            assert refusal(tmp_path) == (
                f"the data directory {tmp_path} is in use by process {os.getpid()}; --data DIR names another"
            )


@pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
def test_a_lock_that_names_nobody_is_refused_all_the_same(tmp_path: Path, content: bytes) -> None:
    with locked_directory(tmp_path):
        (tmp_path / "lock").write_bytes(content)
        assert "is in use by process " in refusal(tmp_path)


def test_the_lock_is_given_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked_directory(tmp_path):
        raise KeyError
    with locked_directory(tmp_path):
        assert "in use" in refusal(tmp_path)


def test_two_directories_are_two_locks(tmp_path: Path) -> None:
    with locked_directory(tmp_path / "a"), locked_directory(tmp_path / "b"):
        assert "in use" in refusal(tmp_path / "a")


def test_another_process_is_kept_out_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        assert f"in use by process {holder.pid};" in refusal(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked_directory(tmp_path):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize(
    ("inside", "reason"), [("", "File exists"), ("data", "Not a directory"), ("a/b", "Not a directory")]
)
def test_a_file_in_the_way_of_the_directory_is_refused(tmp_path: Path, inside: str, reason: str) -> None:
    stands = tmp_path / "stands"
    stands.touch()
    path = stands / inside if inside else stands
    assert refusal(path) == (f"the data directory {path} cannot be used: {reason}; --data DIR names another")


def test_a_directory_in_the_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    assert "cannot be used: Is a directory" in refusal(tmp_path)


def test_a_directory_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk; permissions would not stop root."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runtime.datadir.os.pwrite", full)
    assert refusal(tmp_path) == f"the data directory {tmp_path} cannot be written: No space left on device"
    monkeypatch.undo()
    with locked_directory(tmp_path):
        assert (tmp_path / "lock").exists()
