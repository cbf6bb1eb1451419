"""The other systems: how each is found, how it comes here, what it keeps, how it is measured."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import BenchError
from benchmarks.peers import shell
from benchmarks.peers.measured import Measured, Work
from benchmarks.peers.redis_server import SERVER, redis_server

ROOT = Path(__file__).resolve().parents[2]
#: Here each system from PyPI has an environment of its own.
ENVIRONMENTS = ROOT / ".bench-peers"
#: Seconds for one system's whole work.
TIMEOUT = 180.0
#: Lines that a system which failed may say.
SAID_LINES = 2
DEBIAN, MAKE = "apt-get install {}", "make bench-peers"


@dataclass(frozen=True, slots=True)
class Peer:
    """`keeps` says what survives a crash; `is_durable`: what it has taken is on the disk by then.

    `program` is what must be on PATH, of the Debian package `package`; `requirement` what pip installs into
    the environment `key`. `work`: so much of it that a rate is steady, in a few seconds.
    """

    key: str
    name: str
    keeps: str
    work: Work
    measure: Callable[[Peer], Measured]
    program: str = ""
    package: str = ""
    requirement: str = ""
    is_durable: bool = False

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.key / "bin" / "python"

    @property
    def lacks_program(self) -> bool:
        return bool(self.program) and shutil.which(self.program) is None

    @property
    def missing(self) -> str:
        """What would install it; empty if it is there."""
        ways = [DEBIAN.format(self.package)] if self.lacks_program else []
        if self.requirement and not self.python.exists():
            ways.append(MAKE)
        return " and ".join(ways)


def in_environment(peer: Peer, *arguments: str) -> Measured:
    """Measures by `with_KEY.py`, run by the environment's Python. Raises BenchError."""
    module = f"benchmarks.peers.with_{peer.key}"
    command = [str(peer.python), "-m", module, json.dumps(peer.work._asdict()), *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that its workers end with it
    )
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise BenchError(f"not done within {TIMEOUT:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    lines = output.strip().splitlines()
    if process.returncode or not lines:
        said = " / ".join((errors.strip() or "nothing said").splitlines()[-SAID_LINES:])
        raise BenchError(f"exit code {process.returncode}: {said}")
    return Measured(**json.loads(lines[-1]))


def with_redis(peer: Peer) -> Measured:
    with redis_server() as url:
        return in_environment(peer, url)


PEERS = (
    Peer(
        "parallel",
        "GNU parallel -j2 --joblog",
        "a log of results, no fsync",
        Work(commands=1_000),
        lambda peer: shell.parallel(peer.work),
        program="parallel",
        package="parallel",
    ),
    Peer(
        "tsp",
        "task-spooler -S 2",
        "keeps output files, the queue in memory",
        Work(commands=500, latencies=100),
        lambda peer: shell.task_spooler(peer.work),
        program="tsp",
        package="task-spooler",
    ),
    Peer(
        "hyperqueue",
        "HyperQueue, one submission",
        "keeps nothing",
        Work(commands=2_000, latencies=50),
        in_environment,
        requirement="hyperqueue",
    ),
    Peer(
        "dask",
        "dask.distributed",
        "keeps nothing",
        Work(commands=1_000, jobs=5_000, latencies=200),
        in_environment,
        requirement="distributed",
    ),
    Peer(
        "celery",
        "Celery",
        "keeps all in Redis: AOF, an fsync each",
        Work(commands=1_000, jobs=2_000, latencies=200),
        with_redis,
        program=SERVER,
        package=SERVER,
        requirement="celery[redis]",
        is_durable=True,
    ),
    Peer(
        "rq",
        "RQ",
        "keeps all in Redis: AOF, an fsync each",
        Work(commands=100, jobs=100, latencies=30),
        with_redis,
        program=SERVER,
        package=SERVER,
        requirement="rq",
        is_durable=True,
    ),
)
