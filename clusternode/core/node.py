"""The node's state machine: `step(event, now)` over its two halves, the origin and the executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from clusternode.core.events import (
    ClientGone,
    Disconnect,
    Drain,
    Drained,
    Event,
    Found,
    FromBalancer,
    FromHelpers,
    LinesReceived,
    LinkDown,
    LinkUp,
    Log,
    Measured,
    Outcome,
    Posted,
    Send,
    Shipped,
    Stop,
    TasksKnown,
    Tick,
)
from clusternode.core.executor import Executor
from clusternode.core.openjob import Stored
from clusternode.core.origin import AWAY, Origin
from protocol.explain import Tried
from protocol.limits import INFO_PERIOD, LINK_TIMEOUT
from protocol.messages import (
    AckJobs,
    AckResults,
    Answer,
    Bye,
    Cancel,
    Check,
    Drop,
    Error,
    Hello,
    Info,
    Job,
    NotHere,
    Recall,
    Refuse,
    RequestOfRes,
    ResReq,
    Result,
    Welcome,
)
from protocol.messages import Drain as DrainMessage
from protocol.relay import Claimed


@dataclass(frozen=True, slots=True)
class Identity:
    """`node_id` lives in the data directory, `instance` as long as this process."""

    node_id: str
    instance: str
    name: str
    slots: int


class NodeCore:
    """All that a node decides."""

    def __init__(
        self,
        identity: Identity,
        open_jobs: Iterable[Stored],
        next_seq: int,
        kept: Iterable[tuple[str, int, int]],
        now: float,
    ) -> None:
        """`open_jobs`, `next_seq`, `kept`: what the store holds, see `Origin` and `Executor`."""
        self.identity = identity
        self.origin = Origin(open_jobs, next_seq)
        self.executor = Executor(identity.name, identity.slots, kept)
        self.origin.progress_of = self.executor.progress_of
        self.origin.runs_here = self.executor.running.__contains__
        #: True between WELCOME and the end of the link.
        self.connected = False
        self._linked = False
        self._heard_at = now
        self._balancer = ("", 0)
        self._period = 3.0
        self._next_info = now
        self._next_exchange = now
        self._measured = Measured(0.0, 0)
        self._now = now

    def step(self, event: Event, now: float) -> Outcome:
        """One event, at one time (seconds, never going back)."""
        self._now = now
        out = Outcome()
        match event:
            case LinesReceived(client, lines):
                self._describe()
                for line in lines:
                    self.origin.line(client, line, now, self.connected, out)
            case FromBalancer(message):
                self._heard_at = now
                self._on_message(message, out)
            case FromHelpers():
                self.executor.heard(event, now, self.connected, out)
            case Shipped():
                self.executor.shipped(event, now)
            case Found(counts=counts):
                self.origin.recall(counts, now, out)
                self.origin.submissions.found(event, now, self.connected, out)
            case ClientGone(client):
                self.origin.client_gone(client)
            case LinkUp():
                self._on_link_up(out)
            case LinkDown():
                self._on_link_down(out)
            case TasksKnown(tasks):
                self.origin.tasks = tasks
            case Posted():
                self.origin.notices.posted(event, now, out)
            case Measured():
                self._measured = event
            case Drain():
                if self.connected:
                    out.prompt.append(Send(DrainMessage()))
                self.executor.drain(self.connected, out)
            case Stop():
                self.executor.stop(now, out)
                if self.connected:
                    out.actions.append(Send(Bye()))
                return out
            case Tick(deaf):
                self._on_tick(deaf, out)
        self.origin.submissions.seek(out)
        if self.connected:
            self.origin.forward(out)
        self.origin.notices.send(now, out)
        self.executor.advance(now, self.connected, out)
        if self.executor.is_drained(self.connected):
            out.actions.append(Drained())
        return out

    def next_deadline(self) -> float | None:
        """When the next Tick is due, at the latest."""
        deadlines = [self.executor.next_deadline(self.connected), self.origin.notices.next_deadline()]
        if self._linked:
            deadlines += [self._next_info, self._next_exchange]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # --- the link --------------------------------------------------------------------------------

    def _on_link_up(self, out: Outcome) -> None:
        self._linked = True
        self._heard_at = self._now
        self._next_info = self._next_exchange = self._now + INFO_PERIOD
        held, running, finished = self.executor.holdings()
        who = self.identity
        hello = Hello(who.node_id, who.instance, who.name, who.slots, held, running, finished)
        out.actions.append(Send(hello))

    def _on_link_down(self, out: Outcome) -> None:
        was_connected, self.connected, self._linked = self.connected, False, False
        if was_connected:
            self._describe()
            self.origin.link_down(out)

    def _on_welcome(self, message: Welcome, out: Outcome) -> None:
        balancer_id, epoch = self._balancer
        if message.balancer_id == balancer_id and message.epoch < epoch:
            out.actions.append(
                Disconnect(f"this ReverseProxy is of epoch {message.epoch}, and {epoch} was seen already")
            )
            return
        self._balancer = (message.balancer_id, message.epoch)
        self._period = message.request_result_period
        self._next_exchange = self._now + self._period
        self.connected = True
        self.origin.why_away = AWAY
        self.executor.link_up()
        if self.executor.draining:
            out.prompt.append(Send(DrainMessage()))
            self.executor.give_back(out)
        self.origin.link_up(out)
        out.actions.append(Log(f"welcome by the ReverseProxy, epoch {message.epoch}"))

    def _on_refuse(self, message: Refuse, out: Outcome) -> None:
        self.origin.why_away = f"the ReverseProxy refuses this node ({message.reason})"
        out.actions.append(Disconnect(f"refused: {message.reason}"))

    def _on_error(self, message: Error, out: Outcome) -> None:
        out.actions.append(Disconnect(f"the ReverseProxy says: {message.reason}"))

    def _on_tick(self, deaf: bool, out: Outcome) -> None:
        if not self._linked:
            return
        now = self._now
        if now >= self._next_info:
            if deaf or now - self._next_info > INFO_PERIOD:
                # We did not listen, or were stopped ourselves: what came meanwhile is still to be read.
                self._heard_at = now
            self._next_info = now + INFO_PERIOD
            if now - self._heard_at > LINK_TIMEOUT:
                out.actions.append(Disconnect(f"the ReverseProxy was silent for {LINK_TIMEOUT:g} s"))
                return
            if self.connected:
                out.prompt.append(Send(self._info()))
        if now >= self._next_exchange:
            self._next_exchange = now + self._period
            if self.connected:
                before = now - self._period
                self.executor.outbox.exchange(before, self.origin.overdue(before), now, out)

    def _info(self) -> Info:
        executor = self.executor
        running = len(executor.running)
        free = max(0, executor.slots - executor.taken)
        waiting = len(executor.queue) + len(executor.ahead)
        return Info(waiting, running, free, self._measured.load, self._measured.memory)

    # --- messages --------------------------------------------------------------------------------

    def _on_message(self, message: Any, out: Outcome) -> None:
        handler = _HANDLERS.get(type(message))
        early = isinstance(message, Welcome | Refuse | Error)
        late = isinstance(message, Welcome) and self.connected
        if handler is None or late or not (self.connected or early):
            out.actions.append(Disconnect(f"the ReverseProxy sent {type(message).__name__} out of place"))
        else:
            handler(self, message, out)

    def _on_job(self, message: Job, out: Outcome) -> None:
        self.executor.assign(message.jobs, out)

    def _on_result(self, message: Result, out: Outcome) -> None:
        self.origin.results(message.results, self._now, out)

    def _on_request(self, message: RequestOfRes, out: Outcome) -> None:
        self.executor.requested(message.tickets, out)

    def _on_res_req(self, message: ResReq, out: Outcome) -> None:
        self.origin.results(message.results, self._now, out)
        self.executor.requested(message.tickets, out)

    def _on_not_here(self, message: NotHere, out: Outcome) -> None:
        self.origin.unknown(message.tickets)

    def _on_check(self, message: Check, out: Outcome) -> None:
        self.origin.checked(message.tickets, out)

    def _on_ack_jobs(self, message: AckJobs, out: Outcome) -> None:
        self.origin.acknowledged(message.tickets)

    def _on_ack_results(self, message: AckResults, out: Outcome) -> None:
        self.executor.acknowledged(message.results, out)

    def _on_recall(self, message: Recall, out: Outcome) -> None:
        self.executor.recall(message.jobs, out)

    def _on_cancel(self, message: Cancel, out: Outcome) -> None:
        self.executor.cancel(message.jobs, self._now, out)

    def _on_drop(self, message: Drop, out: Outcome) -> None:
        self.executor.drop(message.jobs, out)

    def _on_answer(self, message: Answer, out: Outcome) -> None:
        self._describe()
        self.origin.questions.answered(message, out)

    def _on_claimed(self, message: Claimed, out: Outcome) -> None:
        if not self.origin.keys.claimed(message, self._now, out):
            out.actions.append(Disconnect("the ReverseProxy answered a claim that was not made"))

    def _on_tried(self, message: Tried, out: Outcome) -> None:
        self.origin.tell(message.stories)

    def _on_info(self, message: Info, out: Outcome) -> None:
        """It lives: that is all it says."""

    # --- what clients ask of this node -----------------------------------------------------------

    def _describe(self) -> None:
        """This node in its own words, for `nodes` and `stats`."""
        executor, origin, info = self.executor, self.origin, self._info()
        origin.own_fields = {
            "name": self.identity.name,
            "connected": self.connected,
            "draining": executor.draining,
            "slots": executor.slots,
            "running": info.running,
            "queued": info.queue,
            "done": executor.done,
            "load": info.load,
            "memory": info.memory,
            "reported_queue": info.queue,
            "id": self.identity.node_id,
        }
        origin.stats = {
            "name": self.identity.name,
            "connected": self.connected,
            "submitted": origin.submitted,
            "open": len(origin.open),
            **origin.outcomes,
            "executed": executor.done,
            "running": info.running,
            "queued": info.queue,
            "unacknowledged results": len(executor.outbox),
            "notices pending": len(origin.notices),
            "stale": origin.stale + executor.stale,
        }


_HANDLERS: dict[type, Callable[[NodeCore, Any, Outcome], None]] = {
    Welcome: NodeCore._on_welcome,
    Refuse: NodeCore._on_refuse,
    Error: NodeCore._on_error,
    Job: NodeCore._on_job,
    Result: NodeCore._on_result,
    RequestOfRes: NodeCore._on_request,
    ResReq: NodeCore._on_res_req,
    NotHere: NodeCore._on_not_here,
    Check: NodeCore._on_check,
    AckJobs: NodeCore._on_ack_jobs,
    AckResults: NodeCore._on_ack_results,
    Recall: NodeCore._on_recall,
    Cancel: NodeCore._on_cancel,
    Drop: NodeCore._on_drop,
    Answer: NodeCore._on_answer,
    Claimed: NodeCore._on_claimed,
    Tried: NodeCore._on_tried,
    Info: NodeCore._on_info,
}
