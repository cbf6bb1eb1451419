"""Commands and options that pages speak of are there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from clusternode.__main__ import SETTINGS as NODE
from evenly.cli.app import COMMANDS, evenly
from loadbalancer.__main__ import SETTINGS as BALANCER
from protocol.options import OPTIONS

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: A command with what follows it, up to what it runs, or what follows it in the shell.
CALL = re.compile(r"(?<!from )\bevenly (?P<name>[a-z]+)\b(?P<rest>(?:(?! --(?: |$)|[|;>&]).)*)")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")


def options_of(name: str) -> set[str]:
    command = evenly.get_command(click.Context(evenly), name)
    assert command is not None, f"there is no evenly {name}"
    return {word for each in command.params for word in each.opts} | {"--help"}


def code(text: str) -> list[str]:
    """Spans and lines of code, each on one line."""
    spans = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    fenced = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    return spans + lines + re.findall(r"^ {4}\$ (.*)", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_are_there(page: Path) -> None:
    for text in code(page.read_text("utf-8")):
        for call in CALL.finditer(text):
            assert call["name"] in COMMANDS, text
            assert set(OPTION.findall(call["rest"])) <= options_of(call["name"]), text


def test_what_others_call_otherwise_is_there() -> None:
    """The right column of coming-from.md speaks of our options alone."""
    known = {f"--{name}" for name in OPTIONS} | {setting.option for setting in (*NODE, *BALANCER)}
    known |= {option for name in COMMANDS for option in options_of(name)}
    rows = re.findall(
        r"^\| .*(?<!\\)\| (.*) \|$", (ROOT / "docs/coming-from.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) > 40
    for row in rows:
        for span in re.findall(r"`([^`]+)`", row):
            assert set(OPTION.findall(span)) <= known, row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert not target or target.startswith("http") or (page.parent / target).exists(), target
