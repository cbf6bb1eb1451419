"""`python -m benchmarks.stages`: where a job's microseconds go, and the least that each part can take here.

First the floors: what fork and exec, an fsync, a round trip, MessagePack and a SQLite row take by themselves
on this machine. Then the CPU of each process of a cluster, for each job, while it does the works A and B.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import msgpack

from benchmarks.beside import bare_server_seconds, bare_table, fsync_seconds, insert, sqlite_rate
from benchmarks.client import BenchError, connect, run_all, usual_cluster
from benchmarks.machine import children, cpu_seconds, data_in_memory
from clusternode.tickets import new_tickets
from evenly.local import ClusterError, LocalCluster, end_by_signals
from protocol.job import Command
from protocol.messages import JobItem

PROGRAM = "benchmarks.stages"
US = 1e6
#: Jobs of each work, and how often each floor is taken.
COMMANDS, JOBS = 5_000, 50_000
SPAWNS, FSYNCS, ROUND_TRIPS, MESSAGES, ROWS, COMMITS = 1_000, 200, 1_000, 100_000, 50_000, 200
#: Commands under way at once: as many as the cluster has slots.
AT_ONCE = 2
#: Fields of the first line of /proc/stat: idle and waiting for a disk; all that make up the whole.
_IDLE, _ALL = slice(4, 6), slice(1, 9)


def spawn(*command: str) -> tuple[float, float]:
    """(seconds, CPU seconds) for each of many starts of `command`, AT_ONCE under way, with no pipes."""
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    began, before = time.perf_counter(), _own_cpu()
    for started in range(SPAWNS):
        if started >= AT_ONCE:
            os.wait()
        os.posix_spawnp(command[0], command, os.environ, file_actions=quiet)
    for _ in range(AT_ONCE):
        os.wait()
    return (time.perf_counter() - began) / SPAWNS, (_own_cpu() - before) / SPAWNS


def _own_cpu() -> float:
    """Of this process and its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def message_seconds() -> float:
    """Packing and unpacking a job as it goes over the wire."""
    job = JobItem(next(new_tickets(1)), 1, time.time(), Command("true").pack())
    began = time.perf_counter()
    for _ in range(MESSAGES):
        msgpack.unpackb(msgpack.packb(job))
    return (time.perf_counter() - began) / MESSAGES


def commit_seconds() -> float:
    """A commit of one row, durable."""
    with bare_table() as database:
        began = time.perf_counter()
        for _ in range(COMMITS):
            insert(database, 1)
        return (time.perf_counter() - began) / COMMITS


def say(seconds: float, of: str) -> None:
    print(f"{US * seconds:8.1f} us  {of}")


def floors() -> None:
    for command in (("true",), ("/bin/sh", "-c", "true")):
        took, cpu = spawn(*command)
        name = " ".join(command)
        say(cpu, f"of CPU to start and end `{name}`; {1 / took:,.0f} a second, {AT_ONCE} at once")
    say(fsync_seconds(FSYNCS), "for an fsync of one page")
    say(commit_seconds(), "for a durable SQLite commit of one row")
    say(1 / sqlite_rate(ROWS), "for a row in commits of 100")
    say(bare_server_seconds(ROUND_TRIPS, 0), "for a byte over TCP to another process and back")
    say(message_seconds(), "to pack and unpack a job as MessagePack")


def _machine_seconds() -> tuple[float, float]:
    """(idle, all) seconds of all CPUs."""
    fields = Path("/proc/stat").read_text("ascii").partition("\n")[0].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return sum(map(int, fields[_IDLE])) / ticks, sum(map(int, fields[_ALL])) / ticks


def stages(cluster: LocalCluster, line: str, count: int) -> None:
    """What each process takes of a job, with all that it started and that has ended."""
    groups = {
        "balancer": [cluster.balancer.pid],
        "origin (it runs half of the jobs)": [cluster["n1"].pid],
        "other node (the other half)": [cluster["n2"].pid],
        "helpers": [helper for node in cluster.nodes for helper in children(node.pid)],
    }
    with connect(cluster) as client:
        before = {name: sum(map(cpu_seconds, pids)) for name, pids in groups.items()}
        (idle, whole), own = _machine_seconds(), time.process_time()
        took = run_all(client, line, count)
        own = time.process_time() - own
        idle, whole = (after - start for after, start in zip(_machine_seconds(), (idle, whole), strict=True))
        used = {name: sum(map(cpu_seconds, pids)) - before[name] for name, pids in groups.items()}
    print(f"\n{count:,} jobs `{line}`: {count / took:,.0f} a second")
    for name, seconds in (used | {"client": own}).items():
        say(seconds / count, name)
    rest = whole - idle - sum(used.values()) - own
    say(rest / count, "the commands themselves, the kernel's own work, and whatever else ran")
    say(idle / count, "nobody: waiting for one another or for the disk")
    say(whole / count, f"in all, on {os.cpu_count()} CPUs")


def main() -> int:
    if (wrong := data_in_memory()) is not None:
        print(f"{PROGRAM}: {wrong}", file=sys.stderr)
        return 2
    end_by_signals()
    try:
        floors()
        with usual_cluster() as cluster:
            stages(cluster, "run true", COMMANDS)
            stages(cluster, "0", JOBS)
    except KeyboardInterrupt:
        return 130
    except (BenchError, ClusterError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
