"""A job's output as it comes, over as many connections as it takes."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from evenly.client.errors import ConnectionLost, EvenlyError
from evenly.client.lane import object_of
from evenly.client.model import Chunk
from evenly.client.patience import Patience
from evenly.client.talk import Talk


async def tail(
    ticket: str, open_talk: Callable[[], Awaitable[Talk]], patience: Callable[[], float]
) -> AsyncIterator[Chunk]:
    """Chunks until the job has ended. After a lost connection it goes on where it was.

    Raises:
        NodesUnreachable: if the node stays away for `patience()` seconds.
        UnknownTicket, Refused: with what the node says.
    """
    place = _Place(ticket)
    trying = Patience(patience)
    while True:
        try:
            async with await open_talk() as talk:
                await talk.send(place.question)
                while True:
                    said = object_of(await talk.line(is_patient=True), talk.node)
                    trying.heard()
                    chunk = place.advance(said)
                    if chunk is None:
                        return
                    if chunk.data:
                        yield chunk
        except ConnectionLost as error:
            await trying.lost(error, f"it answers for {ticket}")


class _Place:
    """Up to where the output was read: of which attempt, and how many bytes of each stream."""

    def __init__(self, ticket: str) -> None:
        self._ticket = ticket
        self._attempt: int | None = None
        self._read = {"stdout": 0, "stderr": 0}

    @property
    def question(self) -> bytes:
        if self._attempt is None:
            return f"tail {self._ticket}\n".encode()
        read = self._read
        return f"tail {self._ticket} {self._attempt} {read['stdout']} {read['stderr']}\n".encode()

    def advance(self, said: dict[str, Any]) -> Chunk | None:
        """The chunk without what was read before; None at the end of the job."""
        if "stream" not in said:
            if "state" not in said:
                raise EvenlyError(f"this is no piece of output: {json.dumps(said)[:60]}")
            return None
        stream, at, attempt = said["stream"], int(said["at"]), int(said["attempt"])
        data = base64.b64decode(said["base64"]) if "base64" in said else str(said["text"]).encode()
        if attempt != self._attempt:
            self._attempt, self._read = attempt, {"stdout": 0, "stderr": 0}
        known = self._read[stream]
        if at < known:
            data, at = data[known - at :], known
        self._read[stream] = max(known, at + len(data))
        return Chunk(stream, data, attempt, at)
