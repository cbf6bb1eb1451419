import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenly.workload.formats import (
    JOB_LIMIT,
    BadLine,
    Omitted,
    Parsed,
    Parser,
    jsonl,
    shell,
    sleeps,
    swf,
    with_key,
)
from protocol.dialogue import Submit, parse_line
from protocol.job import Command, Sleep, key_of
from protocol.limits import LINE_LIMIT, NAME_LIMIT, SLEEP_LIMIT_MS

A_LINE = "1 100 -1 60 4 -1 -1 4 -1 -1 1 1 1 1 1 1 -1 -1"


def job(parsed: object) -> dict:
    assert isinstance(parsed, Parsed)
    return json.loads(parsed.job)


def spec(line: str) -> object:
    request = parse_line(line.encode())
    assert isinstance(request, Submit), request
    return request.spec


def bad(parse: Parser, line: bytes) -> str:
    with pytest.raises(BadLine) as fault:
        parse(line)
    return str(fault.value)


# --- the forerunner's ------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["", "sleep ", "SLEEP\t", "  sleep   ", "+", "sleep +"])
@pytest.mark.parametrize("after", ["", "\r\n", "  \n"])
@pytest.mark.parametrize("ms", [0, 1000, SLEEP_LIMIT_MS])
def test_a_sleep_in_ms(before: str, after: str, ms: int) -> None:
    assert job(sleeps()(f"{before}{ms}{after}".encode())) == {"sleep": ms}


@pytest.mark.parametrize("line", [b"", b"\n", b"   \r\n", b"# sleep 5", b"  # note"])
def test_lines_that_say_nothing(line: bytes) -> None:
    assert sleeps()(line) is None
    assert shell()(line) is None


@pytest.mark.parametrize(
    "line", ["sleep", "sleep -1", "sleep 1.5", "sleep 2147483648", "sleep 1 2", "true", "²"]
)
def test_what_is_no_task_of_the_forerunner(line: str) -> None:
    said = bad(sleeps(), line.encode())
    assert said.startswith(repr(line))
    assert "as in sleep 1000" in said
    assert "--format shell" in said


# --- commands ----------------------------------------------------------------------------------------


@given(st.text(min_size=1).filter(lambda text: text.strip() and text.strip()[0] != "#" and "\0" not in text))
def test_a_command_is_the_line(text: str) -> None:
    line = text.encode("utf-8", "surrogatepass")
    try:
        parsed = shell()(line)
    except BadLine:
        with pytest.raises(UnicodeDecodeError):
            line.decode()
        return
    said = text.strip()
    if (len(said) - len(said.rstrip("\\"))) % 2:
        said += text.lstrip()[len(said) :].rstrip("\r\n")[:1]
    assert job(parsed) == {"run": said}
    assert isinstance(parsed, Parsed)
    assert spec(parsed.job) == Command(said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"touch a\\ \n", "touch a\\ "),
        (b"touch a\\\t \r\n", "touch a\\\t"),
        (b" touch a\\\\ \n", "touch a\\\\"),
        (b"touch a\\\r\n", "touch a\\"),
    ],
)
def test_a_blank_that_is_escaped_is_part_of_the_command(line: bytes, said: str) -> None:
    assert job(shell()(line)) == {"run": said}


def test_a_command_that_no_process_can_be_given() -> None:
    assert bad(shell(), b"echo \0") == "A command line cannot hold a NUL byte."
    assert bad(shell(), b"echo \xff").startswith("byte 6 is 0xff, which is no UTF-8")


def test_a_job_has_room_for_its_key_on_a_line() -> None:
    longest = JOB_LIMIT - len('{"run": ""}')
    parsed = shell()(b"x" * longest)
    assert isinstance(parsed, Parsed)
    assert len(with_key(parsed.job, "k" * NAME_LIMIT)) == LINE_LIMIT
    assert f"at most {JOB_LIMIT}" in bad(shell(), b"x" * (longest + 1))
    assert f"at most {JOB_LIMIT}" in bad(shell(), b'"' * (longest // 2 + 1)), "as JSON it is longer"


# --- JSON --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"run": "make", "time": 60, "env": {"K": "V"}, "cpus": 2, "memory": "500M"}',
        '{"task": "checksum", "payload": {"path": "/x"}, "retries": 2}',
        '{"sleep": 250}',
        '{"run": "x", "array": 10, "tag": "nightly", "priority": -3}',
    ],
)
def test_a_job_in_json_is_what_the_node_makes_of_it(text: str) -> None:
    parsed = jsonl()(f"  {text}\r\n".encode())
    assert parsed == Parsed(text)
    keyed = spec(with_key(text, "run.1.0"))
    assert key_of(keyed) == "run.1.0"  # type: ignore[arg-type]


