"""What a user of Evenly imports and runs. It talks to the two programs, and never imports them.

from evenly import checkpoint, partial, progress, task         # to write tasks
from evenly import AsyncClient, Client, ClusterExecutor        # to submit jobs
"""

from typing import TYPE_CHECKING, Any

from evenly.checkpoints import CheckpointError, checkpoint
from evenly.tasks import partial, progress, task

if TYPE_CHECKING:
    from evenly.client import (
        AsyncClient,
        CallFailed,
        Chunk,
        Client,
        ClientClosed,
        ClusterExecutor,
        EvenlyError,
        File,
        Job,
        JobFailed,
        JobTimeout,
        NodesUnreachable,
        Options,
        Refused,
        Result,
        Status,
        TransferFailed,
        UnknownTicket,
    )

__all__ = [
    "AsyncClient",
    "CallFailed",
    "CheckpointError",
    "Chunk",
    "Client",
    "ClientClosed",
    "ClusterExecutor",
    "EvenlyError",
    "File",
    "Job",
    "JobFailed",
    "JobTimeout",
    "NodesUnreachable",
    "Options",
    "Refused",
    "Result",
    "Status",
    "TransferFailed",
    "UnknownTicket",
    "checkpoint",
    "partial",
    "progress",
    "task",
]


def __getattr__(name: str) -> Any:
    """The client is loaded when it is asked for: workers import this package, and need no asyncio."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import evenly.client

    return getattr(evenly.client, name)


def __dir__() -> list[str]:
    """What is loaded when it is asked for too, and nothing that this module only needs itself."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
