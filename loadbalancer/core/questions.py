"""What nodes ask on behalf of clients: how the cluster is, and where their jobs are."""

from __future__ import annotations

import json
from collections.abc import Collection, Sized
from typing import Any

from loadbalancer.core.explain import explain
from loadbalancer.core.jobs import Job, State
from loadbalancer.core.ledger import Ledger
from loadbalancer.core.nodes import Node
from loadbalancer.core.settings import Settings
from protocol.job import Outcome
from protocol.limits import QUERY_LIMIT
from protocol.messages import Query

#: What clients are told of states that they need not know.
_SHOWN = {State.DELAYED: State.QUEUED, State.PASSING: State.DONE}

#: Jobs that are explained in one answer: a node asks for one at a time.
EXPLAINED_AT_ONCE = 10

_COUNTERS = (
    "submitted",
    "dispatched",
    "recalled",
    "lost attempts",
    "late results",
    "retried",
    "stale",
    *(str(outcome) for outcome in Outcome),
)


class Questions:
    """Answers from the books, which it does not change. `connected`: the nodes that are."""

    def __init__(
        self, settings: Settings, epoch: int, ledger: Ledger, keys: Sized, connected: Collection[Node]
    ) -> None:
        self._settings = settings
        self._epoch = epoch
        self._ledger = ledger
        self._keys = keys
        self._connected = connected

    def answer(self, query: Query) -> str:
        """The JSON text that answers it, of QUERY_LIMIT at most."""
        ledger = self._ledger
        if query.what == "nodes":
            by_name = sorted(ledger.nodes.values(), key=lambda each: each.name)
            answer: Any = [each.fields() for each in by_name]
        elif query.what == "status":
            answer = {t: self._status(job) for t in query.tickets if (job := ledger.jobs.get(t)) is not None}
        elif query.what == "explain":
            answer = {
                ticket: explain(job, ledger, self._connected, self._settings)
                for ticket in query.tickets[:EXPLAINED_AT_ONCE]
                if (job := ledger.jobs.get(ticket)) is not None
            }
        else:
            answer = self.stats()
        text = json.dumps(answer)
        return text if len(text) <= QUERY_LIMIT else json.dumps([])

    def _status(self, job: Job) -> list[Any]:
        name = self._ledger.nodes[job.node].name if job.node is not None else None
        started = job.since if job.state is State.RUNNING else None
        state = _SHOWN.get(job.state, job.state)
        return [state.name.lower(), job.attempt, name, started]

    def stats(self) -> dict[str, Any]:
        """Counters since this start, and what is there now."""
        ledger = self._ledger
        return {
            "epoch": self._epoch,
            "nodes": len(self._connected),
            "queued": ledger.waiting,
            "delayed": ledger.delayed,
            "assigned": sum(len(node.jobs) for node in ledger.nodes.values()),
            "undelivered": sum(len(node.undelivered) for node in ledger.nodes.values()),
            "keys": len(self._keys),
            **{name: ledger.counters[name] for name in _COUNTERS},
        }
