"""What plays the dialogues of documents sees what is wrong in them."""

from __future__ import annotations

import json
from typing import cast

import pytest

from dialogues import Exchange, Player, blocks_of, with_any_as_text
from support import Client

T, U = "AAAA0000AAAA0000", "BBBB0000BBBB0000"


class Script:
    """A node that says these lines, whatever it hears."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.heard: list[str] = []

    def send(self, line: str) -> None:
        self.heard.append(line)

    def line(self) -> str:
        return self.lines.pop(0)


def play(document: str, *said: str) -> tuple[list[Exchange], Script]:
    script = Script(*said)
    played = Player(cast(Client, script), document.split("\n"), {}).play()
    assert not script.lines
    return played, script


def test_the_dialogues_of_a_document_are_found() -> None:
    text = "words\n\n    $ nc node 9000\n    a\n\n    b\n\nwords\n\n    code\n\n    more\n"
    assert list(blocks_of(text)) == [["a", "", "b"]]


def test_tickets_are_other_ones_and_the_same_throughout() -> None:
    document = f"5\nTicket ID: {T}\nwait {T}\nResult: succeeded, {T}, in 0.001 s on n1\nr{T}\nResult: x"
    real = "QQQQ7777QQQQ7777"
    said = (f"Ticket ID: {real}", f"Result: succeeded, {real}, in 71.300 s on n7", "Result: x")
    played, script = play(document, *said)
    assert script.heard == ["5", f"wait {real}", f"r{real}"]
    assert played[0] == Exchange("5", [[f"Ticket ID: {real}"]])
    with pytest.raises(pytest.fail.Exception):
        play(document, said[0], f"Result: succeeded, {U}, in 71.300 s on n7")


def test_a_block_ends_with_its_dot_and_may_be_left_out_in_part() -> None:
    said = ("Nodes: 2", "NAME   DONE", "n1   0", "n2   1", ".")
    document = "nodes\nNodes: 2\nNAME  DONE\n…\n."
    play(document, *said)
    play(document.replace("…", "n9  …\n…"), *said)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("wait x\nResult: good", ["Result: bad"]),
        ("wait x\nResult: good, …", ["Result: good"]),
        ("wait x\nResult: in 0.1 s", ["Result: in 0.2 s"]),
        ("wait x y\nResult: a\nResult: b", ["Result: a", "Result: c"]),
        ("help\nCommands:\na\n.", ["Commands:", "a", "b", "."]),
        ("help\nCommands:", ["Commands:", "."]),
        ("x\n(there is a storm)", ["y"]),
        ('json\n{"json": true}\nx\n{"a": 1}', ['{"json":true}', '{"a":2}']),
        ('json\n{"json": true}\nx\n{"a": 1}', ['{"json":true}', '{"a":true}']),
        ('json\n{"json": true}\nx\n{"a": 1}', ['{"json":true}', '{"a":1,"b":2}']),
        ('json\n{"json": true}\nx\n{"a": 1, …}', ['{"json":true}', '{"b":2}']),
        ('json\n{"json": true}\nx\n{"a": [1]}', ['{"json":true}', '{"a":[1,2]}']),
        ('json\n{"json": true}\nx\n{"a": [1, …]}', ['{"json":true}', '{"a":[]}']),
        ('json\n{"json": true}\nx\n{"a_at": 1.5}', ['{"json":true}', '{"a_at":null}']),
    ],
)
def test_what_is_not_as_it_is_written_is_seen(document: str, said: list[str]) -> None:
    with pytest.raises((pytest.fail.Exception, AssertionError)):
        play(document, *said)


def test_json_may_stand_in_more_lines_and_leave_things_out() -> None:
    document = (
        'json\n{"json": true}\nx\n{"a": "…",\n "b": [{"c": 1, …}, …], "d_at": 17.5,\n …}\ny\n{"z": null}'
    )
    first = {"a": None, "b": [{"c": 1, "e": 2}, 3], "d_at": 1, "f": []}
    play(document, '{"json":true}', json.dumps(first), '{"z":null}')


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": …}', {"a": "…"}),
        ('{…, "a": [1, …]}', {"…": "…", "a": [1, "…"]}),
        ('{"a": "… {…", …}', {"a": "… {…", "…": "…"}),
        ("[…]", ["…"]),
    ],
)
def test_anything_in_json_is_a_text(text: str, value: object) -> None:
    assert json.loads(with_any_as_text(text)) == value


def test_news_are_read_where_they_are_written() -> None:
    played, _ = play(
        f"5\nTicket ID: {T}\nDone: {T} succeeded\nx\ny", f"Ticket ID: {U}", f"Done: {U} succeeded", "y"
    )
    assert [each.typed for each in played] == ["5", "x"]
