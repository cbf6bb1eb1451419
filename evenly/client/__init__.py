"""The Python client: `Client` for every program, `AsyncClient` for asyncio, `ClusterExecutor` for pools."""

from evenly.client.aio import AsyncClient
from evenly.client.errors import (
    CallFailed,
    ClientClosed,
    EvenlyError,
    JobFailed,
    JobTimeout,
    NodesUnreachable,
    Refused,
    TransferFailed,
    UnknownTicket,
)
from evenly.client.executor import ClusterExecutor
from evenly.client.model import Chunk, File, Job, Options, Result, Status
from evenly.client.sync import Client

__all__ = [
    "AsyncClient",
    "CallFailed",
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
]
