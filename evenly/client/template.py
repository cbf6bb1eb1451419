"""Command lines with `{}` in them: the same replacements as GNU parallel, quoted for the shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

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
    return _filler(_PLACE.split(template))


def compile_words(words: Sequence[str]) -> Callable[[str, int], str]:
    """The same of a command and its arguments, each of which stays one word, as it is; a single one is a
    line for the shell."""
    if len(words) == 1:
        return compile_template(words[0])
    parts: list[str | None] = [""]
    for word in words:
        texts = _PLACE.split(word)
        texts[::2] = [shlex.quote(text) if text or len(texts) == 1 else "" for text in texts[::2]]
        parts[-1] = f"{parts[-1]} {texts[0]}" if parts[-1] or len(parts) > 1 else texts[0]
        parts += texts[1:]
    return _filler(parts)


def _filler(parts: Sequence[str | None]) -> Callable[[str, int], str]:
    """`parts`: text, place, text, place, …, text."""
    if all(place == "#" for place in parts[1::2]):
        parts = [*parts[:-1], f"{parts[-1]} ", None, ""]

    def fill(item: str, number: int) -> str:
        return "".join(
            shlex.quote(_READ[part](item, number)) if at % 2 else str(part) for at, part in enumerate(parts)
        )

    return fill
