"""The options of a command: the same ones in a line and as JSON."""

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dialogue import BAD_NUMBER, Invalid, Request, Submit, parse_line
from protocol.errors import ProtocolError
from protocol.job import NO_EXTRAS, Command, Extras, Sleep, unpack_spec
from protocol.limits import PRIORITY_LIMIT, SLEEP_LIMIT_MS
from protocol.replies import Failure, render_json, render_text


def of_json(value: object) -> Request | None:
    return parse_line(json.dumps(value).encode())


def refusal(request: Request | None) -> str:
    assert isinstance(request, Invalid)
    assert "\n" not in request.reason
    return request.reason


BOTH = [
    ("--priority 7", {"priority": 7}, Extras(priority=7)),
    ("--priority -100", {"priority": -100}, Extras(priority=-100)),
    ("--name nightly", {"name": "nightly"}, Extras(name="nightly")),
    ("--tag=render", {"tag": "render"}, Extras(tag="render")),
    ("--env A=b", {"env": {"A": "b"}}, Extras(env=(("A", "b"),))),
    ("--env A=b=c --env=D=", {"env": {"A": "b=c", "D": ""}}, Extras(env=(("A", "b=c"), ("D", "")))),
    ("--env 'A=b c'", {"env": {"A": "b c"}}, Extras(env=(("A", "b c"),))),
    ("--cwd /tmp", {"cwd": "/tmp"}, Extras(cwd="/tmp")),
    ('--cwd "/with space"', {"cwd": "/with space"}, Extras(cwd="/with space")),
    ("--stdin 'two words'", {"stdin": "two words"}, Extras(stdin="two words")),
    ("--stdin=''", {"stdin": ""}, Extras()),
    (
        '--tag x --priority 1 --env A=b --stdin "it\'s"',
        {"tag": "x", "priority": 1, "env": {"A": "b"}, "stdin": "it's"},
        Extras(1, tag="x", env=(("A", "b"),), stdin="it's"),
    ),
]


@pytest.mark.parametrize(("line", "keys", "extras"), BOTH)
def test_an_option_is_the_same_in_a_line_and_as_json(line: str, keys: dict, extras: Extras) -> None:
    command = Command("make  all", extras=extras)
    assert parse_line(f"run {line} -- make  all".encode()) == Submit(command)
    assert parse_line(f"run {line} make  all".encode()) == Submit(command)
    assert of_json({"run": "make  all"} | keys) == Submit(command)
    assert unpack_spec(command.pack()) == command


def test_all_older_options_are_there_as_json_too() -> None:
    assert of_json({"run": "make", "time": 1.5, "retries": 2}) == Submit(Command("make", 1.5, 2))
    assert of_json({"run": "make", "at_most_once": True}) == Submit(Command("make", at_most_once=True))
    assert of_json({"run": "make", "at-most-once": False}) == Submit(Command("make"))
    assert of_json({"sleep": 250}) == Submit(Sleep(250))
    assert of_json({"run": "two\nlines"}) == Submit(Command("two\nlines"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"run": "x", "time": 0}, "--time takes seconds, more than 0, at most 316224000: not '0'."),
        ({"run": "x", "time": True}, "--time takes seconds, more than 0, at most 316224000: not 'true'."),
        ({"run": "x", "time": [1]}, "--time takes seconds, more than 0, at most 316224000: not '[1]'."),
        ({"run": "x", "retries": 1.5}, "--retries takes a whole number from 0 to 1000: not '1.5'."),
        ({"run": "x", "priority": 101}, "--priority takes a whole number from -100 to 100: not '101'."),
        ({"run": "x", "at_most_once": 1}, "--at-most-once takes no value (in JSON true or false): not '1'."),
        ({"run": "x", "cwd": "tmp"}, "--cwd takes an absolute path: not 'tmp'."),
        ({"run": "x", "stdin": "a\0"}, "--stdin takes a text without NUL: not 'a\\x00'."),
        ({"run": "x", "tag": "a b"}, "--tag takes 1 to 64 printable characters without spaces: not 'a b'."),
        (
            {"run": "x", "env": {"EVENLY_TICKET": "x"}},
            "--env takes NAME=VALUE (in JSON an object of texts), and no name that begins with EVENLY_: "
            'not \'{"EVENLY_TICKET": "x"}\'.',
        ),
        (
            {"run": "x", "cpu": 3},
            "there is no option 'cpu': there are time, retries, at-most-once, priority, env, cwd, stdin, "
            "name, tag.",
        ),
        ({"run": ""}, "run needs a command line, as in: run --time 60 -- make test"),
        (
            {"run": "x", "retries": 1, "at_most_once": True},
            "--at-most-once and --retries exclude each other: it would be started again.",
        ),
        ({"sleep": -1}, BAD_NUMBER),
        ({"sleep": SLEEP_LIMIT_MS + 1}, BAD_NUMBER),
    ],
)
def test_an_object_that_is_wrong_is_told_what_would_be_right(value: dict, said: str) -> None:
    assert refusal(of_json(value)) == said


