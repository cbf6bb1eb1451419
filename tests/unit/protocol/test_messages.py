import typing
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages
from protocol.errors import ProtocolError
from protocol.frames import FrameDecoder
from protocol.job import Ended, is_ticket
from protocol.limits import (
    ATTEMPT_LIMIT,
    BATCH_BYTES,
    BATCH_ITEMS,
    HELD_LIMIT,
    NAME_LIMIT,
    RELAY_LIMIT,
    RETRIES_LIMIT,
    SLOTS_LIMIT,
)
from protocol.messages import (
    Bye,
    Drain,
    Hello,
    JobItem,
    Message,
    decode,
    encode,
    in_batches,
    job_size,
    result_size,
)

from ..strategies import BY_CLASS, cuts, pieces, structures
from ..strategies import messages as any_message
from .wire_v1 import GREETINGS as GREETINGS_1
from .wire_v2 import GREETINGS as GREETINGS_2
from .wire_v3 import FRAMES, A

KINDS = sorted({row[0] for row in messages._ENCODERS.values()} | {"ERROR"})


def by_class_name(entry: object) -> str:
    return type(entry).__name__ if not isinstance(entry, bytes) else ""


def over_the_wire(*sent: Message, sizes: list[int]) -> list[Message]:
    decoder = FrameDecoder()
    stream = b"".join(map(encode, sent))
    return [decode(body) for piece in pieces(stream, sizes) for body in decoder.feed(piece)]


def refusal(kind: str, payload: Any, status: int = 200) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        decode(msgpack.packb([kind, status, payload]))
    assert caught.value.reason
    assert "\n" not in caught.value.reason
    return caught.value


# --- what is right comes through -------------------------------------------------------------------


def test_no_message_is_left_out_of_these_tests() -> None:
    every = set(typing.get_args(Message))
    assert set(BY_CLASS) == every
    assert {type(message) for message, _ in FRAMES} == every


@pytest.mark.parametrize("kind", BY_CLASS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_a_message_comes_through_as_it_was_sent(kind: type, data: st.DataObject) -> None:
    message = data.draw(BY_CLASS[kind])
    assert over_the_wire(message, sizes=[1000]) == [message]


@given(st.lists(any_message, max_size=5), cuts)
def test_any_split_of_a_stream_gives_the_same_messages(sent: list[Message], sizes: list[int]) -> None:
    assert over_the_wire(*sent, sizes=sizes) == sent


@pytest.mark.parametrize(("message", "frame"), FRAMES, ids=by_class_name)
def test_version_3_is_written_to_the_byte(message: Message, frame: bytes) -> None:
    assert encode(message) == frame


@pytest.mark.parametrize(("message", "frame"), FRAMES, ids=by_class_name)
def test_version_3_is_read(message: Message, frame: bytes) -> None:
    assert [decode(body) for body in FrameDecoder().feed(frame)] == [message]


@pytest.mark.parametrize("kind", [0, 1], ids=["HELLO", "WELCOME"])
@pytest.mark.parametrize(("version", "greetings"), [(1, GREETINGS_1), (2, GREETINGS_2)])
def test_an_older_version_is_refused_with_both_versions_named(
    version: int, greetings: list[bytes], kind: int
) -> None:
    (body,) = FrameDecoder().feed(greetings[kind])
    with pytest.raises(ProtocolError, match=rf"^protocol version {version}: this side speaks 3$") as caught:
        decode(body)
    assert caught.value.status == 426


# --- what is wrong is refused, and only with a ProtocolError ---------------------------------------


def message_or_refusal(body: bytes) -> Message | ProtocolError:
    """All that bytes from a peer may lead to; any other exception fails the test."""
    try:
        return decode(body)
    except ProtocolError as error:
        return error


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_message_or_a_protocol_error(body: bytes) -> None:
    assert type(message_or_refusal(body)) in {*BY_CLASS, ProtocolError}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xa1\xff",
        b"\x81\x90\x01",
        b"\xd7\xff" + b"\xff" * 8,
        encode(Bye())[4:] + b"\0",
        encode(Bye())[4:-1],
    ],
    ids=[
        *("empty", "reserved", "deep", "huge list", "huge map", "huge bytes", "bad UTF-8"),
        *("list as key", "bad timestamp", "more behind it", "cut off"),
    ],
)
def test_what_is_no_message_pack_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^a frame that holds no MessagePack: ."):
        decode(body)


