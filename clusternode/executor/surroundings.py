"""What every job of a helper finds: variables, a working directory, standard input; and how it is started.

Only the standard library: helpers run without site packages.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from clusternode.executor.removal import remove_tree

#: (variables, working directory or "", standard input, directory for the whole output or "", CPUs to be
#: confined to or 0, limit on the memory or 0)
Wishes = tuple[dict[str, str], str, bytes, str, int, int]
SHELL = "/bin/sh"
#: Prints the variables that it finds, each with a zero byte behind it.
SHOW_VARIABLES = "env -0"
#: Characters that mean only themselves to every shell, at the beginning of a word or in it.
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./,:@%+=- \t")
#: What a shell that may be /bin/sh does by itself, or has for its grammar.
SHELLS_OWN = frozenset(
    (
        *(".", ":", "alias", "bg", "bind", "break", "builtin", "caller", "case", "cd", "chdir", "command"),
        *("compgen", "complete", "compopt", "continue", "coproc", "declare", "dirs", "disown", "do"),
        *("done", "echo", "elif", "else", "enable", "esac", "eval", "exec", "exit", "export", "false"),
        *("fc", "fg", "fi", "for", "function", "getopts", "hash", "help", "hist", "history", "if", "in"),
        *("jobs", "kill", "let", "local", "logout", "mapfile", "newgrp", "popd", "print", "printf"),
        *("pushd", "pwd", "read", "readarray", "readonly", "return", "select", "set", "shift", "shopt"),
        *("source", "suspend", "test", "then", "time", "times", "trap", "true", "type", "typeset"),
        *("ulimit", "umask", "unalias", "unset", "until", "wait", "whence", "while"),
    )
)
#: Programs that do something else where they are the job's first process, and not a child of its shell.
FIRST_OR_NOT = frozenset(("setsid",))
#: Where these stand alone, a program does exactly the same.
PROGRAMS = {"true": "/bin/true", "false": "/bin/false"}
#: The node decides when this process ends, by closing the socket.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Python ignores the first two, we the others; a job must not.
RESTORED = (signal.SIGPIPE, signal.SIGXFSZ, *IGNORED)


class Place:
    """The working directory: empty for each job, and the same again where a job left it as it was."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._made = 0
        self._untouched: tuple[int, ...] | None = None
        self.path = ""

    def enter(self) -> None:
        """Raises OSError where there is none to be had."""
        # Another job may have removed it meanwhile.
        self.leave()
        if self._untouched is not None:
            return
        self._make()
        # posix_spawn cannot change the directory; the child takes ours.
        os.chdir(self.path)
        # Whatever comes into it or goes changes this time, also within one tick of the clock.
        os.utime(self.path, (0, 0))
        self._untouched = self._look()

    def _make(self) -> None:
        try:
            self._make_next()
        except OSError:
            # A job that removed or closed what is above its directory must not cost the next ones theirs.
            os.makedirs(self._parent, 0o700, exist_ok=True)
            os.chmod(self._parent, 0o700)
            self._make_next()

    def _make_next(self) -> None:
        while True:
            self._made += 1
            self.path = f"{self._parent}/{os.getpid()}.{self._made}"
            # One that died may have had our number, and left its own behind.
            with contextlib.suppress(FileExistsError):
                return os.mkdir(self.path, 0o700)

    def leave(self, is_shared: bool = False) -> None:
        """`is_shared`: something of the job is still in it."""
        if self._untouched is None or (self._untouched == self._look() and not is_shared):
            return
        self._untouched = None
        os.chdir("/")
        try:
            os.rmdir(self.path)
        except OSError:
            remove_tree(self.path)

    def _look(self) -> tuple[int, ...] | None:
        try:
            seen = os.stat(self.path)
        except OSError:
            return None
        owner = seen.st_mode, seen.st_uid, seen.st_gid
        return seen.st_dev, seen.st_ino, *owner, seen.st_nlink, seen.st_mtime_ns, seen.st_ctime_ns


