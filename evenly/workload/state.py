"""What a run has done so far, in a file (SQLite): which line has which ticket, and how it ended.

A job is in it once its ticket was read. What is lost with a machine's power is submitted again with the same
key, which gives the same ticket: so a commit may be late, but what is written is whole.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from evenly.workload.errors import WorkloadError

VERSION = 1
#: Behind the name of the workload file.
SUFFIX = ".run"
#: Seconds for another process that begins in the same moment to see that it is the second.
BUSY = 0.1
#: KiB of memory for pages; the index of tickets holds those of open jobs alone.
CACHE_KIB = 16 * 1024
#: Stands for an origin that is not known yet, and for a job that was refused and has no ticket.
UNKNOWN = -1
REFUSED = "refused"
SUCCEEDED = "succeeded"

_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE origin (id INTEGER PRIMARY KEY, address TEXT UNIQUE NOT NULL);
CREATE TABLE job (
    number INTEGER PRIMARY KEY, line INTEGER NOT NULL, round INTEGER NOT NULL, ticket TEXT,
    origin INTEGER NOT NULL, outcome TEXT, reason TEXT, hint TEXT, node TEXT,
    submitted REAL, started REAL, finished REAL
);
CREATE INDEX job_ticket ON job (ticket) WHERE ticket IS NOT NULL AND outcome IS NULL;
PRAGMA user_version = {VERSION};
"""
_TABLES = ("job", "meta", "origin")
_DROP = " ".join(f"DROP TABLE IF EXISTS {name};" for name in _TABLES)


class Ticket(NamedTuple):
    """A job that a node has taken. `origin`: as `State.origin` numbers it."""

    number: int
    line: int
    round: int
    ticket: str
    origin: int


class Refusal(NamedTuple):
    """A job that a node has not taken, and why."""

    number: int
    line: int
    round: int
    reason: str


class End(NamedTuple):
    """How a job ended. Times are seconds since the epoch; `hint`: the last it said of what was wrong."""

    ticket: str
    outcome: str
    reason: str | None = None
    hint: str | None = None
    node: str | None = None
    submitted: float | None = None
    started: float | None = None
    finished: float | None = None


