"""The exit codes of `evenly`, as `evenly --help` and docs/cli.md say them."""

from __future__ import annotations

OK = 0
#: A job did not succeed; a file did not arrive, or output is missing; our stdout takes no more.
FAILED = 1
#: A command line that is wrong, or a job that a node refuses.
USAGE = 2
UNREACHABLE = 3
UNKNOWN_TICKET = 4
#: `result` and `fetch` of a job that has not ended; `wait --timeout`.
NOT_YET = 5
INTERRUPTED = 130
#: Who reads the output has gone: as the shell says it of SIGPIPE.
BROKEN_PIPE = 141

TEXT = """\
Exit codes: 0 all is well, 1 a job did not succeed, 2 wrong usage or a job that is refused, 3 no node can be
reached, 4 no node knows the ticket, 5 not ended yet, 130 Ctrl-C. `submit --wait` exits as its command does.
"""
