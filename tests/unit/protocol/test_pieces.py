import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.job import Ended
from protocol.limits import FRAME_LIMIT
from protocol.messages import Message, ResReq, Result, encode
from protocol.pieces import LARGE_BODY, encode_pieces

from ..strategies import many_tickets
from ..strategies import messages as any_message

A = "A" * 16
sizes_of_bodies = st.sampled_from([0, 5, LARGE_BODY - 1, LARGE_BODY, 70_000])


@given(any_message, st.lists(sizes_of_bodies, max_size=4), many_tickets)
def test_pieces_are_the_same_frame(message: Message, sizes: list[int], tickets: tuple[str, ...]) -> None:
    results = [Ended(A, 1, "failed", bytes(size)) for size in sizes]
    for each in (message, Result(results), ResReq(results, tickets)):
        assert b"".join(encode_pieces(each)) == encode(each)


def test_a_large_result_is_sent_from_where_it_is() -> None:
    large, small = (Ended(A, 1, "failed", bytes(size)) for size in (LARGE_BODY, 5))
    pieces = encode_pieces(Result([large, small, large]))
    assert sum(piece is large.body for piece in pieces) == 2
    assert sum(map(len, pieces)) - 2 * LARGE_BODY < 200


def test_too_many_results_for_a_frame_are_never_sent() -> None:
    with pytest.raises(ValueError, match=f"at most {FRAME_LIMIT} are allowed"):
        encode_pieces(Result([Ended(A, 1, "failed", bytes(FRAME_LIMIT // 2))] * 2))
