"""What a client reads of why a job waits and where it was."""

from __future__ import annotations

import json

from protocol.explain import Attempt, Explained, shown_time
from protocol.job import JobState
from protocol.replies import TicketIssued, render_json, render_text

T = "QBPA7AMQMQ741A5X"


def test_in_text_it_is_a_block_with_a_line_for_each_attempt() -> None:
    attempts = [Attempt(1, "n1", 5.0, 6.5, "failed"), Attempt(2, "n2", 8.0, None, "runs")]
    reply = Explained(T, JobState.RUNNING, "it runs on n2", attempts, until=9.0)
    assert render_text(reply).decode().splitlines() == [
        f"Explain: {T}, running",
        "it runs on n2",
        f"until {shown_time(9.0)}",
        f"attempt 1 on n1 from {shown_time(5.0)} to {shown_time(6.5)}: failed",
        f"attempt 2 on n2 from {shown_time(8.0)}: runs",
        ".",
    ]


def test_in_json_it_is_an_object_with_what_else_there_is() -> None:
    attempts = [Attempt(1, "n1", 5.0, 6.5, "failed"), Attempt(2, "", None, None, "lost")]
    reply = Explained(T, JobState.QUEUED, "it is the next to go", attempts, more={"before": 0})
    assert json.loads(render_json(reply)) == {
        "ticket": T,
        "state": "queued",
        "why": "it is the next to go",
        "until": None,
        "attempts": [
            {"attempt": 1, "node": "n1", "from": 5.0, "to": 6.5, "how": "failed"},
            {"attempt": 2, "node": None, "from": None, "to": None, "how": "lost"},
        ],
        "before": 0,
    }


def test_no_line_of_the_block_is_its_end_before_the_end() -> None:
    reply = Explained(T, JobState.DONE, ".", [Attempt(1, "n", None, None, "two\n.\nlines")])
    lines = render_text(reply).decode().splitlines()
    assert [line for line in lines if line.startswith(".")] == ["."]
    assert lines[2] == "attempt 1 on n: two . lines"


def test_a_ticket_of_another_node_names_it_for_programs() -> None:
    assert render_json(TicketIssued(T)) == b'{"ticket":"%s"}\n' % T.encode()
    assert json.loads(render_json(TicketIssued(T, "n2"))) == {"ticket": T, "node": "n2"}
    assert render_text(TicketIssued(T, "n2")) == render_text(TicketIssued(T))
