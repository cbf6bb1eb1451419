"""Command lines with `{}` in them: the same replacements as GNU parallel, quoted for the shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

_PLACE = re.compile(r"\{(\.|/\.|//|/|#)?\}")


def _without_extension(item: str) -> str:
    folder, slash, name = item.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return folder + slash + (stem if dot and stem else name)


def _name(item: str) -> str:
    return item.rpartition("/")[2]


def _folder(item: str) -> str:
    folder, slash, _ = item.rpartition("/")
    return folder or slash or "."


_READ: dict[str | None, Callable[[str, int], str]] = {
    None: lambda item, number: item,
    ".": lambda item, number: _without_extension(item),
    "/": lambda item, number: _name(item),
    "/.": lambda item, number: _name(_without_extension(item)),
    "//": lambda item, number: _folder(item),
    "#": lambda item, number: str(number),
}


def compile_template(template: str) -> Callable[[str, int], str]:
    """A function of (item, its number from 1 on) that gives the command line.

    `{}` the item, `{.}` without its extension, `{/}` its name without directories, `{/.}` both, `{//}` its
    directory, `{#}` the number. Where none of the item is asked for, it stands at the end.
    """
    # [text, place, text, place, …, text]
    parts = _PLACE.split(template)
    if not any(place != "#" for place in parts[1::2]) or len(parts) == 1:
        parts = [*parts[:-1], f"{parts[-1]} ", None, ""]

    def fill(item: str, number: int) -> str:
        words = [
            shlex.quote(_READ[part](item, number)) if at % 2 else str(part) for at, part in enumerate(parts)
        ]
        return "".join(words)

    return fill
