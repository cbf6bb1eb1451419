"""A workload file as a stream of jobs: opened, unpacked, recognised, read line by line in bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from evenly.workload.errors import WorkloadError
from evenly.workload.formats import BadLine, Omitted, Parser, jsonl, shell, sleeps, swf
from protocol.limits import LINE_LIMIT

FORMATS = ("sleeps", "shell", "jsonl", "swf")
_SUFFIXES = {
    ".swf": "swf",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".sh": "shell",
    ".workload": "sleeps",
}
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
#: What is looked at to know the format: lines, and bytes of each.
LOOKED_AT, LOOKED_AT_BYTES = 100, 4096
#: Faults that are told; the rest is counted.
FAULTS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A job of the file: `number` from 0 on among its jobs, `line` from 1 on; the rest as in `Parsed`."""

    number: int
    line: int
    job: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that is wrong, and how."""

    line: int
    what: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line that is right, and of no use here."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What the first pass over a file found. `faults`: the first FAULTS_SHOWN; `span`: seconds from the first
    submission to the last as the file has it."""

    jobs: int = 0
    fault_count: int = 0
    faults: tuple[Fault, ...] = ()
    skipped: int = 0
    first_skipped: Skipped | None = None
    span: float = 0.0


class Workload:
    """A file of jobs. Each method reads it anew from the start.

    Raises:
        WorkloadError: where it cannot be opened, is no regular file, or is not of the format that is named;
            also while it is read.
    """

    def __init__(self, path: Path, format: str | None = None, speed: float | None = None) -> None:
        """`speed`: by how much a replay is faster, for "swf" alone."""
        self.path = path
        if str(path) == "-":
            raise WorkloadError("a workload is read twice, so it must be a file, not stdin")
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise WorkloadError(f"{path} is no regular file: a workload is read twice, so it must be one")
        except OSError as error:
            raise WorkloadError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        self.format = format or self._recognise()
        if speed is not None and self.format != "swf":
            raise WorkloadError(
                f"--speed is for the Standard Workload Format; {path} is read as {self.format}"
            )
        self.speed = speed or 1.0

    def read(self) -> Iterator[Entry | Fault | Skipped]:
        """Its jobs in order, and what is wrong with lines, as it comes."""
        parse = self._parser()
        number = 0
        for count, line in enumerate(self._lines(), 1):
            if line is None:
                yield Fault(count, f"the line has more than {LINE_LIMIT} bytes, the most that one may have")
                continue
            try:
                parsed = parse(line)
            except BadLine as error:
                yield Fault(count, str(error))
                continue
            if isinstance(parsed, Omitted):
                yield Skipped(count, parsed.why)
            elif parsed is not None:
                yield Entry(number, count, parsed.job, parsed.at)
                number += 1

    def survey(self) -> Survey:
        """Reads all of it, to know whether it is right and how many jobs it has."""
        jobs = fault_count = skipped = 0
        faults: list[Fault] = []
        first_skipped: Skipped | None = None
        span = 0.0
        for each in self.read():
            if isinstance(each, Entry):
                jobs += 1
                span = max(span, each.at)
            elif isinstance(each, Fault):
                fault_count += 1
                if fault_count <= FAULTS_SHOWN:
                    faults.append(each)
            else:
                skipped += 1
                first_skipped = first_skipped or each
        return Survey(jobs, fault_count, tuple(faults), skipped, first_skipped, span)

    def told(self, survey: Survey) -> str:
        """The faults of a survey for a person, a line each: `FILE:LINE: what is wrong`."""
        lines = [f"{self.path}:{fault.line}: {fault.what}" for fault in survey.faults]
        if survey.fault_count > len(lines):
            lines.append(f"{self.path}: and {survey.fault_count - len(lines)} more lines that are wrong")
        return "\n".join(lines)

    def digest(self) -> str:
        """SHA-256 of the file as it is, in hexadecimal."""
        with self._opened() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    # --- reading ---------------------------------------------------------------------------------

    def _parser(self) -> Parser:
        parsers = {"sleeps": sleeps, "shell": shell, "jsonl": jsonl}
        return swf(self.speed) if self.format == "swf" else parsers[self.format]()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise WorkloadError(f"{self.path}: {(error.strerror or str(error)).lower()}") from None

    def _lines(self) -> Iterator[bytes | None]:
        """Lines without their end; None for one over the limit."""
        with self._opened() as raw:
            packed = raw.read(len(_GZIP)) == _GZIP
            raw.seek(0)
            file = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if packed else raw)
            count = 0
            try:
                while True:
                    line = _line(file)
                    if line == b"":
                        return
                    yield line if line is None or count else line.removeprefix(_BOM)
                    count += 1
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise WorkloadError(
                    f"{self.path}:{count + 1}: the gzip data ends or is damaged here: {str(error).lower()}"
                ) from None

    # --- which format ----------------------------------------------------------------------------

    def _recognise(self) -> str:
        """By the name, else by the first lines that say something."""
        name = self.path.name.lower().removesuffix(".gz")
        if (known := _SUFFIXES.get(Path(name).suffix)) is not None:
            return known
        lines: list[str] = []
        for number, line in enumerate(self._lines()):
            text = (line or b"")[:LOOKED_AT_BYTES].decode("utf-8", "replace").strip()
            if text and not text.startswith("#"):
                lines.append(text)
            if number >= 10 * LOOKED_AT or len(lines) >= LOOKED_AT:
                break
        return recognise(lines)


def recognise(lines: list[str]) -> str:
    """The format of a file that begins with these lines, which are neither empty nor begin with `#`."""
    if not lines:
        return "shell"
    first = lines[0]
    if first.startswith(";") or _SWF.fullmatch(first):
        return "swf"
    # `{ a; b; }` is a command, `{"run": …}` is not; nor is what somebody meant as JSON.
    # An array of such is no command either: it is told so, line by line, and nothing of it is run.
    if re.match(r"\{(?!\s)|\{\s*(\"[^\"]*\"\s*:|\})|\[\s*(\{|$)", first) or first == "{":
        return "jsonl"
    # Any other command among them, and `sleep 5` is one as well, with seconds.
    return "sleeps" if all(_SLEEP.fullmatch(line) for line in lines) else "shell"


_SWF = re.compile(r"\s*-?[\d.]+(\s+-?[\d.]+){17}\s*")
_SLEEP = re.compile(r"(sleep\s+)?[+-]?\d+", re.IGNORECASE)


def _line(file: IO[bytes]) -> bytes | None:
    """The next line with its end; empty at the end of the file; None for one over the limit."""
    line = file.readline(LINE_LIMIT + 2)
    if len(line) <= LINE_LIMIT or len(line.rstrip(b"\r\n")) <= LINE_LIMIT:
        return line
    while line and not line.endswith(b"\n"):
        line = file.readline(LINE_LIMIT)
    return None
