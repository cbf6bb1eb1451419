"""The public side of named tasks: registering functions, and what a worker makes of them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from evenly import builtin, progress, task, tasks, worker
from evenly.tasks import registry, signature_of, take_progress
from protocol.limits import VALUE_LIMIT
from protocol.tasks import Parameter, Signature


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    before = dict(registry)
    yield
    registry.clear()
    registry.update(before)


class TestRegistered:
    def test_a_function_is_known_by_its_name_or_another_and_stays_as_it_is(self) -> None:
        @task
        def plain(a: int) -> int:
            return a + 1

        @task("other-name")
        def named() -> str:
            return "x"

        assert (registry["plain"], registry["other-name"]) == (plain, named)
        assert (plain(1), named()) == (2, "x")

    def test_two_of_a_name_are_refused_with_both_places(self) -> None:
        task("twice")(test_nothing_heavy_is_imported)
        task("twice")(test_nothing_heavy_is_imported)  # a module that is loaded again
        with pytest.raises(ValueError, match=r"there are two tasks 'twice': in .*nothing_heavy.* and .*"):
            task("twice")(lambda: None)

    @pytest.mark.parametrize("name", ["", "two words", "x" * 65])
    def test_a_name_that_no_line_could_hold_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="a task's name is"):
            task(name)(lambda: None)

    def test_a_function_without_names_for_its_arguments_is_refused(self) -> None:
        def nameless(a: int, /) -> None: ...

        with pytest.raises(TypeError, match="by name, and 'a' has none"):
            task(nameless)


class TestSignature:
    def test_annotations_become_kinds(self) -> None:
        def function(
            a: str,
            b: int,
            c: float = 1,
            *more: Any,
            d: bool,
            e: list[str] | None = None,
            f: Optional[dict[str, int]] = None,  # noqa: UP045
            g: Path | str = "",
            h=3,
        ) -> None: ...

        assert signature_of(function) == Signature(
            (
                Parameter("a", ("str",)),
                Parameter("b", ("int",)),
                Parameter("c", ("float",), False),
                Parameter("d", ("bool",)),
                Parameter("e", ("list", "null"), False),
                Parameter("f", ("dict", "null"), False),
                Parameter("g", (), False),
                Parameter("h", (), False),
            )
        )

    def test_any_other_name_goes_where_there_is_a_place_for_it(self) -> None:
        def function(**others: Any) -> None: ...

        assert signature_of(function) == Signature((), is_open=True)

    def test_annotations_that_cannot_be_read_ask_for_nothing(self) -> None:
        def function(a: no.such.thing) -> None: ...  # noqa: F821

        assert signature_of(function) == Signature((Parameter("a"),))


class TestProgress:
    def test_the_last_word_counts_and_is_taken_once(self) -> None:
        progress(0.1)
        progress(0.4, "x" * 1000)
        assert take_progress() == (0.4, "x" * tasks.PROGRESS_TEXT)
        assert take_progress() is None

    @pytest.mark.parametrize("part", [-0.1, 1.1, float("nan")])
    def test_what_is_no_part_of_1_is_refused(self, part: float) -> None:
        with pytest.raises(ValueError, match="from 0 to 1"):
            progress(part)


class TestValues:
    @pytest.mark.parametrize("value", [None, 1, "x", [1, {"a": None}], "žluť 🙂"])
    def test_what_json_can_say_is_returned(self, value: Any) -> None:
        assert worker.json.loads(worker.value_of(value)) == value

    def test_half_a_surrogate_pair_travels_in_ascii(self) -> None:
        assert worker.value_of("\ud800") == '"\\ud800"'

    def test_what_json_cannot_say_is_told(self) -> None:
        deep: list[Any] = []
        deep.append(deep)
        for value in ({1, 2}, object(), float("nan"), deep):
            with pytest.raises(TypeError, match="the task returned what JSON cannot say: "):
                worker.value_of(value)

    def test_too_much_and_too_deep_is_told(self) -> None:
        with pytest.raises(ValueError, match="files are for that"):
            worker.value_of("x" * VALUE_LIMIT)
        nested: list[Any] = []
        for _ in range(64):
            nested = [nested]
        with pytest.raises(ValueError, match="deeper than 64"):
            worker.value_of(nested)


class TestTracebacks:
    def test_only_the_users_frames_are_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        async def fails() -> None:
            try:
                raise KeyError("first")
            except KeyError as error:
                raise ValueError("second\nline") from error

        registry["fails"] = fails
        with pytest.raises(ValueError, match="second") as caught:
            worker.call("fails", {})
        worker.tell(caught.value)
        said = capsys.readouterr().err
        assert said.count("Traceback (most recent call last)") == 2
        assert "in fails" in said
        assert "asyncio" not in said
        assert "worker.py" not in said

    def test_the_last_line_is_one_line_of_text(self) -> None:
        assert worker.last_line(ValueError("a\nb")) == "ValueError: a"
        with pytest.raises(SyntaxError) as error:
            compile("x = = 1", "x.py", "exec")
        assert worker.last_line(error.value) == "SyntaxError: invalid syntax"
        assert worker.last_line(SystemExit(3)) == "SystemExit: 3"
        assert worker.last_line(ValueError()) == "ValueError"
        assert len(worker.last_line(ValueError("x" * 10_000))) == worker.REASON_LIMIT
        assert worker.last_line(ValueError("\ud800")) == "ValueError: ?"


class TestBuiltin:
    def test_a_checksum_is_that_of_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x" * 3_000_000)
        assert builtin.checksum(str(path)) == hashlib.sha256(path.read_bytes()).hexdigest()
        assert builtin.checksum(str(path), "md5") == hashlib.md5(path.read_bytes()).hexdigest()
        with pytest.raises(ValueError, match="no algorithm 'crc': there are blake2b,"):
            builtin.checksum(str(path), "crc")

    def test_images_become_smaller_beside_or_elsewhere(self, tmp_path: Path) -> None:
        from PIL import Image

        opaque, clear = tmp_path / "opaque.png", tmp_path / "clear.png"
        Image.effect_noise((64, 40), 80).save(opaque)
        Image.new("RGBA", (3, 1), (1, 2, 3, 0)).save(clear)
        (first,) = builtin.compress([str(opaque)])
        assert first["path"] == str(tmp_path / "opaque.small.jpg")
        assert (first["width"], first["height"]) == (32, 20)
        assert first["bytes_after"] < first["bytes_before"] == opaque.stat().st_size
        (second,) = builtin.compress([str(clear)], 0.1, directory=str(tmp_path / "made" / "here"))
        assert second["path"] == str(tmp_path / "made" / "here" / "clear.small.png")
        with Image.open(second["path"]) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (1, 1))
        assert sorted(each.name for each in tmp_path.iterdir()) == [
            *("clear.png", "made", "opaque.png", "opaque.small.jpg"),
        ]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"images": [], "ratio": 0}, "ratio is"),
            ({"images": [], "quality": 100}, "quality is"),
            ({"images": ["/a/x.png", "/b/x.png"], "directory": "/c"}, "two of the images"),
        ],
    )
    def test_what_makes_no_sense_is_told(self, arguments: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            builtin.compress(**arguments)


def test_nothing_heavy_is_imported() -> None:
    heavy = {"uvloop", "socket", "asyncio", "PIL", "aiosqlite", "runtime", "clusternode", "loadbalancer"}
    code = f"import sys, evenly; from evenly import task, progress; print({heavy!r} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
