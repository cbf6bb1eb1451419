"""What a notice says, and how it is signed."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusternode.core.events import Done, Event, Posted, Submitted
from clusternode.notifier import Notifier, notice
from clusternode.store.sqlite import SqliteStore
from protocol.job import Command, Ended, Extras, JobState, Outcome, Report
from protocol.replies import JobView, ResultOf, render_json

TICKET = "T000000000000001"
SPEC = Command("echo ü", extras=Extras(notify="http://127.0.0.1:1/"))
VIEW = JobView(
    TICKET,
    SPEC,
    1.0,
    JobState.DONE,
    1,
    "n",
    2.0,
    Outcome.SUCCEEDED,
    Report("n", 2.0, 3.0, 0, "ü\n".encode(), b"", 3, 0),
)


def test_its_body_is_the_line_of_result_in_json() -> None:
    _, body = notice(VIEW, b"", 7)
    assert body + b"\n" == render_json(ResultOf(VIEW))
    assert json.loads(body)["stdout"] == "ü\n"


def test_without_a_secret_there_is_no_signature() -> None:
    headers, _ = notice(VIEW, b"", 7)
    assert headers == {
        "Content-Type": "application/json",
        "Evenly-Ticket": TICKET,
        "Evenly-Delivery": f"{TICKET}-done",
        "Evenly-Timestamp": "7",
    }


def test_with_a_secret_time_and_body_are_signed_and_the_delivery_stays_the_same() -> None:
    first, body = notice(VIEW, b"secret", 7)
    later, same = notice(VIEW, b"secret", 8)
    assert same == body
    for headers, at in ((first, "7"), (later, "8")):
        signature = hmac.new(b"secret", f"{at}.".encode() + body, hashlib.sha256).hexdigest()
        assert headers["Evenly-Signature"] == f"sha256={signature}"
        assert headers["Evenly-Delivery"] == f"{TICKET}-done"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path)
    yield opened
    await opened.close()


async def posted(store: SqliteStore, seq: int) -> Posted:
    events: list[Event] = []
    tasks: list[asyncio.Future[None]] = []
    notifier = Notifier("", store, events.append, lambda work: tasks.append(asyncio.ensure_future(work)))
    notifier.post(seq)
    await asyncio.gather(*tasks)
    (event,) = events
    assert isinstance(event, Posted)
    return event


@pytest.mark.parametrize("report", [b"", b"of another version"])
async def test_a_result_that_cannot_be_read_is_told_to_nobody(store: SqliteStore, report: bytes) -> None:
    ended = Ended(TICKET, 1, "failed", report)
    await store.commit([Submitted(1, TICKET, 5.0, SPEC.pack()), Done(1, ended)])
    event = await posted(store, 1)
    assert event.is_hopeless
    assert event.why.startswith("its result cannot be read: a report ")


async def test_after_the_end_of_the_node_nothing_is_sent(store: SqliteStore) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    notifier = Notifier("", store, fail, fail)
    notifier.close()
    notifier.post(1)
