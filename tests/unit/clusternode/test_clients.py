import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from clusternode.clients import Client
from clusternode.core.events import ClientGone, Done, Event, LinesReceived, LookUp, Submitted
from clusternode.desk import Desk
from clusternode.door import Door
from clusternode.store.sqlite import SqliteStore
from protocol.dialogue import BAD_NUMBER, CancelJob, GetResult, Nodes, Stats, Status, Submit, Subscribe, Wait
from protocol.job import Ended, JobState, Outcome, Report, Sleep, is_ticket
from protocol.limits import CLIENT_BUFFER_LIMIT, LINE_LIMIT, LINES_PER_TURN
from protocol.replies import (
    GOODBYE,
    NOT_EXECUTED,
    Failure,
    JobEnded,
    JobView,
    StatsAre,
    Subscribed,
    TicketIssued,
    UnknownTicket,
)
from runtime.lifecycle import Background

from ..fakes import FakeTransport

BYE = f"{GOODBYE}\n".encode()


def ticket(seq: int) -> str:
    return f"T{seq:015d}"


class Session:
    """A client at a door; its events are kept, and answered by the test."""

    def __init__(self, store: SqliteStore) -> None:
        self.events: list[Event] = []
        self.failures: list[BaseException] = []
        self.background = Background(self.failures.append)
        no_desk = cast(Desk, None)  # nothing here asks it
        self.door = Door(self.events.append, store, self.background.start, no_desk)
        self.transport = FakeTransport()
        connected = self.door.connect()
        assert isinstance(connected, Client)
        self.client = connected
        self.client.connection_made(self.transport)

    async def type(self, data: bytes) -> bytes:
        """What is read when this has been sent and all that follows from it has happened."""
        before = len(self.transport.written)
        self.client.data_received(data)
        await self.rest()
        return self.transport.written[before:]

    async def rest(self) -> None:
        """Returns when nothing happens any more: a few turns of the loop, and no task behind them."""
        while True:
            await self.turns()
            if not self.background._tasks:
                return
            await asyncio.wait(self.background._tasks)

    async def turns(self) -> None:
        """A few of the loop."""
        for _ in range(5):
            turn = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(turn.set_result, None)
            await turn

    def lines(self) -> list[object]:
        return [
            line.asked for event in self.events if isinstance(event, LinesReceived) for line in event.lines
        ]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def session(store: SqliteStore) -> AsyncIterator[Session]:
    made = Session(store)
    yield made
    assert made.failures == []
    await made.background.end()


async def put_jobs(store: SqliteStore, *reports: bytes | None) -> None:
    """Jobs 1, 2, … with these packed reports; None for one that is open."""
    for seq, report in enumerate(reports, 1):
        await store.commit([Submitted(seq, ticket(seq), 5.0, Sleep(7).pack())])
        if report is not None:
            await store.commit([Done(seq, Ended(ticket(seq), 1, "failed", report))])


async def test_the_lines_of_one_turn_are_one_event_with_a_ticket_for_each_job(session: Session) -> None:
    assert await session.type(b"5\nstatus " + ticket(1).encode() + b"\n7\r\n") == b""
    (event,) = session.events
    assert isinstance(event, LinesReceived)
    assert [line.asked for line in event.lines] == [Submit(Sleep(5)), Status(ticket(1)), Submit(Sleep(7))]
    assert [is_ticket(line.ticket) for line in event.lines] == [True, False, True]
    assert [line.seq for line in event.lines] == [0, 1, 2]


async def test_an_array_takes_a_ticket_for_each_of_its_jobs_and_a_turn_of_its_own(session: Session) -> None:
    await session.type(b"run --array 600 -- true\n5\nrun --array 2 -- true\n")
    first, second = session.events
    assert isinstance(first, LinesReceived)
    assert isinstance(second, LinesReceived)
    (large,) = first.lines
    assert len({large.ticket, *large.tickets}) == 601
    assert [len(line.tickets) for line in second.lines] == [0, 2]


