"""Version 3 of the wire, to the byte: there are ASK, TOLD, CLAIM and CLAIMED.

Nothing here changes when the code does. A version 4 gets a table of its own beside this one.
"""

from protocol.job import Ended, Sleep
from protocol.messages import (
    AckJobs,
    AckResults,
    Answer,
    Bye,
    Cancel,
    Check,
    Checked,
    Drain,
    Drop,
    Error,
    Held,
    Hello,
    Info,
    Job,
    JobItem,
    Leaving,
    Message,
    NotHere,
    Query,
    Recall,
    Refuse,
    RequestOfRes,
    ResReq,
    Result,
    Returned,
    Started,
    Welcome,
)
from protocol.relay import Ask, Claim, Claimed, Claiming, Owner, Told

A = "ABCDEFGHIJKLMNOP"
B = "0123456789ABCDEF"

#: (message, its frame)
FRAMES: list[tuple[Message, bytes]] = [
    (
        Hello("n1", "i1", "alpha", 2, (Held(A, 1),), (Held(B, 2),), ()),
        b"\x00\x00\x00A\x93\xa5HELLO\xcc\xc8\x98\x03\xa2n1\xa2i1\xa5alpha\x02\x91\x92\xb0ABCDE"
        b"FGHIJKLMNOP\x01\x91\x92\xb00123456789ABCDEF\x02\x90",
    ),
    (
        Welcome("b1", 7, 3.0),
        b"\x00\x00\x00\x1a\x93\xa7WELCOME\xcc\xc8\x94\x03\xa2b1\x07\xcb@\x08\x00\x00\x00\x00\x00\x00",
    ),
    (
        Refuse(503, "full"),
        b"\x00\x00\x00\x11\x93\xa7WELCOME\xcd\x01\xf7\xa4full",
    ),
    (
        Job([JobItem(A, 0, 1600000000.5, Sleep(100).pack())]),
        b"\x00\x00\x001\x93\xa3JOB\xcc\xc8\x91\x97\xb0ABCDEFGHIJKLMNOP\x00\xcbA\xd7\xd7\x84"
        b"\x00 \x00\x00\xc4\x08\x92\xa5sleepd\x00\xc2\x00",
    ),
    (
        Job([JobItem(A, 2, 5.0, b"", 300, False), JobItem(B, 1, 5.0, b"x", 0, True, -5)]),
        b"\x00\x00\x00M\x93\xa3JOB\xcc\xc8\x92\x97\xb0ABCDEFGHIJKLMNOP\x02\xcb@\x14\x00\x00"
        b"\x00\x00\x00\x00\xc4\x00\xcd\x01,\xc2\x00\x97\xb00123456789ABCDEF\x01\xcb@\x14"
        b"\x00\x00\x00\x00\x00\x00\xc4\x01x\x00\xc3\xfb",
    ),
    (
        Info(3, 2, 1, 0.5, 4096),
        b"\x00\x00\x00\x18\x93\xa4INFO\xcc\xc8\x95\x03\x02\x01\xcb?\xe0\x00\x00\x00\x00\x00\x00\xcd\x10\x00",
    ),
    (
        RequestOfRes((A, B)),
        b"\x00\x00\x005\x93\xaeREQUEST_OF_RES\xcc\xc8\x92\xb0ABCDEFGHIJKLMNOP\xb00123456789ABCDEF",
    ),
    (
        Result([Ended(A, 1, "succeeded", b"report")]),
        b"\x00\x00\x000\x93\xa6RESULT\xcc\xc8\x91\x94\xb0ABCDEFGHIJKLMNOP\x01\xa9succeeded\xc4\x06report",
    ),
    (
        ResReq([Ended(A, 300, "timed-out", b"")], (B,)),
        b"\x00\x00\x00@\x93\xa7RES_REQ\xcc\xc8\x92\x91\x94\xb0ABCDEFGHIJKLMNOP\xcd\x01,\xa9tim"
        b"ed-out\xc4\x00\x91\xb00123456789ABCDEF",
    ),
    (
        NotHere((A,)),
        b"\x00\x00\x00\x1d\x93\xa6RESULT\xcd\x01\x94\x91\xb0ABCDEFGHIJKLMNOP",
    ),
    (
        AckJobs((A,)),
        b"\x00\x00\x00\x1e\x93\xa3ACK\xcc\xc8\x92\xa3JOB\x91\xb0ABCDEFGHIJKLMNOP",
    ),
    (
        AckResults((Held(A, 0),)),
        b"\x00\x00\x00#\x93\xa3ACK\xcc\xc8\x92\xa6RESULT\x91\x92\xb0ABCDEFGHIJKLMNOP\x00",
    ),
    (
        Started((Held(A, 1),)),
        b"\x00\x00\x00\x1f\x93\xa7STARTED\xcc\xc8\x91\x92\xb0ABCDEFGHIJKLMNOP\x01",
    ),
    (
        Leaving((Held(A, 1),)),
        b"\x00\x00\x00\x1f\x93\xa7LEAVING\xcc\xc8\x91\x92\xb0ABCDEFGHIJKLMNOP\x01",
    ),
    (
        Recall((Held(A, 1),)),
        b"\x00\x00\x00\x1e\x93\xa6RECALL\xcc\xc8\x91\x92\xb0ABCDEFGHIJKLMNOP\x01",
    ),
    (
        Returned((Held(A, 1),)),
        b"\x00\x00\x00 \x93\xa8RETURNED\xcc\xc8\x91\x92\xb0ABCDEFGHIJKLMNOP\x01",
    ),
    (
        Cancel((Held(A, 0),)),
        b"\x00\x00\x00\x1e\x93\xa6CANCEL\xcc\xc8\x91\x92\xb0ABCDEFGHIJKLMNOP\x00",
    ),
    (
        Drop((Held(A, 70000),)),
        b"\x00\x00\x00 \x93\xa4DROP\xcc\xc8\x91\x92\xb0ABCDEFGHIJKLMNOP\xce\x00\x01\x11p",
    ),
    (
        Query(9, "status", (A,)),
        b"\x00\x00\x00$\x93\xa5QUERY\xcc\xc8\x93\t\xa6status\x91\xb0ABCDEFGHIJKLMNOP",
    ),
    (
        Answer(9, "{}"),
        b"\x00\x00\x00\x0f\x93\xa6ANSWER\xcc\xc8\x92\t\xa2{}",
    ),
    (
        Ask(7, "executor", A, "tail", b"x"),
        b"\x00\x00\x00+\x93\xa3ASK\xcc\xc8\x95\x07\xa8executor\xb0ABCDEFGHIJKLMNOP\xa4tail\xc4\x01x",
    ),
    (
        Told(7, "n1", 404, b""),
        b"\x00\x00\x00\x12\x93\xa4TOLD\xcc\xc8\x94\x07\xa2n1\xcd\x01\x94\xc4\x00",
    ),
    (
        Claim(8, (Claiming("nightly", A),)),
        b"\x00\x00\x00&\x93\xa5CLAIM\xcc\xc8\x92\x08\x91\x92\xa7nightly\xb0ABCDEFGHIJKLMNOP",
    ),
    (
        Claimed(8, (Owner(A, "alpha"),)),
        b"\x00\x00\x00&\x93\xa7CLAIMED\xcc\xc8\x92\x08\x91\x92\xb0ABCDEFGHIJKLMNOP\xa5alpha",
    ),
    (
        Check((A,)),
        b"\x00\x00\x00\x1b\x93\xa5CHECK\xcc\xc8\x91\xb0ABCDEFGHIJKLMNOP",
    ),
    (
        Checked((A,)),
        b"\x00\x00\x00\x1d\x93\xa7CHECKED\xcc\xc8\x91\xb0ABCDEFGHIJKLMNOP",
    ),
    (
        Drain(),
        b"\x00\x00\x00\n\x93\xa5DRAIN\xcc\xc8\xc0",
    ),
    (
        Bye(),
        b"\x00\x00\x00\x08\x93\xa3BYE\xcc\xc8\xc0",
    ),
    (
        Error(400, "no"),
        b"\x00\x00\x00\r\x93\xa5ERROR\xcd\x01\x90\xa2no",
    ),
]
