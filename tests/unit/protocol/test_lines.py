import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import LINE_LIMIT
from protocol.lines import LineDecoder

from ..strategies import cuts, pieces

LIMIT = 8


def lines_of(*fed: bytes, limit: int = LIMIT) -> list[bytes | None]:
    decoder = LineDecoder(limit)
    return [line for data in fed for line in decoder.feed(data)] + decoder.end()


def expected(stream: bytes) -> list[bytes | None]:
    """By the docstring: each line without its end, None for one over the limit."""
    *complete, last = stream.split(b"\n")
    lines = [*complete, last] if last else complete
    bare = [line.removesuffix(b"\r") for line in lines]
    return [line if len(line) <= LIMIT else None for line in bare]


@given(st.text("ab\r\n", max_size=100).map(str.encode), cuts)
def test_any_split_gives_the_same_lines_as_the_whole(stream: bytes, sizes: list[int]) -> None:
    assert lines_of(*pieces(stream, sizes)) == lines_of(stream) == expected(stream)


@given(st.binary(max_size=300), cuts)
def test_memory_stays_within_one_line(stream: bytes, sizes: list[int]) -> None:
    decoder = LineDecoder(LIMIT)
    for piece in pieces(stream, sizes):
        assert all(line is None or len(line) <= LIMIT for line in decoder.feed(piece))
        assert len(decoder._partial) <= LIMIT + 1


@pytest.mark.parametrize(
    ("fed", "lines"),
    [
        ([b"one\ntwo\n"], [b"one", b"two"]),
        ([b"one\r\ntwo\r\n"], [b"one", b"two"]),
        ([b"one\r", b"\ntwo\n"], [b"one", b"two"]),
        ([b"a\rb\n"], [b"a\rb"]),
        ([b"\n\r\n"], [b"", b""]),
        ([b"one\ntwo"], [b"one", b"two"]),
        ([b"one\r"], [b"one"]),
        ([b""], []),
        ([b"\0\xff\n"], [b"\0\xff"]),
    ],
)
def test_lines_lose_their_end_and_nothing_else(fed: list[bytes], lines: list[bytes]) -> None:
    assert lines_of(*fed) == lines


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_line_of_exactly_the_limit_passes_whatever_its_end(end: bytes) -> None:
    line = b"x" * LIMIT
    assert lines_of(line + end) == [line]
    assert lines_of(*(bytes([byte]) for byte in line + end)) == [line]


@pytest.mark.parametrize("length", [LIMIT + 1, LIMIT + 2, 100 * LIMIT])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_line_over_the_limit_gives_none_once_and_the_stream_goes_on(length: int, size: int) -> None:
    stream = b"before\n" + b"x" * length + b"\nafter\n"
    assert lines_of(*pieces(stream, [size])) == [b"before", None, b"after"]


def test_an_unterminated_line_over_the_limit_gives_none_at_the_end() -> None:
    assert lines_of(b"x" * (LIMIT + 2)) == [None]


def test_a_megabyte_without_an_end_is_not_kept() -> None:
    decoder = LineDecoder()
    for _ in range(1024):
        assert decoder.feed(b"9" * 1024) == []
        assert len(decoder._partial) <= LINE_LIMIT + 1
    assert decoder.feed(b"\n5\n") == [None, b"5"]


def test_after_the_end_nothing_is_left() -> None:
    decoder = LineDecoder()
    decoder.feed(b"last")
    assert decoder.end() == [b"last"]
    assert decoder.end() == []


def until_upload(stream: bytes) -> tuple[list[bytes | None], bytes | None]:
    """What `feed_to_upload` says of a whole stream: line by line, nothing cleverer."""
    lines: list[bytes | None] = []
    while (end := stream.find(b"\n")) >= 0:
        line = stream[:end].removesuffix(b"\r")
        stream = stream[end + 1 :]
        lines.append(line if len(line) <= LIMIT else None)
        word = line[:6].lower()
        if len(line) <= LIMIT and word == b"upload" and line[6:7] in (b"", b" ", b"\t", b"\r"):
            return lines, stream
    return lines, None


def fed_to_upload(*fed: bytes) -> tuple[list[bytes | None], bytes | None]:
    decoder = LineDecoder(LIMIT)
    lines: list[bytes | None] = []
    for number, data in enumerate(fed):
        found, rest = decoder.feed_to_upload(data)
        lines += found
        if rest is not None:
            return lines, rest + b"".join(fed[number + 1 :])
    return lines, None


words = st.sampled_from(
    [b"upload", b"upload ", b"Upload", b"uPLOAD\t", b"up", b"load ", b"x", b" ", b"\r", b"\n"]
)


@given(st.lists(words, max_size=30).map(b"".join), cuts)
def test_any_split_ends_at_the_same_upload(stream: bytes, sizes: list[int]) -> None:
    assert fed_to_upload(*pieces(stream, sizes)) == fed_to_upload(stream) == until_upload(stream)


@pytest.mark.parametrize("size", range(1, 12))
def test_an_upload_line_is_found_however_it_is_cut(size: int) -> None:
    stream = b"a\nUPLOAD x\nupload y\n"
    parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert fed_to_upload(*parts) == ([b"a", b"UPLOAD x"], b"upload y\n")


def test_lines_that_speak_of_uploads_cost_no_more_than_others() -> None:
    # 64 KiB of them at once: a copy of the rest for each would be half a gigabyte.
    stream = b"run echo upload\n" * 4096
    decoder = LineDecoder()
    lines, rest = decoder.feed_to_upload(stream)
    assert (len(lines), rest) == (4096, None)
