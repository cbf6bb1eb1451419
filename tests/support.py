"""For tests with processes: real programs on free loopback ports, a line client, waiting on conditions."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from evenly.local import OF_MAKE

T = TypeVar("T")

#: Programs are started here, so that they run these sources, wherever the package is installed from.
ROOT = Path(__file__).parent.parent
#: Generous: it only decides how long a failing test takes.
PATIENCE = 40.0
#: What must never stand in a program's log.
FAULTS = ("Traceback", "Exception ignored", "was never awaited", "ResourceWarning", "Fatal")

RESULT_KEYS = {
    *("ticket", "state", "outcome", "exit_code", "stdout", "stderr", "truncated"),
    *("attempt", "node", "submitted_at", "started_at", "finished_at"),
}


def eventually(condition: Callable[[], T], what: str = "", timeout: float = PATIENCE) -> T:
    """Polls until `condition()` is true, and returns what it gave; fails with `what` and the last value."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"not within {timeout:g} s: {what or 'the condition'}; last seen: {value!r}")
        time.sleep(0.02)


def free_port() -> int:
    """A loopback port that nobody listens on, below those that the kernel gives to outgoing connections."""
    while True:
        port = random.randint(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def files_like(directory: Path, pattern: str) -> list[Path]:
    """All below it whose names are so, also while directories come and go there, which ends a Path.rglob."""
    found = []
    for place, _, names in os.walk(directory):
        found += [Path(place) / name for name in fnmatch.filter(names, pattern)]
    return found


def processes_with(marker: str) -> list[int]:
    """Processes (no zombies) whose command line holds `marker`; not this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def helpers_of(pid: int) -> list[int]:
    """Those for commands; supervisors of tasks are children of a node, too."""
    helpers = processes_with("executor.helper import")
    return [child for child in children_of(pid) if child in helpers]


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


_marks = iter(range(1, 1_000_000))


def marker() -> str:
    """A word that is in no other process's command line."""
    return f"mark{os.getpid()}x{next(_marks)}x{random.getrandbits(32):x}"


class Client:
    """A client of a node: lines out, lines in, each with a timeout."""

    def __init__(self, port: int, timeout: float = PATIENCE) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._in = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._in.close()
        self.socket.close()

    def send(self, *lines: str) -> None:
        self.socket.sendall("".join(f"{line}\n" for line in lines).encode())

    def line(self) -> str:
        """The next line, without its end."""
        data = self._in.readline()
        assert data.endswith(b"\n"), f"the node closed the connection after {data!r}"
        return data[:-1].decode()

    def lines(self, count: int) -> list[str]:
        return [self.line() for _ in range(count)]

    def object(self) -> dict[str, Any]:
        value = json.loads(self.line())
        assert isinstance(value, dict)
        return value

    def ask(self, line: str) -> str:
        self.send(line)
        return self.line()

    def ask_json(self, line: str) -> dict[str, Any]:
        """The reply in JSON mode, which must be on."""
        self.send(line)
        return self.object()

    def block(self, end: str = ".") -> list[str]:
        """Lines up to `end`, dots unstuffed."""
        lines = []
        while (line := self.line()) != end:
            lines.append(line.removeprefix(".") if end == "." else line)
        return lines

    def rest(self) -> bytes:
        """All that comes until the node closes."""
        return self._in.read()

    def submit(self, *lines: str) -> list[str]:
        """The tickets of these submissions, in text mode or JSON."""
        self.send(*lines)
        return [ticket_of(self.line()) for _ in lines]

    def upload(self, content: bytes) -> str:
        """Its SHA-256; the reply is still to be read."""
        digest = hashlib.sha256(content).hexdigest()
        self.socket.sendall(f"upload {len(content)} {digest}\n".encode() + content)
        return digest

    def fetch(self, ticket: str, path: str) -> bytes:
        """A file that this job has left, whole and right; in either mode."""
        head = self.ask(f"fetch {ticket} {path}")
        if head.startswith("{"):
            told = json.loads(head)
            assert "error" not in told, told
            size, digest = told["bytes"], told["sha256"]
        else:
            assert head.startswith("File: "), head
            size, digest = int(head.split()[1]), head.split()[2]
        content = self._in.read(size)
        assert hashlib.sha256(content).hexdigest() == digest
        return content

    def wait(self, *tickets: str) -> list[dict[str, Any]]:
        """Their results, in JSON mode, which must be on."""
        self.send(*(f"wait {ticket}" for ticket in tickets))
        return [self.object() for _ in tickets]


def ticket_of(reply: str) -> str:
    ticket = json.loads(reply)["ticket"] if reply.startswith("{") else reply.removeprefix("Ticket ID: ")
    assert len(ticket) == 16, reply
    return str(ticket)


class Program:
    """One of the two programs, with a data directory, a log, and as many lives as the test gives it."""

    def __init__(
        self, name: str, module: str, arguments: list[str], directory: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.argv = [sys.executable, "-m", module, *arguments]
        self.data = directory / f"{name}.data"
        self.log = directory / f"{name}.log"
        self.argv += ["--data", str(self.data)]
        self.environment = clean_environment() | environment
        self.process: subprocess.Popen[bytes] | None = None
        #: A limit on the size of its files from the next start on, in bytes: a disk that is full there.
        self.file_limit: int | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def said(self) -> str:
        """The log of this life."""
        return self.log.read_bytes()[self._log_start :].decode() if self.log.exists() else ""

    def launch(self) -> None:
        """Starts it without waiting."""
        assert self.process is None or self.process.poll() is not None
        argv = self.argv
        if self.file_limit is not None:
            argv = ["sh", "-c", f'ulimit -f {self.file_limit // 512}; exec "$@"', "sh", *argv]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )

    def await_ready(self) -> None:
        eventually(lambda: "ready" in self.said or self.ended, f"{self.name} is ready")
        assert not self.ended, f"{self.name} ended at its start: {self.said}"

    def start(self) -> None:
        self.launch()
        self.await_ready()

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self, within: float = 15.0) -> int:
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within)

    def wait(self, timeout: float = PATIENCE) -> int:
        assert self.process is not None
        return self.process.wait(timeout)

    def end(self) -> None:
        """Whatever state it is in, it is over afterwards."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                pytest.fail(f"{self.name} did not end within 15 s of SIGTERM")


class Node(Program):
    port: int

    def client(self) -> Client:
        return Client(self.port)

    def json_client(self) -> Client:
        client = self.client()
        try:
            assert client.ask_json("json") == {"json": True}
        except BaseException:
            client.close()
            raise
        return client


class Cluster:
    """A balancer and nodes in one directory, ended and checked by the fixture that made it."""

    #: Those that are there now: their logs are shown when a test fails.
    alive: list[Cluster]

    def __init__(self, directory: Path, **settings: object) -> None:
        """`settings`: the balancer's, as their environment variables spell them."""
        self.directory = directory
        self.port = free_port()
        environment = {name: str(value) for name, value in settings.items()}
        self.balancer = Program("balancer", "loadbalancer", [str(self.port)], directory, environment)
        self.nodes: dict[str, Node] = {}
        Cluster.alive.append(self)

    @property
    def programs(self) -> list[Program]:
        return [self.balancer, *self.nodes.values()]

    def add_node(self, name: str, slots: int = 2, **environment: str) -> Node:
        """A node that is not started yet. It stops at once, whatever runs, unless DRAIN_PERIOD is given."""
        port = free_port()
        arguments = ["127.0.0.1", str(self.port), "--client-port", str(port)]
        arguments += ["--slots", str(slots), "--name", name]
        node = Node(name, "clusternode", arguments, self.directory, {"DRAIN_PERIOD": "0"} | environment)
        node.port = port
        self.nodes[name] = node
        return node

    def start(self, *names: str, slots: int = 2) -> list[Node]:
        """Starts the balancer and nodes of these names; returns the nodes, connected."""
        nodes = [self.add_node(name, slots) for name in names]
        for program in (self.balancer, *nodes):
            program.launch()
        for program in (self.balancer, *nodes):
            program.await_ready()
        self.await_connected(*names)
        return nodes

    def await_connected(self, *names: str) -> None:
        for name in names:
            eventually(lambda name=name: "welcome by" in self.nodes[name].said, f"{name} is connected")

    def held(self, through: Node) -> dict[str, int]:
        """Jobs that each connected node holds, as `nodes` tells."""
        with through.json_client() as client:
            nodes = client.ask_json("nodes")["nodes"]
        return {each["name"]: each["running"] + each["queued"] for each in nodes if each["connected"]}

    def end(self) -> None:
        try:
            failures = []
            for program in self.programs:
                # A second one is ended even where the first would not.
                try:
                    program.end()
                except pytest.fail.Exception as failure:
                    failures.append(failure)
            for program in self.programs:
                said = program.log.read_text() if program.log.exists() else ""
                for fault in FAULTS:
                    assert fault not in said, f"{fault} in the log of {program.name}:\n{said[-8000:]}"
            assert not failures, failures
        finally:
            Cluster.alive.remove(self)

    def logs(self) -> Iterator[tuple[str, str]]:
        for program in self.programs:
            if program.log.exists():
                yield program.name, program.log.read_text()[-6000:]


Cluster.alive = []

_SETTINGS = (
    *("DISPATCH_MODE", "DISPATCH_PERIOD", "MAX_NUM_JOBS_DISPATCH", "REQUEST_RESULT_PERIOD", "MAX_NUM_NODES"),
    *("NODE_GRACE_PERIOD", "CRASH_LIMIT", "BIND", "DATA_DIR", "CLIENT_PORT", "SLOTS", "NODE_NAME"),
    *("DRAIN_PERIOD", "TASKS", "MAX_TASKS_PER_WORKER", "TASK_HANG_PERIOD", "NOTIFY_SECRET"),
    "EVENLY_FAIL_POINT",
)


def clean_environment() -> dict[str, str]:
    """Ours without what would be a setting, or what a `make` that runs us would have those of our jobs do."""
    strange = (*_SETTINGS, *OF_MAKE)
    return {name: value for name, value in os.environ.items() if name not in strange}


def is_even(held: Mapping[str, int], total: int) -> bool:
    return sum(held.values()) == total and max(held.values()) - min(held.values()) <= 1
