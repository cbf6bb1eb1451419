"""Text for people."""

from __future__ import annotations


def printable(value: object) -> str:
    """On one line, and without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in str(value))


def jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def jobs_are(count: int) -> str:
    return f"{jobs(count)} {'is' if count == 1 else 'are'}"
