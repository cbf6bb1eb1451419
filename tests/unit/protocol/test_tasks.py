"""Named tasks as data: payloads, signatures, and the lines that submit them."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.dialogue import Invalid, Request, Submit, parse_line
from protocol.job import Extras, Task, unpack_spec
from protocol.limits import JSON_DEPTH_LIMIT
from protocol.tasks import (
    KINDS,
    BadPayload,
    Parameter,
    Signature,
    depth_of,
    fault_of,
    read_object,
    unpack_signature,
)

SCALE = Signature(
    (
        Parameter("images", ("list",)),
        Parameter("ratio", ("float",), is_required=False),
        Parameter("name", ("str", "null"), is_required=False),
        Parameter("more", is_required=False),
    )
)
SHOWN = "it takes images (list), ratio (float, optional), name (str or null, optional), more (optional)"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def refusal(request: Request | None) -> str:
    assert isinstance(request, Invalid)
    assert "\n" not in request.reason
    return request.reason


# --- payloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is no JSON: expecting value at character 1"),
        ("{", "is no JSON: "),
        ('{"a": 1,}', "is no JSON: "),
        ("{'a': 1}", "is no JSON: "),
        ("{} {}", "is no JSON: extra data at character 4"),
        ("[]", "is no object but list"),
        ("null", "is no object but null"),
        ("true", "is no object but bool"),
        ("5", "is no object but int"),
        ("5.0", "is no object but float"),
        ('"x"', "is no object but str"),
        ('{"a": NaN}', "has a number that is none to JSON, or too large"),
        ('{"a": -Infinity}', "has a number that is none to JSON, or too large"),
        ('{"a": 1e999}', "has a number that is none to JSON, or too large"),
        ('{"a": ' + "9" * 5000 + "}", "has a number that is none to JSON, or too large"),
        ('{"a": ' + "[" * 64 + "]" * 64 + "}", "is nested deeper than 64 levels"),
        ("[" * 60_000, "is nested deeper than 64 levels"),
        ('{"a":' * 10_000, "is nested deeper than 64 levels"),
    ],
)
def test_a_payload_that_is_no_object_is_told_why(text: str, fault: str) -> None:
    with pytest.raises(BadPayload) as error:
        read_object(text)
    assert str(error.value).startswith(fault)


def test_a_payload_may_be_as_deep_as_the_bound() -> None:
    text = '{"a": ' + "[" * (JSON_DEPTH_LIMIT - 1) + "]" * (JSON_DEPTH_LIMIT - 1) + "}"
    assert depth_of(read_object(text)) == JSON_DEPTH_LIMIT


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
@example({"a": "\ud800"})
def test_any_object_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    assert read_object(json.dumps(value)) == value


@given(st.text(max_size=60) | json_values.map(json.dumps))
def test_any_text_gives_an_object_or_one_line(text: str) -> None:
    said = ""
    try:
        read_object(text)
    except BadPayload as fault:
        said = str(fault)
    assert "\n" not in said


# --- signatures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        ({"images": []}, None),
        ({"images": [], "ratio": 0.5, "name": "x", "more": {}}, None),
        ({"images": [], "ratio": 1, "name": None, "more": None}, None),
        ({}, '"images" is missing'),
        ({"ratio": 0.5}, '"images" is missing'),
        ({"images": "a.png"}, '"images" must be list, not str'),
        ({"images": None}, '"images" must be list, not null'),
        ({"images": [], "ratio": "0.5"}, '"ratio" must be float, not str'),
        ({"images": [], "ratio": True}, '"ratio" must be float, not bool'),
        ({"images": [], "name": 1}, '"name" must be str or null, not int'),
        ({"images": [], "size": 1}, 'there is no "size"'),
        ({"images": [], "x\n" * 99: 1}, 'there is no "' + "x\\n" * 20 + '"'),
    ],
)
def test_arguments_are_checked_against_the_signature(payload: dict[str, Any], fault: str | None) -> None:
    assert SCALE.fault(payload) == fault


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("str", ["", "x"], [1, None, []]),
        ("int", [0, -1, 2**70], [1.0, True, "1"]),
        ("float", [0.5, 1], [False, "1", None]),
        ("bool", [True, False], [0, 1, None]),
        ("list", [[], [1]], [{}, "x"]),
        ("dict", [{}, {"a": 1}], [[], None]),
        ("null", [None], [0, False, ""]),
    ],
)
def test_each_kind_takes_what_json_has_for_it(kind: str, good: list[Any], bad: list[Any]) -> None:
    parameter = Parameter("x", (kind,))
    assert all(parameter.takes(value) for value in good)
    assert not any(parameter.takes(value) for value in bad)


def test_every_kind_is_tried() -> None:
    assert len(KINDS) == 7


def test_an_open_signature_takes_any_other_name() -> None:
    signature = Signature((Parameter("a", ("int",)),), is_open=True)
    assert signature.fault({"a": 1, "b": 2}) is None
    assert signature.fault({"b": 2}) == '"a" is missing'
    assert str(signature) == "it takes a (int), any other name"


def test_a_signature_says_what_it_takes() -> None:
    assert str(SCALE) == SHOWN
    assert str(Signature()) == "it takes nothing"


signatures = st.builds(
    Signature,
    st.lists(
        st.builds(
            Parameter,
            st.text(max_size=5),
            st.lists(st.sampled_from(list(KINDS)), max_size=3, unique=True).map(tuple),
            st.booleans(),
        ),
        max_size=4,
    ).map(tuple),
    st.booleans(),
)


@given(signatures)
def test_a_signature_comes_out_as_it_was_packed(signature: Signature) -> None:
    assert unpack_signature(signature.pack()) == signature


@given(signatures, st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_any_payload_fits_or_gets_one_line(signature: Signature, payload: dict[str, Any]) -> None:
    fault = signature.fault(payload)
    if fault is None:
        required = {each.name for each in signature.parameters if each.is_required}
        assert required <= payload.keys()
    else:
        assert "\n" not in fault or any("\n" in each.name for each in signature.parameters)


def test_a_task_that_is_not_there_is_told_which_are() -> None:
    assert fault_of({"scale": SCALE, "a": Signature()}, "b", "{}") == (
        "There is no task 'b' on this node: there are a, scale."
    )
    assert fault_of({}, "b", "{}") == "There is no task 'b' on this node: there are none."
    many = {f"t{number:03}": Signature() for number in range(50)}
    assert (fault_of(many, "b" * 64, "{}") or "").endswith("t019 and 30 more.")


def test_a_fault_names_the_task_and_what_it_takes() -> None:
    assert fault_of({"scale": SCALE}, "scale", "{}") == f'task scale: "images" is missing; {SHOWN}.'
    assert fault_of({"scale": SCALE}, "scale", '{"images": []}') is None


# --- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "value", "task"),
    [
        ("task x", {"task": "x"}, Task("x")),
        ('task x {"a": 1}', {"task": "x", "payload": {"a": 1}}, Task("x", '{"a": 1}')),
        ("TASK --time 60 x {}", {"task": "x", "time": 60}, Task("x", time_limit=60)),
        ("task --retries=2 -- x {}", {"task": "x", "retries": 2}, Task("x", retries=2)),
        ("task --at-most-once x", {"task": "x", "at_most_once": True}, Task("x", at_most_once=True)),
        (
            "task --priority 3 --name n --tag t a.b/c {}",
            {"task": "a.b/c", "priority": 3, "name": "n", "tag": "t"},
            Task("a.b/c", extras=Extras(3, "n", "t")),
        ),
    ],
)
def test_a_task_is_the_same_as_a_line_and_as_json(line: str, value: dict[str, Any], task: Task) -> None:
    assert parse_line(line.encode()) == Submit(task)
    assert parse_line(json.dumps(value).encode()) == Submit(task)
    assert unpack_spec(task.pack()) == task


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("task", "task needs a name and its payload, as in: task --time 60 checksum "),
        ("task --time 5", "task needs a name"),
        ("task x [1]", "The payload of task x is no object but list; it is one JSON object, as in: "),
        ("task x {", "The payload of task x is no JSON: "),
        ("task x y", "The payload of task x is no JSON: "),
        ("task " + "x" * 65 + " {}", "A task's name is 1 to 64 printable characters: "),
        ("task --cwd / x", "task has no option '--cwd': it has --time SECONDS, "),
        ("task --time 0 x", "--time takes seconds"),
        ('{"task": ""}', "task needs a name"),
        ('{"task": "two words"}', "A task's name"),
        ('{"task": "x", "payload": [1]}', "The payload of task x is no object but list"),
        ('{"task": "x", "payload": "{}"}', "The payload of task x is no object but str"),
        ('{"task": "x", "payload": {"a": NaN}}', "The payload of task x has a number that is none"),
        ('{"task": "x", "stdin": "y"}', "there is no option 'stdin': there are time, "),
        ('{"task": 5}', "task takes the name of a task, not 5"),
        ('{"task": "x", "payload": ' + "[" * 30_000, "That line begins as JSON and is none"),
        (
            '{"task": "x", "payload": {"a": ' + "[" * 300 + "]" * 300 + "}}",
            "The payload of task x is nested deeper",
        ),
    ],
)
def test_a_bad_submission_gets_one_clear_line(line: str, said: str) -> None:
    assert refusal(parse_line(line.encode())).startswith(said)


@given(st.text(max_size=40) | json_values.map(json.dumps))
def test_any_payload_in_a_line_is_taken_and_packed_or_refused_in_a_line(payload: str) -> None:
    for line in (f"task x {payload}", f'{{"task": "x", "payload": {payload}}}'):
        request = parse_line(line.encode("utf-8", "replace").replace(b"\n", b" "))
        if isinstance(request, Submit):
            assert unpack_spec(request.spec.pack()) == request.spec
        else:
            assert refusal(request)


def test_half_a_surrogate_pair_is_a_task_argument_and_no_part_of_a_command() -> None:
    request = parse_line(b'{"task": "x", "payload": {"a": "\\ud800"}}')
    assert request == Submit(Task("x", '{"a": "\\ud800"}'))
    assert refusal(parse_line(b'{"run": "echo \\ud800"}')).endswith("half of a surrogate pair.")
    assert refusal(parse_line(b'{"run": "cat", "stdin": "\\ud800"}')).startswith("--stdin takes")
    assert refusal(parse_line(b'{"run": "env", "env": {"A": "\\udfff"}}')).startswith("--env takes")
