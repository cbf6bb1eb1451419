"""What a client reads, line by line, over a real socket from a real node."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from support import RESULT_KEYS, Client, Cluster, Node, eventually, marker, processes_with

NOT_YET = "Result has not been executed yet, come back later."
UNKNOWN = "This job could not be found on this node."
GOODBYE = "Come back later to check your results."
LONG = "600000"
TICKET = re.compile(r"Ticket ID: [A-Z0-9]{16}")
NOBODY = "ZZZZ0000ZZZZ0000"


@pytest.fixture
def node(shared_cluster: Cluster) -> Node:
    return shared_cluster.nodes["alpha"]


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with node.client() as client:
        yield client


@pytest.fixture
def json_client(node: Node) -> Iterator[Client]:
    with node.json_client() as client:
        yield client


@contextlib.contextmanager
def every_slot_taken(client: Client, slots: int = 6) -> Iterator[list[str]]:
    """Long sleeps on every slot of the shared cluster, cancelled afterwards. JSON mode must be on."""
    tickets = client.submit(*[LONG] * slots)
    try:
        for ticket in tickets:
            eventually(lambda t=ticket: client.ask_json(f"status {t}")["state"] == "running", "all run")
        yield tickets
    finally:
        for ticket in tickets:
            assert client.ask_json(f"cancel {ticket}")["cancel"] == "done"


class TestSubmittingAndReadingResults:
    @pytest.mark.parametrize("line", ["0", "1", "+5", "5\r", "007", " 3 "])
    def test_a_number_is_a_sleep_and_gives_a_ticket(self, client: Client, line: str) -> None:
        assert TICKET.fullmatch(client.ask(line))

    def test_the_result_of_a_sleep_keeps_the_words_of_the_reference(self, client: Client) -> None:
        (ticket,) = client.submit("20")
        stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
        said = client.ask(f"wait {ticket}")
        assert re.fullmatch(
            rf"Result: Executed Job\[{ticket}\] for 20 milliseconds from {stamp} to {stamp}", said
        )
        assert client.ask(f"r{ticket}") == said
        assert client.ask(f"result {ticket}") == said

    def test_a_job_that_is_not_done_says_come_back_later(self, client: Client) -> None:
        (ticket,) = client.submit(LONG)
        assert client.ask(f"r{ticket}") == NOT_YET
        client.ask(f"cancel {ticket}")

    def test_one_line_of_output_stands_in_the_result_line(self, client: Client) -> None:
        (ticket,) = client.submit("run echo hello   world")
        said = client.ask(f"wait {ticket}")
        assert re.fullmatch(
            r"Result: succeeded, exit code 0, in \d+\.\d{3} s on (alpha|beta|gamma): hello world", said
        )

    def test_output_of_more_lines_is_a_block_with_its_dots_stuffed(self, client: Client) -> None:
        (ticket,) = client.submit(r"run printf 'one\n.\n..two\n\nlast'")
        said = client.ask(f"wait {ticket}")
        assert said.endswith("5 lines of output up to the line with a single dot:")
        assert client.lines(6) == ["one", "..", "...two", "", "last", "."]
        assert TICKET.fullmatch(client.ask("0")), "the dialogue goes on behind the block"

    def test_stderr_is_shown_under_a_line_of_its_own(self, client: Client) -> None:
        (ticket,) = client.submit("run echo out; echo err >&2; exit 3")
        assert "failed, exit code 3" in client.ask(f"wait {ticket}")
        assert client.block() == ["out", "--- stderr ---", "err"]

    def test_output_that_is_no_utf8_does_not_hurt_the_dialogue(self, json_client: Client) -> None:
        (ticket,) = json_client.submit(r"run printf '\377\n\000x'")
        assert json_client.wait(ticket)[0]["stdout"] == "\ufffd\n\0x"

    def test_commands_are_taken_in_any_case(self, client: Client) -> None:
        (ticket,) = client.submit("RUN echo Case")
        assert client.ask(f"Wait {ticket.lower()}").endswith(": Case")
        assert client.ask(f"R{ticket.lower()}").endswith(": Case")
        assert client.ask(f"RESULT {ticket}").endswith(": Case")
        client.send("HELP", "GetAll", "NODES", "EXIT")
        assert client.line() == "Commands:"
        client.block()
        assert client.line() == "Results"
        client.block(end="")
        assert client.line().startswith("Nodes: ")
        client.block()
        assert client.rest().decode() == GOODBYE + "\n"

    def test_options_stand_before_the_command(self, json_client: Client) -> None:
        first, second, third = json_client.submit(
            "run --time 60 -- echo --time 1", "run --time=60 echo x", "run -- --nothing"
        )
        assert json_client.wait(first)[0]["stdout"] == "--time 1\n"
        assert json_client.wait(second)[0]["stdout"] == "x\n"
        assert json_client.wait(third)[0]["exit_code"] == 127

    def test_a_ticket_of_another_node_is_not_found_here(self, shared_cluster: Cluster) -> None:
        with shared_cluster.nodes["beta"].client() as there, shared_cluster.nodes["alpha"].client() as here:
            (ticket,) = there.submit("0")
            assert here.ask(f"wait {ticket}") == f"Result: {UNKNOWN}"


class TestJson:
    def test_the_mode_holds_from_its_line_on(self, client: Client) -> None:
        client.send("0", "json", "0", "JSON", "nonsense", "exit")
        assert TICKET.fullmatch(client.line())
        assert client.object() == {"json": True}
        assert set(client.object()) == {"ticket"}
        assert client.object() == {"json": True}
        assert set(client.object()) == {"error"}
        assert client.object() == {"goodbye": GOODBYE}
        assert client.rest() == b""

    def test_a_result_has_exactly_the_documented_keys_and_more_behind_them(self, json_client: Client) -> None:
        (ticket,) = json_client.submit("run echo out; echo err >&2; exit 4")
        (result,) = json_client.wait(ticket)
        assert set(result) - {"reason", "stdout_bytes", "stderr_bytes", "value", "job"} == RESULT_KEYS
        assert result["ticket"] == ticket
        assert (result["state"], result["outcome"], result["exit_code"]) == ("done", "failed", 4)
        assert (result["stdout"], result["stderr"], result["truncated"]) == ("out\n", "err\n", False)
        assert result["attempt"] == 1
        assert result["node"] in ("alpha", "beta", "gamma")
        assert result["submitted_at"] <= result["started_at"] + 0.001
        assert result["started_at"] <= result["finished_at"]
        assert abs(result["finished_at"] - time.time()) < 60
        assert (result["stdout_bytes"], result["stderr_bytes"]) == (4, 4)
        assert result["job"] == {
            "run": "echo out; echo err >&2; exit 4",
            "time": None,
            "retries": 0,
            "at_most_once": False,
        }

    def test_a_result_that_is_not_there_has_the_same_keys(self, json_client: Client) -> None:
        with every_slot_taken(json_client) as running:
            (waiting,) = json_client.submit("0")
            there = json_client.ask_json(f"result {running[0]}")
            not_there = json_client.ask_json(f"r{waiting}")
            assert set(there) == set(not_there) >= RESULT_KEYS
            assert (there["state"], there["outcome"], there["stdout"]) == ("running", None, None)
            assert there["node"] in ("alpha", "beta", "gamma")
            assert there["started_at"] is not None
            assert not_there["state"] in ("queued", "assigned")
            assert (not_there["outcome"], not_there["finished_at"]) == (None, None)
        assert json_client.wait(waiting)[0]["outcome"] == "succeeded"

    def test_a_sleep_has_no_exit_code_and_no_output(self, json_client: Client) -> None:
        (ticket,) = json_client.submit("5")
        (result,) = json_client.wait(ticket)
        assert (result["outcome"], result["exit_code"]) == ("succeeded", None)
        assert (result["stdout"], result["stderr"]) == ("", "")
        assert result["job"] == {"sleep": 5}

    def test_an_error_is_an_object(self, json_client: Client) -> None:
        assert json_client.ask_json(f"r{NOBODY}") == {"error": UNKNOWN, "ticket": NOBODY}
        assert set(json_client.ask_json("-1")) == {"error"}
        assert set(json_client.ask_json("run")) == {"error"}


class TestStatusAndCancel:
    def test_status_tells_where_a_job_is(self, json_client: Client) -> None:
        with every_slot_taken(json_client) as running:
            (waiting,) = json_client.submit("0")
            status = json_client.ask_json(f"status {running[0]}")
            assert (status["state"], status["attempt"]) == ("running", 1)
            assert status["node"] in ("alpha", "beta", "gamma")
            assert json_client.ask_json(f"status {waiting}")["state"] in ("queued", "assigned")
        json_client.wait(waiting)
        status = json_client.ask_json(f"status {waiting}")
        assert (status["state"], status["outcome"]) == ("done", "succeeded")

    def test_status_in_text(self, client: Client) -> None:
        (ticket,) = client.submit(LONG)
        told = eventually(lambda: said if "running" in (said := client.ask(f"status {ticket}")) else "")
        assert re.fullmatch(r"Status: running on (alpha|beta|gamma), attempt 1", told)
        client.ask(f"cancel {ticket}")
        assert client.ask(f"status {ticket}").startswith("Status: done, cancelled")

    def test_a_queued_job_is_cancelled_and_never_runs(self, json_client: Client) -> None:
        mark = marker()
        with every_slot_taken(json_client):
            (ticket,) = json_client.submit(f"run echo {mark}")
            told = json_client.ask_json(f"cancel {ticket}")
            assert told == {"ticket": ticket, "state": "done", "outcome": "cancelled", "cancel": "done"}
        (result,) = json_client.wait(ticket)
        assert (result["outcome"], result["stdout"]) == ("cancelled", "")
        assert result["started_at"] is None

    def test_a_running_command_is_gone_with_its_group_even_if_it_ignores_sigterm(
        self, client: Client
    ) -> None:
        mark = marker()
        (ticket,) = client.submit(f"run trap '' TERM; sh -c 'trap \"\" TERM; sleep 600; : {mark}' & wait; :")
        eventually(lambda: processes_with(mark), "it runs")
        assert client.ask(f"cancel {ticket}") == f"Cancelled: {ticket}"
        assert processes_with(mark) == []
        assert client.ask(f"r{ticket}").startswith("Result: cancelled")

    def test_a_command_may_end_well_at_sigterm(self, json_client: Client) -> None:
        mark = marker()
        (ticket,) = json_client.submit(
            f"run trap 'echo tidy; exit 0' TERM; echo ready; while :; do sleep 0.05; : {mark}; done"
        )
        eventually(lambda: processes_with(mark), "it runs")
        # The shell sets its trap first of all, and then runs `sleep`.
        eventually(lambda: json_client.ask_json(f"status {ticket}")["state"] == "running", "STARTED came")
        assert json_client.ask_json(f"cancel {ticket}")["cancel"] == "done"
        (result,) = json_client.wait(ticket)
        assert (result["outcome"], result["stdout"]) == ("cancelled", "ready\ntidy\n")

    def test_a_command_may_be_cancelled_in_the_moment_that_it_is_submitted(self, json_client: Client) -> None:
        mark = marker()
        for _ in range(30):
            tickets = json_client.submit(*[f"run sleep 600; : {mark}"] * 6)
            json_client.send(*(f"cancel {ticket}" for ticket in tickets))
            assert {json_client.object()["cancel"] for _ in tickets} == {"done"}
        assert processes_with(mark) == []

    def test_a_done_job_cannot_be_cancelled(self, client: Client) -> None:
        (ticket,) = client.submit("0")
        shown = client.ask(f"wait {ticket}")
        assert client.ask(f"cancel {ticket}") == f"Too late to cancel: {ticket} is done, succeeded."
        assert client.ask(f"r{ticket}") == shown

    def test_cancelling_twice_says_the_same_twice(self, client: Client) -> None:
        (ticket,) = client.submit(LONG)
        client.send(f"cancel {ticket}", f"cancel {ticket}")
        assert client.lines(2) == [f"Cancelled: {ticket}"] * 2

    @pytest.mark.parametrize("command", ["r", "result ", "wait ", "status ", "cancel "])
    def test_an_unknown_ticket_is_said_to_be_unknown(self, client: Client, command: str) -> None:
        assert client.ask(command + NOBODY) == f"Result: {UNKNOWN}"


class TestListings:
    def test_getall_has_a_line_for_each_ticket_and_an_empty_line(self, client: Client) -> None:
        done, silent, lines, open_ = client.submit("1", "run true", r"run printf 'a\n.b\nc\n'", LONG)
        client.send(f"wait {done}", f"wait {silent}", f"wait {lines}")
        client.lines(3)
        client.block()
        assert client.ask("getall") == "Results"
        rows = dict(row.split(" -> ", 1) for row in client.block(end=""))
        assert rows[done].startswith(f"Executed Job[{done}] for 1 milliseconds from ")
        assert rows[silent].startswith("succeeded, exit code 0, in ")
        assert rows[lines].startswith("succeeded, exit code 0, in ")
        assert rows[lines].endswith(f"3 lines of output (result {lines} shows them)")
        assert rows[open_] == NOT_YET
        assert client.ask(f"cancel {open_}") == f"Cancelled: {open_}"

    def test_getall_in_json_is_one_object_on_one_line(self, json_client: Client) -> None:
        ticket, open_ = json_client.submit(r"run printf 'a\nb\n'", LONG)
        json_client.wait(ticket)
        results = {each["ticket"]: each for each in json_client.ask_json("getall")["results"]}
        assert set(results[ticket]) >= RESULT_KEYS
        assert results[ticket]["stdout"] == "a\nb\n"
        assert results[open_]["outcome"] is None
        json_client.ask_json(f"cancel {open_}")

    def test_nodes_shows_the_cluster(self, client: Client) -> None:
        assert client.ask("nodes") == "Nodes: 3"
        head, *rows = client.block()
        assert head.split() == ["NAME", "CONNECTED", "SLOTS", "RUNNING", "QUEUED", "DONE"]
        assert sorted(row.split()[:3] for row in rows) == [
            [name, "yes", "2"] for name in ("alpha", "beta", "gamma")
        ]

    def test_nodes_in_json(self, json_client: Client) -> None:
        nodes = json_client.ask_json("nodes")["nodes"]
        assert sorted(each["name"] for each in nodes) == ["alpha", "beta", "gamma"]
        for each in nodes:
            assert {"name", "connected", "slots", "running", "queued"} <= set(each)
            assert each["connected"] is True
            assert each["slots"] == 2

    def test_stats_counts(self, client: Client, json_client: Client) -> None:
        before = json_client.ask_json("stats")
        json_client.wait(*json_client.submit("0", "0", "run false"))
        after = json_client.ask_json("stats")
        assert after["node"]["submitted"] == before["node"]["submitted"] + 3
        assert after["node"]["failed"] == before["node"]["failed"] + 1
        assert after["balancer"]["dispatched"] >= before["balancer"]["dispatched"] + 3
        head = client.ask("stats")
        rows = client.block()
        assert head == f"Stats: {len(rows)}"
        assert "balancer nodes 3" in rows

    def test_help_names_every_command(self, client: Client) -> None:
        assert client.ask("help") == "Commands:"
        text = "\n".join(client.block())
        for word in ("<ms>", "run", "result", "r<ticket>", "wait", "status", "cancel", "getall", "nodes"):
            assert word in text
        for word in ("stats", "json", "help", "exit"):
            assert word in text


class TestTheEnd:
    def test_exit_says_goodbye_and_closes(self, client: Client) -> None:
        client.send("0", "exit", "0")
        said = client.rest().decode().splitlines()
        assert len(said) == 2
        assert said[1] == GOODBYE

    def test_end_of_input_serves_the_last_line_though_it_is_not_terminated(self, client: Client) -> None:
        client.socket.sendall(b"0\nrun echo last")
        client.socket.shutdown(1)
        first, second, last = client.rest().decode().splitlines()
        assert TICKET.fullmatch(first)
        assert TICKET.fullmatch(second)
        assert last == GOODBYE

    def test_half_closed_a_client_still_gets_what_it_waits_for(self, client: Client) -> None:
        (ticket,) = client.submit("run sleep 0.2; echo late")
        client.socket.sendall(f"wait {ticket}".encode())
        client.socket.shutdown(1)
        result, last = client.rest().decode().splitlines()
        assert result.endswith(": late")
        assert last == GOODBYE

    @pytest.mark.skipif(shutil.which("nc") is None, reason="nc is not installed here")
    def test_nc_in_a_pipe(self, node: Node) -> None:
        done = subprocess.run(
            ["nc", "-N", "127.0.0.1", str(node.port)],
            input=b"0\nhelp\n",
            capture_output=True,
            timeout=30,
            check=True,
        )
        lines = done.stdout.decode().splitlines()
        assert TICKET.fullmatch(lines[0])
        assert (lines[1], lines[-1]) == ("Commands:", GOODBYE)

    def test_a_client_that_vanishes_while_it_waits_hurts_nobody(self, node: Node, client: Client) -> None:
        with node.client() as other:
            (ticket,) = other.submit(LONG)
            other.send(*[f"wait {ticket}"] * 50)
        assert client.ask(f"cancel {ticket}") == f"Cancelled: {ticket}"


class TestBadLines:
    @pytest.mark.parametrize(
        "line", ["abc", "1.5", "2147483648", "-1", "9" * 30, "9" * 60_000, "r123", "١٢", "+", "-", "é"]
    )
    def test_what_is_no_command_gets_one_line_that_says_so(self, client: Client, line: str) -> None:
        said = client.ask(line)
        assert said.startswith("Please enter a valid number")
        assert len(said) < 200
        assert TICKET.fullmatch(client.ask("0"))

    @pytest.mark.parametrize(
        ("line", "word"),
        [
            ("task", "task needs a name"),
            ("task compress {}", '"images" is missing'),
            ("task compress [1]", "no object but list"),
            ("task nothing", "There is no task 'nothing' on this node: there are "),
            ("tail " + NOBODY + " 1", "tail"),
            ("run", "run --time 60 -- make test"),
            ("run --time x -- true", "--time"),
            ("run --time 0 -- true", "--time"),
            ("run --time nan -- true", "--time"),
            ("run --cores 2 -- true", "--cores"),
            ("run --time 5", "run needs a command line"),
            ("wait", "ticket"),
            ("wait me", "ticket"),
            ("status " + NOBODY + "X", "ticket"),
            ("getall please", "alone"),
            ("exit now", "alone"),
            ("run a\0b", "NUL"),
        ],
    )
    def test_a_command_that_is_used_wrongly_says_what_is_right(
        self, client: Client, line: str, word: str
    ) -> None:
        said = client.ask(line)
        assert word in said
        assert not said.startswith(("Ticket", "Result"))
        assert TICKET.fullmatch(client.ask("0"))

    @pytest.mark.parametrize("size", [65_537, 300_000, 5_000_000])
    def test_a_line_over_the_bound_is_skipped_and_the_next_one_served(
        self, client: Client, size: int
    ) -> None:
        client.socket.sendall(b"run " + b"x" * (size - 4) + b"\n0\n")
        assert "over 65536 bytes" in client.line()
        assert TICKET.fullmatch(client.line())

    def test_a_line_of_exactly_the_bound_is_served(self, json_client: Client) -> None:
        line = "run : " + "x" * (65_536 - 6)
        assert len(line) == 65_536
        (ticket,) = json_client.submit(line)
        assert json_client.wait(ticket)[0]["outcome"] == "succeeded"

    def test_bytes_that_are_no_utf8_get_one_line(self, client: Client) -> None:
        client.socket.sendall(b"run echo \xff\xfe\n\xc3\n0\n")
        assert "byte 10 is 0xff" in client.line()
        assert "not UTF-8" in client.line()
        assert TICKET.fullmatch(client.line())

    def test_empty_lines_get_no_reply(self, client: Client) -> None:
        client.socket.sendall(b"\n\r\n   \n\n0\n")
        assert TICKET.fullmatch(client.line())

    def test_lines_may_come_byte_by_byte(self, client: Client) -> None:
        for byte in b"run echo bit\r\n":
            client.socket.sendall(bytes([byte]))
        assert TICKET.fullmatch(client.line())


class TestOrder:
    def test_replies_come_in_order_although_wait_is_in_between(self, client: Client) -> None:
        slow, fast, done = client.submit("run sleep 0.3; echo slow", "run echo fast", "run echo done")
        client.ask(f"wait {done}")
        client.send(f"wait {slow}", f"wait {fast}", "help", f"status {done}", "nonsense", f"r{done}", "0")
        assert client.line().endswith(": slow")
        assert client.line().endswith(": fast")
        assert client.line() == "Commands:"
        client.block()
        assert client.line().startswith("Status: done")
        assert client.line().startswith("Please enter")
        assert client.line().endswith(": done")
        assert TICKET.fullmatch(client.line())

    def test_a_wait_for_more_answers_in_the_order_given_each_when_it_is_done(
        self, client: Client, json_client: Client
    ) -> None:
        slow, fast, endless = client.submit("run sleep 0.3; echo slow", "run echo fast", LONG)
        client.send(f"wait {slow} {fast} {NOBODY} {endless} {fast}", "0")
        assert client.line().endswith(": slow")
        assert client.line().endswith(": fast")
        assert client.line() == f"Result: {UNKNOWN}"
        assert json_client.ask_json(f"cancel {endless}")["cancel"] == "done"
        assert client.line().startswith("Result: cancelled")
        assert client.line().endswith(": fast")
        assert TICKET.fullmatch(client.line())
        json_client.send(f"wait {fast.lower()} {NOBODY}")
        assert json_client.object()["stdout"] == "fast\n"
        assert json_client.object() == {"error": UNKNOWN, "ticket": NOBODY}

    def test_waiting_on_one_connection_holds_up_no_other(self, node: Node, client: Client) -> None:
        with node.client() as other:
            (ticket,) = other.submit(LONG)
            other.send(f"wait {ticket}", "0")
            for _ in range(20):
                assert TICKET.fullmatch(client.ask("0"))
            assert client.ask(f"cancel {ticket}") == f"Cancelled: {ticket}"
            assert other.line().startswith("Result: cancelled")
            assert TICKET.fullmatch(other.line())

    def test_listings_stand_in_their_place(self, json_client: Client) -> None:
        (ticket,) = json_client.submit("run sleep 0.2")
        json_client.send(f"wait {ticket}", "getall", "nodes", "getall", "help", "0")
        assert json_client.object()["ticket"] == ticket
        assert ticket in [each["ticket"] for each in json_client.object()["results"]]
        assert "nodes" in json_client.object()
        assert "results" in json_client.object()
        assert "help" in json_client.object()
        assert "ticket" in json.loads(json_client.line())

    def test_questions_behind_a_wait_see_what_it_waited_for(self, client: Client) -> None:
        (ticket,) = client.submit("run sleep 0.3; echo done")
        client.send(f"wait {ticket}", f"result {ticket}", f"status {ticket}", "0", f"r{ticket}")
        waited, result, status, submitted, again = client.lines(5)
        assert waited.endswith(": done")
        assert result == again == waited
        assert status.startswith("Status: done, succeeded")
        assert TICKET.fullmatch(submitted)
