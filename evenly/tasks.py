"""Named tasks: Python functions that nodes run by name.

    from evenly import progress, task

    @task
    def thumbnails(images: list[str], size: int = 128) -> int:
        for done, image in enumerate(images):
            progress(done / len(images), image)
            ...
        return len(images)

A node that was started with `--tasks MODULE` then takes `task thumbnails {"images": ["/a.png"]}`. Functions
take their arguments by name, may be `async`, and return what JSON can say.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar, overload

from protocol.fields import is_name
from protocol.limits import JSON_DEPTH_LIMIT, NAME_LIMIT, PARTIAL_LIMIT
from protocol.tasks import KINDS, Parameter, Signature, is_no_json_or_deep

Function = TypeVar("Function", bound=Callable[..., Any])

#: Characters of the words of `progress` that are kept.
PROGRESS_TEXT = 200

#: All tasks of this process, by name.
registry: dict[str, Callable[..., Any]] = {}

_KIND_OF: dict[Any, str] = {types_[0]: kind for kind, types_ in KINDS.items()}
_latest: tuple[float, str] | None = None


@overload
def task(function: Function, /) -> Function: ...


@overload
def task(name: str, /) -> Callable[[Function], Function]: ...


def task(what: Any, /) -> Any:
    """Registers a function under its own name (`@task`) or another (`@task("name")`); it stays as it is.

    Raises:
        ValueError: if the name is taken, or is none.
        TypeError: if the function takes an argument that has no name.
    """
    if isinstance(what, str):
        return lambda function: _register(what, function)
    return _register(getattr(what, "__name__", ""), what)


def progress(part: float, text: str = "") -> None:
    """Says how far the task is: a part of 1, and words. It costs next to nothing; the last word counts.

    Raises:
        ValueError: if `part` is not from 0 to 1.
    """
    global _latest
    if not 0 <= part <= 1:
        raise ValueError(f"progress is a part of 1, from 0 to 1: not {part!r}")
    _latest = float(part), str(text)[:PROGRESS_TEXT].encode("utf-8", "replace").decode()


def partial(value: Any) -> None:
    """Hands out a part of the result: kept as it comes, and read by `partial TICKET` before the end.

    `value` is what JSON can say, at most 64 KiB of it. It returns at once.

    Raises:
        TypeError, ValueError: where JSON cannot say it, or it is too large.
        RuntimeError: outside a task.
    """
    text = ""  # of what is deeper than Python can say: no JSON
    with contextlib.suppress(RecursionError):
        text = json.dumps(value, allow_nan=False)
    if is_no_json_or_deep(text):
        raise ValueError(f"a partial result is nested at most {JSON_DEPTH_LIMIT} levels deep")
    if len(text) > PARTIAL_LIMIT:
        raise ValueError(f"a partial result is at most {PARTIAL_LIMIT} characters of JSON, not {len(text)}")
    if hand_out is None:
        raise RuntimeError("there is no task here whose partial result this could be")
    hand_out(text)


#: Takes partial results on their way, in a worker.
hand_out: Callable[[str], None] | None = None


def take_progress() -> tuple[float, str] | None:
    """What was said since this was asked last."""
    global _latest
    latest, _latest = _latest, None
    return latest


def signature_of(function: Callable[..., Any]) -> Signature:
    """What it takes, as data.

    Raises:
        TypeError: if it takes an argument that has no name.
    """
    parameters, is_open = [], False
    hints = _hints(function)
    for each in inspect.signature(function).parameters.values():
        if each.kind is each.POSITIONAL_ONLY:
            raise TypeError(f"a task takes its arguments by name, and {each.name!r} has none for its callers")
        if each.kind is each.VAR_KEYWORD:
            is_open = True
        elif each.kind is not each.VAR_POSITIONAL:
            is_required = each.default is each.empty
            parameters.append(Parameter(each.name, _kinds(hints.get(each.name, Any)), is_required))
    return Signature(tuple(parameters), is_open)


def _register(name: str, function: Any) -> Any:
    if not is_name(name):
        raise ValueError(
            f"a task's name is 1 to {NAME_LIMIT} printable characters without spaces: not {name!r}"
        )
    known = registry.get(name)
    if known is not None and _place(known) != _place(function):
        raise ValueError(
            f"there are two tasks {name!r}: in {' and '.join((_place(known), _place(function)))}"
        )
    signature_of(function)
    registry[name] = function
    return function


def _place(function: Any) -> str:
    """The same for a function whose module is loaded again."""
    return f"{function.__module__}.{function.__qualname__}"


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation may be any expression; what cannot be read asks for nothing
        return {}


def _kinds(hint: Any) -> tuple[str, ...]:
    """The kinds that an annotation allows; none where it says nothing that JSON knows."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [_kinds(each) for each in typing.get_args(hint)]
        return tuple(dict.fromkeys(kind for each in kinds for kind in each)) if all(kinds) else ()
    kind = _KIND_OF.get(hint if origin is None else origin)
    return () if kind is None else (kind,)
