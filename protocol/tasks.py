"""Named tasks as data: what a payload may be, and whether it fits a function's signature.

A worker reads signatures from functions, its node checks payloads against them: neither has the other's code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocol.limits import JSON_DEPTH_LIMIT

#: What an annotation may ask for, and what JSON gives for it. A whole number will do for a float.
KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
    "null": (type(None),),
}
#: Names in one line of reply, and characters of each.
NAMES_SHOWN, NAME_SHOWN = 20, 40


class BadPayload(ValueError):
    """What is wrong with a JSON text, in words that follow the name of it."""


def read_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`.

    Raises:
        BadPayload: where it is none, or nested deeper than JSON_DEPTH_LIMIT.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise BadPayload(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise BadPayload(f"is no JSON: {error.msg.lower()} at character {error.pos + 1}") from None
    except ValueError:  # NaN and the like, and whole numbers of thousands of digits
        raise BadPayload("has a number that is none to JSON, or too large") from None
    if type(value) is not dict:
        raise BadPayload(f"is no object but {_kind(value)}")
    if depth_of(value) > JSON_DEPTH_LIMIT:
        raise BadPayload(_TOO_DEEP)
    return value


_TOO_DEEP = f"is nested deeper than {JSON_DEPTH_LIMIT} levels"


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def depth_of(value: Any) -> int:
    """Objects and arrays within one another, the outermost counted; level by level, as it may be deep."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > JSON_DEPTH_LIMIT:
            break
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def is_no_json_or_deep(text: str) -> bool:
    """Whether no reply can hold it: it is no JSON, or nested deeper than JSON_DEPTH_LIMIT."""
    try:
        return depth_of(json.loads(text)) > JSON_DEPTH_LIMIT
    except (ValueError, RecursionError):
        return True


@dataclass(frozen=True, slots=True)
class Parameter:
    """`kinds`: names of KINDS, one of which it must be; none where anything will do."""

    name: str
    kinds: tuple[str, ...] = ()
    is_required: bool = True

    def __str__(self) -> str:
        said = [" or ".join(self.kinds)] if self.kinds else []
        said += [] if self.is_required else ["optional"]
        return f"{self.name} ({', '.join(said)})" if said else self.name

    def takes(self, value: Any) -> bool:
        return not self.kinds or any(type(value) in KINDS[kind] for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a task takes by name. `is_open`: any other name as well."""

    parameters: tuple[Parameter, ...] = ()
    is_open: bool = False

    def __str__(self) -> str:
        said = [str(parameter) for parameter in self.parameters] + ["any other name"] * self.is_open
        return f"it takes {', '.join(said)}" if said else "it takes nothing"

    def pack(self) -> tuple[Any, ...]:
        """Of tuples, texts and booleans alone."""
        return tuple((each.name, each.kinds, each.is_required) for each in self.parameters), self.is_open

    def fault(self, payload: Mapping[str, Any]) -> str | None:
        """What is wrong with these arguments; None where they fit."""
        for parameter in self.parameters:
            if parameter.name not in payload:
                if parameter.is_required:
                    return f'"{parameter.name}" is missing'
            elif not parameter.takes(payload[parameter.name]):
                wanted = " or ".join(parameter.kinds)
                return f'"{parameter.name}" must be {wanted}, not {_kind(payload[parameter.name])}'
        names = {parameter.name for parameter in self.parameters}
        unknown = [] if self.is_open else [name for name in payload if name not in names]
        return f"there is no {json.dumps(unknown[0][:NAME_SHOWN])}" if unknown else None


def unpack_signature(packed: tuple[Any, ...]) -> Signature:
    parameters, is_open = packed
    return Signature(tuple(Parameter(*each) for each in parameters), is_open)


def fault_of(tasks: Mapping[str, Signature], name: str, payload: str) -> str | None:
    """Why these tasks cannot do that, in one line for the client; None where they can."""
    signature = tasks.get(name)
    if signature is None:
        shown = ", ".join(sorted(tasks)[:NAMES_SHOWN]) or "none"
        more = f" and {len(tasks) - NAMES_SHOWN} more" if len(tasks) > NAMES_SHOWN else ""
        return f"There is no task {name[:NAME_SHOWN]!r} on this node: there are {shown}{more}."
    fault = signature.fault(read_object(payload))
    return None if fault is None else f"task {name}: {fault}; {signature}."


def _kind(value: Any) -> str:
    for kind, types in KINDS.items():
        if type(value) in types:
            return kind
    return type(value).__name__
