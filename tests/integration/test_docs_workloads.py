"""What docs/workloads.md shows is true: its commands run in order, and print what stands below them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support import PATIENCE, ROOT, Cluster
from workloads import environment, servers

PAGE = ROOT / "docs/workloads.md"


def examples(text: str) -> list[tuple[str, list[str]]]:
    """(command, what it prints) of the indented blocks."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("    $ "):
            found.append((line.removeprefix("    $ "), []))
        elif line.startswith("    ") and found and line.strip():
            found[-1][1].append(line)
    return found


def plain(line: str) -> str:
    """A line without what differs from run to run: numbers, spaces."""
    return " ".join(re.sub(r"\d[\d.]*", "N", line).split())


def test_its_commands_print_what_it_shows(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster()
    nodes = cluster.start("n1", "n2", "n3")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "evenly").write_text(f'#!/bin/sh\nexec {sys.executable} -m evenly.cli "$@"\n')
    (programs / "evenly").chmod(0o755)
    given = environment(EVENLY_NODES=servers(*(node.port for node in nodes)))
    given["PATH"] = f"{programs}:{given['PATH']}"
    place = tmp_path / "place"
    place.mkdir()
    shown = examples(PAGE.read_text())
    assert len(shown) >= 10
    for command, lines in shown:
        done = subprocess.run(
            command, shell=True, cwd=place, env=given, capture_output=True, text=True, timeout=2 * PATIENCE
        )
        said = [plain(line) for line in (done.stdout + done.stderr).splitlines()]
        rest = iter(said)
        for line in lines:
            assert plain(line) in rest, f"{command}\n  does not print (in this order): {line}\n  but: {said}"
