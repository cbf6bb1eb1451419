"""The jobs of the systems that call Python functions; their workers import them from here."""

from __future__ import annotations

import subprocess


def run_true() -> int:
    return subprocess.run(["true"], check=True).returncode


def nothing() -> None:
    """A job of 0 ms."""
