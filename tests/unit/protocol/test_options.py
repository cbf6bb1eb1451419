"""The options of a command: the same ones in a line and as JSON."""

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dialogue import BAD_NUMBER, Invalid, Request, Submit, parse_line
from protocol.errors import ProtocolError
from protocol.job import NO_EXTRAS, Command, Extras, Sleep, unpack_spec
from protocol.limits import AFTER_LIMIT, PRIORITY_LIMIT, SLEEP_LIMIT_MS
from protocol.replies import Failure, render_json, render_text


def of_json(value: object) -> Request | None:
    return parse_line(json.dumps(value).encode())


def refusal(request: Request | None) -> str:
    assert isinstance(request, Invalid)
    assert "\n" not in request.reason
    return request.reason


T = "ABCDEFGHIJ012345"
U = "ZYXWVUTSRQ987654"
D = "0123456789abcdef" * 4
BOTH_FLAGS = Extras(keep_output=True, checkpoint=True)
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
    (f"--after {T}", {"after": T}, Extras(after=(T,))),
    (f"--after {T.lower()} --after={U}", {"after": [T, U.lower()]}, Extras(after=(T, U))),
    ("--array 7", {"array": 7}, Extras(array=7)),
    ("--cpus 4", {"cpus": 4}, Extras(cpus=4)),
    ("--memory 500M", {"memory": "500m"}, Extras(memory=500 * 1024**2)),
    ("--memory 2G", {"memory": 2 * 1024**3}, Extras(memory=2 * 1024**3)),
    ("--memory 1048576", {"memory": "1024k"}, Extras(memory=1024**2)),
    (f"--file bin/x={D}", {"file": {"bin/x": D}}, Extras(files=(("bin/x", D),))),
    (f"--file a=b={D} --file=c={D}", {"file": {"a=b": D, "c": D}}, Extras(files=(("a=b", D), ("c", D)))),
    ("--result-dir runs/7", {"result_dir": "runs/7"}, Extras(result_dir="runs/7")),
    ("--keep-output --checkpoint", {"keep_output": True, "checkpoint": True}, BOTH_FLAGS),
    ("--notify http://h:1/p?q", {"notify": "http://h:1/p?q"}, Extras(notify="http://h:1/p?q")),
    ("--key k-1", {"key": "k-1"}, Extras(key="k-1")),
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
    assert of_json({"sleep": 250, "key": "k-1"}) == Submit(Sleep(250, "k-1"))
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
            "name, tag, after, array, cpus, memory, file, result-dir, keep-output, checkpoint, notify, key.",
        ),
        (
            {"run": "x", "after": [T, "T1"]},
            "--after takes a ticket of this node, 16 letters and digits (in JSON also a list of them): "
            f'not \'["{T}", "T1"]\'.',
        ),
        ({"run": "x", "after": [T] * 1001}, "--after takes 1000 tickets at most."),
        ({"run": "x", "array": 1}, "--array takes a whole number from 2 to 100000: not '1'."),
        (
            {"run": "x" * 1000, "array": 100_000},
            "--array 100000 of so long a command is over 33554432 bytes.",
        ),
        ({"run": ""}, "run needs a command line, as in: run --time 60 -- make test"),
        (
            {"run": "x", "retries": 1, "at_most_once": True},
            "--at-most-once and --retries exclude each other: it would be started again.",
        ),
        ({"run": "x", "cpus": 0}, "--cpus takes a whole number from 1 to 4096: not '0'."),
        (
            {"run": "x", "file": {f"f{number}": D for number in range(101)}},
            "--file takes 100 files at most, each with a name of its own.",
        ),
        ({"sleep": -1}, BAD_NUMBER),
        (
            {"sleep": 1, "key": "a b"},
            "--key takes 1 to 64 printable characters without spaces: not 'a b'.",
        ),
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
    "memory", ["", "M", "1K", "1.5G", "-5M", "1048575", 0, -1, 1.5, True, None, 2**50 + 1, "9" * 10, "1T"]
)
def test_a_memory_that_is_none_is_refused(memory: object) -> None:
    said = "--memory takes bytes, at least 1M, also as 500M or 2G: not "
    assert refusal(of_json({"run": "x", "memory": memory})).startswith(said)


