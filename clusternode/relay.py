"""What this node asks of other nodes, by way of the load balancer, and what it answers them.

A question is for whoever runs a job ("executor"), for whoever gave its ticket ("origin"), or for a node. What
is for this node itself takes no way at all, and works while the load balancer is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack

from protocol.limits import RELAY_LIMIT
from protocol.messages import OK
from protocol.relay import AWAY, NO_ROOM, Ask, Told
from runtime.errors import one_line

log = logging.getLogger("clusternode")

#: Seconds until a question without an answer is given up: longer than any answer is held back.
PATIENCE = 30.0
#: Questions of other nodes that are answered at once; the next ones wait. Those whose answer may be held back
#: are counted by themselves.
SERVED_AT_ONCE, HELD_AT_ONCE = 64, 2000
#: Seconds between two looks whether there is room on the link for an answer.
ROOM_LOOK = 0.005
REFUSED, FAULT = 400, 500
LINK_ENDED = Told(0, "", AWAY, b"the link to the ReverseProxy ended")


class Refused(Exception):
    """A question has no answer: `status` as in the protocol, and a reason in words.

    `is_told`: the load balancer or another node says so; else nobody could be asked.
    """

    def __init__(self, status: int, reason: str, is_told: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.is_told = is_told


#: (who asks, what the question says) -> what the answer says; both what MessagePack can say. It raises
#: Refused, also for what is wrong in the question.
Handler = Callable[[str, Any], Awaitable[Any]]


class Relay:
    def __init__(
        self,
        node_id: str,
        send: Callable[[Ask | Told], bool],
        is_mine: Callable[[str, str], bool],
        start: Callable[[Awaitable[None]], object],
        has_room: Callable[[], bool],
    ) -> None:
        """`send` is false while there is no load balancer; `is_mine(whom, name)`: that is this node; `start`
        runs a coroutine in the background; `has_room`: what was sent before has gone."""
        self._has_room = has_room
        self._node_id = node_id
        self._send = send
        self._is_mine = is_mine
        self._start = start
        self._handlers: dict[str, tuple[Handler, asyncio.Semaphore]] = {}
        self._asked: dict[int, asyncio.Future[Told]] = {}
        self._next_number = 1
        self._prompt = asyncio.Semaphore(SERVED_AT_ONCE)
        self._patient = asyncio.Semaphore(HELD_AT_ONCE)

    def serve(self, what: str, handler: Handler, is_patient: bool = False) -> None:
        """From here on such questions are answered so; `is_patient`: the answer may be held back."""
        self._handlers[what] = handler, self._patient if is_patient else self._prompt

    async def ask(self, whom: str, name: str, what: str, value: Any) -> Any:
        """The answer.

        Raises:
            Refused: where there is none; AWAY: now, there may be one later.
        """
        if self._is_mine(whom, name):
            return await self._handlers[what][0](self._node_id, value)
        body = bytes(msgpack.packb(value))
        if len(body) > RELAY_LIMIT:
            raise Refused(FAULT, f"the question is over {RELAY_LIMIT} bytes")
        number, self._next_number = self._next_number, self._next_number + 1
        answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            if not self._send(Ask(number, whom, name, what, body)):
                raise Refused(AWAY, "the ReverseProxy is away")
            told = await asyncio.wait_for(answer, PATIENCE)
        except TimeoutError:
            raise Refused(AWAY, f"no answer within {PATIENCE:g} s") from None
        finally:
            del self._asked[number]
        if told.status != OK:
            raise Refused(told.status, told.body.decode("utf-8", "replace"), told is not LINK_ENDED)
        return unpacked(told.body)

    def received(self, message: Ask | Told) -> None:
        if isinstance(message, Ask):
            self._start(self._answer(message))
            return
        answer = self._asked.get(message.number)
        if answer is not None and not answer.done():
            answer.set_result(message)

    def link_down(self) -> None:
        """Nothing that was asked will be answered."""
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(LINK_ENDED)

    async def _answer(self, ask: Ask) -> None:
        known = self._handlers.get(ask.what)
        if known is None:
            reason = f"this node does not know what {ask.what[:40]!r} is"
            self._send(Told(ask.number, ask.name, REFUSED, reason.encode()))
            return
        handler, at_once = known
        async with at_once:
            told = await self._told(ask, handler)
            while not self._has_room():  # noqa: ASYNC110, nobody tells when the kernel takes bytes
                await asyncio.sleep(ROOM_LOOK)
            self._send(told)

    async def _told(self, ask: Ask, handler: Handler) -> Told:
        try:
            status, body = OK, bytes(msgpack.packb(await handler(ask.name, unpacked(ask.body))))
            if len(body) > RELAY_LIMIT:
                raise Refused(FAULT, f"the answer is over {RELAY_LIMIT} bytes")
        except Refused as refused:
            status, body = refused.status, refused.reason.encode()
        except OSError as error:
            status, body = NO_ROOM, (error.strerror or str(error)).encode()
        except Exception as error:  # of a question that another program asked wrongly
            log.warning("what another node asked (%s) has no answer: %s", ask.what, one_line(error))
            status, body = FAULT, b"a fault of its own"
        return Told(ask.number, ask.name, status, body)


def unpacked(body: bytes) -> Any:
    """Raises Refused where it is no MessagePack."""
    try:
        return msgpack.unpackb(body, use_list=False)
    except (ValueError, msgpack.UnpackException):
        raise Refused(REFUSED, "what another node said is no MessagePack") from None
