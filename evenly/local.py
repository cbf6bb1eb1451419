"""A whole cluster on this machine: the real programs, each a process with its own port, data and log.

For the demo, `make up`, the benchmarks and the tests. Nothing here knows the programs but by their command
lines, their logs and what they answer.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from evenly._lines import LineClient

HOST = "127.0.0.1"
#: Seconds until all is up, and until a program that was asked to stop is killed.
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
#: Seconds between two looks at a condition.
LOOK_PERIOD = 0.02
#: Another process may take a port between our choice and our use.
PORT_ATTEMPTS = 5
PORTS = range(10_000, 32_000)
#: Lines of a failed program's log that its error message shows.
TAIL_LINES = 10
#: MAX_NUM_NODES, unless set.
USUAL_NODES = 10
#: What the programs write to their logs.
READY, PORT_TAKEN = b" ready ", b"cannot listen on"
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


#: What `make` says to the make that it starts. A job's own, under `make up`, is none of these.
OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")


def environment() -> dict[str, str]:
    """What the programs, and so their jobs, find: ours, whoever started us."""
    return {name: value for name, value in os.environ.items() if name not in OF_MAKE}


class ClusterError(Exception):
    """What went wrong, with the end of the log of the program it happened to."""


class Program:
    """One process of the cluster. After it ended it can be started again, on the same port and data."""

    def __init__(
        self, name: str, directory: Path, port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.port = port
        self.data = directory / name
        self.log = directory / f"{name}.log"
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        #: Started, and not ended by us.
        self.is_wanted = False

    @property
    def pid(self) -> int:
        """Raises ClusterError if it was never started."""
        if self._process is None:
            raise ClusterError(f"{self.name} was not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs (or was never started); minus N if signal N ended it."""
        return None if self._process is None else self._process.poll()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self, arguments: Sequence[str]) -> None:
        """Starts `python -m` with these arguments; its log grows from start to start."""
        if self.is_running:
            raise ClusterError(f"{self.name} runs already, as process {self.pid}")
        with self.log.open("ab") as log, deferred_signals():
            self._log_start = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment() | self._environment,
                # Ctrl-C is for us alone; we stop the programs in order.
                start_new_session=True,
            )
            self.is_wanted = True

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout: float | None = None) -> None:
        """Until it has ended. Raises subprocess.TimeoutExpired."""
        if self._process is not None:
            self._process.wait(timeout)

    def said(self) -> bytes:
        """Its log since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read()

    def fail(self, what: str) -> NoReturn:
        """Raises ClusterError: `what` happened to this program, and the end of its log."""
        code = self.exit_code
        ended = (
            "" if code is None else f" (exit code {code})" if code >= 0 else f" (killed by signal {-code})"
        )
        lines = self.said().decode("utf-8", "replace").splitlines() if self.log.exists() else []
        tail = "\n".join(f"    {line}" for line in lines[-TAIL_LINES:]) or "    (empty)"
        raise ClusterError(f"{self.name} {what}{ended}; the end of its log:\n{tail}")


class LocalCluster:
    """A balancer and nodes `n1`, `n2`, … on loopback ports; as a context manager it is up inside the block.

    `slots` of each node (default: the CPUs). `directory` keeps data and logs; without one a temporary
    directory is used and removed by `stop`. `environment` is the balancer's beside this process's own: its
    settings. `ports` are taken where free: the balancer's first, then the nodes'.

    Methods raise ClusterError where a program does not do what it should.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        slots: int | None = None,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        ports: Sequence[int] = (),
    ) -> None:
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="evenly-"))
        self._slots = slots
        wanted = [*ports, *[0] * (nodes + 1 - len(ports))]
        settings = ({"MAX_NUM_NODES": str(nodes)} if nodes > USUAL_NODES else {}) | dict(environment or {})
        self.balancer = Program("balancer", self.directory, wanted[0], settings)
        self.nodes = [Program(f"n{i}", self.directory, wanted[i]) for i in range(1, nodes + 1)]
        self._fixed: set[str] = set()

    def __getitem__(self, name: str) -> Program:
        return {program.name: program for program in (self.balancer, *self.nodes)}[name]

    def __enter__(self) -> Self:
        try:
            self.start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- start and stop --------------------------------------------------------------------------

    def start_all(self) -> None:
        """Starts what does not run; returns when every node is connected."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ClusterError(f"the directory {self.directory} cannot be used: {error.strerror}") from None
        # The balancer first: nodes that find nobody wait before they try again.
        for group in ([self.balancer], self.nodes):
            self._start([program for program in group if not program.is_running])
        self.wait_connected()

    def start(self, name: str, timeout: float = START_TIMEOUT) -> None:
        """Starts one program; returns when it serves. Whether nodes are connected: `wait_connected`."""
        self._start([self[name]], timeout)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Ends one program by a signal, and returns when it is gone."""
        program = self[name]
        program.is_wanted = False
        program.signal(number)
        try:
            program.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            program.fail(f"did not end within {STOP_TIMEOUT:g} s of signal {number}")

    def stop(self) -> None:
        """Ends all programs, nodes first: SIGTERM, and SIGKILL to what is still there after STOP_TIMEOUT."""
        with deferred_signals():
            for group in (self.nodes, [self.balancer]):
                for program in group:
                    program.is_wanted = False
                    program.signal(signal.SIGTERM)
                deadline = time.monotonic() + STOP_TIMEOUT
                for program in group:
                    try:
                        program.wait(max(0.0, deadline - time.monotonic()))
                    except subprocess.TimeoutExpired:
                        program.signal(signal.SIGKILL)
                        program.wait()
            if self._temporary:
                shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self, programs: Sequence[Program], timeout: float = START_TIMEOUT) -> None:
        """Starts them side by side; a port taken meanwhile is replaced, unless it is known."""
        for program in programs:
            self._spawn(program)
        for program in programs:
            for attempt in range(1, PORT_ATTEMPTS + 1):
                if self._comes_up(program, timeout):
                    break
                if attempt == PORT_ATTEMPTS or PORT_TAKEN not in program.said():
                    program.fail("could not start")
                if program.name not in self._fixed:
                    program.port = 0
                self._spawn(program)
            self._fixed.add(program.name)

    def _spawn(self, program: Program) -> None:
        if program.name not in self._fixed:
            program.port = free_port(program.port)
        common = ("--bind", HOST, "--data", str(program.data))
        if program is self.balancer:
            program.spawn(["loadbalancer", str(program.port), *common])
            return
        client = ("--client-port", str(program.port), "--name", program.name)
        slots = () if self._slots is None else ("--slots", str(self._slots))
        program.spawn(["clusternode", HOST, str(self.balancer.port), *client, *common, *slots])

    @staticmethod
    def _comes_up(program: Program, timeout: float) -> bool:
        """Whether it serves now; False if it ended instead."""
        deadline = time.monotonic() + timeout
        while READY not in program.said():
            if not program.is_running:
                return False
            if time.monotonic() > deadline:
                program.fail(f"was not ready within {timeout:g} s")
            time.sleep(LOOK_PERIOD)
        return True

    # --- what it says ----------------------------------------------------------------------------

    def client(self, name: str = "n1", *, as_json: bool = True) -> LineClient:
        """A new connection to that node. Raises OSError."""
        client: LineClient | None = None
        try:
            with deferred_signals():
                client = LineClient(self[name].port, as_json=as_json)
        except BaseException:
            if client is not None:
                client.close()
            raise
        return client

    def wait_connected(self, timeout: float = START_TIMEOUT) -> None:
        """Returns when every node that runs is connected to the balancer, by the balancer's own word."""
        names = {node.name for node in self.nodes if node.is_running}
        witness = next((node for node in self.nodes if node.is_running), None)
        if witness is None:
            return
        with self.client(witness.name) as client:

            def away() -> set[str]:
                reply = client.ask_json("nodes")
                return names - {node["name"] for node in reply["nodes"] if node["connected"]}

            self.wait_until(
                lambda: not away(), "it is connected", timeout, lambda: self[min(away() or names)]
            )

    def wait_until(
        self,
        condition: Callable[[], Any],
        what: str,
        timeout: float = START_TIMEOUT,
        about: Callable[[], Program] | None = None,
    ) -> None:
        """Returns when `condition` is true. `about` gives the program whose log tells why it is not.

        Raises:
            ClusterError: after `timeout` seconds, or if a program ends meanwhile.
            OSError: if the condition does, and every program lives.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                if condition():
                    return
            except OSError:
                self.check(within=1.0)  # the program that ended tells more than its lost connection
                raise
            self.check()
            if time.monotonic() > deadline:
                program = about() if about else self.balancer
                program.fail(f"was waited for in vain for {timeout:g} s: until {what}")
            time.sleep(LOOK_PERIOD)

    def check(self, within: float = 0.0) -> None:
        """Raises ClusterError if a program has ended that nobody ended here, or does in so many seconds."""
        deadline = time.monotonic() + within
        while True:
            for program in (self.balancer, *self.nodes):
                if program.is_wanted and not program.is_running:
                    program.fail("ended by itself")
            if time.monotonic() >= deadline:
                return
            time.sleep(LOOK_PERIOD)


def free_port(preferred: int = 0) -> int:
    """`preferred` if it is free on loopback, else a port that is.

    Not one of those that the kernel gives to outgoing connections: while a program is down, its port could
    become theirs, and it would find it taken.
    """
    for port in (preferred, *random.choices(PORTS, k=1000)):
        # As the programs bind: a port whose last connections are just closed is free.
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            if port:
                return port
    raise ClusterError(f"{HOST} has no free port from {PORTS[0]} to {PORTS[-1]}")


# --- signals -------------------------------------------------------------------------------------


def end_by_signals() -> None:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, so that we never leave the programs behind."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    for number in ENDING_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, interrupt)


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """What would interrupt the block comes after it: a program is never started and then forgotten."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread
        return
    came: list[int] = []
    saved: dict[int, Any] = {}
    try:
        for number in ENDING_SIGNALS:
            if callable(handler := signal.getsignal(number)):
                saved[number] = handler
                signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for saved_number, handler in saved.items():
            signal.signal(saved_number, handler)
    for came_number in came:
        signal.raise_signal(came_number)
