import base64
import json
import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import replies
from protocol.dialogue import HELP
from protocol.explain import Explained
from protocol.file_replies import (
    CheckpointTaken,
    FilesOf,
    HereOrNot,
    PartialOf,
    TailJson,
    TailText,
    Uploaded,
    file_head,
)
from protocol.job import Command, JobState, Outcome, Report, ResultFile, Sleep
from protocol.replies import (
    ArrayView,
    CancelOf,
    Failure,
    Goodbye,
    HelpText,
    JobEnded,
    JobView,
    JsonMode,
    LeftOut,
    NodesAre,
    Reply,
    ResultOf,
    StatsAre,
    StatusOf,
    Subscribed,
    TicketIssued,
    UnknownTicket,
    Unsubscribed,
    job_fields,
    listing_end,
    listing_failure,
    listing_row,
    listing_start,
    render_json,
    render_text,
)

from ..strategies import moments, names, reports, specs, texts, told_attempts
from ..strategies import tickets as any_ticket

T = "ABCDEFGHIJ012345"
START = 1593604800.0  # 2020-07-01 12:00:00 UTC

RESULT_KEYS = (
    *("ticket", "state", "outcome", "exit_code", "stdout", "stderr", "truncated", "attempt", "node"),
    *("submitted_at", "started_at", "finished_at", "reason", "stdout_bytes", "stderr_bytes", "value", "job"),
)
STATUS_KEYS = (
    *("ticket", "state", "outcome", "attempt", "node", "submitted_at", "started_at", "finished_at"),
)


