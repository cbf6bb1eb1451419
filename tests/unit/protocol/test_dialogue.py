import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dialogue import (
    BAD_NUMBER,
    HELP,
    TOO_LONG,
    CancelJob,
    Exit,
    Explain,
    Fetch,
    GetAll,
    GetResult,
    Has,
    Help,
    Invalid,
    Json,
    Nodes,
    Partial,
    Request,
    Stats,
    Status,
    Submit,
    Subscribe,
    Tail,
    TakeCheckpoint,
    Unsubscribe,
    Upload,
    Wait,
    WaitForAll,
    parse_line,
)
from protocol.job import TICKET_ALPHABET, Command, Sleep, unpack_spec
from protocol.limits import LINE_LIMIT, RETRIES_LIMIT, SLEEP_LIMIT_MS, TIME_LIMIT, WAIT_LIMIT
from protocol.listing import ListJobs
from protocol.options import OPTIONS

T = "ABCDEFGHIJ012345"
U = "ZYXWVUTSRQ987654"


def refusal(line: bytes) -> str:
    request = parse_line(line)
    assert isinstance(request, Invalid)
    assert "\n" not in request.reason
    return request.reason


# --- what is understood ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "ms"),
    [
        (b"0", 0),
        (b"100", 100),
        (b"+5", 5),
        (b"5\r", 5),
        (b" 5", 5),
        (b"5 ", 5),
        (b"\t5\t", 5),
        (b"007", 7),
        (b"2147483647", SLEEP_LIMIT_MS),
        (b"+2147483647", SLEEP_LIMIT_MS),
        (b"0" * 20 + b"2147483647", SLEEP_LIMIT_MS),
        (b"0" * 60_000 + b"5", 5),
        (b"0" * 60_000, 0),
        (b"+" + b"0" * 5_000, 0),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else None,
)
def test_digits_are_a_job_that_sleeps_so_long(line: bytes, ms: int) -> None:
    assert parse_line(line) == Submit(Sleep(ms))


@given(st.integers(0, SLEEP_LIMIT_MS), st.sampled_from(["", "+", " ", "00"]))
def test_every_allowed_number_is_taken(ms: int, before: str) -> None:
    assert parse_line(f"{before}{ms}".encode()) == Submit(Sleep(ms))


D = "0123456789abcdef" * 4
COMMANDS: list[tuple[str, Request]] = [
    (f"result {T}", GetResult(T)),
    (f"r{T}", GetResult(T)),
    (f"result {T}  99999", GetResult(T, 99_999)),
    (f"wait {T}", Wait(T)),
    (f"wait {T} {U}  {T}", WaitForAll((T, U, T))),
    (f"status {T}", Status(T)),
    (f"explain {T}", Explain(T)),
    (f"cancel {T}", CancelJob(T)),
    ("unsubscribe", Unsubscribe()),
    ("subscribe *", Subscribe("*")),
    ("getall", GetAll()),
    ("nodes", Nodes()),
    ("stats", Stats()),
    ("json", Json()),
    (f"upload 5 {D}", Upload(5, D)),
    (f"has {D}", Has(D)),
    (f"fetch {T}", Fetch(T)),
    (f"tail {T}", Tail(T)),
    (f"partial {T}", Partial(T)),
    (f"checkpoint {T}", TakeCheckpoint(T)),
    ("list", ListJobs()),
    ("help", Help()),
    ("exit", Exit()),
]


@pytest.mark.parametrize(("line", "request_"), COMMANDS)
@pytest.mark.parametrize("spell", [str, str.upper, str.lower, str.title, str.swapcase])
@pytest.mark.parametrize("around", ["{}", " {}", "{} ", "{}\r", "\t{}\t"])
def test_commands_are_understood_in_any_case(line: str, request_: Request, spell, around: str) -> None:
    assert parse_line(around.format(spell(line)).encode()) == request_


@pytest.mark.parametrize("line", [b"", b" ", b"\r", b"\t \r", "\u00a0\u2003".encode()])
def test_an_empty_line_gets_no_reply(line: bytes) -> None:
    assert parse_line(line) is None