async def test_lines_that_were_read_wait_too_while_the_disk_is_far_behind(session: Session) -> None:
    session.client.data_received(b"5\n")
    session.door.pause()
    await session.rest()
    session.client.data_received(b"6\n")
    await session.rest()
    assert session.lines() == [Submit(Sleep(5))]
    session.door.resume()
    await session.rest()
    assert session.lines() == [Submit(Sleep(5)), Submit(Sleep(6))]


async def test_replies_leave_in_the_order_of_the_lines(session: Session) -> None:
    await session.type(b"5\n6\nabcd\n")
    session.client.answer(1, TicketIssued("B"))
    await session.rest()
    assert session.transport.written == b""
    session.client.answer(0, TicketIssued("A"))
    await session.rest()
    first, second, third = session.transport.written.decode().splitlines()
    assert (first, second) == ("Ticket ID: A", "Ticket ID: B")
    assert third.endswith("'abcd' is neither.")


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"-1\n", f"{BAD_NUMBER}\n".encode()),
        (b"\n\r\n", b""),
        (b"json\n", b'{"json":true}\n'),
        (
            b"json\n-1\n",
            b'{"json":true}\n' + json.dumps({"error": BAD_NUMBER}).replace(": ", ":", 1).encode() + b"\n",
        ),
        (b"exit\n", BYE),
        (b"EXIT\n5\n", BYE),
        (b"getall\n", b"Results\n\n"),
        (b"json\ngetall\n", b'{"json":true}\n{"results":[]}\n'),
    ],
)
async def test_what_needs_no_core_is_answered_at_once(session: Session, line: bytes, reply: bytes) -> None:
    assert await session.type(line) == reply
    assert session.events == []


async def test_a_line_over_the_limit_is_skipped_and_the_next_is_served(session: Session) -> None:
    said = await session.type(b"x" * (LINE_LIMIT + 1) + b"\n5\n")
    assert said.startswith(b"That line is over 65536 bytes")
    assert session.lines() == [Submit(Sleep(5))]


async def test_any_line_of_zeros_gets_its_ticket(session: Session) -> None:
    await session.type(b"0" * 60_000 + b"5\n6\n")
    assert session.lines() == [Submit(Sleep(5)), Submit(Sleep(6))]


async def test_the_unterminated_last_line_is_served_before_the_goodbye(session: Session) -> None:
    await session.type(b"5")
    assert session.client.eof_received()
    await session.rest()
    assert session.lines() == [Submit(Sleep(5))]
    assert session.transport.written == b""
    session.client.answer(0, TicketIssued("A"))
    await session.rest()
    assert session.transport.written == b"Ticket ID: A\n" + BYE
    assert session.transport.closed == "close"


async def test_many_lines_take_many_turns_and_none_is_lost(session: Session) -> None:
    count = 3 * LINES_PER_TURN + 1
    await session.type(b"5\n" * count)
    assert len(session.lines()) == count
    assert all(isinstance(event, LinesReceived) for event in session.events)
    assert len(session.events) == 4


async def test_a_client_that_does_not_read_is_not_read_either(session: Session) -> None:
    session.client.pause_writing()
    await session.type(b"5\n")
    assert not session.transport.reading
    assert session.events == []
    session.client.resume_writing()
    await session.rest()
    assert session.transport.reading
    assert session.lines() == [Submit(Sleep(5))]


async def test_while_the_disk_is_far_behind_no_client_is_read(session: Session) -> None:
    session.door.pause()
    assert not session.transport.reading
    session.door.resume()
    assert session.transport.reading


async def test_a_client_that_leaves_is_told_to_the_core_once(session: Session) -> None:
    session.client.connection_lost(None)
    session.client.connection_lost(None)
    assert session.events == [ClientGone(session.client.number)]
    assert session.door.get(session.client.number) is None


async def test_results_are_looked_up_in_the_store(session: Session, store: SqliteStore) -> None:
    await put_jobs(store, Report("alpha", 1.0, 2.0, 1).pack(), None)
    names = [ticket(1), ticket(9), ticket(2)]
    await session.type("".join(f"r{name}\n" for name in names).encode())
    for seq, name in enumerate(names):
        session.client.look_up(LookUp(session.client.number, seq, GetResult(name), name))
    await session.rest()
    assert session.transport.written.decode().splitlines() == [
        "Result: failed, exit code 1, in 1.000 s on alpha",
        "Result: This job could not be found on this node.",
        NOT_EXECUTED,
    ]


