"""What a user gives, and what of it may enter a line."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evenly.client import AsyncClient, EvenlyError, Job, Refused
from evenly.client.lines import ticket_of

from .fake_node import FakeNode

GOOD = "A" * 16


@pytest.mark.parametrize("given", [GOOD, f" {GOOD.lower()}\n", Job(GOOD, "n:9000")])
def test_tickets(given: Job | str) -> None:
    assert ticket_of(given) == GOOD


@pytest.mark.parametrize(
    "given", [f"{GOOD}\ncancel {GOOD}", "A\udc80" + "A" * 14, "", "A" * 15, "é" * 16, 5, None, [GOOD]]
)
async def test_what_is_no_ticket_is_never_sent(node: FakeNode, given: Any) -> None:
    async with AsyncClient(node.address) as client:
        for job in (given, Job(given, node.address)):
            asked: list[Any] = [
                client.wait(job) if isinstance(job, Job | str) else client.result(job),
                client.result(job),
                client.status(job),
                client.cancel(job),
                client.files(job),
                client.explain(job),
                client.partial(job),
                client.fetch(job, "."),
                client.submit("true", after=[job]),
                anext(client.tail(job)),
                anext(client.jobs(job)),
                anext(client.results([job])),
                anext(client.as_completed([job])),
            ]
            for said in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(said, Refused), said
                assert "a ticket is 16 letters and digits, not" in str(said)
                assert "\n" not in str(said)
    assert [line for line in node.lines if line != "json"] == []


@pytest.mark.parametrize("text", ["a\nexit", "a\rb", "a\udc80", "a\0", "a\nb c"])
async def test_filters_of_a_list_stay_on_their_line(node: FakeNode, text: str) -> None:
    async with AsyncClient(node.address) as client:
        for name in ("state", "outcome", "tag", "name"):
            with pytest.raises(Refused, match="line end"):
                await client.list(**{name: text})  # type: ignore[arg-type]
    assert node.lines == []


@pytest.mark.parametrize("since", [0, -1, float("nan"), float("inf"), True, "1\nexit"])
async def test_since_is_more_than_nothing(node: FakeNode, since: Any) -> None:
    async with AsyncClient(node.address) as client:
        with pytest.raises(Refused, match="since is seconds, more than 0"):
            await client.list(since=since)
        assert await client.list(since=0.5) == []
    assert node.lines == ["json", "list --since 0.5 --limit 100"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"run": ["ls"]}, r"run is a command line .*: not list \['ls'\]"),
        ({"run": 5}, "run is .*: not int 5"),
        ({"run": "a\udc80"}, "run cannot hold"),
        ({"sleep": 1.5}, "sleep is whole milliseconds, as 1500: not float 1.5"),
        ({"sleep": True}, "sleep is .*: not bool True"),
        ({"task": b"a"}, "task is the name of a task"),
        ({"task": "a\udc80"}, "task cannot hold"),
        ({"task": "a", "payload": [1]}, r"payload is an object, .*: not list \[1\]"),
    ],
)
async def test_what_is_no_job_is_refused_before_it_is_sent(
    node: FakeNode, given: dict[str, Any], said: str
) -> None:
    async with AsyncClient(node.address) as client:
        with pytest.raises(Refused, match=said):
            await client.submit(**given)
        (answer,) = [job async for job in client.try_submit_many([given])]
        assert isinstance(answer, Refused)
    assert node.lines == []


async def test_a_submission_of_another_kind(node: FakeNode) -> None:
    async with AsyncClient(node.address) as client:
        for given in (["ls"], 5, None, {}, {"rum": "ls"}, {"run": "ls", "sleep": 1}):
            with pytest.raises(EvenlyError, match=r"a job (is a command line, or an object|has one of run)"):
                _ = [job async for job in client.submit_many([given])]  # type: ignore[list-item]
    assert node.lines == []
