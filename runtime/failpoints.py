"""Named places at which a test can have the process killed: as if by kill -9, at the worst moment.

Off unless EVENLY_FAIL_POINT says `name` or `name:count` (the count-th time it is reached). Only tests set it.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "EVENLY_FAIL_POINT"
#: Where `reach` is called: around each commit and each release of actions, and inside a transaction;
#: in it, between writing large values beside the database and making them durable, and after that; where a
#: notice has been sent and that is not recorded.
NAMES = (
    *("commit.before", "commit.inside", "commit.after", "release.after"),
    *("blobs.inside", "blobs.after", "notice.sent"),
)

_name, _, _count = os.environ.get(VARIABLE, "").partition(":")
_left = int(_count) if _count.isdecimal() else 1


def reach(name: str) -> None:
    """Ends the process here, if a test asked for that."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