async def test_a_stored_result_that_cannot_be_read_is_said_so(session: Session, store: SqliteStore) -> None:
    await put_jobs(store, b"not a report")
    await session.type(f"r{ticket(1)}\n".encode())
    session.client.look_up(LookUp(session.client.number, 0, GetResult(ticket(1)), ticket(1)))
    await session.rest()
    assert session.transport.written.startswith(f"The stored job {ticket(1)} cannot be read: ".encode())


async def test_getall_gives_the_other_results_where_one_cannot_be_read(
    session: Session, store: SqliteStore
) -> None:
    await put_jobs(store, b"not a report", Report("alpha", 1.0, 2.0, 1).pack())
    lines = (await session.type(b"getall\n")).decode().splitlines()
    assert [line.partition(" -> ")[0] for line in lines] == ["Results", ticket(1), ticket(2), ""]
    assert "cannot be read: a report that is no MessagePack" in lines[1]
    value = json.loads((await session.type(b"json\ngetall\n")).splitlines()[1])
    assert [each["ticket"] for each in value["results"]] == [ticket(1), ticket(2)]
    assert "cannot be read" in value["results"][0]["error"]


# --- draining ------------------------------------------------------------------------------------

NO_MORE_JOBS = "This node is about to stop and takes no more jobs; others do."


@pytest.mark.parametrize("line", [b"5\n", b"run --time 5 -- make\n", b"run --at-most-once make\n"])
async def test_a_node_that_drains_refuses_jobs_with_one_line(session: Session, line: bytes) -> None:
    session.door.draining = True
    assert await session.type(line) == f"{NO_MORE_JOBS}\n".encode()
    assert session.events == []
    json_reply = json.dumps({"error": NO_MORE_JOBS}, separators=(",", ":"))
    assert await session.type(b"json\n" + line) == b'{"json":true}\n' + json_reply.encode() + b"\n"
    assert session.events == []


async def test_a_node_that_drains_answers_questions_in_their_turn(session: Session) -> None:
    session.door.draining = True
    name = ticket(1)
    said = await session.type(f"stats\n5\nwait {name}\ncancel {name}\nabcd\ngetall\n".encode())
    assert said == b""
    assert session.lines() == [Stats(), Wait(name), CancelJob(name)]
    session.client.answer(0, StatsAre({}, None))
    for number in (2, 3):
        session.client.answer(number, UnknownTicket(name))
    await session.rest()
    assert session.transport.written.decode().splitlines() == [
        "Stats: 1",
        "balancer away",
        ".",
        NO_MORE_JOBS,
        *["Result: This job could not be found on this node."] * 2,
        "Please enter a valid number or a command (help lists them): 'abcd' is neither.",
        "Results",
        "",
    ]


async def test_jobs_taken_before_keep_their_tickets(session: Session) -> None:
    await session.type(b"5\n")
    session.door.draining = True
    await session.type(b"6\n")
    session.client.answer(0, TicketIssued("A"))
    await session.rest()
    assert session.transport.written.decode().splitlines() == ["Ticket ID: A", NO_MORE_JOBS]
    assert session.lines() == [Submit(Sleep(5))]


# --- questions behind a wait ---------------------------------------------------------------------


