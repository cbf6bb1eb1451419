"""The balancer's state as one readable JSON file, for analysis: on SIGTERM, and whenever SIGUSR1 comes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadbalancer.core.balancer import Balancer
from loadbalancer.core.jobs import Job

NAME = "dump.json"
#: Jobs listed one by one; of more, the counters tell.
JOBS_LIMIT = 100_000


def job_fields(job: Job, names: dict[str, str]) -> dict[str, Any]:
    return {
        "ticket": job.ticket,
        "state": job.state.name.lower(),
        "attempt": job.attempt,
        "losses": job.losses,
        "failures": job.failures,
        "node": names.get(job.node, job.node) if job.node is not None else None,
        "origin": names.get(job.origin, job.origin),
        "outcome": job.outcome or None,
        "submitted_at": job.submitted_at,
        "since": job.since,
    }


def lines(balancer: Balancer, now: float) -> Iterator[str]:
    """The file, line by line: an object with a line for each node and each job."""
    ledger = balancer.ledger
    names = {node.node_id: node.name for node in ledger.nodes.values()}
    head = {
        "version": 1,
        "written_at": now,
        "balancer": balancer.balancer_id,
        "settings": asdict(balancer.settings),
        "counters": balancer.stats(),
        "jobs_in_all": len(ledger.jobs),
    }
    yield "{"
    for key, value in head.items():
        yield f"{json.dumps(key)}: {json.dumps(value)},"
    yield '"nodes": ['
    yield from _separated([node.fields() for node in ledger.nodes.values()])
    yield '],\n"jobs": ['
    listed = list(ledger.jobs.values())[:JOBS_LIMIT]
    yield from _separated(job_fields(job, names) for job in listed)
    yield "]}"


def _separated(rows: Any) -> Iterator[str]:
    before = ""
    for row in rows:
        if before:
            yield before + ","
        before = json.dumps(row, ensure_ascii=False)
    if before:
        yield before


def write(balancer: Balancer, directory: Path, now: float) -> Path:
    """Writes the dump beside the database, whole or not at all; returns its path. Raises OSError."""
    path = directory / NAME
    temporary = directory / f"{NAME}.new"
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines(balancer, now))
    os.replace(temporary, path)
    return path
