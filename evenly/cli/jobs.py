"""The options of a job on the command line: those that nodes know, from the same table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from evenly.cli.app import Text, is_utf8
from evenly.client.addresses import addresses, split
from evenly.client.errors import EvenlyError
from protocol.fields import is_inside
from protocol.options import OPTIONS, Option

Command = TypeVar("Command", bound=Callable[..., Any])


def job_options(command: Command) -> Command:
    """All of them, and `--upload`; the command has them in its keyword arguments (`job_of` takes them)."""
    command = click.option(
        "--upload",
        multiple=True,
        metavar="[NAME=]FILE",
        help="Upload a file from here; find it under its name, or NAME; may come more than once.",
    )(command)
    for option in reversed(OPTIONS.values()):
        command = _option(option)(command)
    return command


def _option(option: Option) -> Callable[[Command], Command]:
    text = f"{option.help[0].upper()}{option.help[1:]}."
    if option.is_flag:
        return click.option(f"--{option.name}", is_flag=True, help=text)
    metavar = option.form.partition(" ")[2]
    return click.option(f"--{option.name}", type=Text(), multiple=option.is_many, metavar=metavar, help=text)


def job_of(given: Mapping[str, Any], nodes: str | None) -> dict[str, Any]:
    """The options of a submission to these nodes, as the client takes them.

    Where all of them are on this machine a command runs in the directory where we are, as if run here;
    unless it brings its files along, or `--cwd ''` says that it is to have an empty one.

    Raises:
        click.UsageError: for a value that no node would take, before any is asked.
    """
    options: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        key = name.replace("-", "_")
        value = given.get(key)
        if not value and value != "":
            continue
        if name == "cwd":
            if not value:
                continue
            value = value if os.path.isabs(value) else os.path.join(here(), value)
            value = os.path.normpath(value)
        options[key] = _checked(option, value)
    files = dict(options.pop("file", {})) | _uploads(given.get("upload") or ())
    if files:
        options["file"] = files
    elif given.get("cwd") is None and not given.get("task") and are_here(nodes):
        options["cwd"] = here()
    if "env" in options:
        options["env"] = dict(options["env"])
    if "after" in options:
        options["after"] = list(options["after"])
    return options


def here() -> str:
    """The directory where we are, for a job to run in. Raises click.UsageError."""
    try:
        directory = os.getcwd()
    except FileNotFoundError:
        raise click.UsageError("This directory has been removed: --cwd DIRECTORY names another.") from None
    if not is_utf8(directory):
        raise click.UsageError("The name of this directory is not UTF-8: --cwd DIRECTORY names another.")
    return directory


def are_here(nodes: str | None) -> bool:
    """Whether all of these nodes are reached by way of this machine's loopback."""
    try:
        hosts = [split(each)[0] for each in addresses(nodes)]
    except EvenlyError:
        return False  # that is said where they are asked
    return all(host in ("localhost", "::1") or host.startswith("127.") for host in hosts)


def _checked(option: Option, value: Any) -> Any:
    try:
        if option.is_many:
            return [each for word in value for each in option.read(word)]
        return option.read(value)
    except ValueError:
        shown = " ".join(value) if isinstance(value, tuple) else value
        raise click.UsageError(f"--{option.name} takes {option.allowed}: not {str(shown)[:40]!r}.") from None


def _uploads(words: tuple[str, ...]) -> dict[str, Path]:
    files = {}
    for word in words:
        name, equals, path = word.partition("=")
        # A file whose name has a = in it, and that is there, is meant as it is.
        if not equals or os.path.exists(word):
            name, path = os.path.basename(word), word
        if os.path.isdir(path):
            raise click.UsageError(f"--upload: {path!r} is a directory; --upload takes files.")
        if not os.path.isfile(path):
            raise click.UsageError(f"--upload takes a file that is here: {path!r} is none.")
        if not is_utf8(name):
            raise click.UsageError(f"--upload: the name {name!r} is not UTF-8: NAME=FILE gives another.")
        if not is_inside(name):
            raise click.UsageError(
                f"--upload NAME=FILE takes a relative path without . and .. as NAME: not {name!r}."
            )
        if name in files:
            raise click.UsageError(f"--upload has two files for the name {name!r}: NAME=FILE gives another.")
        files[name] = Path(path)
    return files
