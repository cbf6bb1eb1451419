"""Files with jobs, by way of real nodes: uploaded, found by a command, left, fetched."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Client, Cluster, Node, eventually, files_like

MIB = 1024 * 1024
SCRIPT = b'#!/bin/sh\necho "$0 $*"\ncat data/in\n'
LEAVE = 'cd "$EVENLY_RESULT_DIR"; '


@pytest.fixture
def node(shared_cluster: Cluster) -> Node:
    return shared_cluster.nodes["alpha"]


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with node.json_client() as client:
        yield client


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def upload(client: Client, content: bytes) -> str:
    digest = client.upload(content)
    assert client.object() == {"uploaded": digest, "bytes": len(content)}
    return digest


def run(client: Client, line: str, **options: Any) -> dict[str, Any]:
    (ticket,) = client.submit(json.dumps({"run": line} | options))
    (result,) = client.wait(ticket)
    return result


def files_of(client: Client, ticket: str) -> dict[str, bytes]:
    listed = client.ask_json(f"fetch {ticket}")["files"]
    return {each["path"]: client.fetch(ticket, each["path"]) for each in listed}


def unfinished(node: Node) -> list[Path]:
    return files_like(node.data, "*unfinished-*")


class TestUploads:
    def test_a_program_and_its_data_are_found_wherever_it_runs(self, client: Client) -> None:
        program, data = upload(client, SCRIPT), upload(client, b"the data\n")
        job = {"run": "./bin/x a b; ls -l bin/x | cut -c1-10", "file": {"bin/x": program, "data/in": data}}
        tickets = client.submit(*[json.dumps(job)] * 12)
        results = client.wait(*tickets)
        assert {each["stdout"] for each in results} == {"./bin/x a b\nthe data\n-rwxr-xr-x\n"}
        assert len({each["node"] for each in results}) == 3

    def test_upload_and_run_go_through_one_connection_without_a_pause(self, node: Node) -> None:
        digest = digest_of(SCRIPT)
        stream = f"upload {len(SCRIPT)} {digest}\n".encode() + SCRIPT
        stream += f"run --file x={digest} -- ./x 1\nhas {digest}\nhas {'0' * 64}\n".encode()
        with node.client() as client:
            client.socket.sendall(stream)
            uploaded, ticket, here, not_here = client.lines(4)
            assert uploaded == f"Uploaded: {digest}"
            assert (here, not_here) == (f"Here: {digest}", f"Not here: {'0' * 64}")
            result = client.ask(f"wait {ticket.removeprefix('Ticket ID: ')}")
            assert "./x 1" in client.block()[0] or "./x 1" in result

    def test_a_file_that_was_not_uploaded_here_is_no_job(self, client: Client) -> None:
        said = client.ask_json(json.dumps({"run": "x", "file": {"a": "0" * 64}}))
        assert said == {"error": f"--file a: {'0' * 64} was not uploaded to this node; upload comes first."}

    def test_with_a_directory_of_its_own_choice_a_command_is_told_where_they_are(
        self, client: Client
    ) -> None:
        digest = upload(client, b"x")
        result = run(client, 'pwd; cat "$EVENLY_FILES/a/b"', file={"a/b": digest}, cwd="/")
        assert result["stdout"] == "/\nx"

    def test_what_a_job_does_to_its_copy_is_seen_by_no_other(self, client: Client) -> None:
        digest = upload(client, b"original")
        for _ in range(6):
            assert run(client, "cat f; echo changed > f", file={"f": digest})["stdout"] == "original"

    @pytest.mark.parametrize("how", ["close", "reset", "half"])
    def test_one_that_is_cut_off_leaves_nothing(self, node: Node, how: str) -> None:
        content = random.Random(how).randbytes(MIB)
        client = node.client()
        client.socket.sendall(f"upload {len(content)} {digest_of(content)}\n".encode() + content[:-1])
        eventually(lambda: unfinished(node), "it comes in")
        if how == "half":
            client.socket.shutdown(1)
            assert client.line() == "That upload ended too early: nothing of it was kept."
            assert client.line() == "Come back later to check your results."
        elif how == "reset":
            client.socket.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER: no FIN
        client.close()
        eventually(lambda: not unfinished(node), "nothing of it is left")
        with node.json_client() as other:
            assert other.ask_json(f"has {digest_of(content)}")["here"] is False

    def test_a_wrong_digest_is_refused_and_the_connection_goes_on(self, client: Client) -> None:
        content = b"other than announced"
        client.socket.sendall(f"upload {len(content)} {'1' * 64}\n".encode() + content)
        assert digest_of(content) in client.object()["error"]
        assert client.ask_json(f"has {digest_of(content)}")["here"] is False
        assert client.ask_json(f"has {'1' * 64}")["here"] is False

    @pytest.mark.parametrize(
        "line", ["upload", "upload x y", "upload 99999999999999999 " + "0" * 64, "upload -1 x"]
    )
    def test_what_cannot_be_counted_ends_the_connection(self, node: Node, line: str) -> None:
        with node.client() as client:
            client.send(line, "run touch /nowhere/at/all", "5")
            said = client.rest().decode().splitlines()
        assert len(said) == 2
        assert said[0].startswith("upload takes bytes, at most")

    def test_many_clients_upload_the_same_at_once(self, node: Node) -> None:
        content = random.Random(5).randbytes(3 * MIB)
        replies = []

        def send() -> None:
            with node.client() as client:
                client.upload(content)
                replies.append(client.line())

        threads = [threading.Thread(target=send) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert replies == [f"Uploaded: {digest_of(content)}"] * 12
        assert unfinished(node) == []

    def test_a_large_one_holds_up_nobody(self, node: Node, client: Client) -> None:
        content = bytes(50 * MIB)
        answered = 0
        uploaded = threading.Event()

        def send() -> None:
            with node.client() as other:
                other.upload(content)
                assert other.line() == f"Uploaded: {digest_of(content)}"
            uploaded.set()

        thread = threading.Thread(target=send)
        thread.start()
        while not uploaded.is_set():
            assert run(client, "true")["outcome"] == "succeeded"
            answered += 1
        thread.join()
        assert answered > 2

    def test_a_thousand_small_ones_on_one_connection(self, node: Node) -> None:
        with node.client() as client:
            digests = [client.upload(b"%d" % number) for number in range(1000)]
            assert client.lines(1000) == [f"Uploaded: {digest}" for digest in digests]


class TestResults:
    def test_what_a_job_leaves_is_fetched_by_its_ticket_and_kept_by_name(
        self, node: Node, client: Client
    ) -> None:
        line = LEAVE + 'mkdir -p a; printf one > a/b; printf "" > "with a space"; echo said'
        for number in range(4):  # on all nodes
            result = run(client, line, result_dir=f"r{number}/deep")
            ticket = result["ticket"]
            assert (result["outcome"], result["stdout"]) == ("succeeded", "said\n")
            expected = [
                {"path": "a/b", "bytes": 3, "sha256": digest_of(b"one")},
                {"path": "with a space", "bytes": 0, "sha256": digest_of(b"")},
            ]
            assert result["files"] == expected
            listed = client.ask_json(f"fetch {ticket}")
            assert listed == {"ticket": ticket, "result_dir": f"r{number}/deep", "files": expected}
            assert files_of(client, ticket) == {"a/b": b"one", "with a space": b""}
            assert (node.data / "results" / f"r{number}" / "deep" / "a" / "b").read_bytes() == b"one"

    def test_in_text_too(self, node: Node) -> None:
        with node.client() as client:
            (ticket,) = client.submit(f"run --result-dir text -- {LEAVE} printf 'x\\n.\\n' > y")
            client.ask(f"wait {ticket}")
            assert client.ask(f"fetch {ticket}") == "Files: 1, 4 bytes"
            content = b"x\n.\n"
            assert client.block() == [f"4 {digest_of(content)} y"]
            assert client.fetch(ticket, "y") == content
            assert client.ask(f"fetch {ticket} z") == f"{ticket} left no file 'z'; fetch {ticket} lists them."

    def test_an_array_has_those_of_its_jobs_behind_their_numbers(self, client: Client) -> None:
        line = LEAVE + 'if [ $EVENLY_ARRAY_INDEX != 1 ]; then mkdir a; echo $EVENLY_ARRAY_INDEX > "a/b c"; fi'
        result = run(client, line, result_dir="numbered", array=12)
        ticket = result["ticket"]
        assert result["outcome"] == "succeeded"
        assert client.ask_json(f"fetch {ticket}")["result_dir"] == "numbered"
        others = [0, *range(2, 12)]
        expected = {f"{number}/a/b c": f"{number}\n".encode() for number in others}
        found = files_of(client, ticket)
        assert (found, list(found)) == (expected, list(expected))
        alone = result["jobs"][5]["ticket"]
        assert files_of(client, alone) == {"a/b c": b"5\n"}
        for path in ("1/a/b c", "12/a/b c", "0", "a/b c", "99999999999999999999/x", "-1/a", "²/a/b c"):
            said = client.ask_json(f"fetch {ticket} {path}")["error"]
            assert said == f"{ticket} left no file {path!r}; fetch {ticket} lists them."

    def test_of_an_array_that_goes_on_there_is_no_list_yet(self, client: Client) -> None:
        (ticket,) = client.submit(json.dumps({"run": LEAVE + "touch x; sleep 600", "array": 2}))
        said = client.ask_json(f"fetch {ticket}")["error"]
        assert said == f"{ticket} is not done yet: its files are there when it is."
        client.ask_json(f"cancel {ticket}")

    def test_one_that_fails_or_is_timed_out_leaves_its_files_too(self, client: Client) -> None:
        failed = run(client, LEAVE + "echo x > log; exit 3", result_dir="f")
        assert (failed["outcome"], failed["exit_code"], len(failed["files"])) == ("failed", 3, 1)
        late = run(client, LEAVE + "echo x > log; sleep 60", result_dir="f", time=0.3)
        assert (late["outcome"], len(late["files"])) == ("timed-out", 1)
        assert "files" not in run(client, "true")

    def test_of_one_that_is_tried_again_those_of_the_last_attempt_count(self, client: Client) -> None:
        line = LEAVE + "echo $EVENLY_ATTEMPT > attempt; [ $EVENLY_ATTEMPT = 2 ]"
        result = run(client, line, result_dir="again", retries=2)
        assert (result["outcome"], result["attempt"]) == ("succeeded", 2)
        assert files_of(client, result["ticket"]) == {"attempt": b"2\n"}

    def test_one_that_leaves_nothing_leaves_nothing(self, client: Client) -> None:
        result = run(client, "true", result_dir="empty")
        assert result["outcome"] == "succeeded"
        assert client.ask_json(f"fetch {result['ticket']}")["files"] == []

    def test_links_to_its_own_files_are_files(self, client: Client) -> None:
        result = run(
            client, LEAVE + "mkdir d; echo x > d/f; ln -s d/f l; ln -s ../l d/up", result_dir="links"
        )
        assert result["outcome"] == "succeeded"
        assert files_of(client, result["ticket"]) == {"d/f": b"x\n", "l": b"x\n", "d/up": b"x\n"}

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("ln -s /etc/passwd a", "link a leads out of it"),
            ("ln -s ../../../../../../../../etc/passwd a", "link a leads out of it"),
            ("ln -s /etc a", "link a leads out of it"),
            ("ln -s ../work a", "link a leads out of it"),
            ("mkdir d; ln -s /etc d/e; ln -s d/e/passwd a", "leads out of it"),
            ("ln -s nothing a", "link a leads to no file"),
            ("mkdir d; ln -s d a", "link a leads to no file"),
            ("ln -s a b; ln -s b a", "leads to no file"),
            ("mkfifo a", "a is neither a file nor a directory"),
            (
                "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"a\")'",
                "a is neither a file nor a",
            ),
            ("touch \"$(printf 'caf\\351')\"", "not printable"),
            ("touch \"$(printf 'a\\nb')\"", "not printable"),
            ("touch 'a '", "ends in a space"),
            ("mkdir -p $(printf 'd%.0s/' $(seq 200))", "is over 255 bytes"),
            ("seq 5001 | xargs touch", "it holds more than 5000 files and directories"),
            ("truncate -s 5G a", "it holds more than MAX_RESULT_BYTES=4294967296"),
            ("cd /; rm -r $EVENLY_RESULT_DIR; ln -s /etc $EVENLY_RESULT_DIR", "it is no directory any more"),
            ("cd /; rm -r $EVENLY_RESULT_DIR; touch $EVENLY_RESULT_DIR", "it is no directory any more"),
            ("cd /; rm -r $EVENLY_RESULT_DIR", "No such file or directory"),
        ],
    )
    def test_what_cannot_be_taken_home_is_refused_with_the_reason(
        self, client: Client, line: str, why: str
    ) -> None:
        result = run(client, f"{LEAVE}echo fine > fine; {line}; echo said", result_dir="bad")
        assert result["outcome"] == "failed"
        assert result["reason"].startswith("its result files were refused: ")
        assert why in result["reason"]
        assert (result["exit_code"], result["stdout"]) == (0, "said\n")
        assert "files" not in result
        assert "no file 'fine'" in client.ask_json(f"fetch {result['ticket']} fine")["error"]

    def test_a_name_that_is_taken_by_a_file_is_refused(self, client: Client) -> None:
        assert run(client, LEAVE + "echo x > taken", result_dir="names")["outcome"] == "succeeded"
        result = run(client, LEAVE + "echo x > y", result_dir="names/taken")
        assert result["outcome"] == "failed"
        assert "its origin cannot keep results/names/taken: " in result["reason"]
        result = run(client, LEAVE + "mkdir taken; echo x > taken/y", result_dir="names")
        assert "its origin cannot keep results/names/taken" in result["reason"]

    def test_two_jobs_with_one_name_and_path_have_each_its_own_by_ticket(
        self, node: Node, client: Client
    ) -> None:
        first = run(client, LEAVE + "echo first > x; echo 1 > only", result_dir="shared")
        second = run(client, LEAVE + "echo second > x", result_dir="shared")
        assert client.fetch(first["ticket"], "x") == b"first\n"
        assert client.fetch(second["ticket"], "x") == b"second\n"
        assert (node.data / "results" / "shared" / "x").read_bytes() == b"second\n"
        assert (node.data / "results" / "shared" / "only").read_bytes() == b"1\n"

    def test_the_jobs_of_an_array_leave_theirs_under_one_name(self, node: Node, client: Client) -> None:
        line = LEAVE + "echo $EVENLY_ARRAY_INDEX > $EVENLY_ARRAY_INDEX; echo $EVENLY_ARRAY_INDEX > same"
        result = run(client, line, result_dir="array", array=20)
        assert result["outcome"] == "succeeded"
        directory = node.data / "results" / "array"
        assert sorted(each.name for each in directory.iterdir()) == sorted([*map(str, range(20)), "same"])
        for number, job in enumerate(result["jobs"]):
            name = f"{number}\n".encode()
            assert files_of(client, job["ticket"]) == {str(number): name, "same": name}
        assert (directory / "same").read_text().strip() in map(str, range(20))
        assert len(client.ask_json(f"fetch {result['ticket']}")["files"]) == 40

    def test_a_file_that_is_wanted_before_the_end_is_not_there_yet(self, client: Client) -> None:
        (ticket,) = client.submit(json.dumps({"run": "sleep 600", "result_dir": "late"}))
        said = client.ask_json(f"fetch {ticket}")["error"]
        assert said == f"{ticket} is not done yet: its files are there when it is."
        client.ask(f"cancel {ticket}")

    def test_of_a_ticket_of_another_node_there_is_nothing_here(
        self, client: Client, shared_cluster: Cluster
    ) -> None:
        with shared_cluster.nodes["beta"].json_client() as other:
            ticket = run(other, LEAVE + "echo x > x", result_dir="beta")["ticket"]
        for line in (f"fetch {ticket}", f"fetch {ticket} x", f"fetch {'Z' * 16}"):
            assert client.ask_json(line).keys() & {"ticket", "error"}
            assert "files" not in client.ask_json(line)

    def test_a_large_file_goes_to_a_slow_reader_while_others_are_served(
        self, node: Node, client: Client
    ) -> None:
        made = run(client, LEAVE + "head -c 20000000 /dev/urandom | tee x | sha256sum", result_dir="large")
        with node.client() as slow:
            slow.send(f"fetch {made['ticket']} x", "5")
            head = slow.line()
            for _ in range(5):
                assert run(client, "true")["outcome"] == "succeeded"
            seen = hashlib.sha256()
            left = int(head.split()[1])
            while left:
                data = slow._in.read(min(left, 65536))
                left -= len(data)
                seen.update(data)
            assert seen.hexdigest() == made["stdout"].split()[0]
            assert slow.line().startswith("Ticket ID: ")

    def test_one_that_is_cancelled_on_its_way_home_is_cancelled(self, client: Client) -> None:
        (ticket,) = client.submit(json.dumps({"run": LEAVE + "echo x > x; sleep 600", "result_dir": "c"}))
        eventually(lambda: client.ask_json(f"status {ticket}")["state"] == "running", "it runs")
        assert client.ask_json(f"cancel {ticket}")["outcome"] == "cancelled"
        (result,) = client.wait(ticket)
        assert (result["outcome"], result.get("files")) == ("cancelled", None)


class TestWholeOutput:
    def test_all_of_it_is_kept_as_files(self, client: Client) -> None:
        line = "head -c 3145728 /dev/zero | tr '\\0' a; head -c 2000000 /dev/zero | tr '\\0' b >&2"
        result = run(client, line, keep_output=True)
        assert (result["outcome"], result["truncated"], len(result["stdout"])) == ("succeeded", True, MIB)
        assert files_of(client, result["ticket"]) == {"stdout": b"a" * 3 * MIB, "stderr": b"b" * 2_000_000}

    def test_of_little_output_too_and_beside_other_files(self, client: Client) -> None:
        result = run(client, LEAVE + "echo said; echo x > x", keep_output=True, result_dir="both")
        assert files_of(client, result["ticket"]) == {"stdout": b"said\n", "stderr": b"", "x": b"x\n"}

    def test_a_file_of_the_job_by_the_name_of_its_output_is_refused(self, client: Client) -> None:
        line = LEAVE + "echo mine > stdout; echo said"
        result = run(client, line, keep_output=True, result_dir="clash")
        assert (result["outcome"], result["stdout"]) == ("failed", "said\n")
        said = "its result files were refused: stdout is the name under which --keep-output keeps its own"
        assert result["reason"].endswith(said)
        assert files_of(client, result["ticket"]) == {}

    def test_output_without_an_end_is_ended_and_refused_by_its_size(self, make_cluster: Any) -> None:
        cluster = make_cluster()
        node = cluster.add_node("alpha", 1, MAX_RESULT_BYTES="1000000")
        for program in (cluster.balancer, node):
            program.start()
        with node.json_client() as client:
            result = run(client, "yes", keep_output=True, time=0.5)
            assert result["outcome"] == "timed-out"
            assert "it holds more than MAX_RESULT_BYTES=1000000" in result["reason"]
            assert result["stdout"].startswith("y\n")
            eventually(lambda: not list((node.data / "work" / "stage").iterdir()), "nothing of it is left")
            assert run(client, "true")["outcome"] == "succeeded"


def test_nothing_is_left_behind_on_any_node(shared_cluster: Cluster, client: Client) -> None:
    """After all these: no unfinished file, and no directory of a job."""
    run(client, "true", result_dir="last")
    for node in shared_cluster.nodes.values():
        eventually(lambda node=node: not unfinished(node), f"{node.name} has nothing unfinished")  # type: ignore[misc]
        stage = node.data / "work" / "stage"
        eventually(lambda stage=stage: not stage.exists() or not list(stage.iterdir()), "no stages")  # type: ignore[misc]
