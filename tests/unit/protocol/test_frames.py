import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.frames import FrameDecoder, encode_frame
from protocol.limits import FRAME_LIMIT, KIB, STRANGER_FRAME_LIMIT

from ..strategies import cuts, pieces

LIMIT = 64
#: Read at once; a frame that does not fit is read into memory of its own.
READ_BYTES = 64 * KIB
#: Around what makes a frame a large one, prefix and all.
large_bodies = st.builds(
    bytes.__mul__,
    st.binary(min_size=1, max_size=1),
    st.sampled_from([1, READ_BYTES - 5, READ_BYTES - 4, READ_BYTES - 3, READ_BYTES, 3 * READ_BYTES]),
)


def memory_of(decoder: FrameDecoder) -> int:
    return len(decoder._small) + len(decoder._large or b"")


def refusal(data: bytes, limit: int = FRAME_LIMIT) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        FrameDecoder(limit).feed(data)
    return caught.value


def bodies_or_refusal(decoder: FrameDecoder, data: bytes) -> tuple[list[bytes], ProtocolError | None]:
    try:
        return decoder.feed(data), None
    except ProtocolError as error:
        return [], error


@given(st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=10), cuts)
def test_any_split_of_a_stream_gives_the_same_bodies(bodies: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(map(encode_frame, bodies))
    decoder = FrameDecoder()
    got = [body for piece in pieces(stream, sizes) for body in decoder.feed(piece)]
    assert got == bodies
    assert not decoder.inside_frame


@given(st.lists(large_bodies, max_size=6), st.lists(st.integers(1, 2 * READ_BYTES), min_size=1, max_size=10))
def test_large_frames_come_whole_however_they_are_cut(bodies: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(map(encode_frame, bodies))
    decoder = FrameDecoder()
    got = [body for piece in pieces(stream, sizes) for body in decoder.feed(piece)]
    assert got == bodies
    assert not decoder.inside_frame
    assert memory_of(decoder) == READ_BYTES


@given(st.lists(large_bodies, min_size=1, max_size=6), st.data())
def test_what_is_read_in_place_is_the_same(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(encode_frame, bodies))
    decoder = FrameDecoder()
    got: list[bytes] = []
    while stream:
        space = decoder.space()
        assert len(space) > 0
        count = data.draw(st.integers(1, min(len(space), len(stream))))
        space[:count] = stream[:count]
        stream = stream[count:]
        got += map(bytes, decoder.filled(count))
    assert got == bodies


def test_a_large_frame_is_read_to_its_end_and_not_beyond() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(encode_frame(bytes(READ_BYTES))[:100]) == []
    assert len(decoder.space()) == READ_BYTES + 4 - 100
    assert memory_of(decoder) == 2 * READ_BYTES


@given(st.binary(min_size=1, max_size=LIMIT), st.data())
def test_a_stream_that_ends_early_is_inside_a_frame(body: bytes, data: st.DataObject) -> None:
    frame = encode_frame(body)
    decoder = FrameDecoder()
    assert decoder.feed(frame[: data.draw(st.integers(1, len(frame) - 1))]) == []
    assert decoder.inside_frame


def test_bytes_of_the_next_frame_stay_for_the_next_call() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(encode_frame(b"one") + b"\0\0") == [b"one"]
    assert decoder.inside_frame
    assert decoder.feed(b"\0\x03two") == [b"two"]


@given(st.binary(max_size=400), cuts)
def test_hostile_bytes_only_ever_give_one_protocol_error_and_bounded_memory(
    stream: bytes, sizes: list[int]
) -> None:
    decoder = FrameDecoder(LIMIT)
    error: ProtocolError | None = None
    for piece in pieces(stream, sizes):
        bodies, refused = bodies_or_refusal(decoder, piece)
        assert error is None or refused is error
        assert all(0 < len(body) <= LIMIT for body in bodies)
        assert decoder._have < (4 if refused else LIMIT + 4)
        assert memory_of(decoder) == READ_BYTES
        error = refused


def test_after_an_error_nothing_is_taken_any_more() -> None:
    decoder = FrameDecoder()
    with pytest.raises(ProtocolError) as first:
        decoder.feed(bytes(4))
    with pytest.raises(ProtocolError) as second:
        decoder.feed(encode_frame(b"fine"))
    assert second.value is first.value


def test_an_empty_frame_is_refused_with_the_reason() -> None:
    error = refusal(bytes(4))
    assert (error.status, error.reason) == (
        400,
        "an empty frame: a frame holds 1 byte or more of MessagePack",
    )


@pytest.mark.parametrize("limit", [LIMIT, STRANGER_FRAME_LIMIT, FRAME_LIMIT])
def test_a_frame_over_the_limit_is_refused_by_its_prefix_alone(limit: int) -> None:
    error = refusal((limit + 1).to_bytes(4, "big"), limit)
    decoder = FrameDecoder(limit)
    with pytest.raises(ProtocolError):
        decoder.feed((limit + 1).to_bytes(4, "big") + bytes(LIMIT))
    assert memory_of(decoder) == READ_BYTES
    assert error.status == 413
    assert error.reason == f"a frame of {limit + 1} bytes: at most {limit} are allowed here"


def test_a_frame_of_exactly_the_limit_passes() -> None:
    body = bytes(FRAME_LIMIT)
    assert FrameDecoder().feed(encode_frame(body)) == [body]


def test_a_frame_over_the_limit_is_never_sent() -> None:
    with pytest.raises(ValueError, match=f"at most {FRAME_LIMIT} are allowed"):
        encode_frame(bytes(FRAME_LIMIT + 1))


def test_the_limit_can_be_raised_once_the_peer_is_known() -> None:
    decoder = FrameDecoder(STRANGER_FRAME_LIMIT)
    decoder.limit = FRAME_LIMIT
    body = bytes(STRANGER_FRAME_LIMIT + 1)
    assert decoder.feed(encode_frame(body)) == [body]


@pytest.mark.parametrize("text", [b"GET / HTTP/1.1\r\n", b"help\n", b"getall\n", b"1000\n"])
def test_text_is_told_which_port_is_meant_for_it(text: bytes) -> None:
    error = refusal(text)
    assert error.reason.startswith(f"this is no frame but text beginning {text[:4].decode()!r}: ")
    assert "9000" in error.reason
    assert error.status == 400


@pytest.mark.parametrize("prefix", [b"\xff\xff\xff\xff", b"\x16\x03\x01\x02", b"\x7f\x7f\x7f\x7f"])
def test_other_bytes_are_refused_as_a_frame_that_is_too_large(prefix: bytes) -> None:
    assert refusal(prefix).status == 413
