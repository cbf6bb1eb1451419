"""`evenly run` with real nodes: formats, bad files, reports, interruption and going on."""

from __future__ import annotations

import gzip
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import Cluster, eventually, free_port
from workloads import Traces, end_of, evenly, interrupt, servers, started, write

JOBS = 200


def server(cluster: Cluster, name: str = "alpha") -> str:
    return servers(cluster.nodes[name].port)


def submitted(cluster: Cluster) -> int:
    with cluster.nodes["alpha"].json_client() as client:
        return int(client.ask_json("stats")["node"]["submitted"])


def test_every_format_runs_and_is_reported(shared_cluster: Cluster, tmp_path: Path) -> None:
    lines = {
        "a.workload": ["sleep 5", "7"],
        "b.sh": ["# a comment", "", "true", "echo it"],
        "c.jsonl": [
            {"run": "true", "time": 60},
            {"sleep": 3},
            {"task": "checksum", "payload": {"path": "/etc/hosts"}},
        ],
        "d.swf": ["; a note", *(f"{n} {n} -1 1 1 -1 -1 1 -1 -1 1 1 1 1 1 1 -1 -1" for n in range(3))],
    }
    for name, texts in lines.items():
        path = write(tmp_path, texts, name)
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        speed = ["--speed", 100] if "swf" in name else []
        for file in (path, path.with_name(f"{name}.gz")):
            ended = evenly("run", file, "-s", server(shared_cluster), "--json", *speed)
            assert ended.code == 0, ended
            report = ended.report
            jobs = sum(str(line)[:1] not in ("#", ";", "") for line in texts)
            assert (report["jobs"], report["succeeded"], report["failed"], report["open"]) == (
                jobs,
                jobs,
                0,
                0,
            )
            assert sum(node["jobs"] for node in report["nodes"]) == jobs
            assert report["run_times"]["jobs"] == jobs
    text = evenly("run", tmp_path / "b.sh", "-s", server(shared_cluster)).out
    assert text.startswith(f"{tmp_path}/b.sh: 2 of 2 jobs succeeded, 0 failed\n")
    assert "NODE" in text


