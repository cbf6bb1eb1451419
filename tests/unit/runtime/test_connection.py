import pytest

from protocol.errors import ProtocolError
from protocol.frames import FrameDecoder
from protocol.limits import FRAME_LIMIT, LINK_BUFFER_LIMIT, STRANGER_FRAME_LIMIT
from protocol.messages import Answer, Bye, Error, Info, Message, Query, decode, encode
from runtime.connection import FrameConnection

from ..fakes import FakeTransport, deliver

INFO = Info(1, 2, 3, 0.5, 4)
LARGE = Answer(1, "x" * (STRANGER_FRAME_LIMIT + 1))


class Link:
    """A connection with what it gave."""

    def __init__(self, frame_limit: int = FRAME_LIMIT) -> None:
        self.messages: list[Message] = []
        self.lost: list[str] = []
        self.transport = FakeTransport()
        self.connection = FrameConnection(self.messages.append, self.lost.append, frame_limit)

    def connect(self) -> "Link":
        self.connection.connection_made(self.transport)
        return self

    def sent(self) -> list[Message]:
        return [decode(body) for body in FrameDecoder().feed(self.transport.written)]


@pytest.fixture
def link() -> Link:
    return Link().connect()


async def test_messages_come_in_order_however_they_are_cut(link: Link) -> None:
    stream = encode(INFO) + encode(Bye())
    for at in range(len(stream)):
        deliver(link.connection, stream[at : at + 1])
    deliver(link.connection, stream)
    assert link.messages == [INFO, Bye()] * 2
    assert link.connection.bytes_received == 2 * len(stream)


async def test_messages_are_sent_as_frames(link: Link) -> None:
    link.connection.send(INFO)
    link.connection.send(Bye())
    assert link.sent() == [INFO, Bye()]


async def test_what_the_peer_sends_wrong_is_told_to_it_and_ends_this_link(link: Link) -> None:
    deliver(link.connection, encode(INFO))
    deliver(link.connection, b"GET / HTTP/1.1\r\n\r\n")
    assert link.messages == [INFO]
    (error,) = link.sent()
    assert isinstance(error, Error)
    assert error.reason.startswith("this is no frame but text beginning 'GET '")
    assert link.transport.closed == "close"
    link.connection.connection_lost(None)
    assert link.lost == [error.reason]


async def test_after_an_error_nothing_more_is_taken_or_sent(link: Link) -> None:
    deliver(link.connection, bytes(4))
    sent = link.transport.written
    deliver(link.connection, encode(INFO))
    link.connection.send(INFO)
    assert link.messages == []
    assert link.transport.written == sent


async def test_messages_behind_one_that_closed_the_link_are_dropped(link: Link) -> None:
    messages: list[Message] = []

    def close_at_bye(message: Message) -> None:
        messages.append(message)
        if message == Bye():
            connection.close("it said goodbye")

    connection = FrameConnection(close_at_bye, link.lost.append)
    connection.connection_made(link.transport)
    deliver(connection, encode(INFO) + encode(Bye()) + encode(INFO))
    assert messages == [INFO, Bye()]


async def test_a_refusal_is_short_whatever_its_reason(link: Link) -> None:
    link.connection.refuse(ProtocolError("x" * 10_000, 413))
    assert link.sent() == [Error(413, "x" * 2000)]


async def test_a_refusal_before_the_connection_is_said_once_connected() -> None:
    link = Link()
    link.connection.refuse(ProtocolError("too many", 503))
    assert link.connect().sent() == [Error(503, "too many")]
    assert link.transport.closed == "close"


async def test_a_stranger_gets_small_frames_only() -> None:
    link = Link(STRANGER_FRAME_LIMIT).connect()
    deliver(link.connection, encode(LARGE)[:4])
    (error,) = link.sent()
    assert isinstance(error, Error)
    assert error.status == 413


async def test_a_trusted_peer_may_send_frames_of_full_size() -> None:
    link = Link(STRANGER_FRAME_LIMIT).connect()
    link.connection.trust()
    deliver(link.connection, encode(LARGE))
    assert link.messages == [LARGE]


async def test_a_peer_that_does_not_read_loses_its_link_at_once(link: Link) -> None:
    link.transport.waiting = LINK_BUFFER_LIMIT
    link.connection.send(INFO)
    assert link.transport.closed == ""
    link.transport.waiting += 1
    link.connection.send(INFO)
    assert link.transport.closed == "abort"
    link.connection.connection_lost(None)
    assert link.lost == [f"it does not read: {LINK_BUFFER_LIMIT} bytes wait for it"]


@pytest.mark.parametrize(
    ("received", "error", "reason"),
    [
        (b"", None, "it closed the connection"),
        (encode(INFO), None, "it closed the connection"),
        (encode(INFO)[:-1], None, "it closed in the middle of a frame"),
        (b"", OSError("reset"), "connection lost: reset"),
    ],
)
async def test_the_end_of_a_link_has_a_reason(
    link: Link, received: bytes, error: OSError | None, reason: str
) -> None:
    deliver(link.connection, received)
    if error is None:
        assert not link.connection.eof_received()
    link.connection.connection_lost(error)
    assert link.lost == [reason]


async def test_the_first_reason_stands(link: Link) -> None:
    link.connection.close("first")
    link.connection.abort("second")
    link.connection.connection_lost(OSError("third"))
    assert link.lost == ["first"]


async def test_a_link_can_be_paused_until_it_is_closing(link: Link) -> None:
    link.connection.pause()
    assert not link.transport.reading
    link.connection.resume()
    assert link.transport.reading
    link.connection.close("over")
    link.connection.pause()
    assert link.transport.reading


async def test_before_the_connection_everything_is_harmless() -> None:
    link = Link()
    link.connection.send(Query(1, "health"))
    link.connection.pause()
    link.connection.resume()
    assert link.connection.peer == "unknown"
    assert link.connect().connection.peer == "10.0.0.1:1234"
    assert link.transport.written == b""