@pytest.mark.parametrize(
    "env", [{"A": 1}, {"": "x"}, {"A=B": "x"}, {"A\0": "x"}, ["A=b"], "A", 1, {"A": None}]
)
def test_variables_that_are_none_are_refused(env: object) -> None:
    assert refusal(of_json({"run": "x", "env": env})).startswith("--env takes NAME=VALUE")


@pytest.mark.parametrize(
    "value",
    [{}, {"go": "x"}, {"run": 1}, {"run": None}, {"sleep": "1"}, {"sleep": True}, {"sleep": 1, "time": 1}],
)
def test_an_object_that_is_no_job_is_shown_one(value: dict) -> None:
    assert refusal(of_json(value)) == (
        'That object is no job; as in {"run": "make test", "time": 60} or {"sleep": 250}.'
    )


@pytest.mark.parametrize("line", [b"{", b"{'run': 'x'}", b'{"run": "x"} x', b"{" * 60_000, b'{"a":' * 9_000])
def test_what_is_no_json_is_told_so_in_one_line(line: bytes) -> None:
    assert refusal(parse_line(line)).startswith("That line begins as JSON and is none")


HALF = b"\\ud800"


@pytest.mark.parametrize(
    "line",
    [
        b'{"run": "echo ' + HALF + b'"}',
        b'{"run": "x", "stdin": "' + HALF + b'"}',
        b'{"run": "x", "env": {"A": "' + HALF + b'"}}',
        b'{"run": "x", "env": {"' + HALF + b'": "a"}}',
        b'{"run": "x", "cwd": "/' + HALF + b'"}',
        b'{"run": "x", "name": "' + HALF + b'"}',
        b'{"' + HALF + b'": "x"}',
        b'{"run": "x", "' + HALF + b'": 1}',
    ],
)
def test_half_of_a_surrogate_pair_is_refused_and_the_reason_can_be_sent(line: bytes) -> None:
    reason = refusal(parse_line(line))
    assert render_text(Failure(reason))
    assert render_json(Failure(reason))


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_quote_without_its_end_is_named(quote: str) -> None:
    assert (
        refusal(parse_line(f"run --stdin {quote}abc".encode())) == f"--stdin has a {quote} without its end."
    )


@given(st.text(max_size=100))
def test_whatever_is_behind_a_brace_gets_an_answer_or_a_ticket(text: str) -> None:
    assert isinstance(parse_line(("{" + text).encode("utf-8", "replace")), Submit | Invalid)


names = st.from_regex(r"[!-~]{1,20}", fullmatch=True)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
variables = st.dictionaries(st.from_regex(r"[A-D][A-Z]{0,5}", fullmatch=True), texts, max_size=3)
extras = st.builds(
    Extras,
    st.integers(-PRIORITY_LIMIT, PRIORITY_LIMIT),
    st.just("") | names,
    st.just("") | names,
    variables.map(lambda value: tuple(value.items())),
    st.just("") | texts.map("/{}".format),
    texts,
)


@given(extras)
def test_what_is_packed_is_unpacked_and_what_is_not_asked_for_takes_no_room(extras: Extras) -> None:
    command = Command("x", extras=extras)
    assert unpack_spec(command.pack()) == command
    assert unpack_spec(Command("x").pack()).extras is NO_EXTRAS  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "given_",
    [{"cpus": 1}, {"priority": 101}, {"priority": True}, {"name": 1}, {"env": {"A": "b"}}, [], 1, {1: 2}],
)
def test_a_body_with_other_options_is_refused(given_: object) -> None:
    with pytest.raises(ProtocolError):
        unpack_spec(msgpack.packb(("run", "x", None, 0, False, given_)))
