"""Which clients want to hear of the ends of which jobs: by tag, or of all."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.dialogue import ALL
from protocol.limits import SUBSCRIPTIONS_LIMIT


class Subscriptions:
    def __init__(self) -> None:
        self._clients: dict[str, dict[int, None]] = {}
        self._tags: dict[int, set[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._tags)

    def add(self, client: int, tag: str) -> bool:
        """False where that would be one too many."""
        tags = self._tags.setdefault(client, set())
        if len(tags) >= SUBSCRIPTIONS_LIMIT and tag not in tags:
            return False
        tags.add(tag)
        self._clients.setdefault(tag, {})[client] = None
        return True

    def leave(self, client: int) -> None:
        """It wants to hear no more, or is gone."""
        for tag in self._tags.pop(client, ()):
            clients = self._clients[tag]
            del clients[client]
            if not clients:
                del self._clients[tag]

    def of(self, tag: str) -> Sequence[int]:
        """Who wants to hear of a job with this tag, each once."""
        return tuple({**self._clients.get(ALL, {}), **self._clients.get(tag, {})})
