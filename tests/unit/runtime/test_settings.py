import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import clusternode.__main__ as clusternode_main
import loadbalancer.__main__ as loadbalancer_main
from runtime.settings import ADDRESS, PORT, Argument, BadValue, Setting, choice, integer, parse, text

ARGUMENTS = [
    Argument("host", text("a host name"), "where it is"),
    Argument("port", PORT, "its port", "8080"),
]
SETTINGS = [
    Setting("SOME_MODE", choice("eager", "lazy"), "eager", "how it goes about"),
    Setting("SOME_PERIOD", integer(1, 1000, "milliseconds"), 50, "ms between two"),
    Setting("DATA_DIR", text("a directory"), None, "where it is kept", "--data"),
]


def values(*argv: str, **environ: str) -> dict[str, Any]:
    return parse("program", "What it does.", ARGUMENTS, SETTINGS, ["h", *argv], environ)


Refused = Callable[..., str]


def one_line_and_exit_2(capsys: pytest.CaptureFixture[str], call: Callable[[], object]) -> str:
    """What is said on stderr, which is one line; the exit code is 2."""
    with pytest.raises(SystemExit) as caught:
        call()
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err[:-1]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return lambda *argv, **environ: one_line_and_exit_2(capsys, lambda: values(*argv, **environ))


# --- precedence ------------------------------------------------------------------------------------------


def test_without_anything_the_defaults_stand() -> None:
    assert values() == {
        "host": "h",
        "port": "8080",
        "SOME_MODE": "eager",
        "SOME_PERIOD": 50,
        "DATA_DIR": None,
    }


def test_the_environment_comes_before_the_default() -> None:
    given = values(SOME_MODE="lazy", SOME_PERIOD="7", DATA_DIR="/data")
    assert (given["SOME_MODE"], given["SOME_PERIOD"], given["DATA_DIR"]) == ("lazy", 7, "/data")


@pytest.mark.parametrize(
    "argv",
    [["--some-period", "9", "--data", "/flag"], ["--some-period=9", "--data=/flag"]],
)
def test_the_flag_comes_before_the_environment(argv: list[str]) -> None:
    given = values(*argv, SOME_PERIOD="7", DATA_DIR="/env", SOME_MODE="lazy")
    assert (given["SOME_MODE"], given["SOME_PERIOD"], given["DATA_DIR"]) == ("lazy", 9, "/flag")


def test_a_bad_variable_does_not_matter_where_a_flag_is_given() -> None:
    assert values("--some-period", "9", SOME_PERIOD="never")["SOME_PERIOD"] == 9


def test_an_empty_variable_is_as_none() -> None:
    assert values(SOME_MODE="", SOME_PERIOD="", DATA_DIR="") == values()


def test_other_variables_do_not_matter() -> None:
    assert values(OTHER="1", port="9") == values()


def test_an_argument_is_checked_and_given() -> None:
    assert values("9000")["port"] == 9000


# --- bad values ------------------------------------------------------------------------------------------

PERIOD_MUST = "must be a whole number of milliseconds from 1 to 1000"


@pytest.mark.parametrize("value", ["0", "1001", "-1", "1.5", "many", "1e2", "0x10", "9" * 5000, "5 ms"])
def test_a_bad_variable_is_named_with_its_value_and_what_is_allowed(refused: Refused, value: str) -> None:
    shown = value if len(value) <= 60 else value[:60] + "…"
    assert refused(SOME_PERIOD=value) == f"program: SOME_PERIOD {PERIOD_MUST}, not {shown!r}"


def test_a_bad_flag_is_named_as_the_flag(refused: Refused) -> None:
    assert refused("--some-period", "0") == f"program: --some-period {PERIOD_MUST}, not '0'"
    assert refused("--some-mode=x", SOME_MODE="lazy") == "program: --some-mode must be eager or lazy, not 'x'"
    assert refused("--data=") == "program: --data must be a directory, not ''"


def test_a_bad_argument_is_named(refused: Refused) -> None:
    assert refused("0") == "program: port must be a whole number from 1 to 65535, not '0'"


