"""The load balancer's state machine: `step(event, now)`.

Invariants:

1. Of a job, only the attempt that this state names, on the node that it names, may change it; and a lost
   attempt that ended after all, while no other has, ends it. All else is stale: acknowledged, so that the
   sender can forget it, counted, and dropped.
2. A submission cannot come after its job was forgotten: the origin sends on one link in order, so any
   repetition of its JOB stands before its ACK of the result. That is why nothing need be remembered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from loadbalancer.core.courier import Courier
from loadbalancer.core.dispatch import Dispatcher
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
    Outcome,
    PassOn,
    Send,
    StrangerAsked,
    Tick,
    Together,
)
from loadbalancer.core.jobs import Job, Row, State
from loadbalancer.core.keys import Keys
from loadbalancer.core.ledger import Ledger
from loadbalancer.core.nodes import Node
from loadbalancer.core.questions import Questions
from loadbalancer.core.relay import Unanswered, whom
from loadbalancer.core.settings import Settings
from protocol.job import Ended
from protocol.job import Outcome as JobOutcome
from protocol.limits import INFO_PERIOD, KEYS_LIMIT, LINK_TIMEOUT, REQUEST_ITEMS
from protocol.messages import (
    AckJobs,
    AckResults,
    Answer,
    Bye,
    Cancel,
    Check,
    Checked,
    Drain,
    Drop,
    Error,
    Held,
    Hello,
    Info,
    Leaving,
    NotHere,
    Query,
    Refuse,
    RequestOfRes,
    ResReq,
    Result,
    Returned,
    Started,
    Welcome,
    in_batches,
)
from protocol.messages import Job as JobMessage
from protocol.relay import AWAY, Ask, Claim, Claimed, Told

#: Nodes of which it is known why they were refused.
REFUSALS_REMEMBERED = 1000
#: A node that is away and holds nothing stays in `nodes` this long.
REMEMBER_NODE = 3600.0


class Balancer:
    """All that the load balancer decides. Not a line of I/O: feed it events, do as it says."""

    def __init__(
        self,
        settings: Settings,
        balancer_id: str,
        epoch: int,
        rows: Iterable[Row],
        now: float,
        keys: Keys | None = None,
    ) -> None:
        self.settings = settings
        self.balancer_id = balancer_id
        self.epoch = epoch
        self.ledger = Ledger(settings.crash_limit, settings.node_grace_period, rows, now)
        self._links: dict[int, Node] = {}
        self.keys = keys or Keys()
        self._questions = Questions(settings, epoch, self.ledger, self.keys, self._links.values())
        self._now = now
        self._next_info = now + INFO_PERIOD
        self._next_dispatch = now + settings.dispatch_period
        self._next_request = now + settings.request_result_period
        self._dispatcher = Dispatcher(
            self.ledger, self._links.values(), settings.max_num_jobs_dispatch, self._to
        )
        self._actions: list[Action] = []
        self._prompt: list[Action] = []
        self._unanswered = Unanswered()
        self._refused: dict[str, str] = {}
        self._courier = Courier(self.ledger, lambda action: self._actions.append(action))

    # --- the step --------------------------------------------------------------------------------

    def step(self, event: Event | Together, now: float) -> Outcome:
        """One event, or several that came at once, at one time (seconds, never going back)."""
        self._now = self.ledger.now = now
        for each in event.events if isinstance(event, Together) else (event,):
            self._on_event(each)
        self.ledger.wake_delayed()
        if self.settings.eager:
            self._dispatcher.run_rounds(now)
        self._dispatcher.consider_evening(now)
        return self._collect()

    def _on_event(self, event: Event) -> None:
        match event:
            case MessageReceived(link, message):
                node = self._links.get(link)
                if node is not None:
                    node.heard_at = self._now
                    self._on_message(node, message)
            case HelloReceived(link, hello):
                self._on_hello(link, hello)
            case StrangerAsked(link, query):
                self._send(link, Answer(query.number, json.dumps(self.stats())))
            case LinkLost(link):
                self._on_link_lost(link)
            case Tick(deaf):
                self._on_tick(deaf)

    def next_deadline(self) -> float:
        """When the next Tick is due, at the latest."""
        dispatcher, ledger = self._dispatcher, self.ledger
        sometimes = (ledger.next_retry(), ledger.forget_at, dispatcher.next_evening, dispatcher.next_round)
        always = (self._next_info, self._next_dispatch, self._next_request)
        return min(*always, *(at for at in sometimes if at is not None))

    def _collect(self) -> Outcome:
        """Turns what the step changed into records, and results that are owed into messages."""
        self._prompt += self._courier.collect(self._now)
        for node_id, tickets in self.ledger.questions().items():
            for asking in in_batches(tickets):
                self._to(self.ledger.node(node_id), Check(asking))
        records = self.ledger.collect()
        self._courier.acknowledge(self.ledger.released)
        outcome = Outcome([*records, *self.keys.collect()], self._actions, self._prompt)
        self._actions, self._prompt = [], []
        return outcome

    def _send(self, link: int, message: Any) -> None:
        self._actions.append(Send(link, message))

    def _log(self, text: str, warning: bool = False) -> None:
        self._actions.append(Log(text, warning))

    # --- nodes come and go -----------------------------------------------------------------------

    def _on_hello(self, link: int, hello: Hello) -> None:
        refusal = self._refusal(hello)
        if refusal is not None:
            self._send(link, refusal)
            self._actions.append(Close(link))
            # It tries again every second: said once, unless it is another reason.
            if self._refused.pop(hello.node_id, None) != refusal.reason:
                self._log(f"node {hello.name} refused: {refusal.reason}", warning=True)
            while len(self._refused) >= REFUSALS_REMEMBERED:
                del self._refused[next(iter(self._refused))]
            self._refused[hello.node_id] = refusal.reason
            return
        self._refused.pop(hello.node_id, None)
        node = self.ledger.node(hello.node_id)
        if node.link is not None:
            # The same instance comes again: its old link is dead, whatever TCP thinks.
            self._actions.append(Close(node.link, at_once=True))
            del self._links[node.link]
            self._courier.link_ended(node, node.link)
        # Only another process than the one that we knew means a crash; what the same one lacks, or one that
        # we did not know before our own restart, may never have reached it.
        crashed = node.instance not in ("", hello.instance)
        node.name, node.instance, node.slots = hello.name, hello.instance, hello.slots
        node.link, node.deadline, node.heard_at, node.info = link, None, self._now, None
        node.recalled.clear()
        node.draining, node.asked_at = False, None
        node.count_from(self._now)
        self._links[link] = node
        # At once, as it follows from no record, and must come before all else that does not wait.
        welcome = Welcome(self.balancer_id, self.epoch, self.settings.request_result_period)
        self._prompt += [Accept(link, node.name), Send(link, welcome)]
        self._reconcile(node, hello, crashed)
        self.ledger.ask_again(node)
        self.ledger.unpark(node)
        node.owed.reset()
        self.ledger.owing[node.node_id] = node
        self._dispatcher.hurry()
        self._log(f"node {node.name} joined with {node.slots} slots; {len(self._links)} connected")

    def _refusal(self, hello: Hello) -> Refuse | None:
        known = self.ledger.nodes.get(hello.node_id)
        if known is not None and known.link is not None:
            alive = self._now - known.heard_at < LINK_TIMEOUT
            if known.instance != hello.instance and alive:
                return Refuse(
                    503, f"node {known.name} with the same id is connected; a copied data directory?"
                )
            return None
        for node in self._links.values():
            if node.name == hello.name:
                return Refuse(409, f"the name {hello.name} is taken by another node; --name gives another")
        if len(self._links) >= self.settings.max_num_nodes:
            return Refuse(503, f"MAX_NUM_NODES={self.settings.max_num_nodes} nodes are connected already")
        return None

    def _reconcile(self, node: Node, hello: Hello, crashed: bool) -> None:
        """Compares what the node says it has with what is recorded of it; before anything is dispatched."""
        running, finished = dict(hello.running), dict(hello.finished)
        has = dict(hello.held) | running | finished
        missing = [job for job in node.jobs.values() if has.get(job.ticket) != job.attempt]
        why = "its node had died" if crashed else "its node came back without it"
        self.ledger.lose_all(node, missing, counts=crashed, why=why)
        node.leaving.clear()  # it says so again
        for job in node.jobs.values():
            if job.ticket in running:
                self.ledger.start(job)
            if job.ticket not in finished:
                self.ledger.is_sure(job)
        cancels = [Held(job.ticket, job.attempt) for job in node.jobs.values() if job.cancelled]
        # What it has finished comes as RESULT anyway, and is then found stale or not.
        stale = [
            Held(ticket, attempt)
            for ticket, attempt in (*hello.held, *hello.running)
            if self._current(node, ticket, attempt) is None
        ]
        self.ledger.counters["stale"] += len(stale)
        for batch in in_batches(stale):
            self._to(node, Drop(batch))
        for batch in in_batches(cancels):
            self._to(node, Cancel(batch))

    def _on_link_lost(self, link: int, is_expected: bool = False) -> None:
        node = self._links.pop(link, None)
        if node is None:
            return
        node.link, node.deadline = None, self._now + self.settings.node_grace_period
        node.recalled.clear()
        self._courier.link_ended(node, link)
        for asker, number in self._unanswered.gone(node.node_id):
            if (waiting := self.ledger.nodes.get(asker)) is not None:
                self._prompt_to(waiting, Told(number, "", AWAY, b"its node has gone away"))
        if not is_expected:
            jobs, grace = len(node.jobs), self.settings.node_grace_period
            waits = f"; {'1 job waits' if jobs == 1 else f'{jobs} jobs wait'} {grace:g} s for it"
            self._log(f"node {node.name} is away{waits if jobs else ''}", warning=True)
        for job in list(node.jobs.values()):
            if job.cancelled:
                self.ledger.end(job, JobOutcome.CANCELLED, "its node was away")

    def _on_drain(self, node: Node, _: Drain) -> None:
        node.draining = True
        self._log(f"node {node.name} is about to stop, and takes no more jobs")

    def _on_bye(self, node: Node, _: Bye) -> None:
        # It stopped its jobs on purpose: nobody crashed. From here on it is away, and gets no job any more.
        assert node.link is not None
        self.ledger.lose_all(node, list(node.jobs.values()), counts=False, why="its node stopped")
        self._log(f"node {node.name} says goodbye")
        self._actions.append(Close(node.link))
        self._on_link_lost(node.link, is_expected=True)

    def _expire(self, node: Node) -> None:
        if node.jobs:
            self._log(f"node {node.name} did not come back: {len(node.jobs)} jobs go to others", warning=True)
            why = f"its node did not come back within {self.settings.node_grace_period:g} s"
            self.ledger.lose_all(node, list(node.jobs.values()), counts=True, why=why)
        if node.undelivered:
            node.deadline = self._now + REMEMBER_NODE
        elif self._now >= (node.deadline or 0.0) + REMEMBER_NODE:
            del self.ledger.nodes[node.node_id]

    # --- time ------------------------------------------------------------------------------------

    def _on_tick(self, deaf: bool) -> None:
        now = self._now
        if now - self._next_info > INFO_PERIOD:
            self._forgive(now - self._next_info)
        if now >= self._next_info:
            if deaf:
                self._forgive(INFO_PERIOD)
            self._next_info = now + INFO_PERIOD
            self._on_info_period()
        if now >= self._next_request:
            self._next_request = now + self.settings.request_result_period
            for node in self._links.values():
                self._exchange(node)
        if now >= self._next_dispatch:
            self._next_dispatch = now + self.settings.dispatch_period
            if not self.settings.eager:
                self._dispatcher.run_round()
            self._dispatcher.even_out(now)
        evening = self._dispatcher.next_evening
        if evening is not None and now >= evening:
            self._dispatcher.even_out(now)

    def _on_info_period(self) -> None:
        self.keys.expire(self._now)
        info = Info(self.ledger.waiting, len(self.ledger.jobs) - self.ledger.waiting, 0, 0.0, 0)
        for node in list(self.ledger.nodes.values()):
            if node.link is None:
                if node.deadline is not None and self._now >= node.deadline:
                    self._expire(node)
            elif self._now - node.heard_at > LINK_TIMEOUT:
                self._actions.append(Close(node.link, at_once=True))
                self._log(f"node {node.name} was silent for {LINK_TIMEOUT:g} s", warning=True)
                self._on_link_lost(node.link)
            else:
                self._prompt.append(Send(node.link, info))

    def _forgive(self, seconds: float) -> None:
        """We did not listen ourselves for so long: nobody's silence in that time counts against it."""
        for node in self.ledger.nodes.values():
            node.heard_at += seconds
            if node.deadline is not None:
                node.deadline += seconds

    def _exchange(self, node: Node) -> None:
        """REQUEST_OF_RES / RESULT / RES_REQ: whatever is still open since before the last period."""
        before = self._now - self.settings.request_result_period
        tickets = []
        if node.asked_at is None:
            tickets = [job.ticket for job in node.jobs.values() if job.since <= before][:REQUEST_ITEMS]
        if tickets:
            node.asked_at = self._now
        owed = self._courier.overdue(node, before, self._now)
        if owed and node.link is not None:
            self._actions.append(Deliver(node.link, owed, tickets))
        elif tickets:
            self._to(node, RequestOfRes(tickets))

    # --- messages of a node ----------------------------------------------------------------------

    def _on_message(self, node: Node, message: Any) -> None:
        handler = _HANDLERS.get(type(message))
        if handler is None:
            link = node.link
            assert link is not None
            self._send(link, Error(400, f"a node does not send {type(message).__name__}"))
            self._actions.append(Close(link))
            self._on_link_lost(link)
            return
        handler(self, node, message)

    def _on_info(self, node: Node, info: Info) -> None:
        node.info = info

    def _on_jobs(self, node: Node, message: JobMessage) -> None:
        for item in message.jobs:
            job = self.ledger.jobs.get(item.ticket)
            if job is None:
                self.ledger.accept(node, item)
            elif job.origin != node.node_id:
                self.ledger.counters["stale"] += 1
        self._to(node, AckJobs([item.ticket for item in message.jobs]))

    def _on_results(self, node: Node, message: Result | ResReq) -> None:
        for ended in message.results:
            job = self._current(node, ended.ticket, ended.attempt)
            if job is None:
                self._on_late_result(node, ended)
            elif ended.outcome == JobOutcome.LOST:
                self.ledger.lose(job, crashed=True, why="its worker died with it")
            elif _is_tried_again(job, ended):
                node.ended(self._now)
                self.ledger.fail(job, ended.outcome)
            else:
                node.ended(self._now)
                self._courier.finish(job, ended)
            self._courier.received(node, ended)

    def _on_late_result(self, node: Node, ended: Ended) -> None:
        """Not of the current attempt: of one that was thought lost, and the first to end; or stale."""
        job = self.ledger.jobs.get(ended.ticket)
        is_late = job is not None and job.lost is not None and job.lost.get(ended.attempt) == node.node_id
        is_final = ended.outcome in _REAL_ENDS and job is not None and not _is_tried_again(job, ended)
        if job is None or not is_late or not is_final or job.cancelled:
            self.ledger.counters["stale"] += 1
            return
        self.ledger.counters["late results"] += 1
        if job.node is not None:
            self._to(self.ledger.nodes[job.node], Drop([Held(job.ticket, job.attempt)]))
            self.ledger.tell(job, f"stopped: attempt {ended.attempt} had ended after all")
        node.ended(self._now)
        self.ledger.finish(job, ended)

    def _on_res_req(self, node: Node, message: ResReq) -> None:
        self._on_results(node, message)
        self._on_requests(node, RequestOfRes(message.tickets))

    def _on_requests(self, node: Node, message: RequestOfRes) -> None:
        """The node, as an origin, misses these results."""
        unknown = [ticket for ticket in message.tickets if ticket not in self.ledger.jobs]
        if unknown:
            self._to(node, NotHere(unknown))

    def _on_not_here(self, node: Node, message: NotHere) -> None:
        """The node, as an executor, was asked, and of these has nothing; perhaps of none.

        One question at a time: an answer to an older one would take what came back, and was dispatched
        again since, as lost.
        """
        asked_at, node.asked_at = node.asked_at, None
        for ticket in message.tickets:
            job = node.jobs.get(ticket)
            # What was dispatched since we asked is on its way; also in the same instant, as when it came back
            # and went out again in one go.
            if job is not None and asked_at is not None and job.since < asked_at:
                self.ledger.lose(job, crashed=False, why="its node never got it, or has lost it")

    def _on_ack_results(self, node: Node, message: AckResults) -> None:
        self._courier.came_home(node, message.results)

    def _on_checked(self, node: Node, message: Checked) -> None:
        for ticket in message.tickets:
            self.ledger.is_open(ticket)

    def _on_started(self, node: Node, message: Started) -> None:
        for ticket, attempt in message.jobs:
            job = self._current(node, ticket, attempt)
            if job is not None:
                self.ledger.start(job)

    def _on_leaving(self, node: Node, message: Leaving) -> None:
        self._on_started(node, Started(message.jobs))
        node.leaving.update(each.ticket for each in message.jobs if self._current(node, *each))

    def _on_returned(self, node: Node, message: Returned) -> None:
        returned = [job for ticket, attempt in message.jobs if (job := self._current(node, ticket, attempt))]
        # The last one first, so that the order of submission stands again at the head of the queue.
        for job in reversed(returned):
            self.ledger.counters["recalled"] += 1
            if job.cancelled:
                self.ledger.end(job, JobOutcome.CANCELLED, "before it started")
            elif job.state is State.ASSIGNED:
                self.ledger.requeue(job)
            elif self.ledger.node(job.origin).link is None:
                self.ledger.park(job)
            else:
                self.ledger.tell(job, "not started: its files could not be kept there")
                self.ledger.requeue(job)
        node.recalled.clear()

    def _on_cancel(self, node: Node, message: Cancel) -> None:
        for ticket, _ in message.jobs:
            job = self.ledger.jobs.get(ticket)
            if job is None or job.origin != node.node_id or job.outcome:
                continue
            executor = self.ledger.nodes[job.node] if job.node is not None else None
            if executor is None or executor.link is None:
                self.ledger.end(job, JobOutcome.CANCELLED, "before it started" if executor is None else "")
            else:
                job.cancelled = True
                self._to(executor, Cancel([Held(ticket, job.attempt)]))

    def _on_query(self, node: Node, query: Query) -> None:
        self._to(node, Answer(query.number, self._questions.answer(query)))

    def stats(self) -> dict[str, Any]:
        """Counters since this start, and what is there now."""
        return self._questions.stats()

    def _on_claim(self, node: Node, message: Claim) -> None:
        early = self.keys.early
        owners = self.keys.claim(node.node_id, node.name, message.claims, self._now)
        self._to(node, Claimed(message.number, owners))
        if early == 0 < self.keys.early:
            self._log(f"more than {KEYS_LIMIT} keys in a day: the oldest are forgotten early", warning=True)

    def _on_ask(self, node: Node, ask: Ask) -> None:
        """Passed on at once: what nodes say to one another follows from no record of this store."""
        asked = whom(self.ledger, ask)
        if isinstance(asked, Told):
            self._prompt_to(node, asked)
        else:
            assert asked.link is not None
            assert node.link is not None
            passed = replace(ask, whom="node", name=node.node_id)
            self._unanswered.passed_on(asked.node_id, node.node_id, ask.number)
            self._prompt.append(PassOn(asked.link, passed, node.link))

    def _on_told(self, node: Node, told: Told) -> None:
        self._unanswered.told(node.node_id, told.name, told.number)
        asker = self.ledger.nodes.get(told.name)
        if asker is not None:
            self._prompt_to(asker, replace(told, name=node.node_id))

    def _prompt_to(self, node: Node, message: Told) -> None:
        if node.link is not None:
            self._prompt.append(Send(node.link, message))

    def _current(self, node: Node, ticket: str, attempt: int) -> Job | None:
        """The job, if this attempt on this node is the one that counts (invariant 1)."""
        job = node.jobs.get(ticket)
        return job if job is not None and job.attempt == attempt else None

    def _to(self, node: Node, message: Any) -> None:
        if node.link is not None:
            self._send(node.link, message)