@given(structures)
def test_arbitrary_structures_give_a_protocol_error(structure: Any) -> None:
    with pytest.raises(ProtocolError):
        decode(msgpack.packb(structure))


@given(st.sampled_from(KINDS), st.sampled_from([200, 404]), structures)
def test_arbitrary_payloads_give_a_message_or_a_protocol_error(kind: str, status: int, payload: Any) -> None:
    message = message_or_refusal(msgpack.packb([kind, status, payload]))
    if isinstance(message, ProtocolError):
        assert message.reason
    else:
        assert decode(encode(message)[4:]) == message


@given(any_message, st.data())
def test_one_flipped_byte_gives_a_message_or_a_protocol_error(message: Message, data: st.DataObject) -> None:
    body = bytearray(encode(message)[4:])
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    assert type(message_or_refusal(bytes(body))) in {*BY_CLASS, ProtocolError}


@pytest.mark.parametrize(
    "row",
    [
        None,
        5,
        "HELLO",
        {},
        [],
        ["BYE"],
        ["BYE", 200],
        ["BYE", 200, None, 1],
        [1, 200, None],
        ["BYE", "200", None],
        ["BYE", True, None],
        ["BYE", 200.0, None],
        [b"BYE", 200, None],
    ],
)
def test_what_is_not_type_status_payload_is_refused(row: Any) -> None:
    with pytest.raises(ProtocolError, match=r"^a frame that is not \[type, status, payload\]$"):
        decode(msgpack.packb(row))


@pytest.mark.parametrize(
    ("kind", "status"), [("NEW", 200), ("job", 200), ("JOB", 404), ("RESULT", 500), ("", 200)]
)
def test_an_unknown_type_or_status_is_named(kind: str, status: int) -> None:
    assert refusal(kind, None, status).reason == f"no message of type {kind!r} with status {status}"


def test_an_unknown_type_is_not_repeated_at_length() -> None:
    assert len(refusal("X" * 10_000, None).reason) < 100


# --- each field of each message, changed to what it must not be --------------------------------------


def wrong_values(right: Any) -> list[Any]:
    """Values of another type than the right one."""
    wrong: list[Any] = [
        None,
        True,
        {},
        {"a": 1},
        "",
        "é",
        b"bytes",
        1.5,
        -1,
        2**64 - 1,
        float("nan"),
        [[None]],
    ]
    if type(right) is float:
        return [value for value in wrong if type(value) is not float and value != 2**64 - 1] + [-1.0, 1e18]
    return [value for value in wrong if type(value) is not type(right)] + ([-1] if type(right) is int else [])


def is_row(value: list[Any]) -> bool:
    """Whether this list has a place for each field, not any number of items."""
    return bool(value) and not all(isinstance(item, list) or is_ticket(item) for item in value)


def mutations(value: Any) -> Iterator[Any]:
    """`value` with one thing in it wrong, in every way."""
    yield from wrong_values(value)
    if not isinstance(value, list):
        return
    yield [*value, None]
    if is_row(value):
        yield value[:-1]
        yield [*value, value[-1]]
    for place, item in enumerate(value):
        for changed in mutations(item):
            yield [*value[:place], changed, *value[place + 1 :]]


WITH_FIELDS = [(message, frame) for message, frame in FRAMES if type(message) not in (Bye, Drain)]


@pytest.mark.parametrize(("message", "frame"), WITH_FIELDS, ids=by_class_name)
def test_a_field_of_a_wrong_type_is_refused(message: Message, frame: bytes) -> None:
    kind, status, payload = msgpack.unpackb(frame[4:])
    is_reason = isinstance(payload, str)
    count = 0
    for changed in mutations(payload):
        if kind == "JOB" and has_negative_priority(changed):
            continue
        refusal(kind, changed, status)
        count += 1
    assert count >= (10 if is_reason else 20)


