"""`python -m evenly.worker SOCKET PARENT MODULES SKIPPED`: a process that runs tasks, one after the other.

Started and watched by its supervisor (`clusternode/executor/supervisor.py`, which lists what the two say to
each other); both are the same interpreter and speak `marshal` behind a 4-byte length. MODULES are names with
commas between; SKIPPED is a JSON list of sources that ended an earlier worker while it loaded them.

What a task writes goes to files 1 and 2, which the supervisor reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import inspect
import json
import marshal
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import Any

import evenly.tasks
from evenly.tasks import registry, signature_of, take_progress
from protocol.limits import JSON_DEPTH_LIMIT, KIB, VALUE_LIMIT
from protocol.tasks import depth_of

GROUP = "evenly.tasks"
#: Seconds between two signs of life while a task runs.
BEAT = 1.0
#: Characters of an exception's last line in the reason of a result.
REASON_LIMIT = 500
PR_SET_PDEATHSIG = 1
#: Above that of the node and its supervisors: where memory runs out, the kernel takes a worker first.
OOM_SCORE = "500"
READ_SIZE = 64 * KIB
#: Frames of these are ours, or between ours and the task's.
OWN_FRAMES = (__file__, os.path.join(os.path.dirname(os.__file__), "asyncio"))


class Link:
    """The socket to the supervisor; both threads write to it."""

    def __init__(self, number: int) -> None:
        self.owner = os.getpid()
        self.socket = socket.socket(fileno=number)
        # No process that a task starts may have it: it would hide our end from the supervisor.
        self.socket.set_inheritable(False)
        self._lock = threading.Lock()
        self._buffer = b""
        #: A task runs: there are signs of life.
        self.is_busy = False

    def send(self, *message: Any) -> None:
        with self._lock:
            self._write(message)

    def beat(self) -> None:
        """A sign of life, with how far the task is; none once it has ended."""
        with self._lock:
            if self.is_busy:
                self._write(("beat", take_progress()))

    def hand_out(self, text: str) -> None:
        """A partial result of the task that runs; of one that has ended it is nobody's."""
        with self._lock:
            if self.is_busy:
                self._write(("partial", text))

    def finish(self, *message: Any) -> None:
        """The last word about a task."""
        with self._lock:
            self.is_busy = False
            self._write(message)

    def receive(self) -> tuple[Any, ...] | None:
        """The next message; None at the end."""
        while True:
            size = int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) >= 4 + size > 4:
                body, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
                message: tuple[Any, ...] = marshal.loads(body)
                return message
            data = self.socket.recv(READ_SIZE)
            if not data:
                return None
            self._buffer += data

    def _write(self, message: tuple[Any, ...]) -> None:
        body = marshal.dumps(message)
        self.socket.sendall(len(body).to_bytes(4, "big") + body)