def test_a_bad_file_submits_nothing_unless_bad_lines_are_left_out(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    path = write(tmp_path, [{"run": "true"}, {"run": "x", "cpu": 2}, "nonsense", {"sleep": 0}])
    before = submitted(shared_cluster)
    ended = evenly("run", path, "-s", server(shared_cluster))
    assert (ended.code, ended.out) == (2, "")
    first, second, last = ended.err.splitlines()
    assert first.startswith(f"evenly: {path}:2: there is no option 'cpu'")
    assert second.startswith(f"evenly: {path}:3: 'nonsense' is no job: one is a JSON object on a line")
    assert last == "evenly: nothing was submitted; --skip-bad leaves such lines out"
    assert submitted(shared_cluster) == before
    assert list(tmp_path.iterdir()) == [path], "not even a state"
    ended = evenly("run", path, "-s", server(shared_cluster), "--skip-bad", "--json")
    assert (ended.code, ended.report["succeeded"]) == (0, 2)
    assert f"{path}:2: " in ended.err


def test_failures_are_told_by_how_and_where_and_tried_again_alone(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    traces, flag = Traces(tmp_path), tmp_path / "flag"
    lines = [{"run": traces.job(number)} for number in range(10)]
    lines[3] = {"run": traces.job(3, f"test -e {flag}")}
    lines[4] = {"run": traces.job(4, f"test -e {flag} || ls /nowhere")}
    lines[7] = {"run": traces.job(7, f"test -e {flag}")}
    lines.append({"task": "nobody-knows", "payload": {}})
    path = write(tmp_path, lines)
    ended = evenly("run", path, "-s", server(shared_cluster), "--json")
    assert (ended.code, ended.report["succeeded"], ended.report["failed"]) == (1, 7, 4)
    failures = ended.report["failures"]
    assert [(each["outcome"], each["reason"][:16], each["lines"]) for each in failures] == [
        ("failed", "exit code 1", [4, 8]),
        ("failed", "exit code 2", [5]),
        ("refused", "There is no task", [11]),
    ]
    assert "/nowhere" in failures[1]["hint"]
    how = f"evenly run {path} -s {server(shared_cluster)} --retry-failed"
    assert f"{how} submits the failed ones again" in ended.err
    flag.touch()
    ended = evenly("run", path, "-s", server(shared_cluster), "--retry-failed")
    assert ended.code == 1
    assert "  1 refused, There is no task 'nobody-knows'" in ended.out
    assert f"{path}: 10 of 11 jobs succeeded, 1 failed\n" in ended.out
    assert traces.counts == {str(n): 2 if n in (3, 4, 7) else 1 for n in range(10)}


def test_after_ctrl_c_it_goes_on_and_each_line_runs_once(shared_cluster: Cluster, tmp_path: Path) -> None:
    traces = Traces(tmp_path)
    path = write(tmp_path, [{"run": traces.job(number)} for number in range(JOBS)])
    with started("run", path, "-s", server(shared_cluster)) as process:
        eventually(lambda: len(traces) > 5, "some have run")
        ended = interrupt(process)
    assert (ended.code, ended.out) == (130, ""), ended
    assert f"go on with: evenly run {path} -s {server(shared_cluster)} --resume\n" in ended.err
    refused = evenly("run", path, "-s", server(shared_cluster))
    assert refused.code == 2
    assert f"evenly: a run of {path} is not over (" in refused.err
    # By way of another node: each ticket is followed where it was given.
    ended = evenly("run", path, "-s", server(shared_cluster, "beta"), "--resume", "--json")
    assert (ended.code, ended.report["succeeded"]) == (0, JOBS), ended
    assert traces.counts == {str(number): 1 for number in range(JOBS)}
    again = evenly("run", path, "-s", server(shared_cluster), "--resume", "--json")
    assert again.report == ended.report
    assert len(traces) == JOBS


def test_a_client_that_is_killed_submits_nothing_twice(shared_cluster: Cluster, tmp_path: Path) -> None:
    """What it had on its way it does not know of, but has the same key again."""
    traces = Traces(tmp_path)
    path = write(tmp_path, [{"run": traces.job(number)} for number in range(JOBS)])
    with started("run", path, "-s", server(shared_cluster)) as process:
        eventually(lambda: len(traces) > 0, "one has run")
        process.kill()
    ended = evenly("run", path, "-s", server(shared_cluster), "--resume", "--json")
    assert (ended.code, ended.report["succeeded"]) == (0, JOBS), ended
    assert traces.counts == {str(number): 1 for number in range(JOBS)}


def test_what_is_only_submitted_is_followed_later(shared_cluster: Cluster, tmp_path: Path) -> None:
    path = write(tmp_path, [{"run": "exit 3"}, {"sleep": 5}])
    ended = evenly("run", path, "-s", server(shared_cluster), "--no-wait")
    resume = f"evenly run {path} -s {server(shared_cluster)} --resume"
    assert (ended.code, ended.out) == (0, f"2 of 2 jobs are submitted; {resume} follows them.\n")
    refused = evenly("run", path, "-s", server(shared_cluster))
    assert (refused.code, refused.out) == (2, "")
    assert f"a run of {path} is not over (2 of 2 submitted, 0 done): --resume goes on with it" in refused.err
    ended = evenly("run", path, "-s", server(shared_cluster), "--resume", "--json")
    assert (ended.code, ended.report["succeeded"]) == (1, 1)
    assert ended.report["failures"][0]["reason"] == "exit code 3"


def test_a_replay_takes_its_time(shared_cluster: Cluster, tmp_path: Path) -> None:
    lines = [f"{n} {100 * n} -1 20 4 -1 -1 4 -1 -1 1 1 1 1 1 1 -1 -1" for n in range(4)]
    path = write(tmp_path, lines, "trace.swf")
    began = time.monotonic()
    ended = evenly("run", path, "-s", server(shared_cluster), "--speed", 300, "--json")
    assert (ended.code, ended.report["succeeded"]) == (0, 4)
    assert time.monotonic() - began >= 1.0
    with sqlite3.connect(f"{path}.run") as state:
        rows = state.execute("SELECT finished - started FROM job").fetchall()
    state.close()
    assert all(took >= 20 / 300 - 0.001 for (took,) in rows)


def test_the_next_node_is_used_where_one_is_away(shared_cluster: Cluster, tmp_path: Path) -> None:
    path = write(tmp_path, [{"sleep": 0}] * 20)
    nodes = servers(free_port(), shared_cluster.nodes["beta"].port)
    assert evenly("run", path, EVENLY_NODES=nodes).code == 0


def test_where_no_node_is_there_nothing_is_begun(tmp_path: Path) -> None:
    path = write(tmp_path, [{"sleep": 0}])
    for _ in range(2):
        ended = evenly("run", path, "-s", servers(free_port()))
        assert ended.code == 3
        assert ended.err.startswith("evenly: no node can be reached (127.0.0.1:")
        assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume"], "there is no run of {} to go on with: {}.run is not there"),
        (["--retry-failed"], "there is no run of {} to go on with"),
        (["--speed", "5"], "--speed is for the Standard Workload Format"),
        (["-s", "nowhere:x"], "'nowhere:x' is no node"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    path = write(tmp_path, [{"sleep": 0}])
    ended = evenly("run", path, *arguments)
    assert ended.code != 0
    assert said.format(path, path) in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_file_that_has_changed_is_not_gone_on_with(shared_cluster: Cluster, tmp_path: Path) -> None:
    path, state = write(tmp_path, [{"sleep": 0}]), tmp_path / "elsewhere"
    assert evenly("run", path, "-s", server(shared_cluster), "--state", state).code == 0
    write(tmp_path, [{"sleep": 1}])
    ended = evenly("run", path, "-s", server(shared_cluster), "--state", state, "--resume")
    assert ended.code == 2
    assert f"{path} is not the file it was when its run began" in ended.err
    assert evenly("run", path, "-s", server(shared_cluster), "--state", state).code == 0, "a new run is fine"


def test_two_do_not_run_one_file(shared_cluster: Cluster, tmp_path: Path) -> None:
    path = write(tmp_path, [{"sleep": 600_000}])
    with started("run", path, "-s", server(shared_cluster)) as process:
        state = tmp_path / "jobs.jsonl.run"
        eventually(state.exists, "it has begun")
        second = evenly("run", path, "-s", server(shared_cluster), "--resume")
        assert second.code == 2
        assert second.err == f"evenly: {state} is in use: another evenly run works on it\n"
        interrupt(process)
    with sqlite3.connect(state) as database:
        (ticket,) = database.execute("SELECT ticket FROM job").fetchone()
    database.close()
    with shared_cluster.nodes["alpha"].client() as client:
        client.ask(f"cancel {ticket}")
    ended = evenly("run", path, "-s", server(shared_cluster), "--resume")
    assert "  1 cancelled: line 1\n" in ended.out


def test_of_two_that_begin_at_once_one_runs_the_file(shared_cluster: Cluster, tmp_path: Path) -> None:
    traces = Traces(tmp_path)
    path = write(tmp_path, [{"run": traces.job(number)} for number in range(50)])
    words = ("run", path, "-s", server(shared_cluster))
    with started(*words) as first, started(*words) as second:
        one, other = sorted((end_of(each) for each in (first, second)), key=lambda ended: ended.code)
    assert one.code == 0, one
    # Where it was late, the first was over: then it is a run of its own.
    assert other.code == 0 or (" is in use: " in other.err or " is not over (" in other.err), other
    assert set(traces.counts.values()) == {1 if other.code else 2}


def test_an_array_is_one_job_of_the_file(shared_cluster: Cluster, tmp_path: Path) -> None:
    path = write(
        tmp_path, [{"run": "test $EVENLY_ARRAY_INDEX != 2", "array": 5}, {"run": "true", "array": 3}]
    )
    ended = evenly("run", path, "-s", server(shared_cluster), "--json")
    assert (ended.code, ended.report["jobs"], ended.report["succeeded"]) == (1, 2, 1)
    assert ended.report["failures"][0]["reason"] == "5 jobs: 4 succeeded, 1 failed"


def test_a_workload_is_made_and_run(shared_cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "custom.workload"
    assert evenly("generate", 30, 5, "--distribution", "exponential", "--seed", 1, "-o", path).code == 0
    assert evenly("generate", 30, 5, "--distribution", "exponential", "--seed", 1).out == path.read_text()
    assert evenly("run", path, "-s", server(shared_cluster), "--json").report["succeeded"] == 30
    ended = evenly("generate", 3, 5, "-o", tmp_path / "no" / "file")
    assert ended.code != 0
    assert "no such file or directory" in ended.err


def test_top_looks_once(shared_cluster: Cluster) -> None:
    ended = evenly("top", "-s", server(shared_cluster))
    assert ended.code == 0, ended
    assert [line.split()[0] for line in ended.out.splitlines()[3:6]] == ["alpha", "beta", "gamma"]
    assert all(len(line) <= 80 for line in ended.out.splitlines())
    look = evenly("top", "--json", EVENLY_NODES=server(shared_cluster)).report
    assert [node["name"] for node in look["nodes"]] == ["alpha", "beta", "gamma"]
    ended = evenly("top", "-s", servers(free_port()))
    assert (ended.code, ended.err.count("\n")) == (3, 1)


def test_nodes_that_are_restarted_meanwhile(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """The origin in the middle of submitting and of following, the balancer, one that only runs jobs."""
    cluster = make_cluster()
    alpha, _, gamma = cluster.start("alpha", "beta", "gamma")
    traces = Traces(tmp_path)
    path = write(tmp_path, [{"run": traces.job(number, "sleep 0.02")} for number in range(300)])
    with started("run", path, "-s", servers(alpha.port), "--json") as process:
        for program, count in ((alpha, 5), (cluster.balancer, 60), (gamma, 120), (alpha, 180)):
            eventually(lambda count=count: len(traces) > count, f"{count} have run")
            program.kill()
            program.start()
        ended = end_of(process)
    assert (ended.code, ended.report["succeeded"]) == (0, 300), ended
    assert traces.counts.keys() == {str(number) for number in range(300)}


def test_a_node_that_stays_away_for_a_while_costs_no_job_and_makes_none_twice(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = make_cluster()
    alpha, beta = cluster.start("alpha", "beta")
    traces = Traces(tmp_path)
    jobs = range(0, 5000, 20)
    lines = [{"run": traces.job(n)} if n in jobs else {"sleep": 0} for n in range(5000)]
    path = write(tmp_path, lines)
    with started("run", path, "-s", servers(alpha.port, beta.port), "--json") as process:
        eventually(lambda: len(traces) > 0, "one has run")
        alpha.kill()
        eventually(lambda: len(traces) > 20, "others run meanwhile")
        alpha.start()
        ended = end_of(process)
    assert (ended.code, ended.report["succeeded"]) == (0, 5000), ended
    assert traces.counts.keys() == {str(number) for number in jobs}

    def ended_everywhere() -> list[dict[str, Any]]:
        found = []
        for node in (alpha, beta):
            with node.json_client() as client:
                found += client.ask_json("getall")["results"]
        return found if all(each["outcome"] for each in found) else []

    listed = eventually(ended_everywhere, "every job has ended")
    others = [each for each in listed if each["outcome"] != "succeeded"]
    assert len(listed) - len(others) == 5000
    # Those that alpha had on its disk when it was killed, and that the client then sent to beta.
    assert all("its key was submitted before" in each["reason"] for each in others), others[:3]


def test_lines_with_the_same_key_of_their_own_are_one_job(shared_cluster: Cluster, tmp_path: Path) -> None:
    traces = Traces(tmp_path)
    command = {"run": traces.job("x"), "key": f"{tmp_path.name}-run"}
    path = write(tmp_path, [command, {"sleep": 0, "key": f"{tmp_path.name}-sleep"}] * 2)
    ended = evenly("run", path, "-s", server(shared_cluster), "--json")
    assert (ended.code, ended.report["succeeded"]) == (0, 4)
    with sqlite3.connect(f"{path}.run") as state:
        (tickets,) = state.execute("SELECT count(DISTINCT ticket) FROM job").fetchone()
    state.close()
    assert (tickets, traces.counts) == (2, {"x": 1})


def test_a_ticket_of_a_node_that_is_not_named_is_told(shared_cluster: Cluster, tmp_path: Path) -> None:
    job = {"sleep": 600_000, "key": f"{tmp_path.name}-elsewhere"}
    with shared_cluster.nodes["beta"].json_client() as client:
        ticket = client.ask_json(json.dumps(job))["ticket"]
    path = write(tmp_path, [job, {"sleep": 0}])
    with started("run", path, "-s", server(shared_cluster)) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "answers for" in line)
        assert said.startswith(
            f"none of these nodes answers for {ticket}, which another one gave for the same "
        )
        assert said.endswith(": -s has to name that one, too\n")
        assert interrupt(process).code == 130
    with shared_cluster.nodes["beta"].client() as client:
        client.ask(f"cancel {ticket}")
    both = servers(*(shared_cluster.nodes[name].port for name in ("alpha", "beta")))
    ended = evenly("run", path, "-s", both, "--resume")
    assert "  1 cancelled: line 1\n" in ended.out
    assert "answers for" not in ended.err


def test_a_failed_line_with_its_own_key_is_tried_again_and_told_plainly(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    """What it writes to stderr would colour the terminal."""
    traces, flag = Traces(tmp_path), tmp_path / "flag"
    then = f"test -e {flag} || {{ printf 'first\\n\\033[31mno \\007flag\\n' >&2; exit 1; }}"
    job = {"run": traces.job("x", then), "key": f"{tmp_path.name}-again"}
    path = write(tmp_path, [job, {"run": traces.job("y")}])
    ended = evenly("run", path, "-s", server(shared_cluster))
    assert ended.code == 1
    assert "      [31mno flag\n" in ended.out
    assert all(c.isprintable() or c == "\n" for c in ended.out + ended.err)
    flag.touch()
    ended = evenly("run", path, "-s", server(shared_cluster), "--retry-failed", "--json")
    assert (ended.code, ended.report["succeeded"]) == (0, 2)
    assert traces.counts == {"x": 2, "y": 1}
