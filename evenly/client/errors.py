"""What can go wrong, one class each; the message is one line that a person can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evenly.client.model import Result


class EvenlyError(Exception):
    """The base of all errors of this package."""


class NodesUnreachable(EvenlyError):
    """No node could be asked: none answers, or the one that answers for this ticket is away.

    What was submitted may or may not have been taken; the same `key` again does not submit it twice.
    `faults`: by their addresses, why which of them could not be reached, so far as that is known.
    """

    def __init__(self, message: str, faults: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.faults = dict(faults or {})


class ConnectionLost(EvenlyError):
    """One connection broke or showed no progress. The client connects again by itself; seen only inside."""


class Refused(EvenlyError):
    """A node said no, or would, and why: an option that is wrong, a file that is not there, no room."""


class UnknownTicket(EvenlyError):
    """None of the nodes has given this ticket."""

    def __init__(self, ticket: str, message: str = "") -> None:
        super().__init__(message or f"no node knows the ticket {ticket}")
        self.ticket = ticket


class JobFailed(EvenlyError):
    """A job did not succeed; `result` says all about it."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[object, ...]:
        return (JobFailed, (str(self), self.result))


class JobTimeout(EvenlyError, TimeoutError):
    """A job had not ended within the seconds that `wait` was given. It goes on."""

    def __init__(self, ticket: str, message: str) -> None:
        super().__init__(message)
        self.ticket = ticket

    def __reduce__(self) -> tuple[object, ...]:
        return (JobTimeout, (self.ticket, str(self)))


class TransferFailed(EvenlyError):
    """A file did not arrive whole, or was not to be written where its name says."""


class ClientClosed(EvenlyError):
    """The client was closed before the answer came."""


class CallFailed(EvenlyError):
    """A call on the cluster ended without a value and without an exception that could be brought home.

    `result` says how its job ended; None where there is no job.
    """

    def __init__(self, message: str, result: Result | None = None) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[object, ...]:
        return (CallFailed, (str(self), self.result))
