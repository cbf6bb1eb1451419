"""The helper cannot import our packages; what it holds twice must stay the same."""

from __future__ import annotations

from clusternode.executor import helper
from protocol import limits


def test_the_helpers_bounds_are_those_of_the_protocol() -> None:
    assert (helper.OUTPUT_LIMIT, helper.KILL_GRACE) == (limits.OUTPUT_LIMIT, limits.KILL_GRACE)