@pytest.fixture(autouse=True, scope="module")
def _in_utc() -> Iterator[None]:
    """Times are shown in the machine's zone; here that is UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


MAKE = Command("make")


def queued(spec: Any = MAKE, **fields: Any) -> JobView:
    return JobView(T, spec, START, fields.pop("state", JobState.QUEUED), **fields)


def done(outcome: Outcome = Outcome.SUCCEEDED, spec: Any = MAKE, **report: Any) -> JobView:
    """A job that ran on alpha from START for a quarter of a second, unless `report` says otherwise."""
    for name in ("stdout", "stderr"):
        report.setdefault(f"{name}_total", len(report.get(name, b"")))
    fields: dict[str, Any] = {"node": "alpha", "started_at": START, "finished_at": START + 0.25} | report
    made = Report(**fields)
    return JobView(T, spec, START - 1, JobState.DONE, 1, "alpha", START, outcome, made)


def result(*arguments: Any, **report: Any) -> bytes:
    return render_text(ResultOf(done(*arguments, **report)))


def as_object(data: bytes) -> dict[str, Any]:
    """The object of a JSON reply, which is one line and nothing that only Python reads."""
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    value = json.loads(data, parse_constant=refuse)
    assert type(value) is dict
    return value


def unstuffed(block: bytes) -> tuple[bytes, bytes]:
    """(head line, body) as a client reads a reply of more than one line."""
    head, *lines = block.split(b"\n")
    assert lines[-2:] == [b".", b""]
    body = [line[1:] if line.startswith(b".") else line for line in lines[:-2]]
    assert b"." not in lines[:-2]
    return head, b"\n".join(body)


# --- text: one line each -------------------------------------------------------------------------------

ONE_LINE: list[tuple[Reply, str]] = [
    (TicketIssued(T), f"Ticket ID: {T}"),
    (UnknownTicket(T), "Result: This job could not be found on this node."),
    (Goodbye(), "Come back later to check your results."),
    (Failure("That was wrong."), "That was wrong."),
    (JsonMode(), '{"json":true}'),
    (ResultOf(queued()), "Result has not been executed yet, come back later."),
    (StatusOf(queued()), "Status: queued"),
    (StatusOf(queued(), "the ReverseProxy is away"), "Status: queued (the ReverseProxy is away)"),
    (
        StatusOf(queued(state=JobState.ASSIGNED, attempt=1, node="alpha")),
        "Status: assigned on alpha, attempt 1",
    ),
    (
        StatusOf(queued(state=JobState.RUNNING, attempt=2, node="alpha", started_at=START)),
        "Status: running on alpha, attempt 2",
    ),
    (StatusOf(done(exit_code=0)), "Status: done, succeeded, exit code 0, in 0.250 s on alpha"),
    (
        CancelOf(queued(), requested=True),
        f"Cancel requested: {T} is cancelled as soon as the ReverseProxy is back.",
    ),
    (CancelOf(done(Outcome.CANCELLED)), f"Cancelled: {T}"),
    (CancelOf(done(Outcome.FAILED)), f"Too late to cancel: {T} is done, failed."),
]


@pytest.mark.parametrize(("reply", "line"), ONE_LINE, ids=lambda value: type(value).__name__)
def test_a_reply_of_one_line_reads_so(reply: Reply, line: str) -> None:
    assert render_text(reply) == line.encode() + b"\n"


RESULTS: list[tuple[JobView, str]] = [
    (
        done(spec=Sleep(100), finished_at=START + 0.1),
        f"Executed Job[{T}] for 100 milliseconds from 2020-07-01 12:00:00.000 to 2020-07-01 12:00:00.100",
    ),
    (done(exit_code=0), "succeeded, exit code 0, in 0.250 s on alpha"),
    (done(Outcome.FAILED, exit_code=3), "failed, exit code 3, in 0.250 s on alpha"),
    (done(exit_code=0, stdout=b"\n"), "succeeded, exit code 0, in 0.250 s on alpha"),
    (done(exit_code=0, stdout=b"hi\n"), "succeeded, exit code 0, in 0.250 s on alpha: hi"),
    (done(exit_code=0, stdout=b".hi"), "succeeded, exit code 0, in 0.250 s on alpha: .hi"),
    (done(exit_code=0, stderr=b"oh\n"), "succeeded, exit code 0, in 0.250 s on alpha: oh"),
    (
        done(Outcome.TIMED_OUT, exit_code=143, reason="limit of 1 s"),
        "timed-out, exit code 143, limit of 1 s, in 0.250 s on alpha",
    ),
    (done(Outcome.CANCELLED, node="", started_at=None), "cancelled"),
    (done(Outcome.CANCELLED, Sleep(5)), "cancelled, in 0.250 s on alpha"),
    (done(Outcome.LOST, node="", started_at=None, reason="3 attempts"), "lost, 3 attempts"),
    (done(finished_at=START - 5), "succeeded, in 0.000 s on alpha"),
]


@pytest.mark.parametrize(("job", "line"), RESULTS)
def test_a_result_without_much_output_is_one_line(job: JobView, line: str) -> None:
    assert render_text(ResultOf(job)) == f"Result: {line}\n".encode()


# --- text: more than one line ---------------------------------------------------------------------------

HEAD = (
    "Result: succeeded, exit code 0, in 0.250 s on alpha, "
    "{} lines of output up to the line with a single dot:"
)


@pytest.mark.parametrize(
    ("stdout", "stderr", "count", "lines"),
    [
        (b"a\nb\n", b"", 2, [b"a", b"b"]),
        (b"a\nb", b"", 2, [b"a", b"b"]),
        (b"\n\n", b"", 2, [b"", b""]),
        (b"a\n\n", b"", 2, [b"a", b""]),
        (b".\n..\n.a\na.\n", b"", 4, [b"..", b"...", b"..a", b"a."]),
        (b"out\n", b"err\n", 3, [b"out", b"--- stderr ---", b"err"]),
        (b"out", b"err", 3, [b"out", b"--- stderr ---", b"err"]),
        (b"", b"e1\ne2\n", 2, [b"e1", b"e2"]),
        (b"\xff\xfe\n\0\x1b\n", b"", 2, [b"\xff\xfe", b"\0\x1b"]),
        (b"a\r\nb\r\n", b"", 2, [b"a\r", b"b\r"]),
    ],
)
def test_output_of_several_lines_is_shown_whole_up_to_a_dot(
    stdout: bytes, stderr: bytes, count: int, lines: list[bytes]
) -> None:
    expected = b"\n".join([HEAD.format(count).encode(), *lines, b".", b""])
    assert result(exit_code=0, stdout=stdout, stderr=stderr) == expected


def test_output_that_was_cut_off_says_how_much() -> None:
    shown = result(exit_code=0, stdout=b"abc", stdout_total=10, stderr=b"de\n", stderr_total=2000)
    assert unstuffed(shown)[1].split(b"\n") == [
        b"abc",
        b"--- stdout truncated: 3 of 10 bytes kept ---",
        b"--- stderr ---",
        b"de",
        b"",
        b"--- stderr truncated: 3 of 2000 bytes kept ---",
    ]


def test_output_of_which_nothing_was_kept_says_so() -> None:
    head, body = unstuffed(result(exit_code=0, stdout_total=7))
    assert body == b"\n--- stdout truncated: 0 of 7 bytes kept ---"
    assert b", 2 lines of output" in head


@given(st.lists(st.sampled_from([b"", b".", b"..", b".a", b"a", b"\xff", b"\r"]), min_size=2, max_size=8))
def test_dot_stuffing_gives_back_the_output(lines: list[bytes]) -> None:
    output = b"\n".join(lines) + b"\n"
    head, body = unstuffed(result(stdout=output))
    assert body + b"\n" == output
    assert f", {len(lines)} lines of output ".encode() in head


def test_help_is_the_table() -> None:
    head, body = unstuffed(render_text(HelpText()))
    assert (head, body) == (b"Commands:", HELP.encode())


def row(name: str, connected: bool, done_count: int) -> dict[str, Any]:
    return {
        "name": name,
        "connected": connected,
        "slots": 2,
        "running": 1,
        "queued": 0,
        "done": done_count,
        "load": 0.5,
        "id": "x",
    }


def test_nodes_are_a_table() -> None:
    reply = NodesAre([row("alpha", True, 10), row("a-long-name", False, 12345)])
    assert render_text(reply).decode().split("\n") == [
        "Nodes: 2",
        "NAME         CONNECTED  SLOTS  RUNNING  QUEUED  DONE",
        "alpha        yes        2      1        0       10",
        "a-long-name  no         2      1        0       12345",
        ".",
        "",
    ]


def test_nodes_say_when_the_cluster_could_not_be_asked() -> None:
    head, body = unstuffed(render_text(NodesAre([], "the ReverseProxy is away")))
    assert head == b"Nodes: 0 (the ReverseProxy is away)"
    assert body == b"NAME  CONNECTED  SLOTS  RUNNING  QUEUED  DONE"


@pytest.mark.parametrize(
    ("balancer", "lines"),
    [
        ({"jobs": 5}, ["Stats: 3", "node a 1", "node b 2", "balancer jobs 5"]),
        (None, ["Stats: 3", "node a 1", "node b 2", "balancer away"]),
    ],
)
def test_stats_are_one_line_a_counter(balancer: dict[str, int] | None, lines: list[str]) -> None:
    shown = render_text(StatsAre({"a": 1, "b": 2}, balancer))
    assert shown.decode().split("\n") == [*lines, ".", ""]


# --- JSON ------------------------------------------------------------------------------------------------

AS_JSON: list[tuple[Reply, bytes]] = [
    (TicketIssued(T), b'{"ticket":"ABCDEFGHIJ012345"}\n'),
    (
        UnknownTicket(T),
        b'{"error":"This job could not be found on this node.","ticket":"ABCDEFGHIJ012345"}\n',
    ),
    (Failure('say "é"'), '{"error":"say \\"é\\""}\n'.encode()),
    (JsonMode(), b'{"json":true}\n'),
    (Goodbye(), b'{"goodbye":"Come back later to check your results."}\n'),
    (StatsAre({"a": 1}, None), b'{"node":{"a":1},"balancer":null}\n'),
    (StatsAre({}, {"b": 2}), b'{"node":{},"balancer":{"b":2}}\n'),
    (NodesAre([{"name": "a"}]), b'{"nodes":[{"name":"a"}]}\n'),
    (NodesAre([], "away"), b'{"nodes":[],"note":"away"}\n'),
    (
        CancelOf(queued(), requested=True),
        b'{"ticket":"ABCDEFGHIJ012345","state":"queued","outcome":null,"cancel":"requested"}\n',
    ),
    (
        CancelOf(done(Outcome.CANCELLED)),
        b'{"ticket":"ABCDEFGHIJ012345","state":"done","outcome":"cancelled","cancel":"done"}\n',
    ),
    (
        CancelOf(done(Outcome.LOST)),
        b'{"ticket":"ABCDEFGHIJ012345","state":"done","outcome":"lost","cancel":"too late"}\n',
    ),
]


@pytest.mark.parametrize(("reply", "line"), AS_JSON, ids=lambda value: type(value).__name__)
def test_a_json_reply_is_this_line(reply: Reply, line: bytes) -> None:
    assert render_json(reply) == line
    assert as_object(line)


def test_a_json_result_has_every_key_before_it_is_done() -> None:
    value = as_object(render_json(ResultOf(queued())))
    assert tuple(value) == RESULT_KEYS
    given_keys = {"ticket", "state", "truncated", "submitted_at", "job"}
    assert {key: value[key] for key in given_keys} == {
        "ticket": T,
        "state": "queued",
        "truncated": False,
        "submitted_at": START,
        "job": {"run": "make", "time": None, "retries": 0, "at_most_once": False},
    }
    assert all(value[key] is None for key in value.keys() - given_keys)


def test_a_json_result_holds_the_whole_report() -> None:
    job = done(Outcome.FAILED, Sleep(7), exit_code=3, stdout=b"a\n\xff", stderr=b"e", stderr_total=9)
    assert as_object(render_json(ResultOf(job))) == {
        "ticket": T,
        "state": "done",
        "outcome": "failed",
        "exit_code": 3,
        "stdout": "a\n\ufffd",
        "stderr": "e",
        "truncated": True,
        "attempt": 1,
        "node": "alpha",
        "submitted_at": START - 1,
        "started_at": START,
        "finished_at": START + 0.25,
        "reason": None,
        "stdout_bytes": 3,
        "stderr_bytes": 9,
        "value": None,
        "stdout_base64": "YQr/",
        "job": {"sleep": 7},
    }


def test_a_json_status_has_the_keys_without_output() -> None:
    value = as_object(render_json(StatusOf(queued(state=JobState.RUNNING, attempt=1, node="alpha"), "away")))
    assert tuple(value) == (*STATUS_KEYS, "note")
    assert (value["state"], value["node"], value["note"]) == ("running", "alpha", "away")
    assert tuple(as_object(render_json(StatusOf(done())))) == STATUS_KEYS


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1, "waits for T00"),
        (3, "waits for T00, T01, T02"),
        (5, "waits for T00, T01, T02 and 2 more"),
    ],
)
def test_a_status_says_what_the_job_waits_for(count: int, said: str) -> None:
    tickets = tuple(f"T{number:02d}" for number in range(count))
    status = StatusOf(queued(waits_for=tickets))
    assert render_text(status) == f"Status: queued, {said}\n".encode()
    value = as_object(render_json(status))
    assert tuple(value) == (*STATUS_KEYS, "waits_for")
    assert value["waits_for"] == list(tickets)


ARRAY = ArrayView(100, {"succeeded": 55, "failed": 5})


def test_a_status_of_an_array_sums_its_jobs_up() -> None:
    status = StatusOf(queued(state=JobState.RUNNING, array=ARRAY))
    assert render_text(status) == b"Status: running: 40 queued or running, 55 succeeded, 5 failed\n"
    value = as_object(render_json(status))
    assert tuple(value) == (*STATUS_KEYS, "array")
    counts = {"succeeded": 55, "failed": 5, "timed-out": 0, "cancelled": 0, "lost": 0}
    assert value["array"] == {"size": 100, "open": 40, **counts}


def test_a_result_of_an_array_lists_a_page_of_its_jobs() -> None:
    page = ARRAY._replace(jobs=[(T, "failed"), ("U", None)], first=7)
    value = as_object(render_json(ResultOf(queued(array=page))))
    assert value["array"]["open"] == 40
    assert value["first"] == 7
    assert value["jobs"] == [{"ticket": T, "outcome": "failed"}, {"ticket": "U", "outcome": None}]


def test_an_end_that_was_subscribed_to_is_its_status_on_a_line() -> None:
    assert render_text(JobEnded(done(exit_code=0))) == (
        f"Done: {T} succeeded, exit code 0, in 0.250 s on alpha\n".encode()
    )
    assert (
        render_text(JobEnded(done(spec=Sleep(7)))) == f"Done: {T} succeeded, in 0.250 s on alpha\n".encode()
    )
    value = as_object(render_json(JobEnded(done(Outcome.LOST))))
    assert tuple(value) == ("done",)
    assert value["done"] == as_object(render_json(StatusOf(done(Outcome.LOST))))
    assert render_text(LeftOut(7)) == b"Done: 7 more, left out as they were not read in time.\n"
    assert as_object(render_json(LeftOut(7))) == {"left_out": 7}


def test_help_in_json_is_the_lines_of_the_table() -> None:
    assert as_object(render_json(HelpText())) == {"help": HELP.splitlines()}


done_views = st.builds(
    JobView,
    ticket=any_ticket,
    spec=specs,
    submitted_at=st.floats(0, 4e9),
    state=st.just(JobState.DONE),
    attempt=st.integers(1, 9),
    node=names,
    outcome=st.sampled_from(Outcome),
    report=reports,
)
open_views = st.builds(
    JobView,
    ticket=any_ticket,
    spec=specs,
    submitted_at=st.floats(0, 4e9),
    state=st.sampled_from([JobState.QUEUED, JobState.ASSIGNED, JobState.RUNNING]),
    attempt=st.none() | st.integers(1, 9),
    node=st.none() | names,
    started_at=st.none() | st.floats(0, 4e9),
)
views = done_views | open_views
counters = st.dictionaries(texts, st.integers() | texts, max_size=3)

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
result_files = st.builds(ResultFile, names, st.integers(0), digests)

BY_CLASS: dict[type, st.SearchStrategy] = {
    TicketIssued: st.builds(TicketIssued, any_ticket, st.just("") | names),
    ResultOf: st.builds(ResultOf, views),
    StatusOf: st.builds(StatusOf, views, texts),
    CancelOf: st.builds(CancelOf, done_views) | st.builds(CancelOf, open_views, st.just(True)),
    UnknownTicket: st.builds(UnknownTicket, any_ticket),
    Failure: st.builds(Failure, texts),
    Subscribed: st.builds(Subscribed, names),
    Unsubscribed: st.builds(Unsubscribed),
    JobEnded: st.builds(JobEnded, done_views),
    LeftOut: st.builds(LeftOut, st.integers(1)),
    NodesAre: st.builds(NodesAre, st.lists(names.map(lambda name: row(name, True, 1)), max_size=3), texts),
    StatsAre: st.builds(StatsAre, counters, st.none() | counters),
    HelpText: st.builds(HelpText),
    JsonMode: st.builds(JsonMode),
    Goodbye: st.builds(Goodbye),
    Uploaded: st.builds(Uploaded, digests, st.integers(0)),
    HereOrNot: st.builds(HereOrNot, digests, st.booleans()),
    FilesOf: st.builds(FilesOf, any_ticket, st.just("") | names, st.lists(result_files, max_size=3)),
    PartialOf: st.builds(
        PartialOf,
        any_ticket,
        st.lists(st.tuples(st.integers(1, 9), st.none() | texts | st.floats(0, 1)), max_size=3),
    ),
    CheckpointTaken: st.builds(CheckpointTaken, st.integers(0), st.integers(0)),
    Explained: st.builds(
        Explained,
        any_ticket,
        st.sampled_from(JobState),
        texts,
        st.lists(told_attempts, max_size=3),
        st.none() | moments,
    ),
}


def test_files_are_listed_with_what_finds_them() -> None:
    reply = FilesOf(T, "runs/7", [ResultFile("a b/c", 3, "d" * 64)])
    assert render_text(reply) == f"Files: 1, 3 bytes\n3 {'d' * 64} a b/c\n.\n".encode()
    assert as_object(render_json(reply)) == {
        "ticket": T,
        "result_dir": "runs/7",
        "files": [{"path": "a b/c", "bytes": 3, "sha256": "d" * 64}],
    }
    assert as_object(render_json(FilesOf(T, "", [])))["result_dir"] is None
    assert file_head(reply.files[0], False) == f"File: 3 {'d' * 64} a b/c\n".encode()
    assert as_object(file_head(reply.files[0], True)) == {"file": "a b/c", "bytes": 3, "sha256": "d" * 64}


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8))
def test_followed_output_is_a_block_whatever_its_pieces(pieces: list[bytes]) -> None:
    form = TailText(T)
    said = form.start() + b"".join(form.piece(1, 1, 0, piece) for piece in pieces) + form.end({})
    head, *lines = said.split(b"\n")
    assert (head, lines[-2:]) == (f"Tail: {T}".encode(), [b".", b""])
    unstuffed = b"\n".join(line.removeprefix(b".") for line in lines[:-2])
    whole = b"".join(pieces)
    assert unstuffed == whole.removesuffix(b"\n")
    assert b"." not in lines[:-2]


@given(st.binary(min_size=1, max_size=20))
def test_followed_output_in_json_keeps_every_byte(data: bytes) -> None:
    form = TailJson(T)
    assert form.start() == b""
    value = as_object(form.piece(2, 2, 7, data))
    kept = value.pop("text").encode() if "text" in value else base64.b64decode(value.pop("base64"))
    assert kept == data
    assert value == {"tail": T, "attempt": 2, "stream": "stderr", "at": 7}
    assert as_object(form.end({"state": "done"})) == {"state": "done", "tail": T}


def test_no_reply_is_left_out_of_these_tests() -> None:
    assert set(BY_CLASS) == set(get_args(Reply)) == set(replies._TEXT) == set(replies._JSON)


@pytest.mark.parametrize("kind", BY_CLASS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_every_json_reply_is_one_line_that_parses(kind: type, data: st.DataObject) -> None:
    assert as_object(render_json(data.draw(BY_CLASS[kind])))


@pytest.mark.parametrize("kind", BY_CLASS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_every_text_reply_ends_with_its_line(kind: type, data: st.DataObject) -> None:
    assert render_text(data.draw(BY_CLASS[kind])).endswith(b"\n")


def test_what_is_no_utf_8_can_be_said_all_the_same() -> None:
    assert render_text(Failure("half a \ud800 pair")) == b"half a ? pair\n"
    assert as_object(render_json(Failure("half a \ud800 pair"))) == {"error": "half a ? pair"}


# --- getall ----------------------------------------------------------------------------------------------


def listing(jobs: list[JobView], as_json: bool) -> bytes:
    rows = [listing_row(job, as_json, first=place == 0) for place, job in enumerate(jobs)]
    return b"".join([listing_start(as_json), *rows, listing_end(as_json)])


def test_a_listing_is_one_line_a_ticket_and_an_empty_line() -> None:
    jobs = [
        queued(),
        done(spec=Sleep(100), finished_at=START + 0.1),
        done(exit_code=0, stdout=b"h\xffi\n"),
        done(Outcome.FAILED, exit_code=1, stdout=b"a\nb\n", stderr=b"c\n"),
    ]
    assert listing(jobs, as_json=False).decode().split("\n") == [
        "Results",
        f"{T} -> Result has not been executed yet, come back later.",
        f"{T} -> Executed Job[{T}] for 100 milliseconds "
        "from 2020-07-01 12:00:00.000 to 2020-07-01 12:00:00.100",
        f"{T} -> succeeded, exit code 0, in 0.250 s on alpha: h\ufffdi",
        f"{T} -> failed, exit code 1, in 0.250 s on alpha, 4 lines of output (result {T} shows them)",
        "",
        "",
    ]


def test_a_listing_of_nothing() -> None:
    assert listing([], as_json=False) == b"Results\n\n"
    assert listing([], as_json=True) == b'{"results":[]}\n'


@given(st.lists(views, max_size=4))
def test_a_json_listing_is_one_line_with_the_object_of_each_result(jobs: list[JobView]) -> None:
    value = as_object(listing(jobs, as_json=True))
    assert value == {"results": [job_fields(job) for job in jobs]}


@given(st.lists(views.filter(lambda job: "\n" not in (job.report or Report()).reason), max_size=4))
def test_a_listing_has_no_more_lines_than_tickets(jobs: list[JobView]) -> None:
    assert listing(jobs, as_json=False).count(b"\n") == len(jobs) + 2


def test_a_ticket_that_cannot_be_shown_has_its_place_in_the_listing() -> None:
    assert listing_failure(T, "It broke.", as_json=False, first=True) == f"{T} -> It broke.\n".encode()
    rows = [listing_failure(T, "It broke.", as_json=True, first=first) for first in (True, False)]
    assert as_object(b"".join([listing_start(True), *rows, listing_end(True)])) == {
        "results": [{"error": "It broke.", "ticket": T}] * 2
    }