def _is_tried_again(job: Job, ended: Ended) -> bool:
    may = job.failures < job.retries and not job.cancelled and not job.at_most_once
    return may and ended.outcome in _TRIED_AGAIN


#: Outcomes that a retry may mend, and those of an attempt that really ended.
_TRIED_AGAIN = (JobOutcome.FAILED, JobOutcome.TIMED_OUT)
_REAL_ENDS = (JobOutcome.SUCCEEDED, JobOutcome.FAILED, JobOutcome.TIMED_OUT)

_HANDLERS: dict[type, Callable[[Balancer, Node, Any], None]] = {
    Info: Balancer._on_info,
    JobMessage: Balancer._on_jobs,
    Result: Balancer._on_results,
    ResReq: Balancer._on_res_req,
    RequestOfRes: Balancer._on_requests,
    NotHere: Balancer._on_not_here,
    AckResults: Balancer._on_ack_results,
    Started: Balancer._on_started,
    Leaving: Balancer._on_leaving,
    Returned: Balancer._on_returned,
    Cancel: Balancer._on_cancel,
    Checked: Balancer._on_checked,
    Query: Balancer._on_query,
    Claim: Balancer._on_claim,
    Ask: Balancer._on_ask,
    Told: Balancer._on_told,
    Drain: Balancer._on_drain,
    Bye: Balancer._on_bye,
}
