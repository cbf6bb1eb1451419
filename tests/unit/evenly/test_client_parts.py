"""Addresses, templates and lines: the parts of the client that speak with nobody."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenly.client import EvenlyError
from evenly.client.addresses import addresses, split
from evenly.client.lines import quoted
from evenly.client.template import compile_template
from protocol.options import split as split_options


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a:9000", ["a:9000"]),
        ("a:1, b:2,,a:1", ["a:1", "b:2"]),
        ("a", ["a:9000"]),
        (["a:1", "b"], ["a:1", "b:9000"]),
        ("[::1]:9001,[::1]", ["[::1]:9001", "[::1]:9000"]),
    ],
)
def test_addresses(given: object, expected: list[str]) -> None:
    assert addresses(given) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", ["a:b", "a:0", "a:70000", ":9000", "", "http://a:9000", "::1", "a:9000 b:9000"]
)
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(EvenlyError, match="HOST:PORT"):
        addresses([given])


def test_addresses_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENLY_NODES", "x:1,y")
    assert addresses() == ["x:1", "y:9000"]
    assert addresses("z") == ["z:9000"]
    monkeypatch.setenv("EVENLY_NODES", " ")
    assert addresses() == ["127.0.0.1:9000"]
    assert split("[::1]:90") == ("::1", 90)


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("gzip", "gzip '/d/a b.tar.gz'"),
        ("gzip {}", "gzip '/d/a b.tar.gz'"),
        ("x {.} {/} {/.} {//} {#}", "x '/d/a b.tar' 'a b.tar.gz' 'a b.tar' /d 7"),
        ("x {#}", "x 7 '/d/a b.tar.gz'"),
        ("x {}.bak {}", "x '/d/a b.tar.gz'.bak '/d/a b.tar.gz'"),
        ("x {a} ${b} {} {,}", "x {a} ${b} '/d/a b.tar.gz' {,}"),
        ("a|b {}", "a|b '/d/a b.tar.gz'"),
    ],
)
def test_templates(template: str, line: str) -> None:
    assert compile_template(template)("/d/a b.tar.gz", 7) == line


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (".bashrc", [".bashrc", ".bashrc", "."]),
        ("a.b/c", ["a.b/c", "c", "a.b"]),
        ("/c", ["/c", "c", "/"]),
        ("", ["", "", "."]),
    ],
)
def test_names_without_extension_or_directory(item: str, words: list[str]) -> None:
    assert shlex.split(compile_template("{.} {/} {//}")(item, 1)) == words


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_an_item_is_one_word_for_the_shell_whatever_it_is(item: str) -> None:
    assert shlex.split(compile_template("x {}")(item, 1)) == ["x", item]


@given(st.text(min_size=1))
def test_the_value_of_an_option_is_read_as_it_was(text: str) -> None:
    try:
        line = quoted(text)
    except EvenlyError:
        return
    if not any(c.isspace() and c != " " for c in text):
        assert split_options(f"--name {line} rest")[0] == [("name", text)]
