"""What can go wrong with a workload; the message is for a person."""

from __future__ import annotations


class WorkloadError(Exception):
    """What is wrong and what would be right, in a line; in more where several things are."""
