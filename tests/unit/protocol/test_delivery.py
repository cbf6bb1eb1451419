from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.delivery import DELIVERY_WINDOW, Delivery
from protocol.limits import BATCH_BYTES

TICKETS = [f"T{number}" for number in range(8)]
ticket = st.sampled_from(TICKETS)
sizes = st.integers(0, 40)


class DeliveryMachine(RuleBasedStateMachine):
    """A delivery beside a plain model of it: two lists and sums that are never kept, only taken."""

    @initialize(window=st.integers(1, 100))
    def start(self, window: int) -> None:
        self.delivery = Delivery(window)
        self.waiting: dict[str, int] = {}
        self.sent: dict[str, tuple[int, float]] = {}
        self.now = 0.0

    def under_way(self) -> int:
        return sum(size for size, _ in self.sent.values())

    @rule(ticket=ticket, size=sizes)
    def add(self, ticket: str, size: int) -> None:
        self.delivery.add(ticket, size)
        if ticket not in self.sent:
            self.waiting[ticket] = size

    @rule()
    def take(self) -> None:
        expected = []
        while self.waiting and self.under_way() < self.delivery.window:
            first = next(iter(self.waiting))
            self.sent[first] = (self.waiting.pop(first), self.now)
            expected.append(first)
        assert self.delivery.take(self.now) == expected

    @rule(ticket=ticket)
    def acknowledge(self, ticket: str) -> None:
        owed = ticket in self.waiting or ticket in self.sent
        assert self.delivery.acknowledge(ticket) is owed
        self.waiting.pop(ticket, None)
        self.sent.pop(ticket, None)

    @rule(age=st.integers(0, 5))
    def overdue(self, age: int) -> None:
        before = self.now - age
        late = [ticket for ticket, (_, at) in self.sent.items() if at < before]
        assert self.delivery.overdue(before, self.now) == late
        for ticket in late:
            self.sent[ticket] = (self.sent.pop(ticket)[0], self.now)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def reset(self) -> None:
        self.delivery.reset()
        self.waiting = {ticket: size for ticket, (size, _) in self.sent.items()} | self.waiting
        self.sent = {}

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert not self.waiting.keys() & self.sent.keys()
        assert len(self.delivery) == len(self.waiting) + len(self.sent)
        assert [t for t in TICKETS if t in self.delivery] == [
            t for t in TICKETS if t in self.waiting or t in self.sent
        ]

    @invariant()
    def the_window_holds_one_result_over_it_at_most(self) -> None:
        if self.sent:
            largest = max(size for size, _ in self.sent.values())
            assert self.under_way() - largest < self.delivery.window


TestDelivery = DeliveryMachine.TestCase


def test_the_window_closes_and_acknowledgements_open_it() -> None:
    delivery = Delivery(window=10)
    for name in "abc":
        delivery.add(name, 6)
    assert delivery.take(0.0) == ["a", "b"]
    assert delivery.take(0.0) == []
    assert delivery.acknowledge("a")
    assert delivery.take(0.0) == ["c"]


def test_a_result_over_the_window_goes_alone() -> None:
    delivery = Delivery(window=10)
    delivery.add("large", 1000)
    delivery.add("small", 1)
    assert delivery.take(0.0) == ["large"]
    assert delivery.take(0.0) == []
    assert delivery.acknowledge("large")
    assert delivery.take(0.0) == ["small"]


def test_what_was_sent_is_not_sent_again_until_it_is_overdue() -> None:
    delivery = Delivery()
    delivery.add("a", 1)
    assert delivery.take(1.0) == ["a"]
    delivery.add("a", 1)
    assert delivery.take(2.0) == []
    assert delivery.overdue(before=1.0, now=5.0) == []
    assert delivery.overdue(before=1.5, now=5.0) == ["a"]
    assert delivery.overdue(before=4.0, now=6.0) == []
    assert delivery.overdue(before=5.5, now=6.0) == ["a"]


def test_overdue_results_come_a_message_at_a_time_and_in_turn() -> None:
    delivery = Delivery()
    for name in "abcd":
        delivery.add(name, BATCH_BYTES // 2 + 1)
    assert delivery.take(0.0) == list("abcd")
    assert delivery.overdue(before=1.0, now=1.0) == ["a", "b"]
    assert delivery.overdue(before=1.0, now=1.0) == ["c", "d"]
    assert delivery.overdue(before=1.0, now=1.0) == []


def test_a_new_link_sends_all_again_in_order() -> None:
    delivery = Delivery(window=2)
    for name in "abc":
        delivery.add(name, 1)
    assert delivery.take(0.0) == ["a", "b"]
    delivery.reset()
    assert delivery.take(1.0) == ["a", "b"]
    assert len(delivery) == 3
    assert "c" in delivery


def test_what_is_not_owed_cannot_be_acknowledged() -> None:
    delivery = Delivery()
    assert not delivery.acknowledge("a")
    delivery.add("a", 1)
    assert delivery.acknowledge("a")
    assert not delivery.acknowledge("a")
    assert len(delivery) == 0


def test_the_window_holds_more_than_a_batch() -> None:
    assert Delivery().window == DELIVERY_WINDOW > BATCH_BYTES
