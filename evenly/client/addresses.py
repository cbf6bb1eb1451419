"""Where nodes are: from an argument, or from EVENLY_NODES."""

from __future__ import annotations

import os
from collections.abc import Iterable

from evenly.client.errors import EvenlyError

VARIABLE = "EVENLY_NODES"
DEFAULT = "127.0.0.1:9000"
DEFAULT_PORT = 9000


def addresses(nodes: str | Iterable[str] | None = None) -> list[str]:
    """`host:port` each, in the order given, each once; a host alone stands for its port 9000.

    Raises:
        EvenlyError: for what is no address.
    """
    if nodes is None:
        nodes = os.environ.get(VARIABLE, "").strip() or DEFAULT
    words = (
        nodes.split(",") if isinstance(nodes, str) else [word for each in nodes for word in each.split(",")]
    )
    found = [_address(word.strip()) for word in words if word.strip()]
    if not found:
        raise EvenlyError(f"no node is named: a list of them is HOST:PORT,HOST:PORT, not {nodes!r}")
    return list(dict.fromkeys(found))


def split(address: str) -> tuple[str, int]:
    """(host, port)."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _address(word: str) -> str:
    host, colon, port = word.rpartition(":")
    if not colon or word.endswith("]"):  # a name alone, or an IPv6 address in brackets
        host, port = word, str(DEFAULT_PORT)
    is_port = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536
    is_host = bool(host) and not any(c.isspace() or c in "/@" for c in host)
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        is_host = False
    if not (is_port and is_host):
        raise EvenlyError(f"{word!r} is no node: one is HOST:PORT, as in {DEFAULT}")
    return f"{host}:{int(port)}"
