"""docs/recipes.md: each recipe runs, on nodes that find what it needs, and prints what stands there.

ffmpeg, convert and pg_dump are stand-ins on the nodes' PATH, so that what is tested is all but they.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from pages import Meanings, Shell
from support import ROOT, Cluster, clean_environment, free_port
from workloads import servers

PAGE = (ROOT / "docs/recipes.md").read_text("utf-8")
#: The last argument is what it writes; `-i` is followed by what it reads.
FFMPEG = """#!/bin/sh
while [ $# -gt 1 ]; do
    if [ "$1" = -i ] && ! [ -e "$2" ]; then echo "$2: No such file" >&2; exit 1; fi
    said="$said $1"; shift
done
echo "ffmpeg$said" > "$1"
"""
CONVERT = '#!/bin/sh\n[ -e "$1" ] && [ $# = 4 ] && echo small > "$4"\n'
PG_DUMP = '#!/bin/sh\necho "a dump of $1"\n'
#: Fails at its third step, the first time.
STEP = """#!/bin/sh
echo $1 >> {directory}/steps
[ $1 != 2 ] || [ $EVENLY_ATTEMPT != 1 ]
"""
MAKEFILE = "test:\n\t@echo 3 tests, 1 failed; exit 1\n"


class Block(NamedTuple):
    """`kind`: sh, python, text or crontab."""

    kind: str
    text: str

    @property
    def name(self) -> str:
        """Of the file that it is, if it is one: its first comment is nothing but that."""
        lines = [line for line in self.text.splitlines()[:2] if not line.startswith("#!")]
        found = re.fullmatch(r"# ([\w.-]+)", lines[0]) if lines else None
        return found[1] if found else ""


def recipes() -> dict[str, list[Block]]:
    """The blocks of each section."""
    found = {}
    for section in PAGE.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        fenced = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        found[title] = [Block(*each) for each in fenced]
    return found


RECIPES = recipes()


class Kitchen(NamedTuple):
    """`modules` is on the nodes' PYTHONPATH."""

    cluster: Cluster
    directory: Path
    modules: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kitchen]:
    directory = tmp_path_factory.mktemp("kitchen")
    (tools := directory / "tools").mkdir()
    (modules := directory / "modules").mkdir()
    programs = {
        "ffmpeg": FFMPEG,
        "convert": CONVERT,
        "pg_dump": PG_DUMP,
        "step": STEP.format(directory=directory),
        "evenly": f'#!/bin/sh\nexec "{sys.executable}" -m evenly.cli "$@"\n',
        "python3": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
    }
    for name, text in programs.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    inherited = clean_environment()
    path = f"{tools}:{inherited['PATH']}"
    cluster = Cluster(directory)
    try:
        for name in ("n1", "n2", "n3"):
            cluster.add_node(name, 2, PATH=path, PYTHONPATH=f"{ROOT}:{modules}")
        for program in cluster.programs:
            program.launch()
        for program in cluster.programs:
            program.await_ready()
        cluster.await_connected("n1", "n2", "n3")
        nodes = servers(*(node.port for node in cluster.nodes.values()))
        given = inherited | {"PATH": path, "PYTHONPATH": str(ROOT), "EVENLY_NODES": nodes}
        yield Kitchen(cluster, directory, modules, given)
    finally:
        cluster.end()


# --- what a recipe finds, and what is true when it is done -----------------------------------------


def two_images(place: Path) -> None:
    for name in ("one", "two"):
        Image.new("RGB", (80, 60), "teal").save(place / f"{name}.png")


def three_films(place: Path) -> None:
    for name in ("a b", "c", "film"):
        (place / f"{name}.mov").touch()


def sources(place: Path) -> None:
    (place / "Makefile").write_text(MAKEFILE)
    (place / "src").mkdir()


def images_are_small(kitchen: Kitchen, place: Path) -> None:
    assert (place / "one.webp").read_text() == "small\n"
    for name, width in (("small", 20), ("thumbs", 8)):
        with Image.open(place / name / "two.small.jpg") as image:
            assert image.width == width


def films_are_whole(kitchen: Kitchen, place: Path) -> None:
    assert "-threads 2 " in (place / "a b.mp4").read_text()
    assert "-ss 120 " in (place / "piece2.mp4").read_text()
    assert "-f concat " in (place / "film.mp4").read_text()
    assert not list(place.glob("*.part.mp4"))


def one_backup(kitchen: Kitchen, place: Path) -> None:
    """Also by way of another node."""
    nodes = ",".join(reversed(kitchen.environment["EVENLY_NODES"].split(",")))
    tickets = {
        subprocess.run(
            ["sh", "nightly-backup"],
            cwd=place,
            env=kitchen.environment | given,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for given in ({}, {"EVENLY_NODES": nodes})
    }
    assert len(tickets) == 1
    subprocess.run(["evenly", "wait", *map(str.strip, tickets)], env=kitchen.environment, check=True)
    (kept,) = kitchen.directory.glob("n*.data/results/backup/*/shop.sql.gz")
    assert subprocess.check_output(["zcat", str(kept)]) == b"a dump of shop\n"


def no_step_twice(kitchen: Kitchen, place: Path) -> None:
    assert (kitchen.directory / "steps").read_text().split() == ["0", "1", "2", "2", "3", "4", "5"]


PREPARED: dict[str, Callable[[Path], None]] = {
    "Images": two_images,
    "Video": three_films,
    "CI": sources,
}
CHECKED: dict[str, Callable[[Kitchen, Path], None]] = {
    "Images": images_are_small,
    "Video": films_are_whole,
    "cron": one_backup,
    "Long jobs": no_step_twice,
}


@pytest.mark.parametrize("title", RECIPES)
def test_it_does_what_it_says(kitchen: Kitchen, tmp_path: Path, title: str) -> None:
    blocks = RECIPES[title]
    place = kitchen.modules if title == "A Python program" else tmp_path
    PREPARED.get(title, lambda _: None)(place)
    meanings = Meanings({"8000": str(free_port())})
    with Shell(place, kitchen.environment) as shell:
        said = ""
        for block in blocks:
            if block.name:
                (place / block.name).write_text(meanings.of(block.text))
            elif block.kind == "sh":
                assert not said, f"the page does not show: {said}"
                said = shell.run(meanings.of(block.text))
            elif block.kind == "text":
                wrong = meanings.compare(tuple(block.text.splitlines()), said)
                assert not wrong, f"{said}--- the page shows: {wrong}"
                said = ""
    assert not said, f"the page does not show: {said}"
    CHECKED.get(title, lambda *_: None)(kitchen, place)


def test_all_of_it_is_seen() -> None:
    titles = re.findall(r"^\[.*$\n\[.*$", PAGE, re.MULTILINE)[0]
    assert re.findall(r"\[([^]]+)\]\(#", titles) == list(RECIPES)
    assert sum(map(len, RECIPES.values())) == PAGE.count("\n```") // 2
    assert shutil.which("bash")
