"""The ratios as an SVG: a bar for each, from 1 (as good as what stands beside it), on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.figures import Figure

#: Pixels: of a row, of the texts on the left, of the bars, of the texts on the right; and the margin.
ROW, LEFT, BARS, RIGHT, MARGIN = 20, 320, 420, 460, 12
#: Powers of ten on either side of 1; what is beyond ends at the edge.
DECADES = 3
BETTER, WORSE = "#3a7d44", "#b5473c"


def plot(figures: Sequence[Figure]) -> str:
    """The SVG's text. To the right is better; figures without a ratio are left out."""
    rows = [(figure, figure.gain) for figure in figures if figure.gain is not None]
    top, bottom = MARGIN + ROW, MARGIN + ROW * (len(rows) + 1)
    lines = [_scale(top, bottom)]
    for place, (figure, gain) in enumerate(rows):
        lines.append(_bar(figure, gain, top + place * ROW))
    width, height = LEFT + BARS + RIGHT + 2 * MARGIN, bottom + ROW + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def position(gain: float) -> float:
    """Pixels from the left edge of the bars."""
    share = (math.log10(gain) + DECADES) / (2 * DECADES)
    return BARS * min(1.0, max(0.0, share))


def _scale(top: int, bottom: int) -> str:
    lines = []
    for power in range(-DECADES, DECADES + 1):
        x = MARGIN + LEFT + position(10.0**power)
        stroke = "#333" if power == 0 else "#ddd"
        lines.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{stroke}"/>')
        lines.append(
            f'<text x="{x:.1f}" y="{top - 6}" text-anchor="middle" fill="#555">{10.0**power:g}</text>'
        )
    lines.append(f'<text x="{MARGIN}" y="{top - 6}" fill="#555">to the right, Evenly is better</text>')
    return "\n".join(lines)


def _bar(figure: Figure, gain: float, y: int) -> str:
    measure = figure.measure
    start, end = sorted((position(1.0), position(gain)))
    colour = BETTER if gain >= 1 else WORSE
    title = escape(f"{measure.key.partition('.')[0]}: {measure.title}")
    text_y = y + ROW * 0.7
    return (
        f'<text x="{MARGIN}" y="{text_y:.1f}">{title}</text>\n'
        f'<rect x="{MARGIN + LEFT + start:.1f}" y="{y + 3}" width="{max(1.0, end - start):.1f}" '
        f'height="{ROW - 6}" fill="{colour}"/>\n'
        f'<text x="{MARGIN + LEFT + BARS + 8}" y="{text_y:.1f}">{gain:.3g} of {escape(measure.beside)}</text>'
    )
