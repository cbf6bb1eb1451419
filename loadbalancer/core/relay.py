"""Whom a node's question to another node goes to."""

from __future__ import annotations

from loadbalancer.core.ledger import Ledger
from loadbalancer.core.nodes import Node
from protocol.relay import AWAY, NOT_FOUND, Ask, Told

#: Questions to one node that are remembered: more than its answers may be held back for, and little memory.
REMEMBERED = 10_000


def whom(ledger: Ledger, ask: Ask) -> Node | Told:
    """The node that is asked; or where there is none, what is told."""
    node_id: str | None = ask.name
    if ask.whom != "node":
        job = ledger.jobs.get(ask.name)
        if job is None:
            return Told(ask.number, "", NOT_FOUND, b"this job is not open")
        node_id = job.origin if ask.whom == "origin" else job.node
        if node_id is None:
            return Told(ask.number, "", AWAY, b"no node has it")
    node = ledger.nodes.get(node_id or "")
    if node is None or node.link is None:
        return Told(ask.number, "", AWAY, b"its node is away")
    return node


class Unanswered:
    """Questions that were passed on: whose node goes away is told at once, and need not wait in vain."""

    def __init__(self) -> None:
        #: By the node that was asked: (who asked, number), the oldest first.
        self._by_node: dict[str, dict[tuple[str, int], None]] = {}

    def passed_on(self, asked: str, asker: str, number: int) -> None:
        questions = self._by_node.setdefault(asked, {})
        questions[asker, number] = None
        if len(questions) > REMEMBERED:
            del questions[next(iter(questions))]

    def told(self, asked: str, asker: str, number: int) -> None:
        self._by_node.get(asked, {}).pop((asker, number), None)

    def gone(self, asked: str) -> list[tuple[str, int]]:
        """(who asked, number) of what this node will not answer any more."""
        return list(self._by_node.pop(asked, ()))
