"""What several unit tests draw: tickets, names, streams in pieces, and every message of the wire."""

import json
from collections.abc import Iterator

from hypothesis import strategies as st

from protocol import messages as m
from protocol import relay
from protocol.fields import is_name
from protocol.job import TICKET_ALPHABET, Command, Ended, Outcome, Report, Sleep, Task
from protocol.limits import (
    ATTEMPT_LIMIT,
    NAME_LIMIT,
    RETRIES_LIMIT,
    SLEEP_LIMIT_MS,
    SLOTS_LIMIT,
    TIME_LIMIT,
)

tickets = st.text(TICKET_ALPHABET, min_size=16, max_size=16)
names = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=NAME_LIMIT).filter(is_name)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
bodies = st.binary(max_size=60)
attempts = st.integers(1, ATTEMPT_LIMIT)
attempts_or_none = st.integers(0, ATTEMPT_LIMIT)
retries = st.integers(0, RETRIES_LIMIT)
counts = st.integers(0, 2**62)
numbers = st.floats(0, 1e18, exclude_max=True)
moments = st.floats(0, 4e9)


def tuples_of(items: st.SearchStrategy, most: int = 5) -> st.SearchStrategy:
    return st.lists(items, max_size=most).map(tuple)


priorities = st.integers(-100, 100)
job_items = st.builds(
    m.JobItem,
    tickets,
    attempts_or_none,
    numbers,
    bodies,
    retries,
    st.booleans(),
    priorities,
)
held = st.builds(m.Held, tickets, attempts)
held_or_asked = st.builds(m.Held, tickets, attempts_or_none)
ended = st.builds(Ended, tickets, attempts_or_none, st.sampled_from([str(o) for o in Outcome]), bodies)
many_ended = st.lists(ended, max_size=5)
many_tickets = tuples_of(tickets)

specs = st.builds(Sleep, st.integers(0, SLEEP_LIMIT_MS), st.sampled_from(["", "k-1"])) | st.builds(
    Command,
    texts.filter(lambda line: line and "\0" not in line),
    st.none() | st.floats(0, TIME_LIMIT, exclude_min=True),
    retries,
    st.booleans(),
)
specs |= st.builds(
    Task,
    names,
    st.dictionaries(texts, st.none() | st.integers() | texts, max_size=3).map(json.dumps),
    st.none() | st.floats(0, TIME_LIMIT, exclude_min=True),
    retries,
    st.booleans(),
)
reports = st.builds(
    Report,
    node=names,
    started_at=st.none() | moments,
    finished_at=moments,
    exit_code=st.none() | st.integers(0, 255),
    stdout=bodies,
    stderr=bodies,
    stdout_total=st.integers(0, 10**12),
    stderr_total=st.integers(0, 10**12),
    reason=texts,
    value=st.just("") | st.none().map(json.dumps) | texts.map(json.dumps),
)

#: One strategy a class: a message that is missing here is noticed by a test.
BY_CLASS: dict[type, st.SearchStrategy] = {
    m.Hello: st.builds(
        m.Hello,
        names,
        names,
        names,
        st.integers(1, SLOTS_LIMIT),
        tuples_of(held),
        tuples_of(held),
        tuples_of(held),
    ),
    m.Welcome: st.builds(m.Welcome, names, st.integers(1, 2**62), numbers),
    m.Refuse: st.builds(m.Refuse, st.integers(400, 599), texts),
    m.Job: st.builds(m.Job, st.lists(job_items, max_size=5)),
    m.Info: st.builds(m.Info, counts, counts, counts, numbers, counts),
    m.RequestOfRes: st.builds(m.RequestOfRes, many_tickets),
    m.Result: st.builds(m.Result, many_ended),
    m.ResReq: st.builds(m.ResReq, many_ended, many_tickets),
    m.NotHere: st.builds(m.NotHere, many_tickets),
    m.AckJobs: st.builds(m.AckJobs, many_tickets),
    m.AckResults: st.builds(m.AckResults, tuples_of(held_or_asked)),
    m.Started: st.builds(m.Started, tuples_of(held)),
    m.Leaving: st.builds(m.Leaving, tuples_of(held)),
    m.Recall: st.builds(m.Recall, tuples_of(held)),
    m.Returned: st.builds(m.Returned, tuples_of(held)),
    m.Cancel: st.builds(m.Cancel, tuples_of(held_or_asked)),
    m.Drop: st.builds(m.Drop, tuples_of(held)),
    m.Query: st.builds(m.Query, counts, st.sampled_from(m.QUERIES), many_tickets),
    m.Answer: st.builds(m.Answer, counts, texts),
    m.Ask: st.builds(m.Ask, counts, st.sampled_from(relay.WHOM), names, texts.map(lambda t: t[:32]), bodies),
    m.Told: st.builds(m.Told, counts, st.just("") | names, st.integers(100, 599), bodies),
    m.Claim: st.builds(m.Claim, counts, tuples_of(st.builds(relay.Claiming, names, tickets))),
    m.Claimed: st.builds(m.Claimed, counts, tuples_of(st.builds(relay.Owner, tickets, names))),
    m.Check: st.builds(m.Check, many_tickets),
    m.Checked: st.builds(m.Checked, many_tickets),
    m.Drain: st.builds(m.Drain),
    m.Bye: st.builds(m.Bye),
    m.Error: st.builds(m.Error, st.integers(400, 599), texts),
}
messages = st.one_of(*BY_CLASS.values())

#: Anything that MessagePack can say.
structures = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | tickets
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=20,
)

#: Where a stream may be cut: as many pieces, of these sizes, over and over.
cuts = st.lists(st.integers(1, 50), min_size=1, max_size=10)


def pieces(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    """`stream` in pieces of these sizes, in turn, until it is used up."""
    at, turn = 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        yield stream[at : at + size]
        at, turn = at + size, turn + 1
