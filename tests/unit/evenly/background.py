"""A fake node in a thread of its own, for what blocks; it runs the task `call` itself, as a worker would."""

from __future__ import annotations

import asyncio
import base64
import pickle
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from evenly.builtin import RAISED, call

from .fake_node import FakeCluster, FakeNode

T = TypeVar("T")


class Caller(FakeNode):
    """Runs the task `call` itself, as a worker would."""

    def _submit(self, job: dict[str, Any]) -> dict[str, Any]:
        reply = super()._submit(job | {"run": "hold" if job.get("task") == "call" else job.get("run", "")})
        if job.get("task") == "call" and job["payload"]["name"] != "pause":
            try:
                self.finish(reply["ticket"], value=call(**job["payload"]))
            except BaseException as error:
                self.finish(reply["ticket"], exit_code=1, stderr=_told(error), reason=str(error))
        return reply


def _told(error: BaseException) -> str:
    try:
        return f"noise\n{RAISED}{base64.b64encode(pickle.dumps(error)).decode()}\nTraceback: {error}\n"
    except Exception:
        return f"Traceback: {error}\n"


class Background:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.cluster = self.do(self._make())
        (self.node,) = self.do(self._start())

    async def _make(self) -> FakeCluster:
        return FakeCluster()

    async def _start(self) -> list[FakeNode]:
        node = Caller(self.cluster, "n1")
        self.cluster.nodes.append(node)
        await node.start()
        return [node]

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        async def run() -> T:
            return function(*args, **kwargs)

        result: T = self.do(run())
        return result

    def end(self) -> None:
        self.do(self.cluster.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
