"""A program that cannot start says why in one line on stderr, exit code 2; one that cannot write, 1."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from support import Cluster, Program, clean_environment, eventually, free_port, ticket_of

KIB = 1024
Make = Callable[..., Cluster]
DATABASES = {"loadbalancer": "loadbalancer.sqlite3", "clusternode": "clusternode.sqlite3"}


def arguments_of(program: str, data: Path | str | None = None, port: int | None = None) -> list[str]:
    port = port or free_port()
    arguments = {
        "loadbalancer": ["loadbalancer", str(port)],
        "clusternode": ["clusternode", "127.0.0.1", "1", "--client-port", str(port)],
    }[program]
    return arguments if data is None else [*arguments, "--data", str(data)]


def refusal(
    arguments: list[str], cwd: Path | None = None, prefix: tuple[str, ...] = (), **environment: str
) -> str:
    """The one line with which the program refuses to start."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", *arguments],
        cwd=cwd,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"{arguments[0]}: ")
    assert "Traceback" not in done.stderr
    return done.stderr


BAD = [
    ("loadbalancer", "DISPATCH_MODE", "--dispatch-mode", "fast", "eager or periodic"),
    ("loadbalancer", "DISPATCH_PERIOD", "--dispatch-period", "0", "from 1 to"),
    ("loadbalancer", "DISPATCH_PERIOD", "--dispatch-period", "soon", "milliseconds"),
    ("loadbalancer", "MAX_NUM_JOBS_DISPATCH", "--max-num-jobs-dispatch", "-1", "from 1 to"),
    ("loadbalancer", "REQUEST_RESULT_PERIOD", "--request-result-period", "1e3", "milliseconds"),
    ("loadbalancer", "MAX_NUM_NODES", "--max-num-nodes", "0", "from 1 to"),
    ("loadbalancer", "MAX_NUM_NODES", "--max-num-nodes", "9" * 5000, "from 1 to"),
    ("loadbalancer", "NODE_GRACE_PERIOD", "--node-grace-period", "-1", "from 0 to"),
    ("clusternode", "SLOTS", "--slots", "0", "from 1 to"),
    ("clusternode", "CLIENT_PORT", "--client-port", "65536", "from 1 to 65535"),
    ("clusternode", "NODE_NAME", "--name", "two words", "without spaces"),
]


