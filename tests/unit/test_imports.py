"""The rules of the rooms (design, section 2) and of sizes, held by reading the sources."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("protocol", "runtime", "loadbalancer", "clusternode", "evenly")
PROGRAMS = ("loadbalancer", "clusternode", "evenly")
CORES = ("loadbalancer/core", "clusternode/core")

#: What a pure room may not touch: input and output, clocks, randomness, processes and threads.
IMPURE = {
    *("asyncio", "time", "random", "secrets", "uuid", "os", "io", "pathlib", "shutil", "tempfile", "glob"),
    *("socket", "socketserver", "ssl", "select", "selectors", "http", "urllib", "signal", "subprocess"),
    *(
        "threading",
        "multiprocessing",
        "concurrent",
        "queue",
        "sched",
        "sqlite3",
        "logging",
        "sys",
        "builtins",
    ),
    *("importlib", "ctypes", "fcntl", "resource", "platform", "getpass", "locale", "zoneinfo"),
}
#: Calls that read the clock, whatever they were imported as, and those that need no import.
CLOCK = {"now", "utcnow", "today"}
BUILT_IN_IO = {"open", "input", "print", "exec", "eval", "__import__", "breakpoint"}

FILE_LIMIT = 550
FUNCTION_LIMIT = 75


def sources(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_in(module: ast.Module, package: str) -> Iterator[str]:
    """Every module that is imported anywhere in it, by its full name; `from a import b` gives `a.b`."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> list[str]:
    package = ".".join(path.parent.relative_to(ROOT).parts)
    return list(imports_in(tree(path), package))


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def room_of(name: str) -> str:
    return name.partition(".")[0]


every_source = pytest.mark.parametrize("path", sources(*ROOMS), ids=shown)
core_sources = pytest.mark.parametrize("path", sources(*CORES), ids=shown)
pure_sources = pytest.mark.parametrize("path", sources("protocol", *CORES), ids=shown)


def test_there_is_something_to_read() -> None:
    for room in (*ROOMS[:4], *CORES):
        assert len(sources(room)) > 1


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b, c", ["a.b", "c"]),
        ("from a import b as x, c", ["a.b", "a.c"]),
        ("from . import b", ["room.core.b"]),
        ("from .b import c", ["room.core.b.c"]),
        ("from ..store import d", ["room.store.d"]),
        ("def f():\n    if True:\n        import hidden", ["hidden"]),
    ],
)
def test_every_way_to_import_is_seen(source: str, names: list[str]) -> None:
    assert list(imports_in(ast.parse(source), "room.core")) == names


# --- imports run one way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sources("protocol"), ids=shown)
def test_protocol_imports_only_itself_the_standard_library_and_msgpack(path: Path) -> None:
    allowed = {"protocol", "msgpack", *sys.stdlib_module_names}
    assert {room_of(name) for name in imports_of(path)} - allowed == set()


@core_sources
def test_a_core_imports_only_protocol_itself_and_the_standard_library(path: Path) -> None:
    core = f"{path.relative_to(ROOT).parts[0]}.core"
    others = [
        name
        for name in imports_of(path)
        if not is_within(name, core)
        and not is_within(name, "protocol")
        and room_of(name) not in sys.stdlib_module_names
    ]
    assert others == []


@pure_sources
def test_a_pure_room_imports_nothing_that_touches_the_world(path: Path) -> None:
    names = [name for name in imports_of(path) if not is_within(name, "urllib.parse")]
    assert [name for name in names if room_of(name) in IMPURE] == []


@pure_sources
def test_a_pure_room_reads_no_clock_and_does_no_input_or_output(path: Path) -> None:
    calls = [node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    read = [call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr in CLOCK]
    done = [call.id for call in calls if isinstance(call, ast.Name) and call.id in BUILT_IN_IO]
    assert (read, done) == ([], [])


@pytest.mark.parametrize("path", sources("runtime"), ids=shown)
def test_runtime_imports_no_room_but_protocol(path: Path) -> None:
    assert {room_of(name) for name in imports_of(path)} & set(ROOMS) <= {"runtime", "protocol"}


@pytest.mark.parametrize("path", sources(*PROGRAMS), ids=shown)
def test_the_programs_never_import_each_other(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    assert {room_of(name) for name in imports_of(path)} & set(PROGRAMS) <= {own}


@every_source
def test_no_source_imports_tests_or_benchmarks(path: Path) -> None:
    assert {room_of(name) for name in imports_of(path)} & {"tests", "benchmarks", "unit", "support"} == set()


# --- sizes -------------------------------------------------------------------------------------------------

written = pytest.mark.parametrize("path", sources(*ROOMS, "benchmarks"), ids=shown)


@written
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= FILE_LIMIT


@written
def test_no_function_is_too_long(path: Path) -> None:
    long = {
        node.name: length
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LIMIT
    }
    assert long == {}


@every_source
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree(path))
