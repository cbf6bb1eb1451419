"""A mix of jobs for tests that disturb a cluster: what was submitted and shown, and whether it is right."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from support import Cluster, Node, eventually, ticket_of

ROUNDS = 100


def mix(rounds: int = ROUNDS) -> list[str]:
    """Jobs of every kind, four a round."""
    lines = []
    for number in range(rounds):
        lines += ["0", str(number % 50), f"run echo {number}", f"run sleep 0.0{number % 10}; echo {number}"]
    return lines


#: So much output that a row does not hold it itself.
_LARGE_BYTES = 100_000
_WRITE_LARGE = f"head -c {_LARGE_BYTES} /dev/zero | tr '\\0' x"


def large(number: int, first: str = "") -> str:
    """A job with a large output of its own; `first` is a command before it."""
    return f"run {first}{_WRITE_LARGE}; echo {number}"


def expected_output(line: str) -> str:
    _, echo, word = line.rpartition("echo ")
    before = "x" * _LARGE_BYTES if _WRITE_LARGE in line else ""
    return f"{before}{word}\n" if echo else ""


class Load:
    """Jobs submitted through one node; counts every ticket that was read, whatever happened then."""

    def __init__(self, node: Node, lines: list[str] | None = None) -> None:
        """`lines`: sleeps, and commands that may end in one `echo WORD`; a mix unless given."""
        self.node = node
        self.lines = mix() if lines is None else lines
        self.tickets: list[str] = []
        self.shown: dict[str, dict[str, Any]] = {}

    def submit(self) -> None:
        with self.node.client() as client:
            self.tickets = client.submit(*self.lines)

    def submit_until_the_node_dies(self, after: int, kill: Callable[[], None]) -> None:
        """All lines at once, `kill` when so many tickets were read; then whatever still comes."""
        with self.node.client() as client:
            client.send(*self.lines)
            self.tickets += [ticket_of(client.line()) for _ in range(after)]
            kill()
            with contextlib.suppress(OSError, AssertionError):
                while True:
                    self.tickets.append(ticket_of(client.line()))

    def trickle(self, group: int = 4) -> bool:
        """So many lines at a time, keeping what results there are; False if the node dies or stops."""
        while len(self.tickets) < len(self.lines):
            start = len(self.tickets)
            lines = self.lines[start : start + group]
            try:
                with self.node.json_client() as client:
                    client.send(*lines, "getall")
                    for _ in lines:
                        reply = client.line()
                        if "about to stop" in reply:
                            return False
                        self.tickets.append(ticket_of(reply))
                    rows = client.object()["results"]
            except (OSError, AssertionError):
                return False
            self._keep(rows)
        return True

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        now = {row["ticket"]: row for row in rows if row["outcome"] is not None}
        assert {ticket: now[ticket] for ticket in self.shown} == self.shown, "what was shown has changed"
        self.shown = now

    def read_results(self, least: int) -> None:
        """Waits until so many results can be read, and keeps what was shown."""

        def read() -> bool:
            with self.node.json_client() as client:
                client.send("getall")
                self._keep(client.object()["results"])
            return len(self.shown) >= least

        eventually(read, f"{least} results are there")

    def check(self) -> None:
        """Every ticket has one result, the right one, and what was shown before is unchanged."""
        with self.node.json_client() as client:
            results = client.wait(*self.tickets)
            assert client.wait(*self.tickets) == results
            client.send("getall")
            rows = client.object()["results"]
        assert len(set(self.tickets)) == len(self.tickets)
        for line, ticket, result in zip(self.lines, self.tickets, results, strict=False):
            assert result["ticket"] == ticket
            assert (result["state"], result["outcome"]) == ("done", "succeeded"), result
            assert result["stdout"] == expected_output(line)
        by_ticket = {row["ticket"]: row for row in rows}
        assert len(by_ticket) == len(rows), "no ticket is listed twice"
        assert [by_ticket[ticket] for ticket in self.tickets] == results
        assert {ticket: by_ticket[ticket] for ticket in self.shown} == self.shown


def assert_settled(cluster: Cluster, through: Node) -> None:
    """Nothing is left anywhere."""

    def empty() -> bool:
        with through.json_client() as client:
            stats = client.ask_json("stats")["balancer"]
        return stats is not None and (stats["queued"], stats["assigned"], stats["undelivered"]) == (0, 0, 0)

    eventually(empty, "the balancer holds nothing any more")
