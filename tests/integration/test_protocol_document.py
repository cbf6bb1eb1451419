"""docs/client-protocol.md is true: its dialogues are played, and each row of its table is among them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from dialogues import Exchange, Player, blocks_of
from support import ROOT, Cluster, eventually

DOCUMENT = (ROOT / "docs/client-protocol.md").read_text()
DIALOGUES = list(blocks_of(DOCUMENT))
#: Rows whose line is no line of a dialogue, and why.
ELSEWHERE = {
    "an empty line": "shown below",
    "anything else": "shown in the first session",
    "checkpoint <ticket>": "from within a job: tests/integration/test_checkpoints.py",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("document"))
    try:
        cluster.start("n1", "n2")
        yield cluster
    finally:
        cluster.end()


class Plays:
    """Each dialogue is played once, when it is first asked for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._played: dict[int, list[Exchange]] = {}

    def play(self, number: int) -> list[Exchange]:
        """All that was said. Fails where it is not what the document says."""
        if number not in self._played:
            with self._cluster.nodes["n1"].client() as client:
                player = Player(client, DIALOGUES[number], {})
                self._played[number] = player.played
                player.play()
        return self._played[number]


@pytest.fixture(scope="module")
def plays(cluster: Cluster) -> Plays:
    return Plays(cluster)


@pytest.mark.parametrize("number", range(len(DIALOGUES)), ids=lambda number: DIALOGUES[number][0][:40])
def test_a_dialogue_is_as_it_is_written(plays: Plays, number: int) -> None:
    assert plays.play(number)


class Row(NamedTuple):
    """Of the table of commands: its forms, and what stands between backquotes in the other column."""

    forms: list[str]
    replies: list[str]

    @property
    def name(self) -> str:
        return ", ".join(self.forms)


def rows() -> list[Row]:
    table = DOCUMENT.partition("| line | reply |\n|---|---|\n")[2].partition("\n\n")[0]
    found: list[Row] = []
    for line in table.splitlines():
        left, right = line.strip("| ").split(" | ", maxsplit=1)
        replies = re.findall(r"`([^`]+)`", right)
        if found and not right.startswith("`"):  # as the row before, or in words
            replies += found[-1].replies
        found.append(Row(re.findall(r"`([^`]+)`", left) or [left], replies))
    return found


ROWS = [row for row in rows() if row.name not in ELSEWHERE]


def is_of(form: str, typed: str) -> bool:
    """Whether this line was typed as the row says: its command with its options, or with as many words."""
    if form.startswith("{"):
        return typed.startswith(re.match(r'\{"\w+"', form)[0])  # type: ignore[index]
    command, *words = form.split()
    if command == "<ms>":
        return typed.isdigit()
    if command == "r<ticket>":
        return bool(re.fullmatch(r"r[A-Z0-9]{16}", typed))
    options = [word for word in words if word.startswith("--") and word != "--"]
    given = typed.split(" -- ")[0].split()
    if given[0] != command:
        return False
    if options:
        return any(option in given for option in options)
    if words[-1:] == ["…"]:
        return len(given) >= len(words)
    count = len(words) if command not in ("run", "task") else 1
    return len(given) - 1 == count or (command in ("run", "task") and len(given) > 1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_of_the_table_has_an_example_with_the_reply_that_it_names(plays: Plays, row: Row) -> None:
    exchanges = [each for number in range(len(DIALOGUES)) for each in plays.play(number)]
    for form in row.forms:
        examples = [each for each in exchanges if is_of(form, each.typed)]
        assert examples, f"no dialogue of the document has an example of `{form}`"
        for option in re.findall(r"(?<= )--\w[\w-]*", form):
            assert any(f" {option}" in each.typed for each in examples), f"no example has {option}"
        for typed, replies in examples:
            for reply in replies:
                is_right = any(re.fullmatch(pattern_of(each), line) for each in row.replies for line in reply)
                is_other = reply[0].startswith("{") or is_refusal(reply[0])
                assert is_right or is_other, f"{typed} is answered with {reply}, no {row.replies}"


def pattern_of(reply: str) -> str:
    pattern = re.escape(reply).replace("…", ".*").replace("<ticket>", "[A-Z0-9]{16}")
    return re.sub(r"<\w+>", ".*", pattern)


def is_refusal(line: str) -> bool:
    """Of no row: what is wrong is said in one line."""
    return bool(re.match(r"--\w|\w+ (needs|has|takes) |task \w+: |Result: This job", line))


def test_the_session_of_the_readme_is_as_it_is_written(make_cluster: Callable[..., Cluster]) -> None:
    (dialogue,) = blocks_of((ROOT / "README.md").read_text())
    cluster = make_cluster()
    n1, *_ = cluster.start("n1", "n2", "n3")

    def kill_the_balancer() -> None:
        """Once all is done, as whoever reads what came has had the time for that."""
        with n1.json_client() as client:
            eventually(lambda: client.ask_json("list --state open")["jobs"] == [], "all is done")
        cluster.balancer.kill()
        cluster.balancer.start()  # as `make up` does

    said = 'here the balancer is killed: pkill -9 -f "loadbalancer 8080"'
    with n1.client() as client:
        assert len(Player(client, dialogue, {said: kill_the_balancer}).play()) == 7


def test_an_empty_line_gets_nothing(cluster: Cluster) -> None:
    with cluster.nodes["n1"].client() as client:
        client.send("", "   ", "exit")
        assert client.rest() == b"Come back later to check your results.\n"
