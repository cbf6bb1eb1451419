"""Which results a peer is owed, and how many of them may be under way at once."""

from __future__ import annotations

from collections import OrderedDict

from protocol.limits import BATCH_BYTES, MIB

#: Unacknowledged bytes under way to one peer. Its acknowledgements open the window again, so a slow
#: peer costs neither side memory. One result larger than what is left still goes, alone.
DELIVERY_WINDOW = 16 * MIB


class Delivery:
    """The results owed to one peer, in order, by ticket; sizes in bytes.

    Invariant: a ticket is in exactly one of waiting and sent, from `add` until `acknowledge`.
    """

    __slots__ = ("_sent", "_sent_bytes", "_waiting", "window")

    def __init__(self, window: int = DELIVERY_WINDOW) -> None:
        self.window = window
        # A dict from whose front much was taken is slow to begin: these are not.
        self._waiting: OrderedDict[str, int] = OrderedDict()
        self._sent: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._sent_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    def __contains__(self, ticket: str) -> bool:
        return ticket in self._waiting or ticket in self._sent

    def add(self, ticket: str, size: int) -> None:
        if ticket not in self._sent:
            self._waiting[ticket] = size

    def take(self, now: float) -> list[str]:
        """The tickets to send now; they count as sent from here on."""
        taken = []
        while self._waiting and self._sent_bytes < self.window:
            ticket, size = self._waiting.popitem(last=False)
            self._sent[ticket] = (size, now)
            self._sent_bytes += size
            taken.append(ticket)
        return taken

    def acknowledge(self, ticket: str) -> bool:
        """Takes a ticket off the list; False if it was not on it."""
        if ticket in self._sent:
            self._sent_bytes -= self._sent.pop(ticket)[0]
            return True
        return self._waiting.pop(ticket, None) is not None

    def overdue(self, before: float, now: float) -> list[str]:
        """Tickets sent before that time and not acknowledged: one message's worth, counted as sent now."""
        tickets, total = [], 0
        for ticket, (size, at) in self._sent.items():
            if at >= before or total > BATCH_BYTES:
                break
            tickets.append(ticket)
            total += size
        for ticket in tickets:
            # To the end: what was sent longest ago stays in front.
            size, _ = self._sent.pop(ticket)
            self._sent[ticket] = (size, now)
        return tickets

    def reset(self) -> None:
        """The link is new: nothing counts as sent."""
        again = OrderedDict((ticket, size) for ticket, (size, _) in self._sent.items())
        self._waiting = again | self._waiting
        self._sent.clear()
        self._sent_bytes = 0
