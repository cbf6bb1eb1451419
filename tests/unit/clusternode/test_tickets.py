from collections import Counter

import pytest

from clusternode import tickets
from clusternode.tickets import new_tickets
from protocol.job import TICKET_ALPHABET, is_ticket


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_as_many_tickets_as_asked_for(count: int) -> None:
    made = list(new_tickets(count))
    assert len(made) == count
    assert all(map(is_ticket, made))


def test_tickets_never_come_twice() -> None:
    made = [ticket for _ in range(20) for ticket in new_tickets(500)]
    assert len(set(made)) == len(made) == 10_000


def test_every_character_of_the_alphabet_is_equally_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of bytes that are equally likely: each value the same number of times."""
    every_byte = bytes(range(256))
    monkeypatch.setattr(tickets.os, "urandom", lambda count: every_byte * (count // 256 + 1))
    drawn = Counter("".join(new_tickets(252 * 16))[: 252 * 10])
    assert set(drawn) == set(TICKET_ALPHABET)
    assert set(drawn.values()) == {70}


def test_bytes_that_are_dropped_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([b"\xff" * 16, b"\xfc\xfd\xfe\xff" + b"\0" * 12, b"\x01" * 16])
    monkeypatch.setattr(tickets.os, "urandom", lambda count: next(draws))
    assert list(new_tickets(1)) == ["A" * 12 + "B" * 4]


def test_randomness_is_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(count: int) -> bytes:
        raise NotImplementedError

    monkeypatch.setattr(tickets.os, "urandom", refuse)
    with pytest.raises(NotImplementedError):
        new_tickets(1)
