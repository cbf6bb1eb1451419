"""New tickets: 16 characters that nobody guesses and that never come twice (82 bits of randomness)."""

from __future__ import annotations

import os
from collections.abc import Iterator

from protocol.job import TICKET_ALPHABET
from protocol.limits import TICKET_LENGTH

_SIZE = len(TICKET_ALPHABET)
# Bytes above the last full round of the alphabet are dropped, so that each character is equally likely.
_FULL = 256 - 256 % _SIZE
_TABLE = bytes(ord(TICKET_ALPHABET[byte % _SIZE]) for byte in range(256))
_DROPPED = bytes(range(_FULL, 256))


def new_tickets(count: int) -> Iterator[str]:
    """`count` tickets from the kernel's randomness."""
    text = ""
    while len(text) < count * TICKET_LENGTH:
        text += os.urandom(count * TICKET_LENGTH).translate(_TABLE, _DROPPED).decode("ascii")
    return (text[at : at + TICKET_LENGTH] for at in range(0, count * TICKET_LENGTH, TICKET_LENGTH))
