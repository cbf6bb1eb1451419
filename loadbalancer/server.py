"""The load balancer's shell: sockets and the store around the core."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from pathlib import Path

from loadbalancer import dump
from loadbalancer.core.balancer import Balancer
from loadbalancer.core.events import (
    Accept,
    Action,
    Close,
    Deliver,
    Event,
    HelloReceived,
    LinkLost,
    Log,
    MessageReceived,
    PassOn,
    Record,
    Send,
    StrangerAsked,
    Tick,
    Together,
)
from loadbalancer.core.keys import Keys
from loadbalancer.core.settings import Settings
from loadbalancer.store import Store
from loadbalancer.store.sqlite import SqliteStore
from protocol.errors import ProtocolError
from protocol.job import Ended
from protocol.limits import HELLO_TIMEOUT, LINK_BUFFER_LIMIT, STRANGER_FRAME_LIMIT, STRANGERS_LIMIT
from protocol.messages import Hello, Message, Query, RequestOfRes, ResReq, Result, in_batches
from protocol.relay import AWAY, Ask, Told
from runtime.connection import FrameConnection
from runtime.engine import Clock, Engine
from runtime.lifecycle import Background, end, listen, loading, until_stopped

log = logging.getLogger("loadbalancer")

#: While so much waits for a node to take it, no question is passed on to it: far below what costs its link.
PASSED_ON_BYTES = LINK_BUFFER_LIMIT // 8


class Session:
    """One connection: a stranger until the core accepts its HELLO."""

    def __init__(self, server: Server, link: int) -> None:
        self.link = link
        self.name = ""
        self._server = server
        self._greeted = False
        #: Its end is not worth a line in the log: a health check, or a node whose refusal was logged.
        self.known = False
        self.connection = FrameConnection(self._on_message, self._on_lost, STRANGER_FRAME_LIMIT)
        self._timer = asyncio.get_running_loop().call_later(HELLO_TIMEOUT, self._on_timeout)

    @property
    def is_stranger(self) -> bool:
        return not self.name

    def accept(self, name: str) -> None:
        self.name = name
        self._timer.cancel()
        self.connection.trust()

    def _on_message(self, message: Message) -> None:
        submit = self._server.submit
        if self._greeted:
            submit(MessageReceived(self.link, message))
        elif isinstance(message, Hello):
            self._greeted = self.known = True
            submit(HelloReceived(self.link, message))
        elif isinstance(message, Query) and message.what == "health":
            self.known = True
            submit(StrangerAsked(self.link, message))
        else:
            raise ProtocolError(f"HELLO comes first, not {type(message).__name__}")

    def _on_timeout(self) -> None:
        if self.is_stranger:
            if not self.connection.bytes_received:
                log.warning("stranger at %s: silent for %g s", self.connection.peer, HELLO_TIMEOUT)
            self.connection.refuse(ProtocolError(f"no HELLO within {HELLO_TIMEOUT:g} s", 408))

    def _on_lost(self, reason: str) -> None:
        self._timer.cancel()
        self._server.lost(self, reason)


class Server:
    """Accepts nodes, runs the engine, performs what the core decides."""

    def __init__(self, balancer: Balancer, store: Store, clock: Clock) -> None:
        self.engine: Engine[Event | Together, Record, Action] = Engine(
            balancer, Tick, self._commit, self._release, clock
        )
        self._store = store
        self._epoch = balancer.epoch
        self._came: list[Event] = []
        self._sessions: dict[int, Session] = {}
        self._next_link = 1
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._background = Background(self._fail)

    def connect(self) -> asyncio.BaseProtocol:
        """The protocol of a new connection."""
        session = Session(self, self._next_link)
        self._next_link += 1
        self._sessions[session.link] = session
        if sum(each.is_stranger for each in self._sessions.values()) > STRANGERS_LIMIT:
            refusal = ProtocolError(f"{STRANGERS_LIMIT} connections without HELLO already", 503)
            session.connection.refuse(refusal)
        self.engine.attach(session.connection)
        return session.connection

    def submit(self, event: Event) -> None:
        """What has come from all links in one turn of the event loop makes one step."""
        if not self._came:
            asyncio.get_running_loop().call_soon(self._step)
        self._came.append(event)

    def _step(self) -> None:
        came, self._came = self._came, []
        self.engine.submit(came[0] if len(came) == 1 else Together(came))

    def lost(self, session: Session, reason: str) -> None:
        del self._sessions[session.link]
        self.engine.detach(session.connection)
        if session.name:
            log.info("link to node %s ended: %s", session.name, reason)
            self.submit(LinkLost(session.link))
        elif session.connection.bytes_received and not session.known:
            log.warning("stranger at %s: %s", session.connection.peer, reason)

    async def run(self) -> None:
        """Until cancelled. Raises StorageError, Fenced."""
        engine = asyncio.ensure_future(self.engine.run())
        try:
            await asyncio.wait({engine, self._failure}, return_when=asyncio.FIRST_COMPLETED)
            (engine if engine.done() else self._failure).result()
        finally:
            await end(engine)
            await self._background.end()
            for session in list(self._sessions.values()):
                session.connection.close("the load balancer stops")

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    async def _commit(self, records: list[Record]) -> None:
        await self._store.apply(self._epoch, records)

    def _release(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Log):
                log.log(logging.WARNING if action.warning else logging.INFO, "%s", action.text)
                continue
            session = self._sessions.get(action.link)
            if session is None:
                continue  # gone meanwhile; what it missed, reconciliation brings
            match action:
                case Send(_, message):
                    session.connection.send(message)
                case PassOn(_, ask, back):
                    self._pass_on(session, ask, back)
                case Deliver():
                    self._background.start(self._deliver(session, action))
                case Accept(_, name):
                    session.accept(name)
                case Close(_, at_once):
                    close = session.connection.abort if at_once else session.connection.close
                    close("closed by the load balancer")

    def _pass_on(self, session: Session, ask: Ask, back: int) -> None:
        """What nodes bring one another must not cost a slow one its link."""
        if session.connection.backlog < PASSED_ON_BYTES:
            session.connection.send(ask)
        elif (asker := self._sessions.get(back)) is not None:
            asker.connection.send(Told(ask.number, "", AWAY, b"its node is busy"))

    async def _deliver(self, session: Session, action: Deliver) -> None:
        asking = list(action.tickets)
        for batch in in_batches(action.results, lambda stored: stored.size):
            found = await self._store.results(stored.seq for stored in batch)
            results = [
                Ended(stored.ticket, stored.attempt, stored.outcome, found[stored.seq])
                for stored in batch
                if stored.seq in found
            ]
            if asking:
                session.connection.send(ResReq(results, asking))
                asking = []
            elif results:
                session.connection.send(Result(results))
        if asking:
            session.connection.send(RequestOfRes(asking))


async def serve(stop: asyncio.Event, settings: Settings, bind: str, port: int, directory: Path) -> None:
    """The whole program inside a locked data directory, until `stop` is set."""
    store = await SqliteStore.open(directory)
    try:
        clock = Clock()
        opened = await store.acquire(secrets.token_hex(8))
        with loading():
            rows = await store.load_open(opened.epoch)
            keys, last = Keys(), 0
            while page := await store.load_keys(opened.epoch, last):
                keys.restore(page)
                last = page[-1].seq
            balancer = Balancer(settings, opened.balancer_id, opened.epoch, rows, clock.now(), keys)
            found = len(rows)
            del rows, page  # or they would stay as well
        server = Server(balancer, store, clock)
        listening = await listen(server.connect, bind, port, "the first argument")
        log.info(
            "ready on %s:%d, epoch %d, %d jobs open, data in %s",
            bind,
            port,
            opened.epoch,
            found,
            directory,
        )
        running = asyncio.ensure_future(server.run())

        def write_dump() -> None:
            try:
                log.info("state written to %s", dump.write(balancer, directory, clock.now()))
            except OSError as error:
                log.warning("the state could not be written to %s: %s", directory / dump.NAME, error.strerror)

        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, write_dump)
        try:
            await until_stopped(stop, running)
            log.info("stopping")
            listening.close()
            write_dump()
            await server.engine.settle()
            if running.done():
                running.result()
        finally:
            listening.close()
            await end(running)
    finally:
        await store.close()
