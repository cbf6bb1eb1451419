"""The command `evenly` with real nodes: what they alone can show of its ends and its failures."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.limits import ARRAY_PAGE, MIB
from support import Client, Cluster, eventually, free_port
from workloads import COMMAND, end_of, environment, evenly, interrupt, servers, started

TICKET = "[A-Z0-9]{16}"


@pytest.fixture
def node(shared_cluster: Cluster) -> str:
    return servers(shared_cluster.nodes["alpha"].port)


@pytest.fixture
def client(shared_cluster: Cluster) -> Iterator[Client]:
    with shared_cluster.nodes["alpha"].json_client() as client:
        yield client


def until_state(client: Client, ticket: str, state: str) -> None:
    eventually(lambda: client.ask_json(f"status {ticket}")["state"] == state, f"{ticket} is {state}")


# --- output ------------------------------------------------------------------------------------------------


def test_output_that_came_too_fast_is_missed(node: str, client: Client, tmp_path: Path) -> None:
    size = 40 * MIB
    line = (
        f"echo begins; until [ -e {tmp_path}/go ]; do sleep 0.02; done; head -c {size} /dev/zero | tr '\\0' x"
    )
    with started("submit", "-s", node, "--wait", "--name", "fast", "--", line) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        # It follows, and reads nothing while all of it is written.
        process.send_signal(signal.SIGSTOP)
        (tmp_path / "go").touch()
        (job,) = client.ask_json("list --name fast")["jobs"]
        client.wait(job["ticket"])
        process.send_signal(signal.SIGCONT)
        ended = end_of(process)
    missing = size - len(ended.out)
    assert (ended.code, missing > 0) == (1, True)
    kept = "--keep-output keeps all of it, for evenly fetch"
    said = f"evenly: {missing} of {size + len('begins ')} bytes of its output are missing; {kept}\n"
    assert ended.err == said


def test_of_a_result_that_was_cut_it_is_said_what_is_missing(node: str, client: Client) -> None:
    size = 3 * MIB
    line = f"head -c {size} /dev/zero | tr '\\0' x"
    (ticket,) = client.submit(json.dumps({"run": line, "keep_output": True}))
    client.wait(ticket)
    ended = evenly("tail", "-s", node, ticket)
    missing = size - len(ended.out)
    assert (ended.code, missing > 0) == (1, True)
    kept = f"evenly fetch {ticket} brings all of it"
    assert ended.err == f"evenly: {missing} of {size} bytes of its output are missing; {kept}\n"


def test_output_that_is_no_text_comes_byte_for_byte(node: str, client: Client, tmp_path: Path) -> None:
    line = r"printf '\377\376bin\000x\n'; printf '\200' >&2"
    out, err = b"\xff\xfebin\0x\n", b"\x80"
    (ticket,) = client.submit(json.dumps({"run": line}))
    client.wait(ticket)
    for arguments in (
        ["submit", "--wait", "--", line],
        ["submit", "--wait", "--array", "2", "--", line],
        ["result", ticket],
        ["tail", ticket],
        ["map", "--", f": {{}}; {line}", ":::", "a", "b"],
    ):
        command = [*COMMAND, arguments[0], "-s", node, *arguments[1:]]
        ended = subprocess.run(command, capture_output=True, check=True, env=environment())
        count = 2 if "--array" in arguments or "map" in arguments else 1
        assert (ended.stdout, ended.stderr) == (out * count, err * count), arguments
    rows = [json.loads(row) for row in evenly("tail", "-s", node, "--json", ticket).out.splitlines()]
    assert {row["stream"]: base64.b64decode(row["base64"]) for row in rows} == {"stdout": out, "stderr": err}


def test_any_node_follows_a_job_of_another(shared_cluster: Cluster, client: Client, tmp_path: Path) -> None:
    (ticket,) = client.submit(f"run echo begins; until [ -e {tmp_path}/go ]; do sleep 0.02; done; echo ends")
    until_state(client, ticket, "running")
    others = [shared_cluster.nodes[name].port for name in ("beta", "gamma")]
    for ports in (others[:1], others):
        with started("tail", "-s", servers(*ports), ticket.lower()) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            if ports == others:
                (tmp_path / "go").touch()
                out, err = process.communicate()
                said = f"evenly: how {ticket} ended is known to the node that gave this ticket\n"
                assert (process.returncode, out, err) == (0, "ends\n", said)
    ended = evenly("tail", "-s", servers(*others), ticket)
    assert (ended.code, ended.err) == (4, f"evenly: no node knows the ticket {ticket}\n")


# --- why it failed -----------------------------------------------------------------------------------------


def test_why_a_command_failed_without_a_word_of_its_own(node: str) -> None:
    ended = evenly("submit", "-s", node, "--wait", "--cwd", "/nowhere", "--", "true")
    assert (ended.code, ended.out) == (126, "")
    assert re.fullmatch(rf"evenly: {TICKET} failed, exit code 126, .*/nowhere.*\n", ended.err)


def test_why_a_file_of_a_result_was_refused(node: str) -> None:
    line = 'ln -s /etc/passwd "$EVENLY_RESULT_DIR"/link'
    ended = evenly("submit", "-s", node, "--wait", "--result-dir", "out", "--", line)
    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch(rf"evenly: {TICKET} failed, .*link.*\n", ended.err)


def test_status_says_how_a_job_ended(node: str, client: Client) -> None:
    (ticket,) = client.submit("run exit 3")
    client.wait(ticket)
    assert re.fullmatch(
        rf"{ticket}  failed, exit code 3, in .* on \w+\n", evenly("status", "-s", node, ticket).out
    )


# --- arrays ------------------------------------------------------------------------------------------------


def test_an_array_is_told_as_one(node: str, client: Client) -> None:
    (ticket,) = client.submit("run --array 3 --name told -- test $EVENLY_ARRAY_INDEX -lt 2")
    client.wait(ticket)
    said = evenly("status", "-s", node, ticket).out
    assert said == f"{ticket}  failed, 3 jobs: 2 succeeded, 1 failed\n"
    rows = evenly("list", "-s", node, "--name", "told").out.splitlines()
    assert any("[told] 3 times test $EVENLY_ARRAY_INDEX -lt 2" in row for row in rows)


def test_all_jobs_of_an_array_are_in_its_result(node: str, client: Client) -> None:
    size = ARRAY_PAGE + 5
    (ticket,) = client.submit(f"run --array {size} -- true")
    client.wait(ticket)
    for command in ("result", "wait"):
        value = json.loads(evenly(command, "-s", node, "--json", ticket).out)
        assert len({each["ticket"] for each in value["jobs"]}) == size
        assert {each["outcome"] for each in value["jobs"]} == {"succeeded"}


def test_a_key_gives_what_was_submitted_first(node: str) -> None:
    wait = ("submit", "-s", node, "--wait")
    line = "echo $EVENLY_ARRAY_INDEX"
    assert evenly(*wait, "--key", "first-a-job", "--", line).out == "\n"
    ended = evenly(*wait, "--key", "first-a-job", "--array", 3, "--", line)
    assert (ended.code, ended.out, ended.err) == (0, "\n", "")
    assert evenly(*wait, "--key", "first-an-array", "--array", 3, "--", line).out == "0\n1\n2\n"
    ended = evenly(*wait, "--key", "first-an-array", "--", line)
    assert (ended.code, ended.out, ended.err) == (0, "0\n1\n2\n", "")


# --- files -------------------------------------------------------------------------------------------------


def test_files_of_what_runs_are_not_there_yet(node: str, client: Client) -> None:
    (ticket,) = client.submit("run --keep-output -- sleep 600")
    until_state(client, ticket, "running")
    ended = evenly("fetch", "-s", node, ticket)
    assert (ended.code, ended.out, ended.err.count("\n")) == (5, "", 1)
    client.ask_json(f"cancel {ticket}")


# --- what is not whole -------------------------------------------------------------------------------------


def test_who_could_not_be_asked_is_said(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    (node,) = cluster.start("alpha")
    with node.json_client() as client:
        (ticket,) = client.submit("run true")
        away = f"127.0.0.1:{free_port()}"
        ended = evenly("list", "-s", f"{servers(node.port)},{away}", "--json")
        assert (ended.code, json.loads(ended.out)["ticket"]) == (0, ticket)
        assert ended.err == f"evenly: {away} is left out: connection refused\n"
        assert evenly("nodes", "-s", servers(node.port)).err == ""
        cluster.balancer.kill()
        eventually(lambda: "note" in client.ask_json("nodes"), "it knows that the balancer is away")
        ended = evenly("nodes", "-s", servers(node.port), "--json")
        assert (ended.code, json.loads(ended.out)["name"]) == (0, "alpha")
        assert ended.err.startswith("evenly: the balancer is away")


# --- Ctrl-C ------------------------------------------------------------------------------------------------


def test_ctrl_c_while_the_origin_does_not_answer(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    (origin,) = cluster.start("alpha")
    node = servers(origin.port)
    with origin.json_client() as client:
        submitted = ("submit", "--wait"), ("map",)
        for words in submitted:
            name = words[0]
            behind = ("--", "sleep 600") if name == "submit" else ("sleep", ":::", "600")
            with started(*words, "-s", node, "--name", name, *behind) as process:
                jobs = eventually(
                    lambda name=name: client.ask_json(f"list --name {name}")["jobs"], "it is there"
                )
                until_state(client, jobs[0]["ticket"], "running")
                origin.signal(signal.SIGSTOP)
                ended = interrupt(process)
                origin.signal(signal.SIGCONT)
            assert ended.code == 130
            assert "could not be cancelled" in ended.err
            assert f"evenly cancel {jobs[0]['ticket']} tries again" in ended.err