class Surroundings:
    """What every job of this helper finds: variables, a working directory, standard input at its end."""

    def __init__(self, variables: dict[str, str], directory: str) -> None:
        self.place = Place(directory)
        self._variables = {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}
        #: As a program finds them that the shell has started; None where that cannot be told beforehand.
        self._from_shell: dict[bytes, bytes] | None = None
        with contextlib.suppress(OSError):
            self.place.enter()
            self._from_shell = self._shown_by_shell()
            self.place.leave()

    def spawn(self, key: tuple[str, int], line: str, stdout: int, stderr: int) -> int:
        """Starts a command line; its output goes to these files. Returns the process.

        What is only words is started without a shell. Where that fails, the shell says why.
        """
        words = plain_words(line) if self._from_shell is not None else None
        if words is not None:
            with contextlib.suppress(OSError):
                return self._spawn_program(key, words, stdout, stderr)
        return self._spawn_shell(key, line, stdout, stderr)

    def spawn_as_wished(
        self,
        key: tuple[str, int],
        line: str,
        wishes: Wishes,
        stdout: int,
        stderr: int,
    ) -> int:
        """The same with another directory; by the shell with other variables, or something to read."""
        variables, directory, read = wishes[:3]
        found = {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}
        if directory:
            os.chdir(directory)
        try:
            if not (variables or read):
                return self.spawn(key, line, stdout, stderr)
            with contextlib.ExitStack() as stack:
                source = stack.enter_context(open(os.memfd_create("stdin"), "w+b")) if read else None
                if source is not None:
                    source.write(read)
                    source.seek(0)
                words = (SHELL, "-c", "--", line)
                everything = with_key(self._variables, key) | found
                options = self._options(stdout, stderr, None if source is None else source.fileno())
                return os.posix_spawn(SHELL, words, everything, **options)
        finally:
            if directory:
                # It may have been removed already; then the next job has another one.
                with contextlib.suppress(OSError):
                    os.chdir(self.place.path)

    def _spawn_program(self, key: tuple[str, int], words: list[str], stdout: int, stderr: int) -> int:
        assert self._from_shell is not None
        variables = with_key(self._from_shell, key)
        # That of its own directory, or of the one that it is to run in.
        variables[b"PWD"] = os.getcwdb()
        program = PROGRAMS[words[0]] if words[0] in SHELLS_OWN else words[0]
        return os.posix_spawnp(program, words, variables, **self._options(stdout, stderr))

    def _spawn_shell(self, key: tuple[str, int], line: str, stdout: int, stderr: int) -> int:
        # "--": a command line may begin with a dash of its own.
        words = (SHELL, "-c", "--", line)
        return os.posix_spawn(SHELL, words, with_key(self._variables, key), **self._options(stdout, stderr))

    def _options(self, stdout: int, stderr: int, stdin: int | None = None) -> dict[str, Any]:
        nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        return {
            "file_actions": (
                nothing if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, stdout, 1),
                (os.POSIX_SPAWN_DUP2, stderr, 2),
            ),
            "setsid": True,
            "setsigmask": (),
            "setsigdef": RESTORED,
        }

    def _shown_by_shell(self) -> dict[bytes, bytes] | None:
        """The variables that a program gets by way of the shell: if it only leaves some out and sets PWD."""
        path = os.environb.get(b"PATH")
        # A search without the shell goes by our own PATH; a "%" there is a word to some shells.
        if path is None or path != self._variables.get(b"PATH") or b"%" in path:
            return None
        read_end, write_end = os.pipe()
        with open(read_end, "rb") as output:
            try:
                pid = self._spawn_shell(("", 0), SHOW_VARIABLES, write_end, write_end)
            finally:
                os.close(write_end)
            shown = output.read()
        _, status = os.waitpid(pid, 0)
        pairs = (pair.partition(b"=") for pair in shown.split(b"\0") if pair)
        found = {name: value for name, _, value in pairs}
        if status != 0 or found.pop(b"PWD", None) != os.fsencode(self.place.path):
            return None
        return found if found.items() <= self._variables.items() else None


def with_key(variables: dict[bytes, bytes], key: tuple[str, int]) -> dict[bytes, bytes]:
    """The same dictionary: each command sets these anew."""
    variables[b"EVENLY_TICKET"] = key[0].encode()
    variables[b"EVENLY_ATTEMPT"] = b"%d" % key[1]
    return variables


def plain_words(line: str) -> list[str] | None:
    """The words of a command line that is nothing but the words of a program; None for all else."""
    if not PLAIN.issuperset(line):
        return None
    words = line.split()
    if not words or "=" in words[0] or words[0] in FIRST_OR_NOT:
        return None
    if words[0] in SHELLS_OWN and (words[0] not in PROGRAMS or len(words) > 1):
        return None
    return words
