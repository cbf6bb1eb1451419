"""Frames: a 4-byte big-endian length, then that many bytes of MessagePack.

The decoder is incremental and keeps at most one frame's worth of bytes beside what it reads into. The
bytes of a large frame are read where they stay: to copy them, again and again, costs more than to read them.
"""

from protocol.errors import ProtocolError
from protocol.limits import FRAME_LIMIT, KIB

_PREFIX = 4
#: What is read at once where no large frame is on its way: a thousand small ones.
_READ_BYTES = 64 * KIB


def encode_frame(body: bytes) -> bytes:
    """The frame of `body`.

    Raises:
        ValueError: if the body is over FRAME_LIMIT, which is a fault of ours.
    """
    return frame_prefix(len(body)) + body


def frame_prefix(length: int) -> bytes:
    """What stands before a body of that length. Raises ValueError as `encode_frame` does."""
    if length > FRAME_LIMIT:
        raise ValueError(f"a frame of {length} bytes was to be sent, at most {FRAME_LIMIT} are allowed")
    return length.to_bytes(_PREFIX, "big")


class FrameDecoder:
    """Cuts a byte stream into frame bodies: read into `space()`, then say by `filled` how many bytes came.

    After an error the stream has no meaning any more: every later call raises the same error.
    """

    __slots__ = ("_error", "_have", "_large", "_small", "limit")

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self.limit = limit
        self._small = memoryview(bytearray(_READ_BYTES))
        #: The body of a large frame that has begun.
        self._large: memoryview | None = None
        #: Bytes that are in `_large`, or else at the start of `_small`.
        self._have = 0
        self._error: ProtocolError | None = None

    def space(self) -> memoryview:
        """Where the next bytes of the stream go; never empty."""
        return (self._small if self._large is None else self._large)[self._have :]

    def filled(self, count: int) -> list[bytes | memoryview]:
        """The bodies that the next `count` bytes complete, in order.

        Raises:
            ProtocolError: for an empty frame or one over the limit. Frames before it in these bytes are
                lost with it: the link is to be closed anyway.
        """
        if self._error is not None:
            raise self._error
        self._have += count
        large = self._large
        if large is None:
            return self._cut()
        if self._have < len(large):
            return []
        self._large, self._have = None, 0
        return [large]

    def feed(self, data: bytes) -> list[bytes]:
        """The same of bytes that were read elsewhere; the bodies are copies."""
        bodies: list[bytes] = []
        rest = memoryview(data)
        while rest:
            space = self.space()
            count = min(len(space), len(rest))
            space[:count] = rest[:count]
            bodies += map(bytes, self.filled(count))
            rest = rest[count:]
        return bodies

    @property
    def inside_frame(self) -> bool:
        """Whether the stream, if it ended now, would end in the middle of a frame."""
        return self._large is not None or self._have > 0

    def _cut(self) -> list[bytes | memoryview]:
        """The bodies in `_small`; what is behind them is moved to its start, or to where it has room."""
        data = bytes(self._small[: self._have])
        bodies: list[bytes | memoryview] = []
        start, available = 0, len(data)
        while available - start >= _PREFIX:
            length = int.from_bytes(data[start : start + _PREFIX], "big")
            if not 0 < length <= self.limit:
                self._error, self._have = self._refusal(data[start : start + _PREFIX], length), 0
                raise self._error
            end = start + _PREFIX + length
            if end > available:
                if _PREFIX + length > _READ_BYTES:
                    first = data[start + _PREFIX :]
                    self._large, self._have = memoryview(bytearray(length)), len(first)
                    self._large[: len(first)] = first
                    return bodies
                break
            bodies.append(data[start + _PREFIX : end])
            start = end
        self._have = available - start
        if start and self._have:
            self._small[: self._have] = data[start:]
        return bodies

    def _refusal(self, prefix: bytes, length: int) -> ProtocolError:
        if length == 0:
            return ProtocolError("an empty frame: a frame holds 1 byte or more of MessagePack")
        if prefix.isascii() and prefix.decode("ascii").isprintable():
            return ProtocolError(
                f"this is no frame but text beginning {prefix.decode('ascii')!r}: this port is for "
                "ClusterNodes; clients speak to a node's client port (9000 by default)"
            )
        return ProtocolError(f"a frame of {length} bytes: at most {self.limit} are allowed here", 413)