def has_negative_priority(jobs: Any) -> bool:
    """The one integer that may be below 0."""
    return isinstance(jobs, list) and any(isinstance(job, list) and job[6:7] == [-1] for job in jobs)


def hello_with(**changed: Any) -> list[Any]:
    fields = {
        "version": 3,
        "node_id": "n1",
        "instance": "i1",
        "name": "alpha",
        "slots": 1,
        "held": [],
        "running": [],
        "finished": [],
    }
    assert changed.keys() <= fields.keys()
    return list((fields | changed).values())


BAD_TICKETS = ["", A[:-1], A + "A", A.lower(), A[:-1] + "-", A[:-1] + "É", A[:-1] + " "]
BAD_ATTEMPTS = [-1, ATTEMPT_LIMIT + 1, 2**63]

OUT_OF_RANGE: list[tuple[str, Any]] = [
    *(("HELLO", hello_with(name=name)) for name in ("", "two words", "tab\t", "x" * (NAME_LIMIT + 1))),
    *(("HELLO", hello_with(node_id=name)) for name in ("", "nul\0", "line\n", "\u2028")),
    *(("HELLO", hello_with(slots=slots)) for slots in (0, -1, SLOTS_LIMIT + 1)),
    *(("HELLO", hello_with(**{field: [[A, 0]]})) for field in ("held", "running", "finished")),
    ("HELLO", hello_with(held=[[A, 1]] * (HELD_LIMIT + 1))),
    *(("WELCOME", [3, "b1", epoch, 3.0]) for epoch in (0, -1, 2**62 + 1)),
    *(("WELCOME", [3, "b1", 1, period]) for period in (-1, -0.5, 1e18, float("nan"), float("inf"))),
    *(("JOB", [[ticket, 0, 1.0, b"", 0, False, 0]]) for ticket in BAD_TICKETS),
    *(("JOB", [[A, attempt, 1.0, b"", 0, False, 0]]) for attempt in BAD_ATTEMPTS),
    *(("JOB", [[A, 0, at, b"", 0, False, 0]]) for at in (-1.0, 1e18, float("nan"), float("inf"))),
    *(("JOB", [[A, 0, 1.0, b"", retries, False, 0]]) for retries in (-1, RETRIES_LIMIT + 1, 2**63)),
    ("JOB", [[A, 0, 1.0, b""]]),
    ("JOB", [[A, 0, 1.0, b"", 0, False, 0, ""]]),
    *(("ASK", [number, "node", "n", "what", b""]) for number in (-1, "1", 1.0)),
    *(("ASK", [1, whom, "n", "what", b""]) for whom in ("", "Node", "balancer", None)),
    *(("ASK", [1, "node", name, "what", b""]) for name in ("", "two words")),
    ("ASK", [1, "node", "n", "w" * 33, b""]),
    ("ASK", [1, "node", "n", "what", "text"]),
    ("ASK", [1, "node", "n", "what", bytes(RELAY_LIMIT + 1)]),
    *(("TOLD", [1, "n", status, b""]) for status in (99, 600, "200")),
    ("TOLD", [1, "n" * 65, 200, b""]),
    *(("CLAIM", [1, claims]) for claims in ([["k"]], [["", A]], [["k", "a"]], [["two words", A]], [A])),
    ("CLAIM", [1, [["k", A]] * (BATCH_ITEMS + 1)]),
    *(
        ("TRIED", [[A, [attempt]]])
        for attempt in (
            [],
            [1, "n", -1.0, 1.0, ""],
            [1, "n" * 65, 1.0, 1.0, ""],
            [1, "n", 1.0, None, ""],
            [1, "n", 1.0, 2e11, ""],
        )
    ),
    ("TRIED", [[A, [[1, "n", 1.0, 1.0, "how"]] * 9]]),
    ("TRIED", [["a", []]]),
    *(("CLAIMED", [1, owners]) for owners in ([[A]], [["a", "n"]], [[A, 1]])),
    *(("JOB", [[A, 0, 1.0, b"", 0, False, priority, ""]]) for priority in (-101, 101, True)),
    ("JOB", [[A, 0, 1.0, b"", 0, False, 0]] * (BATCH_ITEMS + 1)),
    *(("INFO", [value, 0, 0, 0.0, 0]) for value in (-1, 2**62 + 1)),
    *(("INFO", [0, 0, 0, load, 0]) for load in (-0.1, float("nan"), float("inf"), 10**18)),
    *(("REQUEST_OF_RES", [ticket]) for ticket in BAD_TICKETS),
    ("REQUEST_OF_RES", [A] * (BATCH_ITEMS + 1)),
    *(("RESULT", [[A, 1, outcome, b""]]) for outcome in ("", "SUCCEEDED", "done", "succeeded ")),
    *(("RESULT", [[A, attempt, "lost", b""]]) for attempt in BAD_ATTEMPTS),
    ("RES_REQ", [[], [], []]),
    ("RES_REQ", [[]]),
    ("ACK", ["INFO", []]),
    ("ACK", ["JOB", [[A, 1]]]),
    ("ACK", ["RESULT", [A]]),
    *(("STARTED", [[A, attempt]]) for attempt in [0, *BAD_ATTEMPTS]),
    *(("RECALL", [[ticket, 1]]) for ticket in BAD_TICKETS),
    *((kind, [[A, 0]]) for kind in ("RECALL", "RETURNED", "DROP")),
    ("CANCEL", [[A, -1]]),
    *(("QUERY", [1, what, []]) for what in ("", "NODES", "node", "all")),
    ("ANSWER", [1, "x" * (1024 * 1024 + 1)]),
    ("ERROR", "x" * 4097),
]