def test_every_line_of_help_is_understood() -> None:
    known = {line.split()[0] for line, _ in COMMANDS} | {"<ms>", "run", "task"}
    lines = HELP.splitlines()
    named = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert set(named) == known - {f"r{T}"} | {'{"run":', '{"task":'}
    assert f"r{'<ticket>'}" in HELP
    assert len(named) == len(set(named))
    # The options of run stand below it, and are those that a refusal names.
    run = next(place for place, line in enumerate(lines) if line.startswith("run"))
    options = [option.form for option in OPTIONS.values()]
    assert [line.strip().partition("  ")[0] for line in lines[run + 1 :]][: len(options)] == options
    for option in options:
        line = re.sub(r"(SECONDS|N)$", "5", option).replace("DIRECTORY", "/tmp").replace("K=V", "A=b")
        line = line.replace("TICKET", T).replace("SIZE", "5M").replace("DIGEST", "0" * 64)
        line = line.replace("URL", "http://host/path")
        assert isinstance(parse_line(f"run {line} -- true".encode()), Submit)


@given(st.text(TICKET_ALPHABET, min_size=16, max_size=16))
def test_r_and_a_ticket_ask_for_its_result(ticket: str) -> None:
    assert parse_line(f"r{ticket}".encode()) == GetResult(ticket)


# --- run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("run true", Command("true")),
        ("RUN true", Command("true")),
        ("run   echo  two  spaces", Command("echo  two  spaces")),
        ("run echo -- --time 5", Command("echo -- --time 5")),
        ("run -- true", Command("true")),
        ("run -- --time 5 x", Command("--time 5 x")),
        ("run -v", Command("-v")),
        ("run --time 60 -- make test", Command("make test", 60.0)),
        ("run --time 60 make test", Command("make test", 60.0)),
        ("run --time=0.5 make", Command("make", 0.5)),
        ("run  --time   1.5   --   make", Command("make", 1.5)),
        ("run --time 1 --time 2 make", Command("make", 2.0)),
        ("run --time 1e3 make", Command("make", 1000.0)),
        (f"run --time {TIME_LIMIT:.0f} make", Command("make", TIME_LIMIT)),
        ("run --retries 3 -- make", Command("make", None, 3)),
        ("run --retries=3 make", Command("make", None, 3)),
        ("run --retries 1 --retries 2 make", Command("make", None, 2)),
        ("run --retries 007 make", Command("make", None, 7)),
        (f"run --retries {RETRIES_LIMIT} make", Command("make", None, RETRIES_LIMIT)),
        ("run --at-most-once make", Command("make", at_most_once=True)),
        ("run --at-most-once -- make", Command("make", at_most_once=True)),
        ("run --at-most-once --at-most-once make", Command("make", at_most_once=True)),
        ("run --retries 0 --at-most-once make", Command("make", at_most_once=True)),
        ("run --time 5 --retries 2 -- --at-most-once", Command("--at-most-once", 5.0, 2)),
        ("run --retries 2  --time=5 make", Command("make", 5.0, 2)),
        ("run --at-most-once --time 5 make", Command("make", 5.0, 0, True)),
        ("run écho 'ß' | cat; exit 3", Command("écho 'ß' | cat; exit 3")),
        ('run a\tb\\n"c"', Command('a\tb\\n"c"')),
    ],
)
def test_run_takes_options_and_then_the_command_as_it_stands(line: str, command: Command) -> None:
    assert parse_line(line.encode()) == Submit(command)


@pytest.mark.parametrize(
    "line",
    [
        "run",
        "run ",
        "run --",
        "run -- ",
        "run --time 5",
        "run --time 5 --",
        "run --retries 5",
        "run --at-most-once",
        "run --at-most-once --",
    ],
)
def test_run_without_a_command_is_told_what_it_needs(line: str) -> None:
    assert refusal(line.encode()) == "run needs a command line, as in: run --time 60 -- make test"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e300", "soon", "--", "5s", "9" * 60_000])
@pytest.mark.parametrize("option", ["--time {}", "--time={}"])
def test_a_time_limit_that_is_none_is_told_the_range(value: str, option: str) -> None:
    assert refusal(f"run {option.format(value)} true".encode()) == (
        f"--time takes seconds, more than 0, at most 316224000: not {value[:40]!r}."
    )


@pytest.mark.parametrize("line", ["run --time", "run --time=", "run --time= x"])
def test_a_time_limit_that_is_missing_is_told_so(line: str) -> None:
    assert refusal(line.encode()).endswith("not ''.")


@pytest.mark.parametrize("value", ["-1", "+1", "1.5", "1001", "9" * 60_000, "many", "--", "3x", "\u0663"])
@pytest.mark.parametrize("option", ["--retries {}", "--retries={}"])
def test_a_number_of_retries_that_is_none_is_told_the_range(value: str, option: str) -> None:
    assert refusal(f"run {option.format(value)} true".encode()) == (
        f"--retries takes a whole number from 0 to 1000: not {value[:40]!r}."
    )