class Open(NamedTuple):
    """A job that is to be asked for."""

    number: int
    ticket: str
    origin: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs of the file; those with a ticket or refused; those that have ended; of these, not well."""

    jobs: int
    submitted: int
    ended: int
    failed: int

    @property
    def open(self) -> int:
        return self.submitted - self.ended

    def __str__(self) -> str:
        """In words, how far the run is."""
        return f"{self.submitted} of {self.jobs} submitted, {self.ended} done"


class State:
    """The state file of one run, for one process at a time.

    Methods raise WorkloadError where the file cannot be used.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.database = connection

    @classmethod
    def create(cls, path: Path, run: str, facts: Mapping[str, Any]) -> State:
        """A new one in the place of what is there. `facts` are kept as they are (None, numbers, texts).

        The file stays the same one, and is held: of two that begin at once the second is refused.
        """
        state = cls(path, _connect(path))
        try:
            with state._named():
                if state._is_whole():
                    state.refuse_unless_over()
                state.database.executescript(f"BEGIN; {_DROP} {_SCHEMA} COMMIT;")
                state.set(run=run, **facts)
        except BaseException:
            state.close()
            raise
        return state

    @classmethod
    def open(cls, path: Path) -> State | None:
        """That of an earlier run; None where there is none."""
        if not os.path.lexists(path):
            return None
        state = cls(path, _connect(path))
        if state._is_whole():
            return state
        state.close()
        return None

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def refuse_unless_over(self) -> None:
        """Raises WorkloadError where its tickets would be lost."""
        if self.get("begun") and not self.get("over"):
            raise WorkloadError(
                f"a run of {self.get('file')} is not over ({self.counts()}): --resume goes on with it; "
                f"rm {self.path} forgets it, and --state names a file for another"
            )

    def _is_whole(self) -> bool:
        """Whether there is a run in it; False of one that was just made."""
        return bool(self.database.execute("PRAGMA user_version").fetchone()[0])

    # --- facts -----------------------------------------------------------------------------------

    def set(self, **facts: Any) -> None:
        with self._named(), self.database:
            self.database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", facts.items())

    def get(self, name: str) -> Any:
        row = self.database.execute("SELECT value FROM meta WHERE key = ?", (name,)).fetchone()
        return row[0] if row else None

    def origin(self, address: str) -> int:
        """The number of a node's address, the same in all runs on this state."""
        with self._named(), self.database:
            self.database.execute("INSERT OR IGNORE INTO origin (address) VALUES (?)", (address,))
            return int(
                self.database.execute("SELECT id FROM origin WHERE address = ?", (address,)).fetchone()[0]
            )

    def origins(self) -> dict[int, str]:
        """Addresses by their numbers."""
        return dict(self.database.execute("SELECT id, address FROM origin ORDER BY id"))

    # --- jobs ------------------------------------------------------------------------------------

    def write(
        self, tickets: Iterable[Ticket] = (), refused: Iterable[Refusal] = (), ends: Iterable[End] = ()
    ) -> tuple[int, int, list[End]]:
        """All of it in one commit. An end is that of each job with its ticket that has not ended.

        Returns how many jobs have ended by it, how many of them did not succeed, and the ends that are of no
        such job.
        """
        ended = failed = 0
        strangers = []
        with self._named(), self.database as database:
            database.executemany(
                "INSERT OR REPLACE INTO job (number, line, round, ticket, origin) VALUES (?, ?, ?, ?, ?)",
                tickets,
            )
            for each in refused:
                database.execute(
                    "INSERT OR REPLACE INTO job (number, line, round, origin, outcome, reason) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (each.number, each.line, each.round, UNKNOWN, REFUSED, each.reason),
                )
                ended += 1
                failed += 1
            for end in ends:
                count = database.execute(
                    "UPDATE job SET outcome = ?, reason = ?, hint = ?, node = ?, submitted = ?, started = ?, "
                    "finished = ? WHERE ticket = ? AND outcome IS NULL",
                    (*end[1:], end.ticket),
                ).rowcount
                ended += count
                failed += count if end.outcome != SUCCEEDED else 0
                if not count:
                    strangers.append(end)
        return ended, failed, strangers

    def explain(self, reasons: Iterable[tuple[int, str, str]]) -> None:
        """(number, reason, hint) of jobs that have failed."""
        with self._named(), self.database as database:
            database.executemany(
                "UPDATE job SET reason = ?2, hint = ?3 WHERE number = ?1 AND outcome IS NOT NULL", reasons
            )

    def unexplained(self, origin: int, after: int, limit: int) -> list[Open]:
        """As `open_jobs`, of those that have failed and nobody has asked why."""
        rows = self.database.execute(
            "SELECT number, ticket, origin FROM job WHERE number > ? AND outcome IS NOT NULL "
            "AND outcome != ? AND reason IS NULL AND ticket IS NOT NULL AND origin IN (?, ?) "
            "ORDER BY number LIMIT ?",
            (after, SUCCEEDED, origin, UNKNOWN, limit),
        )
        return [Open(*row) for row in rows]

    def known(self, first: int, count: int) -> dict[int, int | None]:
        """Of the jobs from number `first` on, `count` of them, those in here: the round in which it is to be
        submitted, None where it was."""
        rows = self.database.execute(
            "SELECT number, CASE WHEN ticket IS NULL AND outcome IS NULL THEN round END FROM job "
            "WHERE number >= ? AND number < ?",
            (first, first + count),
        )
        return dict(rows)

    def open_jobs(self, origin: int, after: int, limit: int) -> list[Open]:
        """Those of this origin, or of one that is not known, with numbers above `after`."""
        rows = self.database.execute(
            "SELECT number, ticket, origin FROM job WHERE number > ? AND outcome IS NULL "
            "AND ticket IS NOT NULL AND origin IN (?, ?) ORDER BY number LIMIT ?",
            (after, origin, UNKNOWN, limit),
        )
        return [Open(*row) for row in rows]

    def found(self, number: int, origin: int) -> None:
        """A job whose origin was not known is one of this node's."""
        with self._named(), self.database:
            self.database.execute(
                "UPDATE job SET origin = ? WHERE number = ? AND origin = ?", (origin, number, UNKNOWN)
            )

    def retry_failed(self) -> int:
        """What did not succeed is to be submitted again, as a new job; returns how many."""
        with self._named(), self.database:
            return self.database.execute(
                "UPDATE job SET round = round + 1, ticket = NULL, outcome = NULL, reason = NULL, "
                "hint = NULL, node = NULL, submitted = NULL, started = NULL, finished = NULL "
                "WHERE outcome IS NOT NULL AND outcome != ?",
                (SUCCEEDED,),
            ).rowcount

    def counts(self) -> Counts:
        row = self.database.execute(
            "SELECT sum(ticket IS NOT NULL OR outcome IS NOT NULL), sum(outcome IS NOT NULL), "
            "sum(outcome IS NOT NULL AND outcome != ?) FROM job",
            (SUCCEEDED,),
        ).fetchone()
        return Counts(int(self.get("jobs") or 0), *(value or 0 for value in row))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise unusable(self.path, error) from None


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that holds the file for itself."""
    if path.parent != Path() and not path.parent.is_dir():
        raise WorkloadError(
            f"{path}: there is no directory {path.parent} for the state; --state names another"
        )
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, timeout=BUSY, check_same_thread=False)
        # To read and to write at once: of two that can read already, neither can write.
        connection.execute("BEGIN EXCLUSIVE")
        _check(path, connection)  # before anything of it is changed: it may be somebody else's
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        with contextlib.suppress(OSError):
            os.chmod(path, 0o600)  # who has tickets may cancel them
        return connection
    except (sqlite3.Error, WorkloadError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, WorkloadError):
            raise
        raise unusable(path, error) from None


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Raises WorkloadError for what is neither empty nor a state of this version."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version not in (0, VERSION):
        raise WorkloadError(f"{path} is of version {version}, not {VERSION}; --state names another file")
    if tables if version == 0 else not tables.issuperset(_TABLES):
        raise WorkloadError(f"{path} is no state of a run; --state names another file")


def unusable(path: Path, error: Exception) -> WorkloadError:
    text = str(getattr(error, "strerror", None) or error).lower()
    if "locked" in text:
        return WorkloadError(f"{path} is in use: another evenly run works on it")
    if "not a database" in text:
        text = "it is no state of a run"
    if "full" in text:
        return WorkloadError(f"{path}: the disk is full; --resume goes on once there is room")
    return WorkloadError(f"{path} cannot be used for the state: {text}; --state names another file")
