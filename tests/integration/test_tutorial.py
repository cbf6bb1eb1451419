"""docs/tutorial.md is played to its end: a cluster of `evenly up`, nc, the command, a kill -9."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pages import Meanings, Shell, Step, converse, play, steps
from support import PATIENCE, ROOT, eventually
from workloads import environment

#: Long enough for a person to kill its node meanwhile; for a test it lasts as long as that takes.
LONG = "sleep 15"
NODE = re.compile(r"nc 127\.0\.0\.1 (\d+) +# (n\d), process (\d+)")


class Up:
    """`evenly up`, the first terminal."""

    def __init__(self, log: Path) -> None:
        self._log = log

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def nodes(self) -> list[tuple[str, str, str]]:
        """(port, name, process) of each node."""
        return NODE.findall(self.said)


@contextmanager
def up(directory: Path, given: dict[str, str]) -> Iterator[Up]:
    log = directory / "up.log"
    command = [
        sys.executable,
        "-m",
        "evenly.cli",
        "up",
        "--slots",
        "2",
        "--data",
        str(directory / "evenly-data"),
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=given, start_new_session=True)
    try:
        eventually(lambda: "Ctrl-C ends it" in log.read_text() or process.poll() is not None, "it is up")
        assert process.poll() is None, log.read_text()
        yield Up(log)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0, log.read_text()


def test_it_goes_as_the_page_says(tmp_path: Path) -> None:
    given = environment()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text(f'evenly() {{ "{sys.executable}" -m evenly.cli "$@"; }}\n')
    gate = tmp_path / "gate"
    until = f"until [ -e {gate} ]; do sleep 0.1; done"
    blocks = list(steps("docs/tutorial.md"))
    assert blocks[0][0].command == "make up"
    with up(tmp_path, given) as first, Shell(tmp_path, given) as shell:
        meanings, node_of = introduced(blocks[0][0], first)
        for step in (step for block in blocks[1:] for step in block):
            if step.command.startswith("nc "):
                port = int(meanings.of(step.command).split()[-1])
                converse(step.shown, port, meanings, lambda line: None)
            elif step.command.startswith("kill -9 "):
                shown = step.command.removeprefix("kill -9 ")
                killed = meanings.of(node_of[shown])
                process = next(process for _, name, process in first.nodes if name == killed)
                shell.run(f"kill -9 {process}")
            elif not step.command:
                eventually(
                    lambda step=step: shows(first.said, step, meanings), f"{step.shown} in {first.said}"
                )
            else:
                if step.command.startswith("wait"):
                    gate.touch()
                play(step._replace(command=step.command.replace(LONG, until)), shell, meanings)


def introduced(step: Step, first: Up) -> tuple[Meanings, dict[str, str]]:
    """(the page's ports by those of this run, the page's nodes by its process numbers)."""
    shown = NODE.findall("\n".join(step.shown))
    here = first.nodes
    assert len(shown) == len(here) == 3, first.said
    ports = {theirs[0]: ours[0] for theirs, ours in zip(shown, here, strict=True)}
    for line in step.shown[-1:]:
        assert line.partition(" in ")[0] in first.said
    return Meanings(ports), {process: name for _, name, process in shown}


def shows(said: str, step: Step, meanings: Meanings) -> bool:
    return all(any(meanings.match(line, each) for each in said.splitlines()) for line in step.shown)


def test_there_is_nothing_that_the_sources_do_not_have() -> None:
    """What is done before anything runs: the target of make, and the command that it installs."""
    assert re.search(r"^up:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.search(
        r'^evenly = "evenly\.cli\.app:main"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
