"""Named tasks in the node's core: checked before the ticket, run like a command, told with their value."""

from __future__ import annotations

import pytest

from clusternode.core.events import (
    CommandEnded,
    Drain,
    FromBalancer,
    Kill,
    LinkDown,
    Progressed,
    Spawn,
    SpawnTask,
    Stop,
    TasksKnown,
)
from protocol.dialogue import Status, Submit
from protocol.job import Command, Extras, Task, unpack_report
from protocol.messages import Answer as BalancerAnswer
from protocol.messages import Cancel, Drop, Held, Job, Query, Result
from protocol.replies import Failure, StatusOf, TicketIssued, render_json, render_text
from protocol.tasks import Parameter, Signature

from .test_node import Bench, ticket

SCALE = {"scale": Signature((Parameter("ratio", ("float",)),))}
GOOD = Task("scale", '{"ratio": 0.5}', time_limit=7.0)


def ended(number: int = 0, code: int | None = 0, reason: str = "", value: str = "") -> CommandEnded:
    return CommandEnded(ticket(number), 1, 1.0, 2.0, code, reason=reason, value=value)


class TestSubmitted:
    def test_one_that_fits_gets_a_ticket_and_is_handed_in_with_its_options(self) -> None:
        bench = Bench()
        bench.connect()
        bench.step(TasksKnown(SCALE))
        task = Task("scale", '{"ratio": 1}', retries=2, extras=Extras(priority=4))
        bench.ask(Submit(task), ticket(1))
        assert bench.replies() == [TicketIssued(ticket(1))]
        (item,) = bench.sent(Job)[0].jobs
        assert (item.body, item.retries, item.priority) == (task.pack(), 2, 4)

    @pytest.mark.parametrize(
        ("task", "said"),
        [
            (Task("scale", "{}"), '"ratio" is missing'),
            (Task("scale", '{"ratio": "x"}'), '"ratio" must be float, not str'),
            (Task("scale", '{"ratio": 1, "y": 2}'), 'there is no "y"'),
            (Task("other", "{}"), "There is no task 'other' on this node: there are scale."),
        ],
    )
    def test_one_that_does_not_fit_gets_one_line_and_leaves_nothing(self, task: Task, said: str) -> None:
        bench = Bench()
        bench.connect()
        bench.step(TasksKnown(SCALE))
        out = bench.ask(Submit(task), ticket(1))
        (reply,) = bench.replies()
        assert isinstance(reply, Failure)
        assert said in reply.reason
        assert not out.records
        assert not bench.sent(Job)
        assert not bench.core.origin.open

    def test_before_they_are_known_a_client_is_told_to_come_back(self) -> None:
        bench = Bench()
        bench.ask(Submit(GOOD), ticket(1))
        assert [type(reply) for reply in bench.replies()] == [Failure]
        bench.ask(Submit(Command("true")), ticket(2))
        assert bench.replies() == [TicketIssued(ticket(2))], "commands need not wait for that"


class TestRun:
    def test_it_takes_a_slot_and_its_value_is_in_the_report(self) -> None:
        bench = Bench()
        bench.connect()
        bench.give(GOOD, Command("true"))
        assert bench.did(SpawnTask) == [SpawnTask(ticket(0), 1, "scale", '{"ratio": 0.5}', 7.0, False)]
        assert not bench.did(Spawn), "the one slot is taken"
        bench.say(ended(reason="started 2 times", value='{"a":1}'))
        ((result,),) = (message.results for message in bench.sent(Result))
        report = unpack_report(result.body)
        assert (result.outcome, report.reason, report.value) == ("succeeded", "started 2 times", '{"a":1}')
        assert [spawn.line for spawn in bench.did(Spawn)] == ["true"]

    @pytest.mark.parametrize(
        ("code", "timed_out", "outcome"),
        [(1, False, "failed"), (137, False, "failed"), (143, True, "timed-out"), (None, False, "lost")],
    )
    def test_how_it_ended_is_its_outcome(self, code: int | None, timed_out: bool, outcome: str) -> None:
        bench = Bench()
        bench.connect()
        bench.give(GOOD)
        bench.say(CommandEnded(ticket(0), 1, 1.0, 2.0, code, timed_out))
        assert bench.sent(Result)[0].results[0].outcome == outcome

    def test_it_is_cancelled_or_dropped_as_a_command_is(self) -> None:
        bench = Bench(slots=2)
        bench.connect()
        bench.give(GOOD, GOOD)
        bench.hear(Cancel([Held(ticket(0), 1)]))
        assert bench.did(Kill) == [Kill(ticket(0), 1)]
        bench.hear(Drop([Held(ticket(1), 1)]))
        assert bench.did(Kill) == [Kill(ticket(1), 1)]
        bench.say(ended(0, 143), ended(1, 143))
        assert [each.outcome for each in bench.sent(Result)[0].results] == ["cancelled"]

    def test_a_node_that_stops_ends_it(self) -> None:
        bench = Bench()
        bench.connect()
        bench.give(GOOD)
        bench.step(Drain())
        bench.step(Stop())
        assert bench.did(Kill) == [Kill(ticket(0), 1)]

    def test_quick_tasks_say_nothing_about_commands(self) -> None:
        """Commands are handed ahead where commands are short."""
        bench = Bench()
        bench.connect()
        for number in range(50):
            bench.give(Task("scale", f'{{"ratio": {number}}}'), attempt=number + 1)
            bench.say(CommandEnded(ticket(0), number + 1, 1.0, 1.0001, 0))
        bench.give(*[Command("true")] * 5, attempt=99)
        assert len(bench.did(Spawn)) == 1


class TestProgress:
    def asked(self, bench: Bench) -> StatusOf:
        bench.ask(Status(ticket(0)))
        (query,) = bench.sent(Query)
        text = f'{{"{ticket(0)}": ["running", 1, "n", 1000.0]}}'
        bench.step(FromBalancer(BalancerAnswer(query.number, text)))
        (reply,) = bench.replies()
        assert isinstance(reply, StatusOf)
        return reply

    def test_the_last_word_is_shown_by_status_where_it_runs(self) -> None:
        bench = Bench()
        bench.step(TasksKnown(SCALE))
        bench.connect()
        bench.ask(Submit(GOOD), ticket(0))
        bench.give(GOOD)
        assert self.asked(bench).progress is None
        bench.say(Progressed(ticket(0), 1, 0.1, "x"), Progressed(ticket(0), 1, 0.4, "half\nway"))
        bench.say(Progressed(ticket(0), 2, 0.9, "of an attempt that is not here"))
        reply = self.asked(bench)
        assert render_text(reply).decode() == ("Status: running on n, attempt 1, 40% done: half way\n")
        assert b'"progress":{"part":0.4,"text":"half\\nway"}' in render_json(reply)

    def test_a_word_about_what_does_not_run_is_nothing(self) -> None:
        bench = Bench()
        bench.say(Progressed(ticket(0), 1, 0.5, ""))
        bench.step(LinkDown())
        assert bench.core.executor.progress_of(ticket(0)) is None
