"""`python -m runtime.health loadbalancer|clusternode HOST PORT`: exit code 0 if the program there answers.

For container health checks. It asks as a client or a node would, so a process that hangs is not healthy.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from protocol.errors import ProtocolError
from protocol.frames import FrameDecoder
from protocol.messages import Answer, Query, decode, encode

TIMEOUT = 3.0
USAGE = "usage: python -m runtime.health loadbalancer|clusternode HOST PORT"


def ask_balancer(connection: socket.socket) -> str:
    connection.sendall(encode(Query(1, "health")))
    decoder = FrameDecoder()
    while data := connection.recv(65536):
        for body in decoder.feed(data):
            message = decode(body)
            return message.text if isinstance(message, Answer) else ""
    return ""


def ask_node(connection: socket.socket) -> str:
    connection.sendall(b"json\nstats\nexit\n")
    lines = connection.makefile("r", encoding="utf-8").read().splitlines()
    return lines[1] if len(lines) > 1 else ""


def main(argv: Sequence[str]) -> int:
    asks = {"loadbalancer": ask_balancer, "clusternode": ask_node}
    if len(argv) != 3 or argv[0] not in asks or not argv[2].isdecimal():
        print(USAGE, file=sys.stderr)
        return 2
    program, host, port = argv
    try:
        with socket.create_connection((host, int(port)), TIMEOUT) as connection:
            connection.settimeout(TIMEOUT)
            answer = asks[program](connection)
    except (OSError, ProtocolError) as error:
        print(f"the {program} at {host}:{port} does not answer: {error}", file=sys.stderr)
        return 1
    print(answer or f"the {program} at {host}:{port} gave no answer")
    return 0 if answer else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