@pytest.mark.parametrize(("kind", "payload"), OUT_OF_RANGE, ids=[str(n) for n in range(len(OUT_OF_RANGE))])
def test_a_value_out_of_its_range_is_refused(kind: str, payload: Any) -> None:
    assert refusal(kind, payload).status == 400


@pytest.mark.parametrize("limit", [1, BATCH_ITEMS])
def test_as_many_items_as_allowed_pass(limit: int) -> None:
    message = messages.Started(tuple(messages.Held(A, ATTEMPT_LIMIT) for _ in range(limit)))
    assert over_the_wire(message, sizes=[100_000]) == [message]


# --- versions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["HELLO", "WELCOME"])
@pytest.mark.parametrize("fields", [[], ["n1"], ["n1", "i1", "alpha", 1, [], [], [], "new"]])
@pytest.mark.parametrize("version", [0, 1, 2, 4, 99])
def test_another_version_is_told_so_whatever_else_it_says(kind: str, fields: list[Any], version: int) -> None:
    error = refusal(kind, [version, *fields])
    assert (error.status, error.reason) == (426, f"protocol version {version}: this side speaks 3")


@pytest.mark.parametrize("kind", ["HELLO", "WELCOME"])
@pytest.mark.parametrize("payload", [None, [], {}, "1", [None], ["1"], [True], [1.0], [[1]]])
def test_a_greeting_without_a_version_is_told_so(kind: str, payload: Any) -> None:
    error = refusal(kind, payload)
    assert (error.status, error.reason) == (426, "protocol version none: this side speaks 3")


def test_this_side_says_its_version_first() -> None:
    assert Hello("n", "i", "name", 1).version == messages.PROTOCOL_VERSION == 3


# --- batches -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, BATCH_BYTES * 2), max_size=60))
def test_batches_keep_all_items_in_order_within_the_bounds(sizes: list[int]) -> None:
    batches = list(in_batches(sizes, lambda size: size))
    assert [size for batch in batches for size in batch] == sizes
    assert all(len(batch) == 1 or sum(batch) <= BATCH_BYTES for batch in batches)
    assert all(batches)
    # None is closed early: the first of the next would not have fitted.
    for batch, after in pairwise(batches):
        assert sum(batch) + after[0] > BATCH_BYTES


def test_a_batch_holds_a_bounded_number_of_items() -> None:
    assert [len(batch) for batch in in_batches(range(2 * BATCH_ITEMS + 1), lambda _: 0)] == [
        BATCH_ITEMS,
        BATCH_ITEMS,
        1,
    ]


def test_sizes_are_those_of_the_bodies() -> None:
    assert job_size(JobItem(A, 0, 0.0, b"12345")) == 5
    assert result_size(Ended(A, 1, "lost", b"123")) == 3