def test_a_value_of_several_lines_is_shown_in_one(refused: Refused) -> None:
    assert refused(SOME_MODE="a\nb") == "program: SOME_MODE must be eager or lazy, not 'a\\nb'"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--never"], "unrecognized arguments: --never"),
        (["--some-peri", "5"], "unrecognized arguments: --some-peri"),
        (["--some-period"], "argument --some-period: expected one argument"),
        (["8080", "more"], "unrecognized arguments: more"),
    ],
)
def test_a_flag_that_is_not_there_gets_one_line_too(refused: Refused, argv: list[str], said: str) -> None:
    line = refused(*argv)
    assert line.startswith(f"program: {said}")
    assert line.endswith("; --help shows what is there")


def test_a_missing_argument_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = one_line_and_exit_2(capsys, lambda: parse("program", "", ARGUMENTS, SETTINGS, [], {}))
    assert line == "program: the following arguments are required: host; --help shows what is there"


# --- kinds of values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "number"), [("1", 1), ("10", 10), ("007", 7), ("+5", 5), (" 5 ", 5)])
def test_whole_numbers_in_the_range_are_taken(value: str, number: int) -> None:
    assert integer(1, 10)(value) == number


def test_zero_may_be_allowed() -> None:
    assert integer(0, 10)("0") == 0


@pytest.mark.parametrize("value", ["EAGER", "eager", "Eager"])
def test_choices_are_taken_in_any_case(value: str) -> None:
    assert choice("eager", "lazy")(value) == "eager"


@pytest.mark.parametrize(
    ("kind", "value", "allowed"),
    [
        (integer(1, 10), "11", "a whole number from 1 to 10"),
        (integer(1, 10, "seconds"), "", "a whole number of seconds from 1 to 10"),
        (choice("a", "b", "c"), "d", "a or b or c"),
        (text("something"), "", "something"),
        (text("three letters", lambda value: len(value) == 3), "four", "three letters"),
        (PORT, "65536", "a whole number from 1 to 65535"),
        (ADDRESS, "", "an address to listen on, as 127.0.0.1, or 0.0.0.0 for all"),
    ],
)
def test_a_bad_value_says_what_is_allowed(kind: Callable[[str], Any], value: str, allowed: str) -> None:
    with pytest.raises(BadValue, match=f"^{re.escape(allowed)}$"):
        kind(value)


# --- help, and the programs as they are -------------------------------------------------------------------


def help_of(capsys: pytest.CaptureFixture[str], call: Callable[[], object]) -> str:
    with pytest.raises(SystemExit) as caught:
        call()
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return " ".join(out.split())


PROGRAMS = [
    (loadbalancer_main.main, loadbalancer_main.ARGUMENTS, loadbalancer_main.SETTINGS, []),
    (clusternode_main.main, clusternode_main.ARGUMENTS, clusternode_main.SETTINGS, ["localhost", "8080"]),
]
each_program = pytest.mark.parametrize(
    ("main", "arguments", "settings", "needed"), PROGRAMS, ids=["loadbalancer", "clusternode"]
)
Main = Callable[[Sequence[str]], int]


@pytest.fixture
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.mark.usefixtures("_wide")
@each_program
def test_help_lists_every_setting_with_its_default(
    capsys: pytest.CaptureFixture[str],
    main: Main,
    arguments: list[Argument],
    settings: list[Setting],
    needed: list[str],
) -> None:
    shown = help_of(capsys, lambda: main(["--help"]))
    for argument in arguments:
        default = f" (default: {argument.default})" if argument.default is not None else ""
        assert f"{argument.name} {argument.help}{default}" in shown
    for setting in settings:
        default = f" (default: {setting.default})" if setting.default is not None else ""
        assert f"{setting.option} X {setting.help}{default} [{setting.name}]" in shown
        assert "(default: " in f"{setting.help}{default}"


@each_program
def test_every_default_is_allowed(
    main: Main, arguments: list[Argument], settings: list[Setting], needed: list[str]
) -> None:
    for each in [*arguments, *settings]:
        if each.default is not None:
            assert str(each.value(str(each.default))) == str(each.default)