OUTSIDE = [
    "",
    "/etc",
    "..",
    "../x",
    "a/../b",
    "a//b",
    "a/",
    "./a",
    "a\nb",
    "x" * 256,
    "ж" * 128,
    " a",
    "a ",
    1,
    None,
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leaves_its_directory_is_refused(path: object) -> None:
    reason = refusal(of_json({"run": "x", "result_dir": path}))
    assert reason.startswith("--result-dir takes a relative path without . and ..")
    if isinstance(path, str):
        assert refusal(of_json({"run": "x", "file": {path: D}})).startswith("--file takes a relative path")


@pytest.mark.parametrize("names", [("a", "a/b"), ("x/a/b/c", "y", "x/a")])
def test_a_file_that_would_be_a_directory_of_another_is_refused(names: tuple[str, ...]) -> None:
    said = "--file takes names none of which is a directory of another."
    assert refusal(of_json({"run": "x", "file": dict.fromkeys(names, D)})) == said
    line = "run " + " ".join(f"--file {name}={D}" for name in names) + " -- x"
    assert refusal(parse_line(line.encode())) == said
    fine = of_json({"run": "x", "file": dict.fromkeys(["a/b", "a/c", "ab", "a.b"], D)})
    assert isinstance(fine, Submit)


@pytest.mark.parametrize("file", ["x", f"={D}", f"x={D[1:]}", f"x={D.upper()}", {"x": 1}, {"x": "y"}, [D], 1])
def test_a_file_without_a_digest_is_refused(file: object) -> None:
    assert refusal(of_json({"run": "x", "file": file})).startswith("--file takes a relative path")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "ftp://h/",
        "http://",
        "http://h:x/",
        "http://h:0/",
        "http://h:65536/",
        "http://h/a b",
        "//h/",
    ],
)
def test_an_address_that_cannot_be_told_is_refused(url: str) -> None:
    said = "--notify takes an http or https address of at most 2000 characters: not "
    assert refusal(of_json({"run": "x", "notify": url})).startswith(said)
    assert refusal(of_json({"run": "x", "notify": "http://h/" + "x" * 2000})).startswith(said)


def test_a_task_takes_what_does_not_need_a_process_of_its_own() -> None:
    good = {"file": {"x": D}, "result_dir": "r", "checkpoint": True, "memory": "5M", "cpus": 2, "key": "k"}
    request = of_json({"task": "t"} | good)
    assert isinstance(request, Submit)
    assert unpack_spec(request.spec.pack()) == request.spec
    assert refusal(of_json({"task": "t", "keep_output": True})).startswith("there is no option 'keep-output'")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "That object is no job: it has none of run, task and sleep"),
        ({"go": "x"}, "That object is no job: it has none of run, task and sleep"),
        ({"run": 1}, "run takes a command line, not 1"),
        ({"run": None}, "run takes a command line, not null"),
        ({"run": ["ls", "-l"], "time": 1}, 'run takes a command line, not ["ls", "-l"]'),
        ({"task": 5}, "task takes the name of a task, not 5"),
        ({"sleep": "1"}, 'sleep takes whole milliseconds, not "1"'),
        ({"sleep": 1.5}, "sleep takes whole milliseconds, not 1.5"),
        ({"sleep": True}, "sleep takes whole milliseconds, not true"),
    ],
)
def test_an_object_that_is_no_job_is_told_why_and_shown_one(value: dict, said: str) -> None:
    form = 'as in {"run": "make test", "time": 60} or {"sleep": 250}.'
    assert refusal(of_json(value)) == f"{said}; {form}"


@pytest.mark.parametrize("name", ["time", "retries", "priority", "cpus", "memory", "array"])
def test_a_number_of_hundreds_of_digits_is_refused_like_others(name: str) -> None:
    said = refusal(of_json({"run": "x", name: int("9" * 400)}))
    assert said.startswith(f"--{name} takes ")


def test_a_sleep_has_a_key_alone() -> None:
    said = "A sleep has no option but key, and not 'tag, time'."
    assert refusal(of_json({"sleep": 1, "time": 1, "tag": "x"})) == said


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
    st.lists(st.sampled_from([T, U]), max_size=3).map(tuple),
    st.just(0) | st.integers(2, 100_000),
)


@given(extras)
def test_what_is_packed_is_unpacked_and_what_is_not_asked_for_takes_no_room(extras: Extras) -> None:
    command = Command("x", extras=extras)
    assert unpack_spec(command.pack()) == command
    assert unpack_spec(Command("x").pack()).extras is NO_EXTRAS  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "given_",
    [
        *({"cores": 1}, {"priority": 101}, {"priority": True}, {"name": 1}, {"env": {"A": "b"}}),
        *({"after": ["T1"]}, {"after": T}, {"after": [T] * (AFTER_LIMIT + 1)}),
        *({"cpus": -1}, {"cpus": True}, {"memory": 2**50 + 1}, {"files": [["../x", "d" * 64]]}),
        *({"files": [["x", "d"]]}, {"result_dir": "/x"}, {"checkpoint": 1}, {"notify": 1}, {"key": None}),
        *({"array": 1}, {"array": True}, {"array": 100_001}, [], 1, {1: 2}),
    ],
)
def test_a_body_with_other_options_is_refused(given_: object) -> None:
    with pytest.raises(ProtocolError):
        unpack_spec(msgpack.packb(("run", "x", None, 0, False, given_)))
