"""Damaged databases: the program says so in one line and ends, or serves what is right; never else."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from load import Load, expected_output, large, mix
from support import PATIENCE, Client, Cluster, Node, Program, eventually

Make = Callable[..., Cluster]
KIB = 1024
#: The numbers of places below make this a quick test; any other seed or number must pass as well.
SEED = 20_26


def flip(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def places(path: Path, count: int) -> list[tuple[int, int]]:
    """Where to flip which bit: the header, the first page with the schema, and anywhere."""
    drawn = random.Random(SEED)
    size = path.stat().st_size
    offsets = [drawn.randrange(100), drawn.randrange(100, 4 * KIB)]
    offsets += [drawn.randrange(size) for _ in range(count - len(offsets))]
    return [(offset, drawn.randrange(8)) for offset in offsets]


def place_of(path: Path, value: bytes) -> int:
    offset = path.read_bytes().find(value)
    assert offset > 0
    return offset


@contextmanager
def damaged(program: Program, undamaged: Path, offset: int, bit: int) -> Iterator[None]:
    """`program` is started on a copy with this bit flipped; it is over afterwards."""
    shutil.rmtree(program.data)
    shutil.copytree(undamaged, program.data)
    (database,) = program.data.glob("*.sqlite3")
    flip(database, offset, bit)
    program.launch()
    eventually(lambda: program.ended or "ready" in program.said, f"{program.name} is ready, or ends")
    yield
    if program.ended:
        assert_ended_with_one_line(program)
    else:
        program.kill()


def assert_ended_with_one_line(program: Program) -> None:
    assert program.wait() in (1, 2), program.said
    own = [line for line in program.said.splitlines() if line.startswith(program.argv[2] + ": ")]
    assert len(own) == 1, program.said
    assert program.said.splitlines()[-1] == own[0]


def rows_of(node: Node) -> dict[str, dict[str, Any]] | None:
    """What `getall` shows by ticket; None if the node ended of it. What cannot be read is said so."""
    try:
        with Client(node.port) as client:
            client.ask("json")
            client.send("getall")
            rows = client.object()["results"]
    except (OSError, AssertionError):
        eventually(lambda: node.ended, "it hangs up only when it ends", timeout=PATIENCE)
        return None
    return {row["ticket"]: row for row in rows}


class TestANodesDatabase:
    @pytest.fixture
    def stored(self, make_cluster: Make) -> tuple[Node, Path, dict[str, dict[str, Any]]]:
        """A stopped node with results and open tickets, a copy of its state, and what it showed."""
        cluster = make_cluster()
        (alpha,) = cluster.start("alpha")
        load = Load(alpha, mix(30))
        load.submit()
        load.check()
        cluster.balancer.terminate()
        eventually(lambda: "ended" in alpha.said, "it has noticed")
        with alpha.client() as client:
            client.submit(*["run echo later"] * 20)
        rows = rows_of(alpha)
        assert rows is not None
        assert len(rows) == 140
        assert alpha.terminate() == 0
        copy = cluster.directory / "copy"
        shutil.copytree(alpha.data, copy)
        return alpha, copy, rows

    def test_flipped_bits(self, stored: tuple[Node, Path, dict[str, dict[str, Any]]]) -> None:
        alpha, copy, rows = stored
        for offset, bit in places(copy / "clusternode.sqlite3", 10):
            with damaged(alpha, copy, offset, bit):
                if not alpha.ended and (shown := rows_of(alpha)) is not None:
                    check_shown(shown, rows)

    def test_a_result_that_changed_on_disk_is_not_shown_and_the_others_are(
        self, stored: tuple[Node, Path, dict[str, dict[str, Any]]]
    ) -> None:
        alpha, copy, rows = stored
        connection = sqlite3.connect(copy / "clusternode.sqlite3")
        (report,) = connection.execute("SELECT report FROM reports WHERE seq = 60").fetchone()
        (ticket,) = connection.execute("SELECT ticket FROM tickets WHERE seq = 60").fetchone()
        connection.close()
        with damaged(alpha, copy, place_of(copy / "clusternode.sqlite3", report) + len(report) - 20, 0):
            assert not alpha.ended
            shown = rows_of(alpha)
            assert shown is not None
            assert "cannot be read" in shown[ticket]["error"]
            assert {key: row for key, row in shown.items() if key != ticket} == {
                key: row for key, row in rows.items() if key != ticket
            }
            with alpha.json_client() as client:
                for word in ("result", "status", "wait"):
                    assert "cannot be read" in client.ask_json(f"{word} {ticket}")["error"]

    def test_an_open_job_that_changed_on_disk_is_not_run(
        self, stored: tuple[Node, Path, dict[str, dict[str, Any]]]
    ) -> None:
        alpha, copy, _ = stored
        connection = sqlite3.connect(copy / "clusternode.sqlite3")
        (body,) = connection.execute("SELECT body FROM tickets WHERE outcome IS NULL").fetchone()
        connection.close()
        offset = place_of(copy / "clusternode.sqlite3", body) + len(body) - 6
        with damaged(alpha, copy, offset, 0):
            eventually(lambda: alpha.ended, "it ends")
            assert "is damaged" in alpha.said


def check_shown(shown: dict[str, dict[str, Any]], rows: dict[str, dict[str, Any]]) -> None:
    """Each row as it was, or an error in its place."""
    assert len(shown) == len(rows)
    for ticket, row in shown.items():
        if "error" not in row:
            # The name of the node, which an open job does not have, may be the one that is damaged.
            assert row == rows[ticket]


class TestTheBalancersDatabase:
    @pytest.fixture
    def stored(self, make_cluster: Make) -> tuple[Cluster, Load, Path, Path]:
        """A stopped balancer with results that their origin lacks; copies of both states."""
        cluster = make_cluster(REQUEST_RESULT_PERIOD=200, NODE_GRACE_PERIOD=600_000)
        alpha, beta = cluster.start("alpha", "beta")
        cluster.balancer.kill()
        load = Load(alpha, [f"run echo {number}" for number in range(60)])
        load.submit()
        alpha.kill()
        # beta is away: what alpha gets waits for a node, or for its results' acknowledgement.
        beta.kill()
        cluster.balancer.start()
        alpha.environment["SLOTS"] = "1"
        alpha.start()
        eventually(lambda: "welcome by" in alpha.said, "the jobs are handed in")
        load.read_results(5)
        cluster.balancer.kill()
        alpha.kill()
        assert cluster.balancer.data.exists()
        # Folded into the file, as a clean stop does: so the flips hit what counts.
        for database in (cluster.balancer.data / "loadbalancer.sqlite3", alpha.data / "clusternode.sqlite3"):
            connection = sqlite3.connect(database)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        copies = cluster.directory / "balancer.copy", cluster.directory / "alpha.copy"
        shutil.copytree(cluster.balancer.data, copies[0])
        shutil.copytree(alpha.data, copies[1])
        return cluster, load, *copies

    def test_flipped_bits(self, stored: tuple[Cluster, Load, Path, Path]) -> None:
        cluster, load, copy, node_copy = stored
        alpha = cluster.nodes["alpha"]
        for offset, bit in places(copy / "loadbalancer.sqlite3", 8):
            with damaged(cluster.balancer, copy, offset, bit):
                if cluster.balancer.ended:
                    continue
                shutil.rmtree(alpha.data)
                shutil.copytree(node_copy, alpha.data)
                alpha.start()
                done = await_results_or_end(load, alpha, cluster.balancer)
                for line, ticket in zip(load.lines, load.tickets, strict=True):
                    if ticket in done:
                        assert done[ticket]["outcome"] == "succeeded"
                        assert done[ticket]["stdout"] == expected_output(line)
                alpha.kill()


def await_results_or_end(load: Load, node: Node, balancer: Program) -> dict[str, dict[str, Any]]:
    """What is done when all is, or when the balancer has met the damage."""

    def done() -> dict[str, dict[str, Any]]:
        rows = rows_of(node)
        assert rows is not None
        return {ticket: row for ticket, row in rows.items() if row.get("outcome")}

    eventually(lambda: balancer.ended or len(done()) == len(load.lines), "all are done")
    return done()


@contextmanager
def changed(node: Node, undamaged: Path, change: Callable[[Path], object]) -> Iterator[None]:
    """`node` is started on a copy whose segments were changed; it is over afterwards."""
    shutil.rmtree(node.data)
    shutil.copytree(undamaged, node.data)
    change(node.data / "blobs")
    node.launch()
    eventually(lambda: node.ended or "ready" in node.said, f"{node.name} is ready, or ends")
    yield
    if not node.ended:
        node.kill()


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


Stored = tuple[Node, Path, dict[str, dict[str, Any]]]


class TestANodesSegments:
    """Large results of tickets: what is damaged is said so in place of it, and the others are shown."""

    @pytest.fixture
    def stored(self, make_cluster: Make) -> Stored:
        """A killed node with large results and small ones, a copy of its state, and what it showed."""
        cluster = make_cluster()
        (alpha,) = cluster.start("alpha")
        load = Load(alpha, [*(large(number) for number in range(8)), *mix(2)])
        load.submit()
        load.check()
        rows = rows_of(alpha)
        assert rows is not None
        alpha.kill()
        copy = cluster.directory / "copy"
        shutil.copytree(alpha.data, copy)
        assert [path.name for path in (copy / "blobs").iterdir()] == ["reports-1"]
        return alpha, copy, rows

    def test_flipped_bits(self, stored: Stored) -> None:
        alpha, copy, rows = stored
        for offset, bit in places(copy / "blobs/reports-1", 5):
            with changed(alpha, copy, lambda blobs: flip(blobs / "reports-1", offset, bit)):  # noqa: B023
                shown = rows_of(alpha)
                assert shown is not None
                check_shown(shown, rows)
                (bad,) = (ticket for ticket, row in shown.items() if "error" in row)
                with alpha.json_client() as client:
                    for word in ("result", "status", "wait"):
                        assert "cannot be read" in client.ask_json(f"{word} {bad}")["error"]

    @pytest.mark.parametrize(
        ("change", "lost"),
        [
            (lambda blobs: cut(blobs / "reports-1", 350_000), 5),
            (lambda blobs: cut(blobs / "reports-1", 0), 8),
            (lambda blobs: (blobs / "reports-1").unlink(), 8),
            (shutil.rmtree, 8),
        ],
    )
    def test_what_is_lost_of_a_segment(
        self,
        stored: Stored,
        change: Callable[[Path], object],
        lost: int,
    ) -> None:
        alpha, copy, rows = stored
        with changed(alpha, copy, change):
            shown = rows_of(alpha)
            assert shown is not None
            check_shown(shown, rows)
            assert sum("error" in row for row in shown.values()) == lost
            # Neither is it shown when other results take its place.
            later = Load(alpha, [large(number) for number in range(100, 108)])
            later.submit()
            later.check()
            again = rows_of(alpha)
            assert again is not None
            assert {ticket: row for ticket, row in again.items() if ticket in rows} == shown


class TestKeptResults:
    """Large results that a node keeps for others while the balancer is away."""

    @pytest.fixture
    def stored(self, make_cluster: Make) -> tuple[Cluster, Load, Path]:
        """alpha submitted; beta has finished some, kept them and was killed, as was the balancer."""
        cluster = make_cluster(REQUEST_RESULT_PERIOD=200)
        alpha, beta = cluster.add_node("alpha", 1), cluster.add_node("beta", 1)
        cluster.balancer.start()
        for node in (alpha, beta):
            node.start()
        cluster.await_connected("alpha", "beta")
        load = Load(alpha, [large(number, "sleep 0.1; ") for number in range(12)])
        load.submit()
        eventually(lambda: cluster.held(alpha)["beta"] > 2, "beta has some")
        cluster.balancer.kill()
        segment = beta.data / "blobs/kept-1"
        eventually(lambda: segment.exists() and segment.stat().st_size > 300_000, "beta has kept some")
        beta.kill()
        copy = cluster.directory / "copy"
        shutil.copytree(beta.data, copy)
        return cluster, load, copy

    def test_they_come_home_and_leave_nothing(self, stored: tuple[Cluster, Load, Path]) -> None:
        cluster, load, _ = stored
        beta = cluster.nodes["beta"]
        beta.start()
        cluster.balancer.start()
        load.check()
        eventually(lambda: not list((beta.data / "blobs").glob("kept-*")), "what was kept is gone")

    @pytest.mark.parametrize(
        "change",
        [
            lambda blobs: flip(blobs / "kept-1", 5000, 3),
            lambda blobs: cut(blobs / "kept-1", 50_000),
            lambda blobs: (blobs / "kept-1").unlink(),
            shutil.rmtree,
        ],
    )
    def test_what_is_damaged_is_told_at_the_start_and_goes_nowhere(
        self, stored: tuple[Cluster, Load, Path], change: Callable[[Path], object]
    ) -> None:
        cluster, _, copy = stored
        beta = cluster.nodes["beta"]
        with changed(beta, copy, change):
            assert_ended_with_one_line(beta)
            assert "is damaged" in beta.said
            assert "kept-1" in beta.said


class TestTornWal:
    """The disk lied: what it had acknowledged is not all there. What is there is a prefix of the history."""

    def test_of_a_node(self, make_cluster: Make) -> None:
        cluster = make_cluster(REQUEST_RESULT_PERIOD=200)
        (alpha,) = cluster.start("alpha")
        load = Load(alpha, mix(25))
        assert load.trickle()
        load.check()
        rows = rows_of(alpha)
        assert rows is not None
        alpha.kill()
        cluster.balancer.terminate()
        for wal in torn(alpha, 6):
            alpha.start()
            shown = rows_of(alpha)
            assert shown is not None
            # Known in the order in which they were given, and each as it was, or open again.
            assert list(shown) == load.tickets[: len(shown)], f"WAL of {wal} bytes"
            for ticket, row in shown.items():
                assert row["outcome"] is None or row == rows[ticket]
            alpha.kill()
        cluster.balancer.start()
        alpha.start()
        kept = list(rows_of(alpha) or {})
        results = Load(alpha, load.lines[: len(kept)])
        results.tickets = kept
        results.check()

    def test_of_a_balancer(self, make_cluster: Make) -> None:
        cluster = make_cluster(REQUEST_RESULT_PERIOD=200, NODE_GRACE_PERIOD=0)
        alpha, _ = cluster.start("alpha", "beta")
        load = Load(alpha, mix(25))
        load.submit()
        load.read_results(10)
        for program in cluster.programs:
            program.kill()
        state = cluster.directory / "alpha.copy"
        shutil.copytree(alpha.data, state)
        for _ in torn(cluster.balancer, 4):
            shutil.rmtree(alpha.data)
            shutil.copytree(state, alpha.data)
            cluster.balancer.start()
            alpha.start()
            # Its origin has every ticket, and hands in again what the balancer does not know any more.
            load.check()
            alpha.kill()
            cluster.balancer.kill()


def torn(program: Program, count: int) -> Iterator[int]:
    """The data directory of a killed program with its WAL cut off at seeded places, one after the other."""
    drawn = random.Random(SEED)
    copy = program.data.with_suffix(".torn")
    shutil.copytree(program.data, copy)
    (name,) = (path.name for path in copy.glob("*-wal"))
    size = (copy / name).stat().st_size
    assert size > 50 * KIB
    for length in [0, *sorted(drawn.randrange(size) for _ in range(count - 1))]:
        shutil.rmtree(program.data)
        shutil.copytree(copy, program.data)
        with (program.data / name).open("r+b") as file:
            file.truncate(length)
        yield length
