"""What README.md shows is what happens: its sessions of nc and of `evenly`, and its program."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pages import Meanings, Shell, Step, converse, play, steps
from support import ROOT, Cluster, clean_environment
from workloads import servers

BLOCKS = list(steps("README.md"))


def block(beginning: str) -> list[Step]:
    (found,) = [block for block in BLOCKS if block[0].command.startswith(beginning)]
    return found


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = make_cluster()
    cluster.start("n1", "n2", "n3")
    return cluster


@pytest.fixture
def given(cluster: Cluster) -> dict[str, str]:
    nodes = servers(*(node.port for node in cluster.nodes.values()))
    return clean_environment() | {"PYTHONPATH": str(ROOT), "EVENLY_NODES": nodes}


def test_the_session_of_nc(cluster: Cluster) -> None:
    def kill_the_balancer(line: str) -> None:
        assert "the balancer is killed" in line
        cluster.balancer.kill()
        cluster.balancer.start()  # as `make up` does

    (session,) = block("nc 127.0.0.1 9000")
    converse(session.shown, cluster.nodes["n1"].port, Meanings({}), kill_the_balancer)


def test_the_session_of_the_command(given: dict[str, str], cluster: Cluster, tmp_path: Path) -> None:
    for name in ("a.log", "b.log", "c.log"):
        (tmp_path / name).write_text("one\n")
    (tmp_path / "data.txt").write_text("one\ntwo\n")
    (tmp_path / "steps.sh").write_text("true\nls /nowhere\nexit 3\nsleep 1\n")
    ports = [node.port for node in cluster.nodes.values()]
    meanings = Meanings({str(9000 + number): str(port) for number, port in enumerate(ports)})
    with Shell(tmp_path, given) as shell:
        # In a terminal stderr has a bar, which goes when it is done.
        shell.run(f'exec 2> errors; evenly() {{ "{sys.executable}" -m evenly.cli "$@"; }}')
        for step in block("export EVENLY_NODES"):
            play(step, shell, meanings)


def test_the_program(given: dict[str, str], tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    (program,) = re.findall(r"^ {4}from evenly import Client\n(?:(?: {4}.*)?\n)+", text, re.MULTILINE)
    script = tmp_path / "program.py"
    script.write_text("".join(f"{line[4:]}\n" for line in program.splitlines()))
    done = subprocess.run(
        [sys.executable, str(script)], env=given, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"\d+ /etc/hostname\n\d+ /etc/passwd\n", done.stdout)
