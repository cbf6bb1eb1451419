"""Checks of single values in a message: each gives the value, or raises ProtocolError with what is wrong."""

from __future__ import annotations

from typing import Any

from protocol.errors import ProtocolError
from protocol.limits import NAME_LIMIT, PATH_LIMIT


def exactly(payload: Any, kind: str, count: int) -> tuple[Any, ...]:
    if type(payload) is not tuple or len(payload) != count:
        raise ProtocolError(f"the payload of {kind} is not {count} fields")
    return payload


def rows(payload: Any, what: str, limit: int) -> tuple[Any, ...]:
    if type(payload) is not tuple:
        raise ProtocolError(f"{what} are no list")
    if len(payload) > limit:
        raise ProtocolError(f"{len(payload)} {what}: at most {limit} are allowed")
    return payload


def integer(value: Any, what: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"{what} is not an integer from {low} to {high}")
    return value


def number(value: Any, what: str) -> float:
    # The comparison refuses NaN and the infinities too.
    if type(value) not in (int, float) or not 0 <= value < 1e18:
        raise ProtocolError(f"{what} is not a number from 0 up")
    return float(value)


def text(value: Any, what: str, limit: int) -> str:
    if type(value) is not str or len(value) > limit:
        raise ProtocolError(f"{what} is not a text of at most {limit} characters")
    return value


def data(value: Any, what: str, limit: int) -> bytes:
    if type(value) is not bytes or len(value) > limit:
        raise ProtocolError(f"{what} is not at most {limit} bytes")
    return value


def name(value: Any, what: str) -> str:
    if not (isinstance(value, str) and is_name(value)):
        raise ProtocolError(f"{what} is not 1 to {NAME_LIMIT} printable characters without spaces")
    return value


def is_name(value: str) -> bool:
    """Whether `value` can name a node: printable, no white space, at most NAME_LIMIT characters."""
    # Of all white space only this one is printable.
    return 0 < len(value) <= NAME_LIMIT and value.isprintable() and " " not in value


def is_inside(path: object, most: int = PATH_LIMIT) -> bool:
    """Whether `path` names something below a directory: relative, no `.` or `..` in it, printable,
    of at most so many bytes.

    No space at an end either, where a line could not tell it.
    """
    return (
        isinstance(path, str)
        and path.isprintable()
        and 0 < len(path.encode()) <= most
        and path == path.strip()
        and all(part not in ("", ".", "..") for part in path.split("/"))
    )


_HEX = frozenset("0123456789abcdef")


def is_digest(value: object) -> bool:
    """Whether `value` is a SHA-256 in hexadecimal, in small letters."""
    return isinstance(value, str) and len(value) == 64 and _HEX.issuperset(value)