def die_with(parent: int) -> None:
    """From here on this process ends with its supervisor, whatever it does then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def beat_for_ever(link: Link) -> None:
    """Signs of life; and the end of the socket ends all, also what a task has started."""
    ends = select.poll()
    ends.register(link.socket.fileno(), select.POLLRDHUP | select.POLLHUP)
    with contextlib.suppress(OSError):
        while not ends.poll(BEAT * 1000):
            link.beat()
    os.killpg(0, signal.SIGKILL)


# --- loading -------------------------------------------------------------------------------------


def sources(modules: str) -> Iterator[tuple[str, str | EntryPoint]]:
    """(name for people, what to load): the entry points, those of Evenly first, then the modules."""
    found = {(point.name, point.value): point for point in entry_points(group=GROUP)}
    for point in sorted(found.values(), key=lambda each: (not each.value.startswith("evenly."), each.name)):
        yield f"{point.value} (entry point {point.name})", point
    for module in modules.split(","):
        if module.strip():
            yield module.strip(), module.strip()


def load(link: Link, modules: str, skipped: list[str]) -> list[str]:
    """Fills the registry; returns what went wrong, in a line each. A broken module costs its own tasks."""
    failures = []
    for name, source in sources(modules):
        if name in skipped:
            continue
        link.send("loading", name)
        before = dict(registry)
        try:
            source.load() if isinstance(source, EntryPoint) else importlib.import_module(source)
        except BaseException as error:  # also SystemExit, which some scripts raise when they are imported
            registry.clear()
            registry.update(before)
            failures.append(f"{name}: {last_line(error)}")
    return failures


# --- running -------------------------------------------------------------------------------------


#: What the environment has of the latest task.
_given: dict[str, str] = {}


def run(
    link: Link, before: tuple[Any, ...], name: str, payload: str, directory: str, variables: dict[str, str]
) -> None:
    """One task, to its value or its exception. `before`: how this process was before all tasks."""
    for variable in _given.keys() - variables.keys():  # what only the task before this one was given
        os.environ.pop(variable, None)
    os.environ.update(variables)
    _given.clear()
    _given.update(variables)
    os.chdir(directory)
    take_progress()
    link.is_busy = True
    try:
        how, said = "returned", value_of(call(name, json.loads(payload)))
    except BaseException as error:  # SystemExit ends the task, not its worker
        how, said = "raised", last_line(error)
        tell(error)
    if os.getpid() != link.owner:
        os._exit(0)  # a task has forked, and both of them come back from it
    # A task may have set its own.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    flush()
    link.finish(how, condition() == before, said)


def condition() -> tuple[Any, ...]:
    """What a task must leave as it was: threads that go on, or files in the place of the output, would have
    the next one suffer."""
    files: list[Any] = []
    for number in (1, 2):
        with contextlib.suppress(OSError):
            seen = os.fstat(number)
            files.append((number, seen.st_dev, seen.st_ino))
    return threading.active_count(), files


def call(name: str, arguments: dict[str, Any]) -> Any:
    function = registry.get(name)
    if function is None:
        raise LookupError(
            f"there is no task {name!r} on the node that was to run it; all nodes need its module"
        )
    value = function(**arguments)
    if not inspect.isawaitable(value):
        return value
    import asyncio  # half of the time that a worker takes to start, and most tasks need it not

    return asyncio.run(_awaited(value))


async def _awaited(value: Any) -> Any:
    return await value


def value_of(value: Any) -> str:
    """It as JSON text.

    Raises:
        TypeError, ValueError: where JSON cannot say it, or it is over a bound.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if text != as_text(text):  # half a surrogate pair, which no wire takes
            text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"the task returned what JSON cannot say: {error}") from None
    size = len(text.encode())
    if size > VALUE_LIMIT:
        raise ValueError(
            f"the task returned {size} bytes of JSON, more than {VALUE_LIMIT}: files are for that"
        )
    if depth_of(json.loads(text)) > JSON_DEPTH_LIMIT:
        raise ValueError(f"the task returned JSON nested deeper than {JSON_DEPTH_LIMIT} levels")
    return text


def last_line(error: BaseException) -> str:
    """Of its traceback: what it is and what it says."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    # That of a SyntaxError is preceded by the place; what others say may go on for lines.
    line = lines[-1 if isinstance(error, SyntaxError) else 0] if lines else type(error).__name__
    return as_text(line[:REASON_LIMIT])


def as_text(text: str) -> str:
    """It, with a question mark for what UTF-8 cannot say."""
    return text.encode("utf-8", "replace").decode()


def tell(error: BaseException) -> None:
    """The traceback, without the frames that are ours, where people look for it."""
    told = traceback.TracebackException.from_exception(error)
    without_own_frames(told)
    # Else its last line says it all.
    if told.stack or told.__cause__ or (told.__context__ and not told.__suppress_context__):
        with contextlib.suppress(Exception):
            (sys.stderr or sys.__stderr__).write("".join(told.format()))  # type: ignore[union-attr]


def without_own_frames(told: traceback.TracebackException) -> None:
    """Of it, and of all that it goes back to."""
    seen: set[int] = set()
    waiting: list[traceback.TracebackException | None] = [told]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.stack = traceback.StackSummary.from_list(
            [frame for frame in each.stack if not frame.filename.startswith(OWN_FRAMES)]
        )
        waiting += [each.__cause__, each.__context__, *(each.exceptions or ())]


def flush() -> None:
    """What was written is in the pipes; where a task put others in the place of these two, that is over."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    ctypes.CDLL(None).fflush(None)


def keep_quiet(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exception of our own, as when the supervisor is gone: nobody reads it."""


def main() -> None:
    number, parent, modules, skipped = sys.argv[1:]
    die_with(int(parent))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write(OOM_SCORE)
    faulthandler.enable(all_threads=False)
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    # Arguments are ours; a task module that reads them finds none.
    sys.argv[1:] = []
    link = Link(int(number))
    evenly.tasks.hand_out = link.hand_out
    failures = load(link, modules, json.loads(skipped))
    signatures = {name: signature_of(function).pack() for name, function in registry.items()}
    link.send("ready", signatures, failures)
    sys.excepthook = keep_quiet
    threading.Thread(target=beat_for_ever, args=(link,), daemon=True).start()
    before = condition()
    while (message := link.receive()) is not None:
        run(link, before, *message[1:])


if __name__ == "__main__":
    main()