@pytest.mark.parametrize("awaited", [Wait(ticket(1)), CancelJob(ticket(1))], ids=["wait", "cancel"])
async def test_questions_behind_a_wait_are_asked_when_their_turn_has_come(
    session: Session, awaited: Wait | CancelJob
) -> None:
    word = "wait" if isinstance(awaited, Wait) else "cancel"
    await session.type(f"{word} {ticket(1)}\nstatus {ticket(2)}\nnodes\n5\nr{ticket(3)}\n".encode())
    assert session.lines() == [awaited, Submit(Sleep(5))], "a job is no question: it does not wait"
    session.client.answer(3, TicketIssued("A"))
    await session.rest()
    assert len(session.lines()) == 2
    session.client.answer(0, UnknownTicket(ticket(1)))
    await session.rest()
    assert session.lines()[2:] == [Status(ticket(2)), Nodes()]
    event = session.events[-1]
    assert isinstance(event, LinesReceived)
    assert [line.seq for line in event.lines] == [1, 2]
    session.client.answer(2, UnknownTicket(ticket(9)))
    await session.rest()
    assert len(session.lines()) == 4, "the line before it is not answered yet"
    session.client.answer(1, UnknownTicket(ticket(2)))
    await session.rest()
    assert session.lines()[4:] == [GetResult(ticket(3))]
    session.client.answer(4, UnknownTicket(ticket(3)))
    await session.rest()
    assert session.transport.written.decode().splitlines().index("Ticket ID: A") == 3
    # All waits are over: a question is asked at once again.
    await session.type(b"stats\n")
    assert session.lines()[5:] == [Stats()]


async def test_a_wait_for_more_is_a_wait_for_each_in_the_order_given(session: Session) -> None:
    await session.type(f"wait {ticket(2)} {ticket(1)}\nstatus {ticket(3)}\n5\n".encode())
    assert session.lines() == [Wait(ticket(2)), Wait(ticket(1)), Submit(Sleep(5))]
    session.client.answer(1, UnknownTicket(ticket(1)))
    session.client.answer(3, TicketIssued("A"))
    await session.rest()
    assert session.transport.written == b""
    session.client.answer(0, UnknownTicket(ticket(2)))
    await session.rest()
    assert session.transport.written.count(b"\n") == 2
    assert session.lines()[3:] == [Status(ticket(3))], "asked when both are done"


async def test_a_question_behind_two_waits_waits_for_both(session: Session) -> None:
    await session.type(f"wait {ticket(1)}\nstatus {ticket(3)}\nwait {ticket(2)}\n".encode())
    await session.type(f"json\nstatus {ticket(4)}\nexit\n".encode())
    waits = [Wait(ticket(1)), Wait(ticket(2))]
    assert session.lines() == waits
    session.client.answer(2, UnknownTicket(ticket(2)))
    session.client.answer(0, UnknownTicket(ticket(1)))
    await session.rest()
    assert session.lines() == [*waits, Status(ticket(3))]
    session.client.answer(1, UnknownTicket(ticket(3)))
    await session.rest()
    assert session.lines() == [*waits, Status(ticket(3)), Status(ticket(4))]
    event = session.events[-1]
    assert isinstance(event, LinesReceived)
    assert [line.as_json for line in event.lines] == [True]
    assert not session.transport.closed, "a reply is owed"
    session.client.answer(4, UnknownTicket(ticket(4)))
    await session.rest()
    assert session.transport.closed == "close"


async def test_questions_of_a_client_that_leaves_are_not_asked(session: Session) -> None:
    await session.type(f"wait {ticket(1)}\nstatus {ticket(2)}\n".encode())
    session.client.connection_lost(None)
    session.client.answer(0, UnknownTicket(ticket(1)))
    await session.rest()
    assert session.lines() == [Wait(ticket(1))]


# --- lines between replies -----------------------------------------------------------------------


def ended(seq: int) -> JobEnded:
    report = Report(finished_at=1.0, reason="x")
    return JobEnded(JobView(ticket(seq), Sleep(7), 1.0, JobState.DONE, outcome=Outcome.FAILED, report=report))


def done_line(seq: int) -> bytes:
    return f"Done: {ticket(seq)} failed, x\n".encode()


async def test_news_come_between_replies_whatever_is_waited_for(session: Session) -> None:
    await session.type(f"subscribe *\nwait {ticket(1)}\n".encode())
    assert session.lines() == [Subscribe("*"), Wait(ticket(1))]
    session.client.answer(0, Subscribed("*"))
    session.door.tell([session.client.number, 99], ended(1))
    session.door.tell([session.client.number], ended(2))
    await session.rest()
    assert session.transport.written == b"Subscribed: *\n" + done_line(1) + done_line(2)
    session.client.answer(1, UnknownTicket(ticket(1)))
    session.door.tell([session.client.number], ended(3))
    await session.rest()
    assert session.transport.written.endswith(done_line(3)), "what was answered before comes first"


