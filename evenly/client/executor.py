"""`concurrent.futures` on a cluster: calls of importable functions, by the task `call` (evenly/builtin.py).

The function itself stays here: its module and name travel, so the nodes need the module too. Arguments and
what comes back are pickled. Who reads a pickle trusts who wrote it: nodes trust their clients anyway, who
can run any command; and a client of this executor trusts the nodes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import operator
import pickle
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Executor, Future
from threading import Lock
from typing import Any, ParamSpec, TypeVar, Unpack

from evenly.builtin import RAISED
from evenly.client.errors import CallFailed, ClientClosed, EvenlyError
from evenly.client.model import Job, Options, Result
from evenly.client.sync import Client

P = ParamSpec("P")
T = TypeVar("T")

TASK = "call"


class CallFuture(Future[Any]):
    """The value of a call to be. Other than in a pool, `cancel` also ends a call that runs already."""

    def __init__(self, cancel: Callable[[CallFuture], None]) -> None:
        super().__init__()
        self._cancel_job = cancel
        #: The job of this call, once it was submitted.
        self.job: Job | None = None

    def cancel(self) -> bool:
        was_cancelled = self.cancelled()
        if not super().cancel():
            return False
        if not was_cancelled:
            self._cancel_job(self)
        return True


class ClusterExecutor(Executor):
    """Runs calls on the cluster, as a pool of processes would; programs that take an Executor need no change.

    `client`: one to use, else one for `nodes` is made and closed at the shutdown. `options`: of each job, as
    `time=60`, `retries=2`, `tag="nightly"`.

    A function has to be importable on the nodes (not of `__main__`, no lambda). Pickled arguments take 47 KiB
    at most, as they are part of a line, and a value 190 KiB: more belongs into files.
    """

    def __init__(
        self,
        nodes: str | Iterable[str] | None = None,
        *,
        client: Client | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._is_own = client is None
        self._client = Client(nodes) if client is None else client
        self._options = options
        self._lock = Lock()
        self._is_shut = False
        self._open: set[CallFuture] = set()

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Starts a call. The future raises what the function raises; JobFailed's cousin CallFailed where it
        ended in another way, as by a time limit.

        Raises:
            TypeError: for a function that nodes cannot import, and what cannot be pickled.
            RuntimeError: after the shutdown.
            ClientClosed: where the client was closed before it.
        """
        payload = payload_of(function, args, kwargs)
        future = CallFuture(self._cancel)
        if not self._client.thread.is_here:
            self._client.thread.check()  # before the lock, which a fork may have left held
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._client.thread.call_soon(self._start, future, payload)
            self._open.add(future)
        future.add_done_callback(self._open.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls. `wait`: until all have ended. Without it, what is open goes on as long as this
        program lives; its jobs go on in any case, unless `cancel_futures` cancels those too that run."""
        if not self._client.thread.is_here:
            self._is_shut = True  # in a forked process: what is open is the parent's
            return
        with self._lock:
            self._is_shut = True
        left = list(self._open)
        if cancel_futures:
            for future in left:
                future.cancel()
        if wait:
            for future in left:
                with contextlib.suppress(CancelledError):
                    future.exception()
            if self._is_own:
                self._client.close()

    # --- on the loop -------------------------------------------------------------------------------

    def _start(self, future: CallFuture, payload: dict[str, str]) -> None:
        client = self._client.asynchronous
        client.keep(lambda: self._run(future, payload))

    async def _run(self, future: CallFuture, payload: dict[str, str]) -> None:
        client = self._client.asynchronous
        try:
            if future.cancelled():
                fulfil(future)  # who waits for many is told by this alone
                return
            future.job = await client.submit(task=TASK, payload=payload, **self._options)
            if future.cancelled():
                fulfil(future)
                await client.cancel(future.job)
                return
            result = await client.wait(future.job)
        except asyncio.CancelledError:
            fulfil(future, error=ClientClosed("the client was closed before the call had ended"))
            raise
        except Exception as error:
            fulfil(future, error=error if isinstance(error, EvenlyError) else CallFailed(str(error)))
            return
        try:
            value = value_of(result)
        except BaseException as error:  # whatever the function raised, SystemExit too
            fulfil(future, error=error)
        else:
            fulfil(future, value)

    def _cancel(self, future: CallFuture) -> None:
        async def cancel() -> None:
            if future.job is not None:
                await self._client.asynchronous.cancel(future.job)

        def start() -> None:
            self._client.asynchronous.keep(cancel)

        with contextlib.suppress(ClientClosed):
            self._client.thread.call_soon(start)


def fulfil(future: CallFuture, value: Any = None, error: BaseException | None = None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def payload_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, str]:
    """What the task `call` takes. Raises TypeError."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(str(module))
    for part in name.split("."):
        found = getattr(found, part, None)
    if module == "__main__":
        raise TypeError(f"{name} is of the program itself: nodes can import functions of modules alone")
    if found is not function:
        if "<" in name:  # <lambda>, or <locals> of another function
            raise TypeError(f"{module}.{name} has no name by which a node could import it")
        # A partial, a bound method: what holds them is pickled as an argument.
        args, module, name = (function, *args), operator.call.__module__, operator.call.__qualname__
    try:
        data = pickle.dumps((args, kwargs), protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever an object's own code raises
        raise TypeError(f"the arguments of {name} cannot be pickled: {error}") from error
    return {"module": str(module), "name": name, "arguments": base64.b64encode(data).decode()}


def value_of(result: Result) -> Any:
    """What the function returned; raises what it raised."""
    if result.ok:
        return pickle.loads(base64.b64decode(result.value))
    raised = [line for line in result.stderr.splitlines() if line.startswith(RAISED)]
    if result.outcome == "failed" and raised:
        error = None
        try:
            error = pickle.loads(base64.b64decode(raised[-1].removeprefix(RAISED)))
        except Exception:  # its class is not here, or does not unpickle: the words remain
            error = None
        if isinstance(error, BaseException):
            error.add_note(f"on {result.node}:\n{result.stderr.rpartition(raised[-1])[2].strip()}")
            raise error
    raise CallFailed(f"{result.ticket} {result.ending}", result)
