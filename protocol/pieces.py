"""A message in pieces: what is large in it is sent from where it is, not copied into a frame first."""

from __future__ import annotations

import msgpack

from protocol.frames import frame_prefix
from protocol.limits import KIB
from protocol.messages import OK, Message, ResReq, Result, encode

#: A result of this size is sent from where it is. MessagePack writes the length of all such in one way.
LARGE_BODY = 64 * KIB
_BIN_32 = b"\xc6"


def encode_pieces(message: Message) -> list[bytes]:
    """The same as `encode` gives, in pieces, so that no large result is copied."""
    if isinstance(message, Result | ResReq) and any(len(r.body) >= LARGE_BODY for r in message.results):
        return _pieces(message)
    return [encode(message)]


def _pieces(message: Result | ResReq) -> list[bytes]:
    pieces = [b""]
    packer = msgpack.Packer(autoreset=False)
    packer.pack_array_header(3)
    packer.pack("RESULT" if isinstance(message, Result) else "RES_REQ")
    packer.pack(OK)
    if isinstance(message, ResReq):
        packer.pack_array_header(2)
    packer.pack_array_header(len(message.results))
    for ended in message.results:
        if len(ended.body) < LARGE_BODY:
            packer.pack(ended)
            continue
        packer.pack_array_header(len(ended))
        for field in ended[:-1]:
            packer.pack(field)
        pieces += [packer.bytes() + _BIN_32 + len(ended.body).to_bytes(4, "big"), ended.body]
        packer.reset()
    if isinstance(message, ResReq):
        packer.pack(message.tickets)
    pieces.append(packer.bytes())
    pieces[0] = frame_prefix(sum(map(len, pieces)))
    return pieces