@pytest.mark.parametrize("line", ["run --retries", "run --retries=", "run --retries= x"])
def test_a_number_of_retries_that_is_missing_is_told_so(line: str) -> None:
    assert refusal(line.encode()).endswith("not ''.")


@pytest.mark.parametrize(
    "options",
    ["--at-most-once --retries 1", "--retries=1 --at-most-once", "--retries 9 --at-most-once --time 5"],
)
def test_what_may_start_once_only_has_no_retries(options: str) -> None:
    assert refusal(f"run {options} -- true".encode()) == (
        "--at-most-once and --retries exclude each other: it would be started again."
    )


@pytest.mark.parametrize("value", ["", "1", "yes"])
def test_an_option_that_takes_no_value_says_so(value: str) -> None:
    assert refusal(f"run --at-most-once={value} true".encode()) == "--at-most-once takes no value."


@pytest.mark.parametrize("option", ["--cores", "--retry=3", "--Time", "--t", "---", "--" + "x" * 1000])
def test_an_option_that_is_not_there_is_named(option: str) -> None:
    reason = refusal(f"run {option} 5 -- true".encode())
    name = option.partition("=")[0][:40]
    assert reason == (
        f"run has no option {name!r}: it has --time SECONDS, --retries N, --at-most-once, --priority N, "
        "--env K=V, --cwd DIRECTORY, --stdin TEXT, --name NAME, --tag TAG, --after TICKET, "
        "--array N, --cpus N, --memory SIZE, --file NAME=DIGEST, --result-dir NAME, --keep-output, "
        "--checkpoint, --notify URL, --key KEY; -- ends options."
    )


def test_a_command_with_a_nul_byte_is_refused() -> None:
    assert refusal(b"run echo \0") == "A command line cannot hold a NUL byte."


# --- what is not -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"-1",
        b"-0",
        b"1.5",
        b".5",
        b"5.",
        b"2147483648",
        b"9999999999",
        b"10000000000",
        b"9" * 1_000_000,
        b"-" + b"9" * 1_000_000,
        "٥".encode(),
        "１２".encode(),
    ],
    ids=lambda line: repr(line[:20]),
)
def test_a_number_that_is_not_allowed_is_told_the_range(line: bytes) -> None:
    assert refusal(line) == BAD_NUMBER
    assert BAD_NUMBER == "Please enter a valid number: whole milliseconds from 0 to 2147483647."


@pytest.mark.parametrize(
    "text", ["abc", "+", "-", ".", "1,5", "5x", "1.5.5", "²", "r", "rabc", f"r{T}X", "1 2"]
)
def test_what_is_neither_number_nor_command_is_shown(text: str) -> None:
    assert refusal(text.encode()) == (
        f"Please enter a valid number or a command (help lists them): {text!r} is neither."
    )


@pytest.mark.parametrize(
    "line", [b"x" * LINE_LIMIT, b"'" * LINE_LIMIT, "é".encode() * 30_000, b"\x01" * 5000]
)
def test_a_long_line_is_not_repeated_at_length(line: bytes) -> None:
    assert len(refusal(line)) < 300


@pytest.mark.parametrize(
    ("line", "said"),
    [(b"\xff", "byte 1 is 0xff"), (b"abc\xc3", "byte 4 is 0xc3"), (b"run \x80", "byte 5 is 0x80")],
)
def test_bad_utf_8_is_told_where(line: bytes, said: str) -> None:
    assert refusal(line) == f"That line is not UTF-8 text: {said}."


@pytest.mark.parametrize("name", ["result", "wait", "status", "explain", "cancel"])
@pytest.mark.parametrize("rest", ["", "5", T[:-1], T + "A", f"{T}-{T}", "É" * 16, "x" * 1000])
def test_a_command_without_a_ticket_is_told_what_a_ticket_is(name: str, rest: str) -> None:
    said = f"not {rest[:40]!r}" if rest else "and none was given"
    assert refusal(f"{name} {rest}".encode()) == f"{name} takes a ticket, 16 letters and digits, {said}."


def test_a_tag_is_taken_as_it_is_written() -> None:
    assert parse_line(b"Subscribe  Nightly-\xc3\x84 ") == Subscribe("Nightly-Ä")