async def test_news_are_json_behind_the_reply_that_says_so(session: Session) -> None:
    await session.type(f"wait {ticket(1)}\njson\n".encode())
    session.door.tell([session.client.number], ended(1))
    session.client.answer(0, UnknownTicket(ticket(1)))
    await session.rest()
    session.door.tell([session.client.number], ended(2))
    await session.rest()
    first, _, third, fourth = session.transport.written.splitlines()
    assert (first + b"\n", third) == (done_line(1), b'{"json":true}')
    assert json.loads(fourth)["done"]["ticket"] == ticket(2)


async def test_a_client_that_does_not_read_is_told_how_many_it_missed(session: Session) -> None:
    session.client.pause_writing()
    room = CLIENT_BUFFER_LIMIT // len(done_line(1)) + 1
    for seq in range(room + 7):
        session.door.tell([session.client.number], ended(seq))
    await session.rest()
    assert session.transport.written == b""
    session.client.resume_writing()
    await session.rest()
    lines = session.transport.written.splitlines(keepends=True)
    assert lines[:-1] == [done_line(seq) for seq in range(room)]
    assert lines[-1] == b"Done: 7 more, left out as they were not read in time.\n"
    session.door.tell([session.client.number], ended(1))
    await session.rest()
    assert session.transport.written.endswith(b"in time.\n" + done_line(1))


async def test_news_do_not_come_inside_a_listing(session: Session, store: SqliteStore) -> None:
    await put_jobs(store, Report("alpha", 1.0, 2.0, 1).pack())
    session.client.data_received(b"json\ngetall\n")
    await session.turns()
    assert b'{"results":[' in session.transport.written
    session.door.tell([session.client.number], ended(5))
    await session.rest()
    _, listing, news = session.transport.written.splitlines()
    assert len(json.loads(listing)["results"]) == 1
    assert json.loads(news)["done"]["ticket"] == ticket(5)


async def test_who_is_gone_hears_nothing(session: Session) -> None:
    session.door.tell([session.client.number], ended(1))
    session.client.connection_lost(None)
    session.door.tell([session.client.number], ended(2))
    await session.rest()
    assert session.transport.written == b""


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110, nobody tells
            await asyncio.sleep(0.001)


async def test_a_result_that_all_others_wait_for_is_looked_up_before_them(
    session: Session, store: SqliteStore
) -> None:
    """As much is ready as may be, and none of it may leave before what comes late."""
    await put_jobs(store, Report("n", 1.0, 2.0, 0).pack())
    client, name = session.client, ticket(1)
    client.answer(7, Failure("x" * CLIENT_BUFFER_LIMIT))
    client.look_up(LookUp(client.number, 5, GetResult(name), name))
    await asyncio.sleep(0.01)  # it waits for room
    client.look_up(LookUp(client.number, 0, GetResult(name), name))
    await until(lambda: session.transport.written.startswith(b"Result: "))
    client.connection_lost(None)


async def test_the_end_of_a_listing_is_the_turn_of_what_comes_next(
    session: Session, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_jobs(store, Report("n", 1.0, 2.0, 0).pack())
    client, name, write = session.client, ticket(1), session.transport.write

    def write_and_wait(data: bytes | bytearray | memoryview) -> None:
        if not session.transport.written:
            client.pause_writing()
        write(data)

    monkeypatch.setattr(session.transport, "write", write_and_wait)
    client.data_received(b"getall\n")
    await until(lambda: session.transport.written)
    client.answer(7, Failure("x" * CLIENT_BUFFER_LIMIT))
    client.look_up(LookUp(client.number, 1, GetResult(name), name))
    await asyncio.sleep(0.01)  # it waits for room
    client.resume_writing()
    await until(lambda: b"\n\nResult: " in session.transport.written)
    client.connection_lost(None)
