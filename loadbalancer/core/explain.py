"""Why a job waits, and where it was: from the books, in words.

What it costs does not grow with how many jobs there are: of those that wait, and of those that a node holds,
no more than LOOKED_AT are looked at.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice, takewhile
from typing import Any

from loadbalancer.core.jobs import Job, State
from loadbalancer.core.ledger import Ledger
from loadbalancer.core.nodes import Node
from loadbalancer.core.settings import Settings
from protocol.explain import Attempt

LOOKED_AT = 1000


def explain(job: Job, ledger: Ledger, connected: Collection[Node], settings: Settings) -> dict[str, Any]:
    """`state`, `why`, `until`, `attempts` (rows) of an open job; where it waits, how many go before it."""
    node = ledger.nodes[job.node] if job.node is not None else None
    more: dict[str, Any] = {}
    until: float | None = None
    if job.state is State.QUEUED:
        count, is_all = ledger.queue.before(job, LOOKED_AT)
        why = f"{_jobs(count, is_all)}; {_nodes(connected, settings)}"
        more = {"before": count, "before_is_exact": is_all, "waiting": ledger.waiting}
    elif job.state is State.DELAYED:
        until = job.not_before
        why = "its last attempt failed, and it is tried again"
        if job.ticket in ledger.asked:
            why = "its node was lost, and its origin is asked whether it has the result already"
    elif node is None:
        why = "it has ended, and its result is on its way to the node that it was submitted to"
    elif node.link is None:
        until = node.deadline
        why = f"{node.name}, which has it, is away; if that does not come back, it goes to another node"
    elif job.cancelled:
        why = f"it is cancelled, and {node.name} ends it"
    elif job.ticket in node.leaving:
        why = f"it has ended on {node.name}, and its files are brought home"
    elif job.state is State.RUNNING:
        why = f"it runs on {node.name}"
    else:
        why = f"{node.name} has it, {_on_node(job, node)}"
    attempts = list(job.story or ())
    if node is not None:
        how = "runs" if job.state is State.RUNNING else "waits there, or has just begun"
        attempts.append(Attempt(job.attempt, node.name, job.since, None, how))
    return {"state": job.state.name.lower(), "why": why, "until": until, "attempts": attempts, **more}


def _jobs(count: int, is_all: bool) -> str:
    if is_all and count == 0:
        return "it is the next to go"
    more = "" if is_all else "more than "
    return f"{more}{_count(count)} {'goes' if count == 1 else 'go'} before it"


def _count(jobs: int) -> str:
    return "1 job" if jobs == 1 else f"{jobs} jobs"


def _nodes(connected: Collection[Node], settings: Settings) -> str:
    if not connected:
        return "no node is connected"
    taking = [node for node in connected if not node.draining]
    if not taking:
        return "all nodes that are connected are about to stop"
    if not settings.eager:
        return f"every {settings.dispatch_period:g} s {settings.max_num_jobs_dispatch} jobs are handed out"
    what = "node holds" if len(taking) == 1 else "nodes hold"
    return f"{len(taking)} {what} as many jobs as they may"


def _on_node(job: Job, node: Node) -> str:
    """A node starts what it got first, as far as it has slots."""
    sooner = sum(
        each.ticket not in node.leaving
        for each in takewhile(lambda each: each is not job, islice(node.jobs.values(), LOOKED_AT))
    )
    if sooner < node.slots:
        return "and has room for it"
    more = "more than " if sooner == LOOKED_AT else ""
    return f"where {more}{_count(sooner)} came before it, and {node.slots} run at once"