@pytest.mark.parametrize("rest", ["", "a b", "x" * 65, "\x07"])
def test_a_tag_that_is_none_is_told_what_one_is(rest: str) -> None:
    said = f"not {rest[:40]!r}" if rest else "and none was given"
    assert refusal(f"subscribe {rest}".encode()) == (
        f"subscribe takes a tag, 1 to 64 printable characters without spaces, or * for all jobs, {said}."
    )


@pytest.mark.parametrize("first", ["x", "-1", "1.5", "100000", "9" * 5000, "1 2", "²"])
def test_a_page_of_an_array_begins_at_one_of_its_jobs(first: str) -> None:
    said = f"result <ticket> N lists an array from its job N on, from 0 to 99999: not {first[:40]!r}."
    assert refusal(f"result {T} {first}".encode()) == said


@pytest.mark.parametrize("wrong", ["5", T[:-1], "x" * 100])
def test_a_wait_for_more_says_which_of_them_is_no_ticket(wrong: str) -> None:
    said = f"wait takes tickets, 16 letters and digits each, not {wrong.upper()[:40]!r}."
    assert refusal(f"wait {T} {wrong} {T}".encode()) == said


def test_a_wait_has_a_bound() -> None:
    assert parse_line(f"wait {' '.join([T] * WAIT_LIMIT)}".encode()) == WaitForAll((T,) * WAIT_LIMIT)
    said = "wait takes 1000 tickets at most, not 1001: give it a line more."
    assert refusal(f"wait {' '.join([T] * (WAIT_LIMIT + 1))}".encode()) == said


@pytest.mark.parametrize("name", ["unsubscribe", "getall", "nodes", "stats", "help", "json", "exit"])
def test_a_command_that_stands_alone_is_told_so(name: str) -> None:
    assert refusal(f"{name} now".encode()) == f"{name} stands alone on its line, without 'now'."


@pytest.mark.parametrize("rest", ["1", "1 2", "1 2 x", "1 2 -3", "1 2 3 4", f"1 2 {'9' * 16}"])
def test_tail_goes_on_from_three_numbers(rest: str) -> None:
    said = "tail <ticket> <attempt> <bytes of stdout> <bytes of stderr> goes on from there."
    assert refusal(f"tail {T} {rest}".encode()) == said
    assert parse_line(f"tail {T} 2 30 0".encode()) == Tail(T, 2, 30, 0)


@pytest.mark.parametrize("rest", ["", "5", f"-1 {D}", f"x {D}", f"5 {D[1:]}", f"5{D}", f"{2**34 + 1} {D}"])
def test_an_upload_says_how_much_of_what(rest: str) -> None:
    assert refusal(f"upload {rest}".encode()).startswith(
        "upload takes bytes, at most 17179869184, and a SHA-256"
    )


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "./x", "a//b", "a\x01b", "99999/" + "x" * 257]
)
def test_a_path_that_leaves_the_result_directory_is_refused(path: str) -> None:
    assert refusal(f"fetch {T} {path}".encode()).startswith("fetch takes the path of a result file")
    assert parse_line(f"fetch {T} a dir/b".encode()) == Fetch(T, "a dir/b")


def test_a_digest_that_is_none_is_refused() -> None:
    assert refusal(f"has {D}0".encode()).startswith("has takes the SHA-256 of a file in hexadecimal, not ")


def test_a_line_over_the_limit_is_told_the_limit() -> None:
    assert TOO_LONG.reason == "That line is over 65536 bytes, the most a line may have; it was skipped."


# --- any line ----------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [line.split()[0].encode() for line, _ in COMMANDS]
    + [
        b"run",
        b"task",
        b"tail",
        b"--time",
        b"--",
        b"--time=",
        b"--retries",
        b"--retries=",
        b"--at-most-once",
        b"+",
        b"-",
        b".",
        T.encode(),
        b"0",
        b"9" * 11,
    ]
)
PARTS = WORDS | st.binary(max_size=5) | st.text("0123456789", max_size=12).map(str.encode)


@given(st.binary(max_size=100) | st.lists(PARTS, max_size=5).map(b" ".join) | st.lists(PARTS).map(b"".join))
def test_no_line_ever_raises(line: bytes) -> None:
    request = parse_line(line)
    if isinstance(request, Invalid):
        assert 0 < len(request.reason) < 500
    elif isinstance(request, Submit):
        assert unpack_spec(request.spec.pack()) == request.spec
    elif isinstance(request, GetResult | Wait | Status | CancelJob):
        assert len(request.ticket) == 16
    elif isinstance(request, WaitForAll):
        assert all(len(ticket) == 16 for ticket in request.tickets)
