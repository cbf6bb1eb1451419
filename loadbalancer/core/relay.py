"""Whom a node's question to another node goes to."""

from __future__ import annotations

from loadbalancer.core.ledger import Ledger
from loadbalancer.core.nodes import Node
from protocol.relay import AWAY, NOT_FOUND, Ask, Told


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
