"""Version 1: the first messages on the wire, which a later version refuses, and the bodies, which it reads.

Nothing here changes when the code does.
"""

from protocol.job import Command, JobSpec, Report, Sleep

#: HELLO and WELCOME of version 1.
GREETINGS = [
    b"\x00\x00\x00A\x93\xa5HELLO\xcc\xc8\x98\x01\xa2n1\xa2i1\xa5alpha\x02\x91\x92\xb0ABCDEFGHI"
    b"JKLMNOP\x01\x91\x92\xb00123456789ABCDEF\x02\x90",
    b"\x00\x00\x00\x1a\x93\xa7WELCOME\xcc\xc8\x94\x01\xa2b1\x07\xcb@\x08\x00\x00\x00\x00\x00\x00",
]

#: (job, its body)
SPECS: list[tuple[JobSpec, bytes]] = [
    (Sleep(0), b"\x92\xa5sleep\x00"),
    (Sleep(2147483647), b"\x92\xa5sleep\xce\x7f\xff\xff\xff"),
    (Command("make test"), b"\x95\xa3run\xa9make test\xc0\x00\xc2"),
    (Command("héllo", 1.5), b"\x95\xa3run\xa6h\xc3\xa9llo\xcb?\xf8\x00\x00\x00\x00\x00\x00\x00\xc2"),
    (Command("x", None, 1000), b"\x95\xa3run\xa1x\xc0\xcd\x03\xe8\xc2"),
    (Command("x", at_most_once=True), b"\x95\xa3run\xa1x\xc0\x00\xc3"),
]

#: (report, its body)
REPORTS: list[tuple[Report, bytes]] = [
    (Report(), b"\x99\xa0\xc0\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xc0\xc4\x00\xc4\x00\x00\x00\xa0"),
    (
        Report("alpha", 1600000000.0, 1600000001.5, 143, b"out", b"\xff", 3, 70000, "why"),
        b"\x99\xa5alpha\xcbA\xd7\xd7\x84\x00\x00\x00\x00\xcbA\xd7\xd7\x84\x00`\x00\x00"
        b"\xcc\x8f\xc4\x03out\xc4\x01\xff\x03\xce\x00\x01\x11p\xa3why",
    ),
]
