"""What docs/python-client.md and docs/cli.md show is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT, Cluster, clean_environment


@pytest.fixture
def environment(shared_cluster: Cluster, tmp_path: Path) -> dict[str, str]:
    """With `evenly` on the path, and nodes that it finds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "evenly"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m evenly.cli "$@"\n')
    script.chmod(0o755)
    nodes = ",".join(f"127.0.0.1:{node.port}" for node in shared_cluster.nodes.values())
    inherited = clean_environment()
    return inherited | {
        "PATH": f"{folder}:{inherited['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EVENLY_NODES": nodes,
    }


def blocks(name: str) -> Iterator[str]:
    """The indented blocks of a page."""
    text = (ROOT / "docs" / name).read_text("utf-8")
    for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.MULTILINE):
        if block.strip():
            yield "\n".join(line.removeprefix("    ") for line in block.strip("\n").splitlines())


def test_the_page_of_the_python_client(environment: dict[str, str], tmp_path: Path) -> None:
    program = "\n\n".join(blocks("python-client.md"))
    assert program.count("assert ") > 8
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_the_page_of_the_command(environment: dict[str, str], tmp_path: Path) -> None:
    for block in blocks("cli.md"):
        lines = block.splitlines()
        commands = [line[2:] for line in lines if line.startswith("$ ")]
        expected = [line for line in lines if not line.startswith("$ ")]
        done = subprocess.run(
            ["bash", "-c", "exec 2>&1\n" + "\n".join(commands)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        pattern = "".join(f"{'.*'.join(map(re.escape, line.split('…')))}\n" for line in expected)
        assert re.fullmatch(pattern, done.stdout), f"{block}\n--- gave ---\n{done.stdout}"
