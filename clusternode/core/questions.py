"""What clients ask that the load balancer answers, and as much as this node knows where it is away."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clusternode.core.events import Answer, Line, LookUp, Outcome, Send, StatesAre, StatesOf
from clusternode.core.explain import explain_here, explain_told
from clusternode.core.openjob import Asking
from protocol.dialogue import Explain, GetResult, Nodes, Stats, Status
from protocol.errors import ProtocolError
from protocol.job import JobState
from protocol.messages import Answer as BalancerAnswer
from protocol.messages import Query
from protocol.replies import Failure, JobView, NodesAre, Reply, ResultOf, StatsAre, StatusOf

if TYPE_CHECKING:
    from clusternode.core.origin import Origin

STRANGE = "The ReverseProxy gave an answer that this version does not understand"


class Questions:
    """Clients' lines that wait for the load balancer's word, by the number of the QUERY."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._asking: dict[int, Asking] = {}
        self._next_query = 1

    def ask(self, client: int, line: Line, connected: bool, out: Outcome) -> None:
        if not connected:
            self._answer_alone(Asking(line, client), out)
            return
        number, self._next_query = self._next_query, self._next_query + 1
        self._asking[number] = Asking(line, client)
        asked = line.asked
        if isinstance(asked, Nodes | Stats):
            out.actions.append(Send(Query(number, "nodes" if isinstance(asked, Nodes) else "stats")))
        elif isinstance(asked, GetResult | Status | Explain):
            what = "explain" if isinstance(asked, Explain) else "status"
            out.actions.append(Send(Query(number, what, (asked.ticket,))))
        elif isinstance(asked, StatesOf):
            out.actions.append(Send(Query(number, "status", tuple(asked.tickets))))

    def link_down(self, out: Outcome) -> None:
        asking, self._asking = self._asking, {}
        for each in asking.values():
            self._answer_alone(each, out)

    def _answer_alone(self, asking: Asking, out: Outcome) -> None:
        """The load balancer is away: as much as this node knows."""
        asked, origin = asking.line.asked, self._origin
        reply: Reply
        if isinstance(asked, StatesOf):
            out.actions.append(self._states(asking, asked, {}, origin.why_away))
            return
        if isinstance(asked, Nodes):
            reply = NodesAre([origin.own_fields], f"{origin.why_away}: only this node is known")
        elif isinstance(asked, Stats):
            reply = StatsAre(origin.stats, None)
        else:
            assert isinstance(asked, GetResult | Status | Explain)
            job = origin.open.get(asked.ticket)
            if job is None:
                out.actions.append(LookUp(asking.client, asking.line.seq, asked, asked.ticket))
                return
            if isinstance(asked, Explain):
                reply = explain_here(origin, asked.ticket, job, connected=False)
            else:
                view = origin.view(asked.ticket, job)
                if origin.runs_here(asked.ticket):
                    view = replace(view, state=JobState.RUNNING)
                reply = StatusOf(view, origin.why_away) if isinstance(asked, Status) else ResultOf(view)
        out.actions.append(Answer(asking.client, asking.line.seq, reply))

    def answered(self, message: BalancerAnswer, out: Outcome) -> None:
        asking = self._asking.pop(message.number, None)
        if asking is None:
            return
        asked, client, seq = asking.line.asked, asking.client, asking.line.seq
        try:
            value = json.loads(message.text)
            if isinstance(asked, StatesOf):
                out.actions.append(self._states(asking, asked, value))
                return
            reply = self._reply(asked, value)
        except (ValueError, TypeError, AttributeError, KeyError, ProtocolError):
            if isinstance(asked, StatesOf):
                out.actions.append(self._states(asking, asked, {}, STRANGE))
                return
            reply = Failure(f"{STRANGE}.")
        if reply is None:  # it was done in the meantime
            assert isinstance(asked, GetResult | Status | Explain)
            out.actions.append(LookUp(client, seq, asked, asked.ticket))
        else:
            out.actions.append(Answer(client, seq, reply))

    def _reply(self, asked: Any, value: Any) -> Reply | None:
        origin = self._origin
        if isinstance(asked, Nodes):
            if not all(origin.own_fields.keys() <= node.keys() for node in value):
                raise ValueError("a node without its fields")
            return NodesAre(value)
        if not isinstance(value, dict):
            raise TypeError("no object")
        if isinstance(asked, Stats):
            return StatsAre(origin.stats, value)
        job = origin.open.get(asked.ticket)
        if job is None:
            return None
        if isinstance(asked, Explain):
            return explain_told(asked.ticket, value.get(asked.ticket))
        view = _placed(origin.view(asked.ticket, job), value)
        if isinstance(asked, Status):
            return StatusOf(view, progress=origin.progress_of(asked.ticket))
        return ResultOf(view)

    def _states(self, asking: Asking, asked: StatesOf, value: Any, note: str = "") -> StatesAre:
        """Of those that are still open. Raises as what looks into a value of another form does."""
        origin = self._origin
        views = {
            ticket: _placed(origin.view(ticket, job), value)
            for ticket in asked.tickets
            if (job := origin.open.get(ticket)) is not None
        }
        return StatesAre(asking.client, asking.line.seq, views, note)


def _placed(view: JobView, value: Any) -> JobView:
    """Where the load balancer says it is, if it has it."""
    if view.ticket not in value:
        return view
    state, attempt, node, started_at = value[view.ticket]
    # Its result is on its way to us: until it is recorded here, it is not done here.
    shown = JobState.RUNNING if state == "done" else JobState(state)
    return JobView(view.ticket, view.spec, view.submitted_at, shown, attempt, node, started_at)
