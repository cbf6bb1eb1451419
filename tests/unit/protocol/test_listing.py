"""`list`: what may be asked for, and what is read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from protocol.dialogue import Invalid, parse_line
from protocol.job import Command, Extras, JobSpec, JobState, Outcome, Report, Sleep, Task
from protocol.limits import LIST_LIMIT, LIST_USUAL
from protocol.listed import ROW_WIDTH, Listed, in_short, json_list, json_row, text_list, text_row
from protocol.listing import LIST_OPTIONS, ListJobs
from protocol.replies import ArrayView, JobView

T = "ABCDEFGHIJ012345"
NOW = 100_000.0


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("list", ListJobs()),
        ("LIST --state open", ListJobs(state="open")),
        ("list --state=Running", ListJobs(state="running")),
        ("list --outcome timed-out", ListJobs(state="done", outcome="timed-out")),
        ("list --outcome LOST --state done", ListJobs(state="done", outcome="lost")),
        ("list --tag ci --name 'nightly'", ListJobs(tag="ci", name="nightly")),
        ("list --since 3600 --limit 1000", ListJobs(since=3600.0, limit=1000)),
        (f"list --limit 1 --before {T.lower()}", ListJobs(limit=1, before=T)),
        ("list --limit 1 --limit 2 --", ListJobs(limit=2)),
    ],
)
def test_what_may_be_asked_for(line: str, asked: ListJobs) -> None:
    assert parse_line(line.encode()) == asked


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("list all", "list takes nothing but its options, as in list --state open: not 'all'."),
        ("list --state idle", "--state takes one of open, queued, running, done: not 'idle'."),
        ("list --state", "--state takes one of open, queued, running, done: not ''."),
        (
            "list --outcome good",
            "--outcome takes one of succeeded, failed, timed-out, cancelled, lost: not 'good'.",
        ),
        ("list --since 0", "--since takes seconds, more than 0, at most 316224000: not '0'."),
        ("list --since yesterday", "--since takes seconds, more than 0, at most 316224000: not 'yesterday'."),
        ("list --limit 0", f"--limit takes a whole number from 1 to {LIST_LIMIT}: not '0'."),
        ("list --limit 1001", f"--limit takes a whole number from 1 to {LIST_LIMIT}: not '1001'."),
        ("list --before X", "--before takes a ticket of this node, 16 letters and digits: not 'X'."),
        (
            "list --tag 'two words'",
            "--tag takes 1 to 64 printable characters without spaces: not 'two words'.",
        ),
        ("list --name 'x", "--name has a ' without its end."),
        ("list --outcome lost --state open", "--outcome is of what is done, which --state open leaves out."),
    ],
)
def test_what_is_wrong_is_said_in_one_line(line: str, said: str) -> None:
    assert parse_line(line.encode()) == Invalid(said)


def test_an_option_that_is_not_there_is_told_those_that_are() -> None:
    request = parse_line(b"list --states open")
    assert isinstance(request, Invalid)
    assert all(option.form in request.reason for option in LIST_OPTIONS.values())
    assert ListJobs().limit == LIST_USUAL


def view(spec: JobSpec, **fields: Any) -> JobView:
    return replace(JobView(T, spec, NOW - 75, JobState.QUEUED), **fields)


DONE = view(
    Command("make  test\nall", extras=Extras(name="n" * 30, tag="ci")),
    state=JobState.DONE,
    outcome=Outcome.FAILED,
    attempt=2,
    node="n1",
    started_at=1.0,
    report=Report("n1", 1.0, 2.0, 1),
)


def object_of(listed: Listed) -> dict[str, Any]:
    value = json.loads(json_row(listed).fields)
    assert isinstance(value, dict)
    return value


def test_a_program_reads_status_name_tag_and_job() -> None:
    assert object_of(Listed(T, DONE)) == {
        "ticket": T,
        "state": "done",
        "outcome": "failed",
        "attempt": 2,
        "node": "n1",
        "submitted_at": NOW - 75,
        "started_at": 1.0,
        "finished_at": 2.0,
        "name": "n" * 30,
        "tag": "ci",
        "job": {
            "run": "make  test\nall",
            "time": None,
            "retries": 0,
            "at_most_once": False,
            "name": "n" * 30,
            "tag": "ci",
        },
    }
    sleeps = object_of(Listed(T, view(Sleep(5), state=JobState.RUNNING)))
    assert (sleeps["state"], sleeps["name"], sleeps["tag"], sleeps["job"]) == (
        "running",
        None,
        None,
        {"sleep": 5},
    )
    array = view(Command("x", extras=Extras(array=2)), array=ArrayView(2, {"failed": 1}))
    assert object_of(Listed(T, array))["array"]["open"] == 1
    assert object_of(Listed(T, view(Sleep(5), waits_for=(T,))))["waits_for"] == [T]
    assert object_of(Listed(T, view(Sleep(5)), is_placed=False))["state"] == "open"


def test_a_ticket_that_cannot_be_read_has_a_row() -> None:
    listed = Listed(T, None, failure="It is broken.")
    assert object_of(listed) == {"error": "It is broken.", "ticket": T}
    assert text_list([text_row(listed, NOW)], None, "").decode().splitlines()[2].endswith("It is broken.")


def test_a_program_reads_one_line() -> None:
    rows = [json_row(Listed(T, DONE)), json_row(Listed(T, DONE))]
    data = json_list(rows, T, "")
    assert data.count(b"\n") == 1
    value = json.loads(data)
    assert value == {"jobs": [object_of(Listed(T, DONE))] * 2, "next": T}
    assert json.loads(json_list([], None, "away")) == {"jobs": [], "next": None, "note": "away"}


def table(*listed: Listed, following: str | None = None, note: str = "") -> list[str]:
    lines = text_list([text_row(each, NOW) for each in listed], following, note).decode().split("\n")
    assert lines[-2:] == [".", ""]
    return lines[:-2]


def test_a_person_reads_a_table() -> None:
    rows = table(
        Listed(T, DONE),
        Listed(T, view(Sleep(250), submitted_at=NOW - 3)),
        Listed(T, view(Task("checksum", '{"path": "/x"}'), submitted_at=NOW + 5), is_placed=False),
        Listed(T, view(Command("x y", extras=Extras(array=20)), submitted_at=NOW - 7200)),
        following=T,
        note="the ReverseProxy is away",
    )
    name = "n" * 19 + "…"
    gap = " " * (20 - 1)
    assert rows == [
        f"Jobs: 4, more with list --before {T} (the ReverseProxy is away)",
        f"TICKET            STATE   OUTCOME  AGE  NAME{gap[3:]}  TAG  RUNS",
        f"{T}  done    failed   1m   {name}  ci   make test all",
        f"{T}  queued  -        3s   -{gap}  -    sleep of 250 ms",
        f'{T}  open    -        0s   -{gap}  -    task checksum {{"path": "/x"}}',
        f"{T}  queued  -        2h   -{gap}  -    20 times x y",
    ]


def test_of_nothing_there_is_the_head_alone() -> None:
    assert table() == ["Jobs: 0", "TICKET  STATE  OUTCOME  AGE  NAME  TAG  RUNS"]


def test_a_row_is_cut_and_does_nothing_to_a_terminal() -> None:
    for line in ("x" * 5000, "\x1b[2J\x07" + "y" * 200, "a\tb\u202ec"):
        row = table(Listed(T, view(Command(line))))[2]
        assert len(row) <= ROW_WIDTH
        assert row.isprintable()
    assert table(Listed(T, view(Command("z" * 5000))))[2].endswith("z…")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (3599, "59m"),
        (3600, "1h"),
        (86399, "23h"),
        (86400 * 400, "400d"),
    ],
)
def test_an_age_stands_in_its_largest_unit(seconds: float, said: str) -> None:
    assert in_short(seconds) == said
