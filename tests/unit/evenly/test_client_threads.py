"""The blocking client and the executor, from threads, against a fake node in a thread of its own."""

from __future__ import annotations

import functools
import json
import math
import operator
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import pytest

from evenly.builtin import RAISED, call
from evenly.client import (
    CallFailed,
    Client,
    ClientClosed,
    ClusterExecutor,
    JobTimeout,
    NodesUnreachable,
    Refused,
    Result,
)
from evenly.client.executor import CallFuture, payload_of, value_of

from .background import Background

T = TypeVar("T")


@pytest.fixture
def client(background: Background) -> Iterator[Client]:
    with Client(background.node.address) as client:
        yield client


# --- the client --------------------------------------------------------------------------------------------


def test_it_submits_waits_and_tells(background: Background, client: Client) -> None:
    job = client.submit("true", tag="t")
    assert client.wait(job).stdout == "did true\n"
    assert [result.ticket for result in client.wait([job, job])] == [job.ticket] * 2
    result = client.result(job.ticket)
    assert result is not None
    assert result.ok
    assert client.status(job).is_done
    assert client.cancel(job) == "too late"
    assert [each.ticket for each in client.list(tag="t")] == [job.ticket]
    assert client.nodes() == [{"name": "n1"}]
    assert client.explain(job)["why"] == "it waits"
    assert list(client.tail(job)) == []
    with pytest.raises(Refused):
        client.submit("refuse")
    with pytest.raises(JobTimeout):
        client.wait(client.submit("hold"), timeout=0.01)


def test_many_in_order_and_no_further_ahead_than_the_window(background: Background, client: Client) -> None:
    taken = 0

    def jobs() -> Iterator[str]:
        for number in range(12_000):
            assert number - taken <= 5000
            yield f"true {number}"

    for job in client.submit_many(jobs()):
        assert background.node.jobs[job.ticket]["job"]["run"] == f"true {taken}"
        taken += 1
    assert taken == 12_000
    results = list(client.map("say {}", (str(n) for n in range(3000))))
    assert [result.stdout for result in results] == [f"did say {n}\n" for n in range(3000)]
    assert {result.ticket for result in client.as_completed([each.ticket for each in results])} == {
        each.ticket for each in results
    }


def test_who_stops_reading_leaves_nothing_behind(client: Client) -> None:
    for _ in client.submit_many("true" for _ in range(5000)):
        break
    for _ in client.map("true", range(5000)):
        break
    with pytest.raises(ZeroDivisionError):
        list(client.submit_many("true" if 1 / n else "" for n in (1, 0)))
    assert client.submit("true")


def test_many_threads_use_one_client(client: Client) -> None:
    def work(number: int) -> list[str]:
        jobs = [client.submit(f"say {number} {turn}") for turn in range(20)]
        return [client.wait(job).stdout for job in jobs]

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(work, range(8)))
    assert said == [[f"did say {n} {turn}\n" for turn in range(20)] for n in range(8)]


def test_a_closed_client_says_so_to_all(background: Background) -> None:
    client = Client(background.node.address)
    job = client.submit("hold")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.wait, job)
        while not background.call(lambda: list(background.node.subscribers)):
            pass
        client.close()
        with pytest.raises(ClientClosed):
            waiting.result()
    client.close()
    for ask in (lambda: client.submit("true"), lambda: next(client.submit_many(["true"]))):
        with pytest.raises(ClientClosed):
            ask()


def test_nobody_is_there(background: Background) -> None:
    background.do(background.cluster.stop())
    with Client(background.node.address) as client:
        with pytest.raises(NodesUnreachable):
            client.submit("true")
        with pytest.raises(NodesUnreachable):
            list(client.map("true", "abc"))


# --- the executor ------------------------------------------------------------------------------------------


