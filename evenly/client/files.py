"""Files to a node and from it, in pieces: never a whole one in memory."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from evenly.client.errors import ConnectionLost, Refused, TransferFailed
from evenly.client.lane import object_of
from evenly.client.model import File, files_of
from evenly.client.patience import Patience
from evenly.client.talk import PIECE, Talk
from protocol.fields import is_inside

#: Bytes of a file's relative path: what systems take.
PATH_LIMIT = 4096


def digest_of(path: str | os.PathLike[str]) -> tuple[str, int]:
    """(SHA-256 in hexadecimal, size in bytes) of a file. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while data := file.read(PIECE):
            digest.update(data)
            size += len(data)
    return digest.hexdigest(), size


async def upload(talk: Talk, path: str | os.PathLike[str], digest: str, size: int) -> None:
    """Sends a file, unless it is there already.

    Raises:
        Refused: with what the node says: no room, too large.
        TransferFailed: if the file is no longer what `digest` and `size` say.
        OSError: if it cannot be read.
    """
    if (await talk.ask(f"has {digest}")).get("here"):
        return
    with open(path, "rb") as file:  # noqa: ASYNC230 (opening takes no time; reading has its thread)
        await talk.send(f"upload {size} {digest}\n".encode())
        left = size
        # A refusal may come before all is sent.
        while left and not talk.has_input:
            data = await asyncio.to_thread(file.read, min(PIECE, left))
            if not data:
                raise TransferFailed(f"{path} became shorter while it was uploaded")
            await talk.send(data)
            left -= len(data)
        reply = await talk.line()
    said = object_of(reply, talk.node)
    if said.get("uploaded") != digest:
        raise TransferFailed(f"{talk.node} took {path} as something else")


async def fetch_all(
    ticket: str,
    directory: Path,
    told: Callable[[File], None] | None,
    connect: Callable[[], Awaitable[Talk]],
    patience: Callable[[], float],
) -> list[Path]:
    """Writes the files of a job, also over lost connections; returns where they are. `told` is called after
    each. `connect` goes to their node, which is tried again for `patience` seconds."""
    written: list[Path] = []
    wanted: list[File] | None = None
    trying = Patience(patience)
    while True:
        try:
            async with await connect() as talk:
                if wanted is None:
                    wanted = list(files_of(await talk.ask(f"fetch {ticket}")))
                while wanted:
                    written.append(await fetch(talk, ticket, wanted[0], directory))
                    file = wanted.pop(0)
                    trying.heard()
                    if told is not None:
                        told(file)
                return written
        except ConnectionLost as error:
            await trying.lost(error, f"it has the files of {ticket}")


async def fetch(talk: Talk, ticket: str, file: File, directory: Path) -> Path:
    """Writes one file of a job under `directory`, whole or not at all; returns where.

    Raises:
        TransferFailed: if its bytes are not those of its SHA-256, or it would leave the directory.
        OSError: if it cannot be written.
    """
    target = place_of(file.path, directory)
    header = await talk.ask(f"fetch {ticket} {file.path}")
    if "bytes" not in header:
        raise Refused(f"{talk.node} has no file {file.path} of {ticket}")
    left, digest = int(header["bytes"]), hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", dir=target.parent)
    try:
        with open(number, "wb") as out:  # noqa: ASYNC230 (pieces are small, and go to the page cache)
            while left:
                data = await talk.piece(left)
                digest.update(data)
                out.write(data)
                left -= len(data)
        if digest.hexdigest() != header["sha256"]:
            raise TransferFailed(f"{file.path} of {ticket} arrived with other bytes than it was stored with")
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return target


def place_of(name: str, directory: Path) -> Path:
    """Where a file of that relative path goes. A node is not trusted to stay inside.

    Raises:
        TransferFailed: if it would be outside of the directory, also by a symbolic link that is there.
    """
    if not is_inside(name, PATH_LIMIT):  # so it can be asked for in a line, too
        raise TransferFailed(f"the name {name[:60]!r} leaves the directory; it was not written")
    target = directory / name
    if not target.parent.resolve().is_relative_to(directory.resolve()) or target.is_dir():
        raise TransferFailed(
            f"{name[:60]!r} cannot be written below {directory}: something else is in its way"
        )
    return target


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
