"""The plot is well-formed and its bars are where they should be."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.figures import Figure, Measure, Sample, figures_of
from benchmarks.plot import BARS, BETTER, WORSE, plot, position
from benchmarks.report import write

SVG = "{http://www.w3.org/2000/svg}"
RATE = Measure("A.rate", "commands <true> & more", "a second", "xargs", more_is_better=True)
LATENCY = Measure("C.p50", "one job", "ms", "fsyncs")
BARE = Measure("H.idle", "idle", "% of a core")


def figures() -> list[Figure]:
    samples = [Sample("A.rate", 200, 100), Sample("C.p50", 200, 100), Sample("H.idle", 1)]
    return figures_of([RATE, LATENCY, BARE], samples)


def test_there_is_a_bar_for_each_ratio() -> None:
    root = ElementTree.fromstring(plot(figures()))
    _, *bars = root.iter(f"{SVG}rect")
    assert [bar.get("fill") for bar in bars] == [BETTER, WORSE]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "A: commands <true> & more" in texts
    assert "2 of xargs" in texts
    assert "0.5 of fsyncs" in texts
    assert not any("idle" in (text or "") for text in texts)


def test_without_a_ratio_there_is_still_a_plot() -> None:
    assert ElementTree.fromstring(plot([])).tag == f"{SVG}svg"


@pytest.mark.parametrize(
    ("gain", "share"), [(1, 0.5), (10, 4 / 6), (0.1, 2 / 6), (1e9, 1), (1e-9, 0)], ids=str
)
def test_the_scale_is_logarithmic_and_ends_at_the_edges(gain: float, share: float) -> None:
    assert position(gain) == pytest.approx(BARS * share)


def test_the_report_is_written_with_the_plot_beside_it(tmp_path: Path) -> None:
    picture = write(tmp_path / "new" / "figures.json", figures(), {"commit": "abc"})
    assert picture == tmp_path / "new" / "figures.svg"
    assert picture.read_text("utf-8").startswith("<svg")
    assert '"commit": "abc"' in (tmp_path / "new" / "figures.json").read_text("utf-8")
