"""Sends notices: the result of a job, as `result` gives it in JSON, signed, to the address in `--notify`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from clusternode.core.events import Event, Posted
from clusternode.listing import view_of
from clusternode.posting import Answered, Posting
from clusternode.store.sqlite import SqliteStore, TicketRow
from protocol.arrays import size_of
from protocol.errors import ProtocolError
from protocol.job import Sleep
from protocol.limits import ARRAY_PAGE, NOTICE_TIMEOUT
from protocol.replies import ArrayView, JobView, ResultOf, render_json
from runtime.failpoints import reach


class Notifier:
    def __init__(
        self,
        secret: str,
        store: SqliteStore,
        submit: Callable[[Event], None],
        background: Callable[[Awaitable[None]], object],
    ) -> None:
        """`secret`: what notices are signed with; empty for no signature."""
        self._secret = secret.encode()
        self._store = store
        self._submit = submit
        self._background = background
        self._closed = False

    def post(self, seq: int) -> None:
        """`Posted` follows, unless the node stops before that."""
        if not self._closed:
            self._background(self._post(seq))

    def close(self) -> None:
        """No more of them; those under way are tried again after the next start."""
        self._closed = True

    async def _post(self, seq: int) -> None:
        row = await self._store.at(seq)
        assert row is not None, "notices are of tickets in the store"
        try:
            view = await self._view(row)
        except ProtocolError as error:
            why = f"its result cannot be read: {error.reason}"
            self._submit(Posted(seq, row.ticket, None, why, is_hopeless=True))
            return
        assert not isinstance(view.spec, Sleep), "a sleep has no options"
        headers, body = notice(view, self._secret, int(time.time()))
        answered = await self._answer_to(Posting(view.spec.extras.notify, headers, body, NOTICE_TIMEOUT))
        reach("notice.sent")
        self._submit(Posted(seq, row.ticket, *answered))

    async def _view(self, row: TicketRow) -> JobView:
        """Raises ProtocolError if the stored bytes are damaged or of another version."""
        if row.ended is None:
            raise ProtocolError("it has not ended")
        view = view_of(row)
        size = size_of(view.spec)
        if not size:
            return view
        counts, jobs = await self._store.array(row.seq, size, 0, ARRAY_PAGE)
        return replace(view, array=ArrayView(size, counts, jobs))

    async def _answer_to(self, posting: Posting) -> Answered:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answered] = loop.create_future()

        def done(answered: Answered) -> None:
            if not future.done():
                future.set_result(answered)

        def done_in_thread(answered: Answered) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone, and the node with it
                loop.call_soon_threadsafe(done, answered)

        posting.start(done_in_thread)
        timer = loop.call_later(NOTICE_TIMEOUT, posting.abort)
        try:
            return await future
        finally:
            timer.cancel()
            posting.abort()


def notice(view: JobView, secret: bytes, at: int) -> tuple[dict[str, str], bytes]:
    """(headers, body) of the notice of this job's end, as sent at that time (seconds since the epoch)."""
    body = render_json(ResultOf(view)).rstrip(b"\n")
    headers = {
        "Content-Type": "application/json",
        "Evenly-Ticket": view.ticket,
        # A job ends once: however often that is told, and after whatever restart, it is the same delivery.
        "Evenly-Delivery": f"{view.ticket}-done",
        "Evenly-Timestamp": str(at),
    }
    if secret:
        signature = hmac.new(secret, b"%d.%s" % (at, body), hashlib.sha256).hexdigest()
        headers["Evenly-Signature"] = f"sha256={signature}"
    return headers, body
