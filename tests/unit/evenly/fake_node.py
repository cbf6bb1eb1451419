"""Nodes that speak the client's side of the contract, and break where a test wants it. No process, no disk.

A command runs when the test says so (`finish`), or at once where it does not begin with "hold". All nodes of
a `FakeCluster` know the same keys; a ticket is answered for by its origin alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

from protocol.replies import NOT_FOUND

NUMBERS = itertools.count(1)


class FakeCluster:
    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, FakeNode]] = {}
        self.nodes: list[FakeNode] = []

    async def start(self, count: int = 1) -> list[FakeNode]:
        for _ in range(count):
            node = FakeNode(self, f"n{len(self.nodes) + 1}")
            self.nodes.append(node)
            await node.start()
        return self.nodes

    async def stop(self) -> None:
        for node in self.nodes:
            await node.stop()

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]


class FakeNode:
    def __init__(self, cluster: FakeCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.port = 0
        self.jobs: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, asyncio.Event] = {}
        self.files: dict[str, bytes] = {}
        self.left: dict[str, dict[str, bytes]] = {}
        #: Of a ticket, its output: (attempt, stream, at, data); the end comes with the job's end.
        self.output: dict[str, list[tuple[int, str, int, bytes]]] = {}
        self.uploads = 0
        self.lines: list[str] = []
        self.connections: set[asyncio.StreamWriter] = set()
        self.subscribers: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Future[None]] = set()
        #: Takes lines, works on them, and says nothing from here on; so it does when it is to run "mute".
        self.is_mute = False
        #: Loses the connection after so many more replies (that of the next line is worked on).
        self.replies_left: int | None = None
        self.is_stopping = False
        #: What becomes of the bytes of files on their way.
        self.spoil = False
        #: Said to `nodes`.
        self.note: str | None = None
        #: Said of a job that ends at once, and to `explain`.
        self.finish_with: dict[str, Any] = {}
        self.explained: dict[str, Any] = {"why": "it waits", "attempts": []}
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**22)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As a crash: all connections are lost, and new ones refused. Its jobs stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.lose()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def lose(self) -> None:
        for writer in self.connections:
            writer.transport.abort()
        for task in self.tasks:
            task.cancel()

    def submitted(self) -> list[str]:
        return [job["job"].get("run", "") for job in self.jobs.values()]

    def finish(self, ticket: str, *, exit_code: int | None = 0, **fields: Any) -> None:
        job = self.jobs[ticket]
        job.update(state="done", outcome="failed" if exit_code else "succeeded", exit_code=exit_code)
        job.update(started_at=2.0, finished_at=3.0, attempt=1, node=self.name, stdout="", stderr="")
        job.update(reason=None, value=None)
        job.update(fields)
        self.ended[ticket].set()
        for writer in self.subscribers:
            self._send(writer, {"done": {key: job[key] for key in ("ticket", "state", "outcome")}})

    def leave_out(self) -> None:
        for writer in self.subscribers:
            self._send(writer, {"left_out": 1})

    # --- one connection ----------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        # Not asyncio's own task for this, which complains when it is cancelled.
        self.tasks.add(task := asyncio.ensure_future(self._talk(reader, writer)))
        await asyncio.wait([task])
        self.tasks.discard(task)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                await self._line(line.decode().strip(), reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections.discard(writer)
            self.subscribers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _send(self, writer: asyncio.StreamWriter, value: Mapping[str, Any], raw: bytes = b"") -> None:
        if self.is_mute:
            return
        if self.replies_left is not None:
            if self.replies_left == 0:
                self.replies_left = None
                writer.transport.abort()
                return
            self.replies_left -= 1
        writer.write(json.dumps(value, separators=(",", ":")).encode() + b"\n" + raw)

    async def _line(self, line: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.lines.append(line)
        if line.startswith("{"):
            job = json.loads(line)
            self.is_mute = self.is_mute or job.get("run") == "mute"
            self._send(writer, self._submit(job))
            return
        verb, _, rest = line.partition(" ")
        match verb:
            case "json":
                self._send(writer, {"json": True})
            case "subscribe":
                self.subscribers.add(writer)
                self._send(writer, {"subscribed": rest})
            case "unsubscribe":
                self.subscribers.discard(writer)
                self._send(writer, {"unsubscribed": True})
            case "upload":
                await self._upload(rest, reader, writer)
            case "has":
                self._send(writer, {"has": rest, "here": rest in self.files})
            case "stats":
                self._send(writer, {"node": {"name": self.name}, "balancer": None})
            case "nodes":
                nodes = [{"name": node.name} for node in self.cluster.nodes]
                self._send(writer, {"nodes": nodes} | ({"note": self.note} if self.note else {}))
            case "list":
                self._send(writer, self._list(rest))
            case "wait" | "result" | "status" | "cancel" | "tail" | "fetch" | "explain":
                await self._about(verb, rest, writer)
            case _:
                self._send(writer, {"error": f"Please enter a valid command: {line!r} is none."})

    def _submit(self, job: dict[str, Any]) -> dict[str, Any]:
        if self.is_stopping:
            return {"error": "This node is about to stop and takes no more jobs; others do."}
        if job.get("run") == "refuse":
            return {"error": "run needs a command line."}
        for name, digest in job.get("file", {}).items():
            if digest not in self.files:
                return {"error": f"the file {name} is not here: upload it."}
        key = job.get("key")
        if key in self.cluster.keys:
            ticket, home = self.cluster.keys[key]
            return {"ticket": ticket} if home is self else {"ticket": ticket, "node": home.name}
        ticket = f"TICKET{next(NUMBERS):010}"
        if key is not None:
            self.cluster.keys[key] = ticket, self
        self.jobs[ticket] = {
            "ticket": ticket,
            "state": "queued",
            "outcome": None,
            "submitted_at": 1.0,
            "job": job,
        }
        self.jobs[ticket] |= {"tag": job.get("tag"), "name": job.get("name")}
        self.ended[ticket] = asyncio.Event()
        command = job.get("run", "")
        if not command.startswith("hold"):
            said: dict[str, Any] = {
                "exit_code": int(command.startswith("false")),
                "stdout": f"did {command}\n",
            }
            self.finish(ticket, **said | self.finish_with)
        return {"ticket": ticket}

    async def _about(self, verb: str, rest: str, writer: asyncio.StreamWriter) -> None:
        ticket, _, more = rest.partition(" ")
        job = self.jobs.get(ticket)
        if job is None:
            self._send(writer, {"error": NOT_FOUND, "ticket": ticket})
        elif verb == "wait":
            while not self.ended[ticket].is_set():
                if writer.transport.is_closing():
                    return
                await asyncio.sleep(0.002)
            self._send(writer, job)
        elif verb == "cancel":
            too_late = job["state"] == "done"
            if not too_late:
                self.finish(ticket, outcome="cancelled", exit_code=None)
            self._send(writer, {"ticket": ticket, "cancel": "too late" if too_late else "done"})
        elif verb == "tail":
            await self._tail(ticket, more, writer)
        elif verb == "fetch":
            self._fetch(ticket, more, writer)
        elif verb == "explain":
            self._send(writer, {"ticket": ticket, "state": job["state"], **self.explained})
        else:
            self._send(writer, job)

    async def _tail(self, ticket: str, place: str, writer: asyncio.StreamWriter) -> None:
        offsets = [int(word) for word in place.split()] or [1, 0, 0]
        attempt, read = offsets[0], {"stdout": offsets[1], "stderr": offsets[2]}
        sent = 0
        while True:
            pieces = self.output.get(ticket, [])
            for of, stream, at, data in pieces[sent:]:
                sent += 1
                if of < attempt or (of == attempt and at + len(data) <= read[stream]):
                    continue
                said = {"tail": ticket, "attempt": of, "stream": stream, "at": at, "text": data.decode()}
                self._send(writer, said)
                if writer.transport.is_closing():
                    return
            if self.ended[ticket].is_set():
                self._send(writer, self.jobs[ticket] | {"tail": ticket})
                return
            await asyncio.sleep(0.002)
            if writer.transport.is_closing():
                return

    def _fetch(self, ticket: str, path: str, writer: asyncio.StreamWriter) -> None:
        left = self.left.get(ticket, {})
        listed = [
            {"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in left.items()
        ]
        if not path:
            self._send(writer, {"ticket": ticket, "result_dir": None, "files": listed})
            return
        (one,) = [each for each in listed if each["path"] == path]
        data = left[path]
        self._send(writer, one | {"file": path}, data[::-1] if self.spoil else data)

    async def _upload(self, rest: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size, digest = rest.split()
        self.uploads += 1
        data = await reader.readexactly(int(size))
        if hashlib.sha256(data).hexdigest() != digest:
            self._send(writer, {"error": "the digest is another."})
            return
        self.files[digest] = data
        self._send(writer, {"uploaded": digest, "bytes": len(data)})

    def _list(self, rest: str) -> dict[str, Any]:
        words = rest.split()
        given = dict(zip(words[::2], words[1::2], strict=True))
        rows = [job for job in reversed(self.jobs.values()) if given.get("--tag") in (None, job["tag"])]
        if "--before" in given:
            places = [job["ticket"] for job in rows]
            rows = rows[places.index(given["--before"]) + 1 :]
        limit = int(given["--limit"])
        return {"jobs": rows[:limit], "next": rows[limit - 1]["ticket"] if len(rows) > limit else None}
