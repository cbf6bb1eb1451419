"""The figures as files: JSON with all samples, and a plot of the ratios beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.plot import plot


def write(path: Path, figures: Sequence[Figure], about: Mapping[str, Any]) -> Path:
    """Writes `path` and, beside it, the plot, whose path is returned. Raises OSError."""
    content = {
        **about,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "figures": [figure.as_json() for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    picture = path.with_suffix(".svg")
    picture.write_text(plot(figures), "utf-8")
    return picture
