"""Frames: a 4-byte big-endian length, then that many bytes of MessagePack.

The decoder is incremental and keeps at most one frame's worth of bytes beyond what it was just fed.
"""

from protocol.errors import ProtocolError
from protocol.limits import FRAME_LIMIT

_PREFIX = 4


def encode_frame(body: bytes) -> bytes:
    """The frame of `body`.

    Raises:
        ValueError: if the body is over FRAME_LIMIT, which is a fault of ours.
    """
    if len(body) > FRAME_LIMIT:
        raise ValueError(f"a frame of {len(body)} bytes was to be sent, at most {FRAME_LIMIT} are allowed")
    return len(body).to_bytes(_PREFIX, "big") + body


class FrameDecoder:
    """Cuts a byte stream into frame bodies.

    After an error the stream has no meaning any more: every later call raises the same error.
    """

    __slots__ = ("_buffer", "_error", "limit")

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._error: ProtocolError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that `data` completes, in order.

        Raises:
            ProtocolError: for an empty frame or one over the limit. Frames before it in `data` are lost
                with it: the link is to be closed anyway.
        """
        if self._error is not None:
            raise self._error
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        start, available = 0, len(buffer)
        while available - start >= _PREFIX:
            length = int.from_bytes(buffer[start : start + _PREFIX], "big")
            if not 0 < length <= self.limit:
                self._error = self._refusal(bytes(buffer[start : start + _PREFIX]), length)
                buffer.clear()
                raise self._error
            end = start + _PREFIX + length
            if end > available:
                break
            bodies.append(bytes(buffer[start + _PREFIX : end]))
            start = end
        if start:
            del buffer[:start]
        return bodies

    @property
    def inside_frame(self) -> bool:
        """Whether the stream, if it ended now, would end in the middle of a frame."""
        return bool(self._buffer)

    def _refusal(self, prefix: bytes, length: int) -> ProtocolError:
        if length == 0:
            return ProtocolError("an empty frame: a frame holds 1 byte or more of MessagePack")
        if prefix.isascii() and prefix.decode("ascii").isprintable():
            return ProtocolError(
                f"this is no frame but text beginning {prefix.decode('ascii')!r}: this port is for "
                "ClusterNodes; clients speak to a node's client port (9000 by default)"
            )
        return ProtocolError(f"a frame of {length} bytes: at most {self.limit} are allowed here", 413)
