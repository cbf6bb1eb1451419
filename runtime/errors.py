"""How a program ends when it cannot go on: with one line, never a traceback."""


class StartError(Exception):
    """The program cannot start; one line that says why and what would be right. Exit code 2."""


class StorageError(Exception):
    """A commit failed. The process ends, exit code 1: it never goes on without storage."""
