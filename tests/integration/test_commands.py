"""What a command finds around it, and what is left of it: by way of a real node."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import Client, Cluster, eventually, marker, processes_with

MIB = 1024 * 1024
Run = Callable[[str], dict[str, Any]]


@pytest.fixture
def client(shared_cluster: Cluster) -> Iterator[Client]:
    with shared_cluster.nodes["alpha"].json_client() as client:
        yield client


@pytest.fixture
def run(client: Client) -> Run:
    """Runs a command to its end and gives its result."""

    def run(line: str) -> dict[str, Any]:
        (ticket,) = client.submit(f"run {line}")
        (result,) = client.wait(ticket)
        assert result["state"] == "done"
        return result

    return run


class TestHowItEnded:
    @pytest.mark.parametrize("code", [0, 1, 2, 77, 126, 127, 255])
    def test_the_exit_code_is_kept(self, run: Run, code: int) -> None:
        result = run(f"exit {code}")
        assert result["exit_code"] == code
        assert result["outcome"] == ("failed" if code else "succeeded")

    @pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "HUP", "INT", "PIPE"])
    def test_a_signal_is_128_and_its_number_and_is_named(self, run: Run, name: str) -> None:
        result = run(f"kill -{name} $$; sleep 5")
        assert result["exit_code"] == 128 + signal.Signals[f"SIG{name}"]
        assert (result["outcome"], result["reason"]) == ("failed", f"killed by SIG{name}")

    def test_a_command_that_is_not_there_says_so_on_stderr(self, run: Run) -> None:
        result = run("no-such-command-here")
        assert (result["outcome"], result["exit_code"]) == ("failed", 127)
        assert "no-such-command-here" in result["stderr"]

    def test_a_shell_syntax_error_is_the_jobs_own_failure(self, run: Run) -> None:
        result = run("if then (")
        assert (result["outcome"], result["exit_code"]) == ("failed", 2)
        assert result["stderr"]

    @pytest.mark.parametrize("line", ["-x", "--nothing", "+x"])
    def test_a_command_line_that_begins_like_an_option_is_still_a_command(self, run: Run, line: str) -> None:
        result = run(f"-- {line}")
        assert result["exit_code"] == 127
        assert line in result["stderr"]

    def test_a_broken_pipe_ends_a_command_as_in_any_shell(self, run: Run) -> None:
        result = run("yes | head -n 1")
        assert (result["outcome"], result["stdout"], result["stderr"]) == ("succeeded", "y\n", "")


class TestItsSurroundings:
    def test_it_has_a_session_of_its_own_and_leads_it(self, run: Run) -> None:
        pid, group, session = run("echo $$ $(ps -o pgid=,sid= -p $$)")["stdout"].split()
        assert pid == group == session
        assert int(session) != os.getsid(0)

    def test_it_has_a_working_directory_of_its_own_that_is_empty_and_goes_away(self, run: Run) -> None:
        result = run("pwd; ls -A | wc -l; mkdir -p a/b; echo x > a/b/c; chmod 500 a")
        where, count = result["stdout"].split()
        assert count == "0"
        eventually(lambda: not Path(where).exists(), f"{where} is gone")

    def test_nothing_that_a_job_leaves_in_its_directory_is_seen_by_another(self, client: Client) -> None:
        lines = [
            "run touch file",
            "run ls -A",
            "run mkdir directory",
            "run chmod 777 .",
            "run stat -c %a%h .",
        ]
        tickets = client.submit(*lines * 12)
        said = {each["stdout"] for each in client.wait(*tickets)}
        assert said == {"", "7002\n"}

    def test_a_command_of_plain_words_finds_the_same(self, run: Run) -> None:
        result = run("printenv EVENLY_TICKET EVENLY_ATTEMPT")
        assert result["stdout"] == f"{result['ticket']}\n1\n"
        where = run("printenv PWD")["stdout"]
        assert Path(where.strip()).parent.name == "work"
        pid, _, _, _, group, session = run("cat /proc/self/stat")["stdout"].split()[:6]
        assert pid == group == session

    def test_its_input_is_at_its_end(self, run: Run) -> None:
        result = run("cat; read line; echo $?")
        assert (result["outcome"], result["stdout"]) == ("succeeded", "1\n")

    def test_it_knows_its_ticket(self, run: Run) -> None:
        result = run('echo "$EVENLY_TICKET $EVENLY_ATTEMPT"')
        assert result["stdout"] == f"{result['ticket']} 1\n"

    def test_it_has_no_files_open_but_its_three_streams(self, run: Run) -> None:
        # ls has the directory itself open as well.
        assert run("ls /proc/self/fd | sort -n")["stdout"].split() == ["0", "1", "2", "3"]

    def test_no_signal_is_ignored_or_blocked(self, run: Run) -> None:
        said = run("grep -E '^Sig(Blk|Ign):' /proc/self/status")["stdout"].split()
        blocked, ignored = int(said[1], 16), int(said[3], 16)
        assert blocked == 0
        # A C library may ignore two of its own real-time signals' places; no ordinary signal is ignored.
        assert ignored & 0x7FFFFFFF == 0

    def test_the_limit_of_open_files_is_its_users(self, run: Run) -> None:
        import resource

        assert run("ulimit -Sn")["stdout"].strip() == str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def test_text_of_all_the_world_comes_through(self, run: Run) -> None:
        assert run("echo 'žluťoučký 漢字 🙂' \"it's\" \\\\")["stdout"] == "žluťoučký 漢字 🙂 it's \\\n"


class TestItsWorker:
    def test_a_worker_that_is_killed_takes_its_job_along_and_the_job_runs_again(
        self, client: Client, shared_cluster: Cluster
    ) -> None:
        mark = marker()
        line = f"[ $EVENLY_ATTEMPT = 2 ] && echo again && exit; trap '' TERM; sleep 600; : {mark}"
        (ticket,) = client.submit(f"run {line}")
        # The shell; and, for a moment, what it forks.
        job = eventually(lambda: processes_with(mark), "it runs")[0]
        os.kill(parent_of(job), signal.SIGKILL)
        (result,) = client.wait(ticket)
        assert (result["outcome"], result["attempt"], result["stdout"]) == ("succeeded", 2, "again\n")
        assert processes_with(mark) == []

    def test_a_job_that_always_takes_its_worker_along_ends_as_lost(self, run: Run) -> None:
        result = run("kill -9 $PPID; sleep 600")
        assert result["outcome"] == "lost"
        assert "CRASH_LIMIT=3" in result["reason"]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class TestOutput:
    def test_output_of_exactly_the_bound_is_whole(self, run: Run) -> None:
        result = run(f"head -c {MIB} /dev/zero | tr '\\0' a")
        assert (len(result["stdout"]), result["truncated"]) == (MIB, False)

    def test_output_over_the_bound_is_cut_and_counted(self, run: Run, client: Client) -> None:
        size = 5 * MIB + 7
        result = run(f"head -c {size} /dev/zero | tr '\\0' a; head -c {2 * MIB} /dev/zero | tr '\\0' b >&2")
        assert result["outcome"] == "succeeded"
        assert result["truncated"] is True
        assert result["stdout"] == "a" * MIB
        assert result["stderr"] == "b" * MIB
        assert (result["stdout_bytes"], result["stderr_bytes"]) == (size, 2 * MIB)

    def test_text_mode_says_that_output_was_cut(self, shared_cluster: Cluster) -> None:
        with shared_cluster.nodes["beta"].client() as client:
            (ticket,) = client.submit(f"run head -c {MIB + 1} /dev/zero | tr '\\0' a")
            client.ask(f"wait {ticket}")
            output, note = client.block()
            assert output == "a" * MIB
            assert note == f"--- stdout truncated: {MIB} of {MIB + 1} bytes kept ---"

    def test_a_job_that_closes_its_output_goes_on(self, run: Run) -> None:
        result = run("echo before; exec >&- 2>&-; sleep 0.2; exit 9")
        assert (result["exit_code"], result["stdout"]) == (9, "before\n")

    def test_both_streams_may_be_filled_at_once(self, run: Run) -> None:
        result = run("for i in $(seq 8); do head -c 99999 /dev/zero; head -c 99999 /dev/zero >&2; done")
        assert (result["stdout_bytes"], result["stderr_bytes"]) == (799_992, 799_992)


class TestTimeLimits:
    def test_a_job_over_its_time_is_timed_out_by_sigterm(self, run: Run) -> None:
        result = run("--time 0.3 -- echo begun; exec sleep 600")
        assert (result["outcome"], result["stdout"]) == ("timed-out", "begun\n")
        assert result["exit_code"] == 128 + signal.SIGTERM
        assert 0.3 <= result["finished_at"] - result["started_at"] < 1.9, "SIGTERM was enough"

    def test_a_job_may_use_its_last_moments(self, run: Run) -> None:
        result = run("--time 0.5 -- trap 'echo saved; exit 3' TERM; while :; do sleep 0.05; done")
        assert (result["outcome"], result["exit_code"], result["stdout"]) == ("timed-out", 3, "saved\n")

    def test_the_limit_reaches_a_child_that_ignores_sigterm(self, run: Run) -> None:
        mark = marker()
        result = run(f"--time 0.3 -- (trap '' TERM; sh -c 'sleep 600; : {mark}') & trap '' TERM; wait; wait")
        assert result["outcome"] == "timed-out"
        assert result["exit_code"] == 128 + signal.SIGKILL
        assert processes_with(mark) == []

    def test_a_job_that_is_done_in_time_is_not_touched(self, run: Run) -> None:
        result = run("--time 30 -- exit 0")
        assert (result["outcome"], result["job"]["time"]) == ("succeeded", 30.0)


class TestWhatItLeavesBehind:
    def test_a_daemon_in_a_session_of_its_own_is_ended(self, run: Run) -> None:
        mark = marker()
        result = run(f"setsid sh -c 'sleep 600; : {mark}' </dev/null >/dev/null 2>&1 & sleep 0.1; echo done")
        assert (result["outcome"], result["stdout"]) == ("succeeded", "done\n")
        assert processes_with(mark) == []

    def test_a_daemon_that_holds_the_output_open_does_not_hold_up_the_job(self, run: Run) -> None:
        mark = marker()
        result = run(f"setsid sh -c 'trap \"\" TERM HUP; sleep 600; : {mark}' & echo done")
        assert (result["outcome"], result["stdout"]) == ("succeeded", "done\n")
        assert processes_with(mark) == []

    def test_children_in_the_background_end_with_it(self, run: Run) -> None:
        mark = marker()
        result = run(f"for i in 1 2 3 4 5; do sh -c 'sleep 600; : {mark}' & done; echo done")
        assert result["stdout"] == "done\n"
        assert processes_with(mark) == []

    def test_children_that_it_waits_for_do_their_work(self, run: Run) -> None:
        result = run("for i in 1 2 3; do (sleep 0.$i; echo $i) & done; wait")
        assert sorted(result["stdout"].split()) == ["1", "2", "3"]

    def test_a_file_too_large_to_remove_at_once_is_removed_too(self, run: Run) -> None:
        result = run("pwd; for i in $(seq 200); do echo x > f$i; done")
        eventually(lambda: not Path(result["stdout"].strip()).exists(), "the directory is gone")


class TestWhatItAsksFor:
    def test_variables(self, run: Run) -> None:
        result = run("--env A=b --env 'C=two words' -- echo $A-$C-$EVENLY_ATTEMPT")
        assert result["stdout"] == "b-two words-1\n"
        assert result["job"]["env"] == {"A": "b", "C": "two words"}
        assert run("echo -$A-")["stdout"] == "--\n", "the next job has none of it"

    def test_a_path_of_its_own(self, run: Run, tmp_path: Path) -> None:
        program = tmp_path / "only-here"
        program.write_text("#!/bin/sh\necho found\n")
        program.chmod(0o755)
        assert run(f"--env PATH={tmp_path}:/usr/bin:/bin -- only-here")["stdout"] == "found\n"
        assert run("only-here")["exit_code"] == 127

    def test_something_to_read(self, run: Run) -> None:
        assert run("--stdin 'a line' -- cat")["stdout"] == "a line"
        assert run("cat")["stdout"] == ""

    def test_a_directory(self, run: Run, tmp_path: Path) -> None:
        assert run(f"--cwd {tmp_path} -- pwd; touch made")["stdout"] == f"{tmp_path}\n"
        assert (tmp_path / "made").exists(), "nothing of it is removed"
        assert run("ls -A")["stdout"] == "", "the next job has an empty one"

    def test_a_directory_that_is_not_there_is_named(self, run: Run) -> None:
        result = run("--cwd /nowhere/at/all -- pwd")
        assert (result["outcome"], result["exit_code"]) == ("failed", 126)
        assert result["reason"] == "it could not be started: No such file or directory (/nowhere/at/all)"
        assert run("pwd")["outcome"] == "succeeded"

    def test_all_of_it_as_json(self, client: Client) -> None:
        (ticket,) = client.submit(
            '{"run": "echo $X; cat", "env": {"X": "y"}, "stdin": "z", "name": "all", "tag": "t"}'
        )
        (result,) = client.wait(ticket)
        assert result["stdout"] == "y\nz"
        assert (result["job"]["name"], result["job"]["tag"]) == ("all", "t")
