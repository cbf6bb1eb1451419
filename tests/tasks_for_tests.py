"""Tasks that the tests' nodes load: what goes well, and each way in which it does not."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from evenly import checkpoint, partial, progress, task

#: What a test does not end itself ends by then.
LONG = 600.0


@task
async def add_later(a: int, b: int = 1) -> int:
    await asyncio.sleep(0)
    return a + b


@task
def say(text: str, times: int = 1) -> dict[str, object]:
    for _ in range(times):
        print(text)
    print("err", file=sys.stderr)
    os.write(1, b"raw\n")
    return {"said": text, "where": os.getcwd(), "ticket": os.environ["EVENLY_TICKET"]}


@task
def fail(word: str) -> None:
    print("before")
    _inner(word)


def _inner(word: str) -> None:
    raise ValueError(f"it is {word}")


@task
def leave_by_exit(code: int) -> None:
    sys.exit(code)


@task
def unspeakable() -> object:
    return {1, 2}


@task
def process() -> int:
    return os.getpid()


@task
def hold(mark: str, until: str, part: float | None = None) -> str:
    """Says `mark` in its directory of marks, and goes on once `until` is there."""
    with open(mark, "a", encoding="ascii") as marks:
        marks.write(f"{os.getpid()}\n")
    if part is not None:
        progress(part, "so far")
    end = time.monotonic() + LONG
    while not Path(until).exists() and time.monotonic() < end:
        time.sleep(0.01)
    return "went on"


@task
def die(mark: str, times: int, how: str = "kill") -> int:
    """Ends its process as often as said, and then tells how often it was started."""
    with open(mark, "a", encoding="ascii") as marks:
        marks.write(f"{os.getpid()}\n")
    starts = len(Path(mark).read_text().split())
    if starts <= times:
        print(f"start {starts}", flush=True)
        os._exit(0) if how == "exit" else os.kill(os.getpid(), signal.SIGKILL)
    return starts


@task
def ignore_sigterm(mark: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hold(mark, "/nowhere")


@task
def take_output(path: str) -> int:
    """Puts a file in the place of its output, and leaves it there."""
    with open(path, "wb") as file:
        os.dup2(file.fileno(), 1)
    return os.getpid()


@task
def come_back_twice() -> int:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return os.getpid()


@task
def leave_thread() -> int:
    threading.Thread(target=time.sleep, args=(LONG,), daemon=True).start()
    return os.getpid()


@task
def leave_behind(marker: str) -> int:
    """A child, one in a session of its own, and one that has lost its parent."""
    line = f"sleep 600; : {marker}"
    for session in (False, True):
        subprocess.Popen(["sh", "-c", line], start_new_session=session)
    subprocess.run(["sh", "-c", f"(setsid sh -c '{line}' &)"], check=True)
    return os.getpid()


@task
def eat(size: int) -> int:
    """So many MiB."""
    return len([b"x" * 2**20 for _ in range(size)])


@task
def shell(line: str) -> int:
    return subprocess.run(line, shell=True, check=False).returncode


@task
def data_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


@task
def steps(count: int, gate: str) -> list[int]:
    """One value a step; goes on where an earlier attempt stopped. Returns what it did itself.

    It stops at every step until there is a file `gate`, or one that begins so and ends with the step.
    """
    place = Path(os.environ["EVENLY_CHECKPOINT_DIR"]) / "step"
    first = int(place.read_text()) if place.exists() else 0
    for step in range(first, count):
        while not (Path(gate).exists() or Path(f"{gate}{step}").exists()):
            time.sleep(0.01)
        partial({"step": step})
        progress(step / count, f"step {step}")
        place.write_text(str(step + 1))
        checkpoint()
    return [first, count]


@task
def talk(gate: str) -> None:
    """Until there is a file of that name."""
    print("talking", flush=True)
    print("loudly", file=sys.stderr, flush=True)
    while not Path(gate).exists():
        time.sleep(0.01)
    print("over")


@task
def variable(name: str) -> str | None:
    return os.environ.get(name)


@task
def hand_out(count: int) -> int:
    for number in range(count):
        partial(number)
    return count
