"""For tests of `evenly run`: the command as a process, and jobs that leave a trace of each start."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import PATIENCE, ROOT, clean_environment

COMMAND = [sys.executable, "-W", "error", "-m", "evenly.cli"]


def environment(**given: str) -> dict[str, str]:
    return clean_environment() | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | given


class Ended:
    """What a command left behind: its exit code, and what it wrote."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err, err

    @property
    def report(self) -> dict[str, Any]:
        assert self.out.count("\n") == 1, self
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@contextmanager
def started(*arguments: object, **given: str) -> Iterator[subprocess.Popen[str]]:
    """`evenly` with these arguments as a process, which is over after the block."""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**given),
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def evenly(*arguments: object, **given: str) -> Ended:
    """`evenly` with these arguments, to its end."""
    with started(*arguments, **given) as process:
        return end_of(process)


def end_of(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=2 * PATIENCE)
    return Ended(process.returncode, out, err)


def interrupt(process: subprocess.Popen[str], number: int = signal.SIGINT) -> Ended:
    process.send_signal(number)
    return end_of(process)


class Traces:
    """A file to which each job writes its name whenever it is started."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "traces"
        self.path.touch()

    def job(self, name: object, then: str = "true") -> str:
        """A command line. What is appended in one piece is not mixed with others'."""
        return f"echo {name} >> {self.path}; {then}"

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.path.read_text().split())

    def __len__(self) -> int:
        return len(self.path.read_bytes().splitlines())


def write(directory: Path, lines: list[Any], name: str = "jobs.jsonl") -> Path:
    """A workload file: texts as they are, all else as JSON."""
    path = directory / name
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def servers(*ports: int) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in ports)


__all__ = ["Ended", "Traces", "end_of", "evenly", "interrupt", "servers", "started", "write"]