@each_program
def test_no_two_settings_share_a_name_or_a_flag(
    main: Main, arguments: list[Argument], settings: list[Setting], needed: list[str]
) -> None:
    assert len({setting.name for setting in settings}) == len(settings)
    assert len({setting.option for setting in settings}) == len(settings)


def test_the_load_balancers_defaults_are_those_of_the_design() -> None:
    assert {setting.name: setting.default for setting in loadbalancer_main.SETTINGS}.items() >= {
        ("DISPATCH_MODE", "eager"),
        ("DISPATCH_PERIOD", 5000),
        ("MAX_NUM_JOBS_DISPATCH", 30),
        ("REQUEST_RESULT_PERIOD", 3000),
        ("MAX_NUM_NODES", 10),
        ("BIND", "127.0.0.1"),
    }
    defaults = parse("lb", "", loadbalancer_main.ARGUMENTS, loadbalancer_main.SETTINGS, [], {})
    made = loadbalancer_main.settings_of(defaults)
    assert (made.eager, made.dispatch_period, made.request_result_period) == (True, 5.0, 3.0)


BAD = {
    "port": ["0", "65536", "x"],
    "CLIENT_PORT": ["0", "70000", "http"],
    "SLOTS": ["0", "4097", "two"],
    "DRAIN_PERIOD": ["-1", "1.5", "86400001", "forever"],
    "NODE_NAME": ["two words", "x" * 65, "tab\t"],
    "DISPATCH_MODE": ["fast"],
    "DISPATCH_PERIOD": ["0", "-5", "1.5", "86400001"],
    "MAX_NUM_JOBS_DISPATCH": ["0", "1001"],
    "REQUEST_RESULT_PERIOD": ["9", "soon"],
    "MAX_NUM_NODES": ["0", "100001"],
    "NODE_GRACE_PERIOD": ["-1"],
    "CRASH_LIMIT": ["0", "1001"],
    "TASKS": ["two words", "/a/file.py", "a,,b", "a..b"],
    "MAX_TASKS_PER_WORKER": ["0", "many"],
    "TASK_HANG_PERIOD": ["1999", "never"],
    "MAX_RESULT_BYTES": ["-1", "4G", str(2**50 + 1)],
    "CHECKPOINT_PERIOD": ["99", "86400001", "1 s"],
}
CASES = [
    pytest.param(
        main, setting, value, needed, id=f"{main.__module__.split('.')[0]}-{setting.name}-{value[:9]!r}"
    )
    for main, _, settings, needed in PROGRAMS
    for setting in settings
    for value in BAD.get(setting.name, [])
]


@pytest.mark.parametrize(("main", "setting", "value", "needed"), CASES)
def test_a_program_refuses_a_bad_setting_before_it_does_anything(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    main: Main,
    setting: Setting,
    value: str,
    needed: list[str],
) -> None:
    with pytest.raises(BadValue) as allowed:
        setting.value(value)
    monkeypatch.setenv(setting.name, value)
    shown = value if len(value) <= 60 else value[:60] + "…"
    said = f"must be {allowed.value}, not {shown!r}"
    line = one_line_and_exit_2(capsys, lambda: main(needed))
    assert line.endswith(f": {setting.name} {said}")
    line = one_line_and_exit_2(capsys, lambda: main([*needed, f"{setting.option}={value}"]))
    assert line.endswith(f": {setting.option} {said}")


def test_bad_values_of_every_setting_that_can_be_bad_are_tried() -> None:
    free = {"BIND", "DATA_DIR", "NOTIFY_SECRET"}
    names = {setting.name for _, _, settings, _ in PROGRAMS for setting in settings}
    assert names - free == BAD.keys() - {"port"}


@pytest.mark.parametrize("port", BAD["port"])
def test_a_bad_port_is_refused(capsys: pytest.CaptureFixture[str], port: str) -> None:
    said = f"port must be a whole number from 1 to 65535, not {port!r}"
    for main, argv in ((loadbalancer_main.main, [port]), (clusternode_main.main, ["localhost", port])):
        assert one_line_and_exit_2(capsys, lambda main=main, argv=argv: main(argv)).endswith(said)
