"""Command lines with `{}` in them: the replacements of GNU parallel, quoted as the shell needs it there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import TypeAlias

from evenly.client.shell import Place, Writer, as_command, writers

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
    directory, `{#}` the number. Where none of the item is asked for, it stands at the end. It is one word, or
    a part of the quotes around it, whatever is in it.

    Raises:
        EvenlyError: where nothing can be quoted, as in backquotes; the function, for an item that is no whole
            number in `$(( ))`.
    """
    marks = list(_PLACE.finditer(template))
    places = [Place(mark.start(), mark.end(), mark[1] == "#") for mark in marks]
    if all(place.is_number for place in places):
        places.append(Place(len(template), len(template)))
    parts: list[_Part] = [""]
    at = 0
    for place, mark, write in zip(places, [*marks, None], writers(template, places), strict=False):
        if write is None:
            continue
        text = template[at : place.start]
        parts += [text if mark else f"{text} ", (_READ[mark[1] if mark else None], write)]
        at = place.end
    return _filler([*parts, template[at:]])


def compile_words(words: Sequence[str]) -> Callable[[str, int], str]:
    """The same of a command and its arguments, each of which stays one word, as it is; a single one is a
    line for the shell."""
    if len(words) == 1:
        return compile_template(words[0])
    parts: list[_Part] = []
    for word in words:
        texts = _PLACE.split(word)
        quote = shlex.quote if parts else as_command
        quoted = [quote(text) if text or len(texts) == 1 else "" for text in texts[::2]]
        parts.append(f" {quoted[0]}" if parts else quoted[0])
        for place, text in zip(texts[1::2], quoted[1:], strict=True):
            parts += [(_READ[place], quote), text]
    if all(isinstance(part, str) or part[0] is _READ["#"] for part in parts):
        parts += [" ", (_READ[None], shlex.quote)]
    return _filler(parts)


#: Text, or what is read from the item and how it is written.
_Part: TypeAlias = str | tuple[Callable[[str, int], str], Writer]


def _filler(parts: Sequence[_Part]) -> Callable[[str, int], str]:
    def fill(item: str, number: int) -> str:
        return "".join(part if isinstance(part, str) else part[1](part[0](item, number)) for part in parts)

    return fill
