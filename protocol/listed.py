"""What a client reads that asked for a list of tickets: a table for a person, one object for a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from protocol.arrays import size_of
from protocol.file_replies import compact_json
from protocol.job import JobSpec, Sleep, Task
from protocol.job_objects import spec_fields, status_fields
from protocol.listing import OPEN
from protocol.replies import JobView, text_block

#: Characters of a row of the table, as most terminals show them in one line; of a name and of a tag in it.
ROW_WIDTH = 120
WORD_WIDTH = 20
HEADS = ("TICKET", "STATE", "OUTCOME", "AGE", "NAME", "TAG", "RUNS")


class Listed(NamedTuple):
    """`is_placed`: where it is was asked, of what is done or open; else it is open, and no more is known.

    `failure`: why it cannot be read; there is no `job` then.
    """

    ticket: str
    job: JobView | None
    is_placed: bool = True
    failure: str = ""

    @property
    def state(self) -> str:
        return str(self.job.state) if self.job is not None and self.is_placed else OPEN


class Row(NamedTuple):
    """Of a list, made: `fields` where a program reads it, `cells` where a person does."""

    ticket: str
    fields: bytes = b""
    cells: Sequence[str] = ()


def json_row(listed: Listed) -> Row:
    job = listed.job
    if job is None:
        return Row(listed.ticket, compact_json({"error": listed.failure, "ticket": listed.ticket}))
    name, tag = _name_and_tag(job.spec)
    fields = status_fields(job) | {"state": listed.state, "name": name or None, "tag": tag or None}
    return Row(listed.ticket, compact_json(fields | {"job": spec_fields(job.spec)}))


def text_row(listed: Listed, now: float) -> Row:
    job = listed.job
    if job is None:
        return Row(listed.ticket, cells=(listed.ticket, "-", "-", "-", "-", "-", listed.failure))
    name, tag = (_cut(word, WORD_WIDTH) or "-" for word in _name_and_tag(job.spec))
    age = in_short(max(0.0, now - job.submitted_at))
    what = " ".join(_runs(job.spec).split())
    return Row(listed.ticket, cells=(listed.ticket, listed.state, job.outcome or "-", age, name, tag, what))


def json_list(rows: Sequence[Row], following: str | None, note: str) -> bytes:
    """`following`: the `--before` of what is older than these, None where there is nothing."""
    parts = [b'{"jobs":[', b",".join(row.fields for row in rows), b'],"next":', compact_json(following)]
    if note:
        parts += [b',"note":', compact_json(note)]
    return b"".join((*parts, b"}\n"))


def text_list(rows: Sequence[Row], following: str | None, note: str) -> bytes:
    table = [HEADS, *(row.cells for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEADS) - 1)]
    lines = []
    for *cells, last in table:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append(_cut("  ".join((*padded, last)), ROW_WIDTH).rstrip())
    head = f"Jobs: {len(rows)}"
    if following is not None:
        head += f", more with list --before {following}"
    return text_block(f"{head} ({note})" if note else head, "\n".join(lines).encode("utf-8", "replace"))


def in_short(seconds: float) -> str:
    """A time in its largest unit: `12s`, `3m`, `5h`, `2d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds // 1:.0f}s"


def _name_and_tag(spec: JobSpec) -> tuple[str, str]:
    return ("", "") if isinstance(spec, Sleep) else (spec.extras.name, spec.extras.tag)


def _runs(spec: JobSpec) -> str:
    if isinstance(spec, Sleep):
        return f"sleep of {spec.ms} ms"
    if isinstance(spec, Task):
        return f"task {spec.name} {spec.payload[: 2 * ROW_WIDTH]}"
    array = size_of(spec)
    return f"{f'{array} times ' if array else ''}{spec.line[: 2 * ROW_WIDTH]}"


def _cut(text: str, width: int) -> str:
    """What fits, without characters that would do something to a terminal."""
    shown = text if len(text) <= width else text[: width - 1] + "…"
    return shown if shown.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in shown)
