"""What is put into a command line stays what it is: as /bin/sh itself reads it, wherever it stands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenly.client import EvenlyError
from evenly.client.template import compile_template, compile_words

#: Lines that print the item and nothing else.
WAYS = [
    "printf %s {}",
    "printf %s '{}'",
    'printf %s "{}"',
    'printf %s "$(printf %s {})"',
    """printf %s "$(printf %s '{}')" """,
    'printf %s "$(printf %s "{}")"',
    'printf %s "$(printf %s "$(printf %s {})")"',
    "(printf %s {})",
    'x={}; printf %s "$x" # it\'s',
    'x="{}"; printf %s "$x"',
    'x=1; printf %s "${x#1}""{}"',
    'printf %s "${x:-$(printf %s "")}""{}"',
    "printf %s ''\\\n{}",
    "printf %s \"$x{}\"$x'{}'$x{} | head -c 0; printf %s $x{}",
    "# it's a \" note\nprintf %s {}",
    "case {} in '') ;; *) printf %s {};; esac",
    'printf %s "$(( 0 * (1 + 2) ))" | head -c 0; printf %s {}',
    "printf %s a\\'b | head -c 0; printf %s {}",
    'printf %s "\\"\\$(" | head -c 0; printf %s "{}"',
    'printf %s "$$ ${$}(" | head -c 0; printf %s "{}"',
    "printf %s `echo ')'` | head -c 0; printf %s {}",
    "printf %s $#{#} | head -c 0; : ${#}; printf %s {}",
]
#: Characters and words that mean something to a shell.
HOSTILE = st.lists(
    st.sampled_from(
        [*"'\"\\$`(){}[]<>|&;#!~*?=% \n\t-a1", "$(touch pwned)", "`touch pwned`", "${x}", "é", "\x7f"]
    ),
    min_size=1,
    max_size=12,
).map("".join)


def said(line: str, directory: Path) -> str:
    """What it prints, in a directory of its own where it leaves nothing."""
    done = subprocess.run(["/bin/sh", "-c", line], cwd=directory, capture_output=True, check=False)
    assert done.stderr == b"", line
    assert list(directory.iterdir()) == [], line
    return done.stdout.decode()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@given(way=st.sampled_from(WAYS), item=HOSTILE)
@settings(max_examples=60, deadline=None)
def test_an_item_comes_out_as_it_went_in(empty: Path, way: str, item: str) -> None:
    # What $( ) prints loses the line ends behind it: the shell's way, not ours.
    expected = item.rstrip("\n") if "$(printf %s" in way and '"")' not in way else item
    assert said(compile_template(way)(item, 1), empty) == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("item", ["$(touch pwned)", "'; touch pwned; '", '"; touch pwned; "', "\\", "x y"])
def test_each_way_with_what_would_break_out(empty: Path, way: str, item: str) -> None:
    assert said(compile_template(way)(item, 1), empty) == item


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("echo `ls {}`", r"backquotes.*use \$\( \)"),
        ('echo "`ls {}`"', r"backquotes.*use \$\( \)"),
        ("cat <<EOF\n{}\nEOF", "behind <<"),
        ("cat <<EOF\nx\nEOF", "behind <<"),
        ("echo ${x:-{}}", r"in \$\{ \}"),
        ('echo "${x:-$(echo {})}"', r"in \$\{ \}"),
        ("echo ${}", r"in \$\{ \}"),
        ("ls \\{}", "behind a backslash"),
        ('ls "\\{}"', "behind a backslash"),
        ("ls # {}", "in a comment"),
        ("ls # all", "at the end, within #"),
        ("ls 'a", "at the end, within '"),
        ('ls "$(a', r"at the end, within \$\( \)"),
        ("ls \\", "behind a backslash"),
        ("echo $'a\\'b' {}", r"behind \$'"),
        ('echo "$[{}]"', r"behind \$'"),
        ('echo "$$({})"', r"behind \$\$"),
        ('echo "$(case a in a) echo {};; esac)"', "behind a case"),
        ("((echo '{}'); ls)", r"behind \(\("),
        ('echo "$\\\n(ls {})"', "cuts in two"),
        ("""echo "${x:-'}" {}""", r"behind quotes in \$\{ \}"),
        ("((cat <<E) )\n{}\nE", r"behind \(\("),
        ("((true))# don't use {}", "may begin a comment"),
        ("((true) )# don't use {}", "comment|behind"),
        ("echo $(case x in x)# it's {}\n echo a;; esac)", "case|comment"),
        ('echo "$( ((case x in x) echo a\nesac) ) ; echo "{}" )"', r"behind \(\(|case"),
        ('echo "$(case\\\n x in x) echo " {} " ;; esac)"', "cuts in two"),
        ('echo "$(ca\\\nse x in x) echo " {} " ;; esac)"', "cuts in two"),
        ("echo ${x#$'\\''} '} {} '", "behind"),
        # Refused only because it might be one.
        ("echo $(ls)#a {}", "may begin a comment"),
    ],
)
def test_where_nothing_can_be_put(template: str, reason: str) -> None:
    with pytest.raises(EvenlyError, match=reason) as caught:
        compile_template(template)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("ls {} # '", "ls a # '"),
        ("echo ${#} {#} {}", "echo ${#} 7 a"),
        ("echo {}>out {#}>out", "echo 'a'>out '7'>out"),
        ("ls ~{} $x{}", "ls ~'a' $x'a'"),
        ("echo `echo {#}` $((1 << {#})) {}", "echo `echo 7` $((1 << 7)) a"),
        ("cat {} <<EOF\n{#}\nEOF", "cat a <<EOF\n7\nEOF"),
        ("f() { ls {}; }; f", "f() { ls a; }; f"),
        ("(ls) {}", "(ls) a"),
        ("a#'b {}' {}", "a#'b a' a"),
    ],
)
def test_what_the_shell_has_of_its_own(template: str, line: str) -> None:
    assert compile_template(template)("a", 7) == line


def test_a_word_that_the_shell_knows_is_an_item_like_others() -> None:
    assert compile_template("case $f in {}) ;; esac")("esac", 1) == "case $f in 'esac') ;; esac"
    assert compile_template('echo "$x\\\n{}"')("xfoo", 1) == 'echo "$x\\\n""xfoo"'


def test_the_first_word_is_a_command_and_no_assignment(empty: Path) -> None:
    assert compile_words(["{}", "env"])("A=b", 1) == "'A=b' env"
    assert compile_words(["A={}", "x"])("b", 1) == "'A='b x"
    assert compile_words(["x", "A={}"])("b", 1) == "x A=b"
    assert compile_words(["x", "{}"])("y", 1) == "x y"


def test_sums_take_whole_numbers_alone(empty: Path) -> None:
    fill = compile_template('echo "$(( {} * {#} ))"')
    assert said(fill("-6", 7), empty) == "-42\n"
    for item in ("a[$(touch pwned)]", "1+1", "", "1 2"):
        with pytest.raises(EvenlyError, match="whole numbers alone"):
            fill(item, 1)