class TestSettings:
    @pytest.mark.parametrize(("program", "name", "flag", "value", "allowed"), BAD)
    def test_a_bad_flag_is_named_with_its_value_and_what_is_allowed(
        self, tmp_path: Path, program: str, name: str, flag: str, value: str, allowed: str
    ) -> None:
        said = refusal([*arguments_of(program, tmp_path), f"{flag}={value}"])
        assert flag in said
        assert value[:40] in said
        assert allowed in said

    @pytest.mark.parametrize(("program", "name", "flag", "value", "allowed"), BAD[::3])
    def test_a_bad_variable_is_named_with_its_value_and_what_is_allowed(
        self, tmp_path: Path, program: str, name: str, flag: str, value: str, allowed: str
    ) -> None:
        arguments = [*arguments_of(program)[:2], *(["1"] if program == "clusternode" else [])]
        said = refusal([*arguments, "--data", str(tmp_path)], **{name: value})
        assert name in said
        assert value[:40] in said
        assert allowed in said

    @pytest.mark.parametrize(
        "arguments",
        [
            ["loadbalancer", "0"],
            ["loadbalancer", "65536"],
            ["loadbalancer", "http"],
            ["loadbalancer", "8080", "8081"],
            ["loadbalancer", "8080", "--no-such-flag"],
            ["loadbalancer", "8080", "--data", ""],
            ["clusternode"],
            ["clusternode", "localhost"],
            ["clusternode", "localhost", "port"],
            ["clusternode", "", "8080"],
            ["clusternode", "localhost", "8080", "--slots"],
        ],
        ids=" ".join,
    )
    def test_bad_arguments_get_one_line(self, tmp_path: Path, arguments: list[str]) -> None:
        refusal(arguments, cwd=tmp_path)
        assert list(tmp_path.iterdir()) == [], "nothing was made"

    @pytest.mark.parametrize("program", DATABASES)
    def test_an_address_that_is_not_ours_cannot_be_listened_on(self, tmp_path: Path, program: str) -> None:
        said = refusal([*arguments_of(program, tmp_path), "--bind", "192.0.2.1"])
        assert "cannot listen on 192.0.2.1" in said

    @pytest.mark.parametrize("program", DATABASES)
    def test_a_port_in_use_is_refused(self, tmp_path: Path, program: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = refusal(arguments_of(program, tmp_path, port))
        assert f"cannot listen on 127.0.0.1:{port}: address already in use" in said

    def test_a_flag_is_stronger_than_a_variable(self, make_cluster: Make) -> None:
        cluster = make_cluster()
        node = cluster.add_node("alpha", 3, SLOTS="7", NODE_NAME="other")
        cluster.balancer.start()
        node.start()
        assert "node alpha ready" in node.said
        assert ", 3 slots," in node.said


@pytest.mark.parametrize("program", DATABASES)
class TestDataDirectory:
    def test_a_second_process_on_it_is_refused_and_hears_who_has_it(
        self, make_cluster: Make, program: str
    ) -> None:
        cluster = make_cluster()
        (alpha,) = cluster.start("alpha")
        holder: Program = cluster.balancer if program == "loadbalancer" else alpha
        said = refusal(arguments_of(program, holder.data))
        assert f"in use by process {holder.pid}" in said
        with alpha.json_client() as client:
            assert client.wait(*client.submit("0"))[0]["outcome"] == "succeeded"

    def test_that_is_a_file(self, tmp_path: Path, program: str) -> None:
        path = tmp_path / "file"
        path.write_text("x")
        assert str(path) in refusal(arguments_of(program, path))
        assert str(path / "below") in refusal(arguments_of(program, path / "below"))
        assert path.read_text() == "x"

    def test_that_cannot_be_made(self, program: str) -> None:
        assert "/proc/no/data" in refusal(arguments_of(program, "/proc/no/data"))

    def test_that_belongs_to_somebody_else(self, program: str) -> None:
        """As root, who may write everywhere, the program is started as nobody."""
        with tempfile.TemporaryDirectory() as name:
            path = Path(name)
            path.chmod(0o555)
            prefix: tuple[str, ...] = ()
            if os.geteuid() == 0:
                prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
            said = refusal(arguments_of(program, path), prefix=prefix, PYTHONDONTWRITEBYTECODE="1")
            assert "cannot be used: Permission denied" in said

    def test_on_a_read_only_file_system(self, make_cluster: Make, tmp_path: Path, program: str) -> None:
        cluster = make_cluster()
        (alpha,) = cluster.start("alpha")
        holder: Program = cluster.balancer if program == "loadbalancer" else alpha
        holder.terminate()
        data = str(holder.data)
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        mount = ("unshare", "-m", "sh", "-c", script, data)
        if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode != 0:
            pytest.skip("no file system can be mounted here")
        said = refusal(arguments_of(program, data), prefix=mount)
        assert "Read-only file system" in said or "readonly database" in said
        holder.start()

    def test_of_a_later_version_is_refused_and_not_touched(self, make_cluster: Make, program: str) -> None:
        cluster = make_cluster()
        (alpha,) = cluster.start("alpha")
        holder: Program = cluster.balancer if program == "loadbalancer" else alpha
        holder.terminate()
        database = holder.data / DATABASES[program]
        connection = sqlite3.connect(database)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        before = database.read_bytes()
        said = refusal(arguments_of(program, holder.data))
        assert "schema version 99" in said
        assert database.read_bytes() == before

    def test_with_another_programs_database(self, tmp_path: Path, program: str) -> None:
        connection = sqlite3.connect(tmp_path / DATABASES[program])
        connection.execute("CREATE TABLE other (x)")
        connection.close()
        assert "another program" in refusal(arguments_of(program, tmp_path))

    def test_with_a_file_that_is_no_database(self, tmp_path: Path, program: str) -> None:
        (tmp_path / DATABASES[program]).write_bytes(b"not a database, but long enough to be read " * 50)
        assert "not a database" in refusal(arguments_of(program, tmp_path))

    def test_is_for_its_user_alone(self, tmp_path: Path, make_cluster: Make, program: str) -> None:
        cluster = make_cluster()
        (alpha,) = cluster.start("alpha")
        holder: Program = cluster.balancer if program == "loadbalancer" else alpha
        assert holder.data.stat().st_mode & 0o777 == 0o700


class TestFullDisk:
    @pytest.fixture
    def cluster(self, make_cluster: Make) -> Cluster:
        return make_cluster(NODE_GRACE_PERIOD=600_000)

    def test_a_node_that_cannot_write_ends_with_one_line_and_loses_no_ticket(self, cluster: Cluster) -> None:
        alpha = cluster.add_node("alpha")
        alpha.file_limit = 1000 * KIB
        cluster.balancer.start()
        alpha.start()
        cluster.await_connected("alpha")
        tickets = []
        with alpha.client() as client:
            while True:
                try:
                    client.send(*["0"] * 100)
                    tickets += [ticket_of(client.line()) for _ in range(100)]
                except (AssertionError, OSError):
                    break
                assert len(tickets) < 200_000, "the disk is never full"
        assert_ended_for_want_of_disk(alpha)
        assert len(tickets) > 500
        alpha.file_limit = None
        alpha.start()
        with alpha.json_client() as client:
            for start in range(0, len(tickets), 1000):
                results = client.wait(*tickets[start : start + 1000])
                assert {each["outcome"] for each in results} == {"succeeded"}

    def test_a_node_that_has_no_room_for_large_results_ends_the_same(self, cluster: Cluster) -> None:
        alpha = cluster.add_node("alpha")
        alpha.file_limit = 1000 * KIB
        cluster.balancer.start()
        alpha.start()
        cluster.await_connected("alpha")
        with alpha.json_client() as client:
            tickets = client.submit(*["run head -c 300000 /dev/zero | tr '\\0' x"] * 6)
            eventually(lambda: alpha.ended, "there is no room")
        assert_ended_for_want_of_disk(alpha)
        assert f"cannot write {alpha.data}/blobs/reports-1: File too large" in alpha.said
        alpha.file_limit = None
        alpha.start()
        with alpha.json_client() as client:
            assert {each["stdout"] for each in client.wait(*tickets)} == {"x" * 300_000}

    def test_a_balancer_that_cannot_write_ends_with_one_line_and_loses_no_job(self, cluster: Cluster) -> None:
        cluster.balancer.file_limit = 1000 * KIB
        (alpha,) = cluster.start("alpha")
        tickets: list[str] = []
        with alpha.json_client() as client:
            while not cluster.balancer.ended:
                tickets += client.submit(*["0"] * 100)
                assert len(tickets) < 200_000, "the disk is never full"
            assert_ended_for_want_of_disk(cluster.balancer)
            tickets += client.submit("run echo later")
            cluster.balancer.file_limit = None
            cluster.balancer.start()
            for start in range(0, len(tickets), 1000):
                results = client.wait(*tickets[start : start + 1000])
                assert {each["outcome"] for each in results} == {"succeeded"}
            assert results[-1]["stdout"] == "later\n"


def assert_ended_for_want_of_disk(program: Program) -> None:
    assert program.wait() == 1
    lines = [line for line in program.said.splitlines() if "cannot write" in line]
    assert len(lines) == 1
    assert program.said.splitlines()[-1] == lines[0]
    assert str(program.data) in lines[0]
    assert "nothing that was acknowledged is lost" in lines[0]


def test_what_was_made_by_a_start_that_failed_does_not_hinder_the_next(tmp_path: Path) -> None:
    assert shutil.which("setpriv"), "the tests above need it"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refusal(arguments_of("clusternode", tmp_path / "data", taken.getsockname()[1]))
    node = Program(
        "again", "clusternode", ["127.0.0.1", "1", "--client-port", str(free_port())], tmp_path, {}
    )
    node.argv[-1] = str(tmp_path / "data")
    node.start()
    try:
        eventually(lambda: "cannot be reached" in node.said, "it looks for its balancer")
    finally:
        assert node.terminate() == 0