def test_a_key_of_its_own_stays() -> None:
    text = '{"sleep": 1, "key": "mine"}'
    assert spec(with_key(text, "ours")) == Sleep(1, "mine")
    assert spec(with_key(text, "ours", is_new=True)) == Sleep(1, "ours"), "tried again, it is another job"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"run": "x", "cpu": 3}', "there is no option 'cpu'"),
        ('{"run": "x", "time": -1}', "--time takes seconds, more than 0"),
        ('{"run": "x"', "That line begins as JSON and is none at character"),
        ('{"go": 1}', "That object is no job"),
        ('{"sleep": -1}', "Please enter a valid number"),
        ('{"task": "t", "payload": [1]}', "is no object"),
        ("make", "one is a JSON object on a line"),
        ("250", "one is a JSON object on a line"),
        ('["run"]', "one is a JSON object on a line"),
    ],
)
def test_what_is_wrong_is_said_as_the_node_says_it(line: str, said: str) -> None:
    assert said in bad(jsonl(), line.encode())
    assert jsonl()(b"  \n") is None


# --- the Standard Workload Format ------------------------------------------------------------------------


def swf_line(submitted: object, run_time: object, processors: object = 1) -> bytes:
    return f"1 {submitted} -1 {run_time} {processors} -1 -1 4 -1 -1 1 1 1 1 1 1 -1 -1\n".encode()


def test_a_job_sleeps_its_run_time_at_its_submit_time() -> None:
    parse = swf()
    assert parse(b"; Version: 2.2\n") is None
    assert parse(b"\n") is None
    assert parse(swf_line(100, 60)) == Parsed('{"sleep":60000}', 0.0)
    assert parse(swf_line(160, 0)) == Parsed('{"sleep":0}', 60.0)
    assert parse(swf_line(150.5, 1.25)) == Parsed('{"sleep":1250}', 50.5), "not in order, and with fractions"
    assert parse(swf_line(5, 1)) == Parsed('{"sleep":1000}', 0.0), "before the first: at once"


def test_speed_divides_both() -> None:
    parse = swf(1000)
    parse(swf_line(0, 0))
    assert parse(swf_line(500, 60)) == Parsed('{"sleep":60}', 0.5)


def test_a_job_whose_run_time_is_unknown_is_left_out() -> None:
    assert isinstance(swf()(swf_line(0, -1)), Omitted)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            A_LINE.rpartition(" ")[0].encode(),
            "has 18 numbers (job, submit time, wait time, run time, processors",
        ),
        (A_LINE.encode() + b" 7", "this one has 19"),
        (A_LINE.replace("60", "sixty").encode(), "'sixty' is no number"),
        (swf_line("nan", 1), "'nan' is no number"),
        (swf_line("inf", 1), "'inf' is no number"),
        (swf_line(-1, 1), "the submit time, the 2nd number, is -1"),
        (swf_line(1, -2), "run time and processors"),
        (swf_line(1, 1, -2), "run time and processors"),
        (swf_line(1, 3_000_000), "is over 2147483647 ms; --speed N divides it"),
        (swf_line(1, "1e308"), "a run time of 1e+308 s is over 2147483647 ms; --speed N divides it"),
    ],
)
def test_what_is_wrong_with_a_line_of_the_standard_format(line: bytes, said: str) -> None:
    assert said in bad(swf(), line)


@pytest.mark.parametrize(("submitted", "speed"), [("1e308", 1.0), (3e9, 1.0), (1e300, 1e-300), (1, 5e-324)])
def test_a_job_that_is_submitted_in_some_thousand_years(submitted: object, speed: float) -> None:
    """Times may be infinite once they are divided."""
    parse = swf(speed)
    parse(swf_line(0, 0))
    assert "is too late; --speed N divides it" in bad(parse, swf_line(submitted, 0))


@given(st.binary(max_size=200))
def test_any_line_is_a_job_or_nothing_or_a_fault_in_one_line(line: bytes) -> None:
    for parse in (sleeps(), shell(), jsonl(), swf()):
        said = ""
        try:
            parsed = parse(line)
        except BadLine as fault:
            parsed, said = None, str(fault)
        assert "\n" not in said
        if isinstance(parsed, Parsed):
            spec(with_key(parsed.job, "k"))
