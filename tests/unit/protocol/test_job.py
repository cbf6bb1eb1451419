import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.job import (
    TICKET_ALPHABET,
    Command,
    Extras,
    JobSpec,
    Outcome,
    Report,
    Sleep,
    Task,
    is_ticket,
    key_of,
    unpack_report,
    unpack_spec,
)
from protocol.limits import OUTPUT_LIMIT, RETRIES_LIMIT, SLEEP_LIMIT_MS, TIME_LIMIT, VALUE_LIMIT

from ..strategies import reports, specs, structures
from .wire_v1 import REPORTS, SPECS

REPORT = ["alpha", 1.0, 2.0, 0, b"out", b"err", 3, 3, "why"]


@given(specs)
def test_a_job_comes_out_as_it_was_packed(spec: JobSpec) -> None:
    assert unpack_spec(spec.pack()) == spec


@given(reports)
def test_a_report_comes_out_as_it_was_packed(report: Report) -> None:
    assert unpack_report(report.pack()) == report


@pytest.mark.parametrize(("spec", "body"), SPECS)
def test_jobs_of_version_1_are_written_and_read_to_the_byte(spec: JobSpec, body: bytes) -> None:
    assert spec.pack() == body
    assert unpack_spec(body) == spec


@pytest.mark.parametrize(("report", "body"), REPORTS)
def test_reports_of_version_1_are_written_and_read_to_the_byte(report: Report, body: bytes) -> None:
    assert report.pack() == body
    assert unpack_report(body) == report


@given(st.binary(max_size=100) | structures.map(msgpack.packb))
def test_hostile_bodies_only_ever_give_a_protocol_error(body: bytes) -> None:
    for unpack in (unpack_spec, unpack_report):
        with pytest.raises(ProtocolError):
            unpack(body)


@pytest.mark.parametrize(
    "value",
    [
        ["sleep"],
        ["sleep", -1],
        ["sleep", SLEEP_LIMIT_MS + 1],
        ["sleep", True],
        ["sleep", 1.0],
        ["sleep", "1"],
        ["sleep", 1, 2],
        ["run", "", None, 0, False],
        ["run", "nul\0", None, 0, False],
        ["run", b"bytes", None, 0, False],
        ["run", "x"],
        ["run", "x", None],
        ["run", "x", None, 0],
        ["run", "x", None, 0, False, {}, {}],
        *(
            ["run", "x", limit, 0, False]
            for limit in (0, -1.0, TIME_LIMIT * 2, math.nan, math.inf, True, "5", [5])
        ),
        *(["run", "x", None, retries, False] for retries in (-1, RETRIES_LIMIT + 1, True, 1.0, "1", None)),
        *(["run", "x", None, 0, once] for once in (0, 1, None, "", "yes")),
        ["task", "x", "{}"],
        ["task", "", "{}", None, 0, False],
        ["task", "two words", "{}", None, 0, False],
        ["task", "x", b"{}", None, 0, False],
        ["task", "x", "{}", -1, 0, False],
        ["task", "x", "{}", None, 0, False, {"cwd": "/"}],
        ["SLEEP", 1],
        {"sleep": 1},
        None,
    ],
)
def test_what_is_no_job_is_refused(value: Any) -> None:
    with pytest.raises(ProtocolError, match=r"^a job (that is neither a sleep, nor|whose options are not)"):
        unpack_spec(msgpack.packb(value))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((0, value) for value in (None, 5, b"alpha")),
        *((1, value) for value in ("1", True, -1.0, math.nan, math.inf, 1e300)),
        *((2, value) for value in (None, "1", True, -1.0, math.nan, -math.inf, 1e300)),
        *((3, value) for value in ("0", 1.5, True)),
        *((place, value) for place in (4, 5) for value in (None, "text", bytes(OUTPUT_LIMIT + 1))),
        *((place, value) for place in (6, 7) for value in (None, 1.5, "3", True, -1)),
        *((8, value) for value in (None, 5, b"why")),
    ],
)
def test_a_report_with_a_field_that_cannot_be_shown_is_refused(place: int, value: Any) -> None:
    fields = [*REPORT[:place], value, *REPORT[place + 1 :]]
    with pytest.raises(ProtocolError, match=r"^a report with fields missing or of the wrong type$"):
        unpack_report(msgpack.packb(fields))


@pytest.mark.parametrize(
    "fields", [REPORT[:-1], [*REPORT, 1], [*REPORT, "x" * (VALUE_LIMIT + 1)], [*REPORT, "1", [], 3], [], None]
)
def test_a_report_with_more_or_fewer_fields_is_refused(fields: Any) -> None:
    with pytest.raises(ProtocolError, match=r"^a report with fields missing"):
        unpack_report(msgpack.packb(fields))


def test_what_is_no_message_pack_is_told_so() -> None:
    with pytest.raises(ProtocolError, match=r"^a job that is no MessagePack: "):
        unpack_spec(b"")
    with pytest.raises(ProtocolError, match=r"^a report that is no MessagePack: "):
        unpack_report(b"\xc1")


def test_a_report_without_a_value_is_packed_as_before_there_were_any() -> None:
    assert len(msgpack.unpackb(Report().pack())) == 9
    assert unpack_report(Report(value='{"a":1}').pack()).value == '{"a":1}'


def test_output_of_exactly_the_limit_passes() -> None:
    report = Report(stdout=bytes(OUTPUT_LIMIT), stderr=bytes(OUTPUT_LIMIT))
    assert unpack_report(report.pack()) == report


@pytest.mark.parametrize(
    ("report", "truncated"),
    [
        (Report(), False),
        (Report(stdout=b"abc", stdout_total=3, stderr=b"d", stderr_total=1), False),
        (Report(stdout=b"abc", stdout_total=4), True),
        (Report(stderr_total=1), True),
    ],
)
def test_a_report_is_truncated_when_less_was_kept_than_written(report: Report, truncated: bool) -> None:
    assert report.truncated is truncated


@given(st.text(TICKET_ALPHABET, min_size=16, max_size=16))
def test_sixteen_capital_letters_and_digits_are_a_ticket(text: str) -> None:
    assert is_ticket(text)


@pytest.mark.parametrize(
    "value",
    ["", "A" * 15, "A" * 17, "a" * 16, "A" * 15 + " ", "A" * 15 + "É", b"A" * 16, 5, None, ["A"] * 16],
)
def test_all_else_is_no_ticket(value: object) -> None:
    assert not is_ticket(value)


def test_the_outcomes_are_spelled_as_clients_and_stores_know_them() -> None:
    assert [str(outcome) for outcome in Outcome] == ["succeeded", "failed", "timed-out", "cancelled", "lost"]


def test_a_command_keeps_no_limit_apart_from_a_limit() -> None:
    assert unpack_spec(Command("x").pack()) == Command("x", None)
    assert unpack_spec(msgpack.packb(["run", "x", 5, 0, False])) == Command("x", 5)
    assert unpack_spec(Sleep(0).pack()) == Sleep(0)


def test_a_job_of_each_kind_may_have_a_key() -> None:
    for spec in (Sleep(5, "k"), Command("x", extras=Extras(key="k")), Task("t", extras=Extras(key="k"))):
        assert unpack_spec(spec.pack()) == spec
        assert key_of(spec) == "k"
    assert key_of(Sleep(5)) == key_of(Command("x")) == ""
    for wrong in (["sleep", 1, ""], ["sleep", 1, "a b"], ["sleep", 1, 2], ["sleep", 1, "k", "k"]):
        with pytest.raises(ProtocolError):
            unpack_spec(msgpack.packb(wrong))
