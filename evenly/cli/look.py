"""One look at a cluster: what the nodes said, and the lines that `evenly top` shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from evenly.words import printable
from protocol.limits import GIB, MIB

#: Columns of a node's bar; characters of its name, before they are cut.
BAR, NAME = 16, 16


class Line(NamedTuple):
    """`style`: in rich's words, empty for none."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """`nodes`, `stats`: as a node answers them. `jobs`: open ones as objects of `list`, the newest first;
    None where the node cannot list them. `at`: seconds since the epoch."""

    at: float
    node: str
    nodes: Sequence[dict[str, Any]]
    stats: dict[str, Any]
    jobs: Sequence[dict[str, Any]] | None

    def as_json(self) -> dict[str, Any]:
        return {"at": self.at, "nodes": list(self.nodes), **self.stats, "jobs": self.jobs}


def rate(before: Look | None, now: Look) -> float | None:
    """Jobs that all nodes ended, a second, from the one look to the other; None where that is not known."""
    if before is None or now.at <= before.at:
        return None
    done = {node["id"]: node["done"] for node in before.nodes}
    ended = sum(node["done"] - done[node["id"]] for node in now.nodes if node["id"] in done)
    return max(0.0, float(ended) / (now.at - before.at))


def lines(look: Look, before: Look | None = None, width: int = 80, height: int | None = None) -> list[Line]:
    """What is shown, in at most `width` columns and `height` lines."""
    shown = [_head(look, before), Line("")]
    shown += _nodes(look)
    if look.jobs is not None:
        room = None if height is None else max(0, height - len(shown) - 2)
        shown += [Line(""), *_jobs(look, room)]
    return [Line(_cut(line.text, width), line.style) for line in shown[:height]]


def _head(look: Look, before: Look | None) -> Line:
    connected = [node for node in look.nodes if node["connected"]]
    running, queued = (sum(node[key] for node in connected) for key in ("running", "queued"))
    slots = sum(node["slots"] for node in connected)
    balancer = look.stats.get("balancer")
    waiting = "" if balancer is None else f", {balancer['queued']} wait in the balancer"
    parts = [f"{running} of {slots} slots busy, {queued} queued{waiting}"]
    if (now := rate(before, look)) is not None:
        parts.append(f"{now:.1f} done/s")
    if balancer is None:
        parts.append("the balancer is away")
    return Line(f"{look.node}: {', '.join(parts)}", "bold red" if balancer is None else "bold")


def _nodes(look: Look) -> list[Line]:
    head = ("NODE", "SLOTS", "RUN", "QUEUED", "DONE", "LOAD", "FREE")
    rows = [
        (
            _cut(node["name"], NAME),
            *(str(node[key]) for key in ("slots", "running", "queued", "done")),
            f"{node['load']:.2f}",
            size(node["memory"]),
        )
        for node in look.nodes
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    shown = [Line(_row(head, widths), "dim")]
    for node, row in zip(look.nodes, rows, strict=True):
        text = _row(row, widths)
        if not node["connected"]:
            shown.append(Line(f"{text}  away", "red"))
        elif node["draining"]:
            shown.append(Line(f"{text}  stops", "yellow"))
        else:
            shown.append(Line(f"{text}  {_bar(node['running'], node['slots'])}", "green"))
    return shown


def _jobs(look: Look, room: int | None) -> list[Line]:
    jobs = look.jobs or ()
    if not jobs:
        return [Line("No jobs are open.", "dim")]
    shown = [Line(f"{'TICKET':16}  {'STATE':8}  {'NODE':8}  {'AGE':>6}  JOB", "dim")]
    for job in jobs[:room]:
        node, state = job.get("node") or "-", str(job["state"])
        said = " ".join(job_text(job).split())
        age = since(look.at - float(job.get("submitted_at") or look.at))
        text = f"{job['ticket']:16}  {state:8}  {_cut(node, 8):8}  {age:>6}  {said}"
        shown.append(Line(text, "green" if state == "running" else ""))
    return shown


def job_text(job: dict[str, Any]) -> str:
    """What it is, in a line of printable characters."""
    spec = job.get("job") or {}
    if "run" in spec:
        said = f"{spec['array']} times {spec['run']}" if spec.get("array") else str(spec["run"])
    elif "task" in spec:
        said = f"task {spec['task']}"
    else:
        said = f"sleep of {spec.get('sleep', '?')} ms"
    named = f"[{job['name']}] {said}" if job.get("name") else said
    return printable(named)


def since(seconds: float) -> str:
    """An age in at most 5 characters: `3s`, `12m`, `5h`, `9d`."""
    for unit, factor, most in (("s", 1, 100), ("m", 60, 6000), ("h", 3600, 100 * 3600)):
        if seconds < most:
            return f"{max(0.0, seconds) // factor:.0f}{unit}"
    return f"{seconds // 86400:.0f}d"


def size(value: float) -> str:
    """Bytes for people."""
    return f"{value / GIB:.1f} GiB" if value >= GIB else f"{value / MIB:.0f} MiB"


def _bar(running: int, slots: int) -> str:
    full = min(BAR, -(-running * BAR // slots)) if slots else 0
    return "#" * full + "." * (BAR - full)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"
