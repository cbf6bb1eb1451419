"""`evenly`: its subcommands by name, each loaded when it is asked for, and what becomes of their errors."""

from __future__ import annotations

import sys

from evenly.cli import exits

try:
    import contextlib
    import errno
    import importlib
    import io
    import math
    import os
    from collections.abc import Iterator, Sequence
    from typing import Any, NamedTuple, TextIO

    import click
except KeyboardInterrupt:
    # Ctrl-C in the first tenth of a second: whoever loads this would show a traceback.
    sys.exit(exits.INTERRUPTED)

PROGRAM = "evenly"
#: Only who writes meets these; the error of a file has its name, that of our own stdout has none.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Entry(NamedTuple):
    """`place`: module and function, `module:function`."""

    place: str
    help: str


#: In the order in which they are shown.
COMMANDS = {
    "submit": Entry("evenly.cli.submit:submit", "Submit a command; --wait follows it to its end."),
    "map": Entry("evenly.cli.map:map_", "A job for each line or file, as xargs and GNU parallel."),
    "run": Entry("evenly.cli.run:run", "The jobs of a workload file, with a report at the end."),
    "generate": Entry("evenly.cli.generate:generate", "Make a workload file of sleeps."),
    "status": Entry("evenly.cli.ask:status", "Where jobs are."),
    "result": Entry("evenly.cli.ask:result", "What a job wrote and how it ended."),
    "wait": Entry("evenly.cli.ask:wait", "Wait for jobs to end."),
    "tail": Entry("evenly.cli.ask:tail", "Follow the output of a job."),
    "cancel": Entry("evenly.cli.ask:cancel", "End jobs."),
    "fetch": Entry("evenly.cli.fetch:fetch", "Bring the files of a job here."),
    "list": Entry("evenly.cli.cluster:list_", "Jobs by state, outcome, tag, name or age."),
    "explain": Entry("evenly.cli.ask:explain", "Why a job waits, and each attempt at it."),
    "nodes": Entry("evenly.cli.cluster:nodes", "The nodes of the cluster."),
    "top": Entry("evenly.cli.top:top", "Watch nodes and jobs."),
    "up": Entry("evenly.cli.up:up", "A cluster on this machine, until Ctrl-C."),
    "completion": Entry("evenly.cli.completion:completion", "Print what completes commands in a shell."),
}


class Finite(click.FloatRange):
    """A number in a range, and neither `nan` nor `inf`, which are numbers to Python."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number that can be used here.", param, ctx)
        return number


class OutputLost(Exception):
    """What is written to one of our streams is not taken: an OSError under a name that click does not know.
    Run here, a command would end with that, so its job does too."""

    def __init__(self, name: str, error: OSError) -> None:
        super().__init__(f"{name}: {said_of(error)}")
        #: Nobody reads it any more, and nothing is to be said about that.
        self.is_quiet = isinstance(error, BrokenPipeError)


@contextlib.contextmanager
def written_to(stream: TextIO) -> Iterator[None]:
    """For what writes to stdout or stderr, as they are known. Raises OutputLost."""
    try:
        yield
    except OSError as error:
        raise OutputLost("stdout" if stream is sys.stdout else "stderr", error) from None


def said_of(error: OSError) -> str:
    """`out/x: no space left on device`"""
    name = f"{error.filename}: " if error.filename else ""
    return name + (error.strerror or str(error)).lower()


class Text(click.types.StringParamType):
    """What goes to a node, whose lines are UTF-8."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = super().convert(value, param, ctx)
        if not is_utf8(text):
            self.fail(f"{text!r} is not UTF-8.", param, ctx)
        return text


def is_utf8(text: str) -> bool:
    """Python has other bytes of the command line, or of a path, as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Commands(click.Group):
    """Help and completion of names take the table alone."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise OutputLost("stdout", error) from None
        except click.UsageError as error:
            # Not known where the words are not yet those of the subcommand, nor where it raises that itself.
            if error.ctx is None and (name := ctx.invoked_subcommand):
                error.ctx = click.Context(self.get_command(ctx, name) or self, info_name=name, parent=ctx)
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        command.short_help = entry.help
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\n" + exits.TEXT)


@click.command(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "-s", "--nodes", type=Text(), metavar="HOST:PORT,…", help="Nodes, as each command takes them too."
)
@click.version_option(package_name="evenly", prog_name=PROGRAM)
def evenly(nodes: str | None) -> None:
    """Runs jobs on a cluster. Nodes are those of -s, else of EVENLY_NODES=HOST:PORT,HOST:PORT, else
    127.0.0.1:9000; the next one is used where one is away.

    \b
    evenly submit --wait -- make test
    ls *.png | evenly map -- convert {} {.}.webp
    """
    if nodes:
        os.environ["EVENLY_NODES"] = nodes
    elif not is_utf8(os.environ.get("EVENLY_NODES", "")):
        raise click.UsageError("EVENLY_NODES is not UTF-8.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code. No error of a user's ends in a traceback."""
    try:
        mend_streams()
        try:
            code = _run(arguments)
            with written_to(sys.stdout):
                sys.stdout.flush()
        except OutputLost as error:
            # What is still in the buffer must not be written at the end of the program.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if error.is_quiet:
                return exits.BROKEN_PIPE
            say(str(error))
            return exits.FAILED
        return code
    except KeyboardInterrupt:
        return exits.INTERRUPTED


def mend_streams() -> None:
    """What the shell has closed (`>&-`) goes nowhere; what an encoding lacks is written as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: Sequence[str] | None) -> int:
    try:
        evenly.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else exits.OK if exit.code is None else exits.FAILED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return exits.USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else PROGRAM
        say(f"{error.format_message()} ({where} --help says more)")
        return exits.USAGE
    except click.ClickException as error:
        say(error.format_message())
        return exits.USAGE
    except (KeyboardInterrupt, click.Abort):
        return exits.INTERRUPTED
    except OutputLost:
        raise
    except Exception as error:
        code = exit_code_of(error)
        if code is not None:
            say(str(error))
            return code
        if not isinstance(error, OSError):
            raise
        if error.errno in FULL and error.filename is None:
            raise OutputLost("stdout", error) from None
        say(said_of(error))
        return exits.USAGE
    return exits.OK


def exit_code_of(error: Exception) -> int | None:
    """None for what is no error of ours. The client is loaded by now, or this is none of its errors."""
    if "evenly.client" not in sys.modules:
        return None
    from evenly import client

    kinds = {
        client.NodesUnreachable: exits.UNREACHABLE,
        client.UnknownTicket: exits.UNKNOWN_TICKET,
        client.JobTimeout: exits.NOT_YET,
        client.Refused: exits.USAGE,
        client.JobFailed: exits.FAILED,
        client.TransferFailed: exits.FAILED,
        client.EvenlyError: exits.USAGE,
    }
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), None)


def say(line: str) -> None:
    """One line for the user, on stderr. Who cannot be told does not change how it ends."""
    with contextlib.suppress(OSError):
        click.echo(f"{PROGRAM}: {' '.join(line.split())}", err=True)
