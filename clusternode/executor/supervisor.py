"""The supervisor of one slot for tasks: gives its worker process one at a time, and sees it die or hang.

Started by `tasks.py` with the control socket's number as its argument, isolated and without site packages:
only the standard library and what helpers have is here. Code of tasks runs in the worker alone
(`evenly/worker.py`): whatever it does, there is somebody to say what became of it.

    node -> supervisor   ("set-up", SetUp as a tuple), once
                         ("run", key, name, payload, time limit or None, at most once,
                          variables, directory or "", limit on the memory or 0)
                         ("kill", key), ("watch", key), ("unwatch", key)
    supervisor -> node   ("ready", {task: its signature, packed}, [what could not be loaded]), once
                         ("progress", key, part of 1, words)
                         ("partial", key, number of it in this attempt, value as JSON text)
                         ("output", key, 1 for stdout or 2, offset, bytes), while it is watched
                         ("ended", key, started, finished, exit code or None, timed out, stdout, stderr,
                          stdout bytes in all, stderr bytes in all, reason, value as JSON text,
                          number of partial results)

    supervisor -> worker ("run", name, payload, directory, variables)
    worker -> supervisor ("loading", source), before each; then
                         ("ready", {task: its signature, packed}, [what could not be loaded])
                         ("beat", (part of 1, words) or None), every second of a task
                         ("partial", value as JSON text)
                         ("returned", is fit, value as JSON text) or ("raised", is fit, last line)

The invariant is the helper's: when "ended" is sent, or this process ends because the node has, no process of
the task is left. The worker stays for the next one, unless the task left something behind or was told to end:
a worker that is not fit has threads of the task, or other files in the place of its output.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import select
import signal
import sys
import time
from typing import Any

from clusternode.executor.helper import (
    KILL_GRACE,
    PR_SET_CHILD_SUBREAPER,
    Control,
    NodeGone,
    watch_outputs,
)
from clusternode.executor.memory import OomKills, Watch, limit_data, unlimit_data
from clusternode.executor.surroundings import IGNORED, Place
from clusternode.executor.worker import SetUp, Stream, Task, Worker

#: A task whose worker died is started again so often: a crash may be chance, a third one is not.
RESTARTS = 2
#: A worker that cannot even start is tried again after so many seconds, ever later, and after so many times
#: its task is given up: another node may have more luck.
START_AGAIN, START_AGAIN_AT_MOST = 1.0, 60.0
STARTS = 3
#: Seconds; who looks so late whether a worker hangs was stopped with it, and gives it another chance.
STOPPED_OURSELVES = 1.0


class Supervisor:
    """One event at a time: the node's word, the worker's, its death, time."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._set_up: SetUp | None = None
        self._place: Place | None = None
        self._worker: Worker | None = None
        self._task: Task | None = None
        self._stdout, self._stderr = Stream(), Stream()
        self._streams = {stream.read_end: stream for stream in (self._stdout, self._stderr)}
        self._skipped: list[str] = []
        self._failures: list[str] = []
        #: Tasks whose output somebody watches.
        self._watched: set[tuple[str, int]] = set()
        self._is_known = False
        #: Workers in a row that died before they were ready, through no module's fault; when to try again.
        self._failed_starts = 0
        self._start_at: float | None = None
        self._ooms = OomKills()
        self._poll = select.poll()
        for number in (control.socket.fileno(), *self._streams):
            self._poll.register(number, select.POLLIN)

    def work(self) -> None:
        """Until NodeGone."""
        try:
            while True:
                self._turn()
        finally:
            if self._worker is not None:
                self._worker.end()

    def _turn(self) -> None:
        worker = self._worker
        for number, _ in self._poll.poll(self._timeout()):
            if number in self._streams:
                self._streams[number].read()
            elif number == self._control.socket.fileno():
                self._control.read()
                for message in self._control.messages():
                    self._obey(message)
            elif worker is not self._worker or worker is None:
                break  # a number of one that is gone
            elif number == worker.pidfd:
                self._on_death(worker)
            else:
                self._hear(worker)
        self._on_time(time.monotonic())

    # --- the node's word -------------------------------------------------------------------------

    def _obey(self, message: tuple[Any, ...]) -> None:
        what = message[0]
        if what == "set-up":
            self._set_up = set_up = SetUp(*message[1])
            self._place = Place(set_up.work)
            self._start_worker()
        elif what == "run":
            self._task = Task(*message[1:])
            self._begin()
        elif what == "kill":
            task = self._task
            if task is None or task.key != message[1]:
                return
            if task.is_running:
                self._terminate(task)
            else:
                self._finish(128 + signal.SIGTERM, "before it started")
        elif what == "watch":
            self._watched.add(message[1])
            if self._task is not None and self._task.key == message[1] and self._task.is_running:
                self._watch(message[1])
        elif what == "unwatch":
            self._watched.discard(message[1])
            if self._task is not None and self._task.key == message[1]:
                self._stdout.tell = self._stderr.tell = None

    def _begin(self) -> None:
        """Gives the task to the worker, if both are there."""
        task, worker, place = self._task, self._worker, self._place
        if task is None or task.is_running or worker is None or not worker.is_ready:
            return
        assert place is not None
        try:
            place.enter()
        except OSError as error:
            task.began = task.began or time.monotonic()
            self._finish(126, f"it could not be started: {error.strerror} ({error.filename})")
            return
        for stream in self._streams.values():
            stream.begin()
        worker.heard_at = now = time.monotonic()
        self._ooms.begin(now)
        task.started(now)
        if task.memory:
            task.watch = Watch(task.memory, now)
            worker.data_limit = limit_data(worker.pid, task.memory, for_good=False)
        worker.tasks += 1
        if task.key in self._watched:
            self._watch(task.key)
        directory = task.directory or place.path
        own = {"EVENLY_TICKET": task.key[0], "EVENLY_ATTEMPT": str(task.key[1]), "PWD": directory}
        with contextlib.suppress(NodeGone):  # it is the worker here: its death is heard of next
            worker.control.send("run", task.name, task.payload, directory, task.variables | own)

    def _watch(self, key: tuple[str, int]) -> None:
        watch_outputs(self._control, key, self._stdout, self._stderr)

    def _terminate(self, task: Task) -> None:
        """SIGTERM to the worker's group; SIGKILL follows after KILL_GRACE."""
        task.term_at = None
        if task.kill_at is None and self._worker is not None:
            task.is_ending = True
            task.kill_at = time.monotonic() + KILL_GRACE
            self._worker.signal(signal.SIGTERM)
            self._worker.signal(signal.SIGCONT)

    # --- the worker's ----------------------------------------------------------------------------

    def _hear(self, worker: Worker) -> None:
        """What it has said. At its end there is nothing more to read: its death is heard of next."""
        try:
            worker.control.read()
            while not worker.control.socket.getblocking():
                worker.control.read()
        except NodeGone:
            with contextlib.suppress(KeyError):
                self._poll.unregister(worker.control.socket.fileno())
        worker.heard_at = time.monotonic()
        for message in worker.control.messages():
            if worker is self._worker:
                self._take_in(worker, message)

    def _take_in(self, worker: Worker, message: tuple[Any, ...]) -> None:
        task = self._task
        what = message[0]
        if what == "loading":
            worker.loading = message[1]
        elif what == "ready":
            worker.is_ready = True
            self._failed_starts = 0
            if not self._is_known:
                self._is_known = True
                self._control.send("ready", message[1], [*message[2], *self._failures])
            self._begin()
        elif task is None or not task.is_running:
            return
        elif what == "beat":
            if message[1] is not None:
                self._control.send("progress", task.key, *message[1])
        elif what == "partial":
            self._control.send("partial", task.key, task.partials, message[1])
            task.partials += 1
        elif what == "returned":
            worker.is_worn |= not message[1]
            self._finish(0, self._how_often(task), message[2])
        elif what == "raised":
            worker.is_worn |= not message[1]
            often = self._how_often(task)
            self._finish(1, f"{message[2]} ({often})" if often else message[2])

    def _how_often(self, task: Task) -> str:
        return f"started {task.starts} times: its worker died, {task.died}" if task.starts > 1 else ""

    def _on_death(self, worker: Worker) -> None:
        """It ended by itself, or was killed: by us, by the kernel, by anybody."""
        # A process that it forked may hold the other end open.
        worker.control.socket.setblocking(False)
        self._hear(worker)
        if worker is not self._worker:
            return  # its last words have said all
        self._drop(worker)
        how = self._how(worker, code := worker.end())
        task = self._task
        if not worker.is_ready:
            self._on_failed_start(worker, how)
        elif task is not None and task.is_running:
            task.is_running = False
            task.died = how
            self._on_crash(task, 128 - code if code < 0 else code)
        self._start_worker()

    def _on_crash(self, task: Task, code: int) -> None:
        code = code or 1  # a task that ends its process has not returned, whatever it says
        if task.is_ending:
            self._finish(code, task.died)
        elif task.is_once or task.starts > RESTARTS:
            often = f" {task.starts} times, at last" if task.starts > 1 else ","
            self._finish(code, f"its worker died{often} {task.died}")
        else:
            assert self._place is not None
            self._place.leave()

    def _on_failed_start(self, worker: Worker, how: str) -> None:
        if worker.loading:
            self._skipped.append(worker.loading)
            self._failures.append(f"{worker.loading}: its import ended the process, {how}")
            return
        self._failed_starts += 1
        self._start_at = time.monotonic() + min(START_AGAIN * self._failed_starts, START_AGAIN_AT_MOST)
        if self._failed_starts >= STARTS:
            reason = f"no worker process could be started: it ended, {how}"
            if not self._is_known:
                self._is_known = True
                self._control.send("ready", {}, [reason])
            self._give_up(reason)

    def _how(self, worker: Worker, code: int) -> str:
        """In words."""
        is_oom = self._ooms.since() and -code == signal.SIGKILL
        if self._task is not None and self._task.verdict:
            return self._task.verdict
        if worker.hung:
            assert self._set_up is not None
            return f"killed as it hung: no sign of life for {self._set_up.hang_period:g} s"
        if code >= 0:
            return f"by exit code {code}"
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        return f"killed by {name}{' as memory ran out' if is_oom else ''}"

    def _start_worker(self) -> None:
        if self._set_up is None or self._worker is not None:
            return
        if self._start_at is not None and self._start_at > time.monotonic():
            return
        self._start_at = None
        try:
            worker = Worker(self._set_up, self._skipped, self._stdout.write_end, self._stderr.write_end)
        except OSError as error:
            self._start_at = time.monotonic() + START_AGAIN
            self._give_up(f"no worker process could be started: {error.strerror}")
            return
        self._worker = worker
        for number in (worker.control.socket.fileno(), worker.pidfd):
            self._poll.register(number, select.POLLIN)

    def _drop(self, worker: Worker) -> None:
        self._worker = None
        for number in (worker.control.socket.fileno(), worker.pidfd):
            with contextlib.suppress(KeyError):
                self._poll.unregister(number)

    # --- the end of a task -----------------------------------------------------------------------

    def _give_up(self, reason: str) -> None:
        """Its attempt is lost: it may run elsewhere."""
        if self._task is not None:
            self._finish(None, reason)

    def _finish(self, code: int | None, reason: str, value: str = "") -> None:
        """Says what became of the task, once nothing of it is left."""
        task, worker, place = self._task, self._worker, self._place
        assert task is not None
        assert place is not None
        assert self._set_up is not None
        if worker is not None and task.is_running:
            is_worn = worker.is_worn or worker.tasks >= self._set_up.most_tasks
            if is_worn or task.is_ending or worker.left_behind():
                self._drop(worker)
                worker.end()
            elif worker.data_limit is not None:
                unlimit_data(worker.pid, worker.data_limit)
                worker.data_limit = None
        for stream in self._streams.values():
            stream.drain()
        if task.verdict:
            code, reason, value = 128 + signal.SIGKILL, task.verdict, ""
        elif task.watch is not None and code and not task.is_ending:
            reason = "; ".join(filter(None, (reason, task.watch.remark)))
        out, err = self._stdout, self._stderr
        out.tell = err.tell = None
        self._watched.discard(task.key)
        self._task = None
        now = time.monotonic()
        began = task.began or now
        texts = (out.kept(), err.kept(), out.total, err.total) if task.starts else (b"", b"", 0, 0)
        said = (code, task.timed_out, *texts, reason, value, task.partials)
        self._control.send("ended", task.key, began, now, *said)
        place.leave()
        self._start_worker()

    # --- time ------------------------------------------------------------------------------------

    def _hangs_at(self) -> float | None:
        """When the worker has been silent for too long; None where it need not say anything."""
        worker, task = self._worker, self._task
        if worker is None or self._set_up is None or worker.hung:
            return None
        is_silent = worker.is_ready and (task is None or not task.is_running)
        return None if is_silent else worker.heard_at + self._set_up.hang_period

    def _timeout(self) -> float | None:
        """Milliseconds until `_on_time` has something to do, None for never."""
        task = self._task
        times = [self._start_at, self._hangs_at()]
        if task is not None and task.is_running:
            times += [task.term_at, task.kill_at]
            if task.watch is not None:
                times.append(task.watch.next_at)
        deadline = min((each for each in times if each is not None), default=None)
        return None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000 + 1)

    def _on_time(self, now: float) -> None:
        task, worker = self._task, self._worker
        if worker is None:
            self._start_worker()
            return
        if task is not None and task.is_running:
            if task.watch is not None and now >= task.watch.next_at and task.watch.look(now):
                task.is_ending = True
                worker.signal(signal.SIGKILL)
            if task.kill_at is not None and now >= task.kill_at:
                task.kill_at = now + KILL_GRACE
                worker.signal(signal.SIGKILL)
            elif task.term_at is not None and now >= task.term_at:
                task.timed_out = True
                self._terminate(task)
        hangs_at = self._hangs_at()
        if hangs_at is None or now < hangs_at:
            return
        if now > hangs_at + STOPPED_OURSELVES:
            worker.heard_at = now
        else:
            worker.hung = True
            worker.signal(signal.SIGKILL)


def main() -> None:
    control = Control(int(sys.argv[1]))
    soft, hard = int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(NodeGone, OSError):
        Supervisor(control).work()
