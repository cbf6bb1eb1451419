"""The files of this node's own tickets: what clients have uploaded, what jobs left, what they go on from.

Other nodes ask for pieces of them and bring them in pieces. A file is where it belongs only as a whole.

    files/         uploads and results, by digest
    results/NAME   what jobs with --result-dir NAME left, by its path: other names of the same files
    checkpoints/   of each open job that has one: its files by digest, and which of them it is
    partials/      partial results of tasks
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgpack

from clusternode.files.partials import Partials, TooMuch
from clusternode.files.store import Files, Incoming, Mismatch
from clusternode.relay import REFUSED, Refused, Relay
from protocol.errors import ProtocolError
from protocol.fields import is_digest
from protocol.job import Command, JobSpec, ResultFile, Task, is_ticket, unpack_files
from protocol.limits import PIECE_BYTES, RESULT_FILES_LIMIT
from protocol.relay import AWAY, NO_ROOM, NOT_FOUND
from runtime.blobs import sync_directory
from runtime.errors import StartError

#: What came in part and then no more for so many seconds is given up; sooner, where its place is wanted.
IDLE, IDLE_IN_THE_WAY = 600.0, 60.0
#: Files that come in at once; who brings one more comes again a little later.
INCOMING_LIMIT = 256
#: Where files are: `RESULTS` of a ticket, or its `CHECKPOINT`.
RESULTS, CHECKPOINT = "results", "checkpoint"
CONFLICT, WRONG = 409, 422


class _Coming:
    """A file of which a part is there."""

    def __init__(self, incoming: Incoming, give_up: Callable[[], None]) -> None:
        self.incoming = incoming
        self.at = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(IDLE, give_up)

    def take(self) -> Incoming:
        """It goes on, or will not become whole."""
        self._timer.cancel()
        return self.incoming


class Home:
    def __init__(
        self,
        directory: Path,
        most_bytes: int,
        spec_of: Callable[[str], JobSpec | None],
        knows: Callable[[str], Awaitable[bool]],
    ) -> None:
        """`most_bytes`: of one job; `spec_of` knows the open tickets of this node, `knows` all of them.

        Raises StartError.
        """
        self.knows = knows
        self._partials = Partials(directory / "partials")
        self._one_at_a_time = asyncio.Lock()
        self.files = Files(directory / "files")
        self._results = directory / "results"
        self._checkpoints = directory / "checkpoints"
        self._most_bytes = most_bytes
        self._spec_of = spec_of
        self._coming: dict[tuple[str, str, str], _Coming] = {}
        self._spaces: dict[str, Files] = {}

    def serve(self, relay: Relay) -> None:
        """Answers what other nodes ask."""
        relay.serve("piece", self._piece)
        relay.serve("wants", self._wants)
        relay.serve("put", self._put)
        relay.serve("keep", self._keep)
        relay.serve("resume", self._resume)
        relay.serve("partial", self._partial)

    def forget(self, ticket: str) -> None:
        """It is done: it goes on from nothing any more. Blocks."""
        self._spaces.pop(ticket, None)
        shutil.rmtree(self._checkpoints / ticket, ignore_errors=True)

    def forget_all_but(self, open_tickets: Iterable[str]) -> None:
        """At the start. Blocks."""
        known = set(open_tickets)
        with contextlib.suppress(OSError):
            for name in os.listdir(self._checkpoints):
                if name not in known:
                    self.forget(name)

    # --- questions -------------------------------------------------------------------------------

    async def _piece(self, asker: str, asked: Any) -> bytes:
        """Of a file that a job brings along, or goes on from."""
        match asked:
            case (str(ticket), str(digest), int(offset)) if 0 <= offset < 2**62:
                files = self._known_space(ticket) if ticket else self.files
                if files is None or digest not in files:
                    raise Refused(NOT_FOUND, f"there is no file {digest[:64]}")
                return await asyncio.to_thread(files.piece, digest, offset, PIECE_BYTES)
        raise _strange()

    async def _wants(self, asker: str, asked: Any) -> list[str]:
        """Of these digests, those that are to be brought."""
        match asked:
            case (str(where), str(ticket), tuple(digests)) if len(digests) <= RESULT_FILES_LIMIT and all(
                map(is_digest, digests)
            ):
                files = self._files(where, ticket)
                return [digest for digest in digests if digest not in files]
        raise _strange()

    async def _put(self, asker: str, asked: Any) -> int:
        """A piece. Returns how much of the file is there."""
        match asked:
            case (str(where), str(ticket), str(digest), int(size), int(offset), bytes(data)) if (
                is_digest(digest) and 0 <= size <= self._most_bytes and len(data) <= PIECE_BYTES
            ):
                return await self._put_piece(where, ticket, digest, size, offset, data)
        raise _strange()

    async def _put_piece(
        self, where: str, ticket: str, digest: str, size: int, offset: int, data: bytes
    ) -> int:
        files = self._files(where, ticket)
        key = (where, ticket, digest)
        if digest in files:
            self._give_up(key)  # another job has brought the same
            return size
        if offset == 0:
            self._begin(key, files, size)
        coming = self._coming.get(key)
        if coming is None:
            raise Refused(CONFLICT, "its beginning is not here; begin again")
        incoming = coming.incoming
        if incoming.received == offset + len(data) and data and offset:
            return incoming.received  # it comes again, as the answer was lost
        del self._coming[key]
        coming.take()
        if incoming.received != offset:
            incoming.abort()
            raise Refused(CONFLICT, "that piece is not the next one; begin again")
        try:
            await asyncio.to_thread(incoming.write, data)
            if incoming.received == size:
                await asyncio.to_thread(incoming.finish)
                self._give_up(key)  # another attempt may have begun it again
            elif key in self._coming:
                incoming.abort()
                raise Refused(CONFLICT, "it was begun again meanwhile")
            else:
                self._hold(key, incoming)
        except asyncio.CancelledError:  # a job of this very node, which is not wanted any more
            incoming.abort()
            raise
        except Mismatch as fault:
            raise Refused(WRONG, str(fault)) from None
        except OSError as error:
            raise Refused(NO_ROOM, f"its origin cannot keep it: {error.strerror}") from None
        return incoming.received

    async def _keep(self, asker: str, asked: Any) -> None:
        """All of these files have been brought: from here on they are the job's."""
        match asked:
            case (str(where), str(ticket), int(attempt), tuple(rows)):
                try:
                    files = unpack_files(rows)
                except ProtocolError as error:
                    raise Refused(REFUSED, error.reason) from None
                space = self._files(where, ticket)
                if any(each.digest not in space for each in files):
                    raise Refused(CONFLICT, "not all of these files have been brought")
                keep = self._keep_results if where == RESULTS else self._keep_checkpoint
                await asyncio.to_thread(keep, ticket, attempt, files)
                return
        raise _strange()

    async def _resume(self, asker: str, asked: Any) -> Any:
        """The files that this job goes on from; none where it has no checkpoint."""
        if not (isinstance(asked, str) and is_ticket(asked)):
            raise _strange()
        found = await asyncio.to_thread(self._checkpoint, asked)
        return found[1] if found is not None else ()

    async def _partial(self, asker: str, asked: Any) -> None:
        """A partial result of a task; no other comes before it is kept."""
        match asked:
            case (str(ticket), int(attempt), int(number), str(value)) if is_ticket(ticket):
                if not await self.knows(ticket):
                    raise Refused(NOT_FOUND, "this ticket is not of this node")
                async with self._one_at_a_time:
                    try:
                        await asyncio.to_thread(self._partials.keep, ticket, attempt, number, value)
                    except TooMuch as fault:
                        raise Refused(NO_ROOM, str(fault)) from None
                    except OSError as error:
                        raise Refused(NO_ROOM, f"its origin cannot keep it: {error.strerror}") from None
                return
        raise _strange()

    async def partials(self, ticket: str) -> list[tuple[int, Any]]:
        """(attempt, value) of the partial results of this ticket, in order."""
        async with self._one_at_a_time:
            kept = await asyncio.to_thread(self._partials.read, ticket)
        return [(attempt, value) for attempt, _, value in kept]

    # --- inside ----------------------------------------------------------------------------------

    def _begin(self, key: tuple[str, str, str], files: Files, size: int) -> None:
        self._give_up(key)
        if len(self._coming) >= INCOMING_LIMIT:
            oldest = min(self._coming, key=lambda each: self._coming[each].at)
            if self._coming[oldest].at > time.monotonic() - IDLE_IN_THE_WAY:
                raise Refused(AWAY, f"{INCOMING_LIMIT} files come in already")
            self._give_up(oldest)
        try:
            self._hold(key, files.begin(key[2], size))
        except OSError as error:
            raise Refused(NO_ROOM, f"its origin cannot keep it: {error.strerror}") from None

    def _hold(self, key: tuple[str, str, str], incoming: Incoming) -> None:
        self._coming[key] = _Coming(incoming, lambda: self._give_up(key))

    def _give_up(self, key: tuple[str, str, str]) -> None:
        coming = self._coming.pop(key, None)
        if coming is not None:
            coming.take().abort()

    def _files(self, where: str, ticket: str) -> Files:
        """Where files of this job belong that it brings home."""
        spec = self._spec_of(ticket)
        if spec is None:
            raise Refused(NOT_FOUND, "this job is not open at its origin")
        extras = spec.extras if isinstance(spec, Command | Task) else None
        if where == RESULTS and extras is not None and extras.leaves_files:
            return self.files
        if where == CHECKPOINT and extras is not None and extras.checkpoint:
            return self._space(ticket)
        raise Refused(REFUSED, f"this job has no {where[:20]} to bring")

    def _known_space(self, ticket: str) -> Files | None:
        """Where its checkpoint is, if it has one."""
        is_there = is_ticket(ticket) and (self._checkpoints / ticket).is_dir()
        return self._space(ticket) if is_there else None

    def _space(self, ticket: str) -> Files:
        if not is_ticket(ticket):
            raise _strange()
        if ticket not in self._spaces:
            try:
                self._spaces[ticket] = Files(self._checkpoints / ticket)
            except StartError as error:
                raise Refused(NO_ROOM, str(error)) from None
        return self._spaces[ticket]

    def result_dir(self, ticket: str, spec: JobSpec) -> Path:
        """Where what it leaves is kept by its path."""
        name = spec.extras.result_dir if isinstance(spec, Command | Task) else ""
        return self._results / (name or ticket)

    def _keep_results(self, ticket: str, attempt: int, files: tuple[ResultFile, ...]) -> None:
        spec = self._spec_of(ticket)
        if spec is None:
            raise Refused(NOT_FOUND, "this job is not open at its origin")
        directory = self.result_dir(ticket, spec)
        try:
            for each in files:
                self.files.link(each.digest, directory / each.path)
            above = self._results.parent
            parents = {place for each in files for place in (directory / each.path).parents}
            for place in parents:
                if place.is_relative_to(above):
                    sync_directory(place)
        except OSError as error:
            named = os.path.relpath(error.filename2 or error.filename or directory, self._results.parent)
            raise Refused(NO_ROOM, f"its origin cannot keep {named}: {error.strerror}") from None

    def _keep_checkpoint(self, ticket: str, attempt: int, files: tuple[ResultFile, ...]) -> None:
        """In the place of the one before; not of that of a later attempt, which knows more."""
        known = self._checkpoint(ticket)
        if known is not None and known[0] > attempt:
            raise Refused(CONFLICT, f"attempt {known[0]} has a checkpoint already")
        directory = self._checkpoints / ticket
        # One that is asked again, as the disk is slow, comes while the first is under way.
        unfinished = directory / f"manifest.new-{secrets.token_hex(4)}"
        try:
            with unfinished.open("wb") as file:
                file.write(msgpack.packb((attempt, files)))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(directory / "manifest")
            sync_directory(directory)
            sync_directory(self._checkpoints)
            self._space(ticket).keep_only({each.digest for each in files})
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise Refused(NO_ROOM, f"its origin cannot keep it: {error.strerror}") from None

    def _checkpoint(self, ticket: str) -> tuple[int, tuple[ResultFile, ...]] | None:
        try:
            value = (self._checkpoints / ticket / "manifest").read_bytes()
            attempt, rows = msgpack.unpackb(value, use_list=False)
            return int(attempt), unpack_files(rows)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, msgpack.UnpackException, ProtocolError):
            return None  # damaged: better to begin anew than never


def _strange() -> Refused:
    return Refused(REFUSED, "a question of another version")