class Odd(Exception):
    """Does not unpickle: it takes two arguments and gives one on."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a)


def pause() -> None:
    """Never called: the fake leaves it open."""


def raise_odd() -> None:
    raise Odd(1, 2)


@pytest.fixture
def executor(client: Client) -> Iterator[ClusterExecutor]:
    with ClusterExecutor(client=client, tag="calls", retries=1) as executor:
        yield executor


def test_calls_are_as_in_a_pool(background: Background, executor: ClusterExecutor) -> None:
    assert executor.submit(math.factorial, 20).result() == math.factorial(20)
    assert executor.submit(json.dumps, {"a": 1}, indent=2).result() == json.dumps({"a": 1}, indent=2)
    assert list(executor.map(operator.add, range(100), range(100))) == [2 * n for n in range(100)]
    assert executor.submit(functools.partial(math.pow, 2), 5).result() == 32
    assert executor.submit("abc".upper).result() == "ABC"
    assert executor.submit(operator.is_, None, None).result() is True
    job = next(iter(background.node.jobs.values()))["job"]
    assert job.items() >= {"task": "call", "tag": "calls", "retries": 1}.items()
    assert (job["payload"]["module"], job["payload"]["name"]) == ("math", "factorial")


def test_exceptions_come_back(executor: ClusterExecutor) -> None:
    with pytest.raises(ValueError, match="math domain error") as caught:
        executor.submit(math.sqrt, -1).result()
    assert caught.value.__notes__ == ["on n1:\nTraceback: math domain error"]
    with pytest.raises(CallFailed, match="failed, exit code 1"):
        executor.submit(raise_odd).result()


def test_a_call_that_ended_otherwise(background: Background, executor: ClusterExecutor) -> None:
    future = executor.submit(pause)
    assert isinstance(future, CallFuture)
    while future.job is None:
        pass
    background.call(background.node.finish, future.job.ticket, outcome="timed-out", exit_code=143)
    with pytest.raises(CallFailed, match="timed-out, exit code 143") as caught:
        future.result()
    assert isinstance(caught.value.result, Result)


def test_what_cannot_travel(executor: ClusterExecutor) -> None:
    for function in (lambda: 1, test_what_cannot_travel.__call__):
        with pytest.raises(TypeError):
            executor.submit(function, threading.Lock())
    with pytest.raises(TypeError, match="cannot be pickled"):
        executor.submit(print, threading.Lock())
    with pytest.raises(Refused, match="a node takes"):
        executor.submit(len, b"x" * 100_000).result()


def test_a_function_of_the_program_itself_is_refused_with_the_reason() -> None:
    program = "def f(): pass\nfrom evenly.client.executor import payload_of\npayload_of(f, (), {})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "f is of the program itself: nodes can import functions of modules alone" in done.stderr


def test_cancel_and_shutdown(background: Background, client: Client) -> None:
    executor = ClusterExecutor(client=client)
    first, second = executor.submit(pause), executor.submit(pause)
    assert isinstance(first, CallFuture)
    while first.job is None:
        pass
    assert first.cancel()
    assert first.cancel()
    while background.node.jobs[first.job.ticket]["outcome"] != "cancelled":
        pass
    third = executor.submit(pause)
    assert third.cancel()
    assert wait([third], timeout=30).not_done == set()
    executor.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pause)
    assert wait([first, second]).not_done == set()
    executor.shutdown()


def test_values_and_payloads() -> None:
    payload = payload_of(divmod, (7, 2), {})
    assert (payload["module"], payload["name"]) == ("builtins", "divmod")
    raw: dict[str, Any] = {"ticket": "T", "outcome": "succeeded", "value": call(**payload)}
    from evenly.client.model import result_of

    assert value_of(result_of(raw)) == (3, 1)


def test_call_tells_the_exception_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        call(**payload_of(divmod, (1, 0), {}))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(RAISED)
    with pytest.raises(Odd):
        call(**payload_of(raise_odd, (), {}))
    assert capsys.readouterr().err == ""


def test_workers_load_no_asyncio_and_the_client_comes_when_asked() -> None:
    program = (
        "import sys, evenly; from evenly import progress, task; assert 'asyncio' not in sys.modules;"
        "from evenly import Client, AsyncClient, ClusterExecutor; assert 'asyncio' in sys.modules;"
        "assert all(getattr(evenly, name) for name in evenly.__all__)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    import evenly

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        evenly.nothing  # noqa: B018


def test_the_package_lists_what_it_has_and_nothing_else() -> None:
    program = (
        "import sys, evenly; names = dir(evenly); assert set(evenly.__all__) <= set(names), names;"
        "assert not {'Any', 'TYPE_CHECKING'} & set(names), names; assert 'asyncio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
