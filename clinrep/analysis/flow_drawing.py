"""The flow of stays as boxes and arrows, in inches from the upper left corner."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clinrep.analysis.suppression import HIDDEN

if TYPE_CHECKING:
    from clinrep.analysis.flow import FlowRow

WIDTH = 7.2
LINE = 0.148  # inches from line to line at 8 points
PAD = 0.09
GAP = 0.3
FONT_POINTS = 7.5
CHARACTERS_PER_INCH = 15.5  # fewer than fit, so that no word touches the frame
CHARACTERS_OF_NAME = 14  # of an outcome, left of the columns
ENDS = (1.05, 3.15, 5.25)  # left edges of the columns of splits
COLUMN = 1.85
MAIN = (0.525, 2.9)  # left edge and width of the boxes of all stays
SIDE = (4.0, 3.1)


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.left + self.width / 2

    @property
    def bottom(self) -> float:
        return self.top + self.height


def draw_flow(rows: list[FlowRow], outcomes: dict[str, str], splits: dict[str, str]) -> Figure:
    """Return the figure: source, those left out, stays with a timeline, splits, and labels by outcome and split.

    Args:
        rows: as `count_flow` returns them.
        outcomes: name of each outcome -> its words, in order from top to bottom.
        splits: name of each split -> its words, from left to right.
    """
    texts = _write_lines(rows, outcomes, splits)
    top = [_measure(texts[name]) for name in ("source", "left out", "timeline")]
    names = {outcome: textwrap.wrap(words, CHARACTERS_OF_NAME) for outcome, words in outcomes.items()}
    heights = [
        max(_measure(lines) for lines in (names[one], *(texts[one, split] for split in splits))) for one in names
    ]
    split_height = max(_measure(texts["split", split]) for split in splits)
    between = max(top[1] + GAP, GAP * 1.6) if texts["left out"] else GAP
    height = 0.05 + top[0] + between + top[2] + 2 * GAP + split_height
    height += GAP + sum(heights) + 0.05
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    source = _draw_box(axes, *MAIN, 0.05, texts["source"])
    timeline = _draw_box(axes, *MAIN, source.bottom + between, texts["timeline"])
    _draw_arrow(axes, (source.middle, source.bottom), (timeline.middle, timeline.top))
    if texts["left out"]:
        y = (source.bottom + timeline.top) / 2
        side = _draw_box(axes, *SIDE, y - top[1] / 2, texts["left out"])
        _draw_arrow(axes, (source.middle, y), (side.left, y))
    _draw_splits(axes, timeline, texts, names, list(splits), split_height, heights)
    return figure


def _draw_splits(
    axes: Axes,
    timeline: _Box,
    texts: dict[object, list[str]],
    names: dict[str, list[str]],
    splits: list[str],
    split_height: float,
    heights: list[float],
) -> None:
    """Draw the boxes of the splits, and under each a column with a cell for every outcome."""
    fork, top = timeline.bottom + GAP, timeline.bottom + 2 * GAP
    axes.plot([timeline.middle] * 2, [timeline.bottom, fork], color="black", linewidth=0.8)
    middles = [left + COLUMN / 2 for left in ENDS]
    axes.plot([min(middles[0], timeline.middle), middles[-1]], [fork, fork], color="black", linewidth=0.8)
    for left, split in zip(ENDS, splits, strict=True):
        box = _draw_box(axes, left, COLUMN, top, texts["split", split], split_height)
        _draw_arrow(axes, (box.middle, fork), (box.middle, box.top))
        if not names:
            continue
        _draw_arrow(axes, (box.middle, box.bottom), (box.middle, box.bottom + GAP))
        y = box.bottom + GAP
        for outcome, height in zip(names, heights, strict=True):
            _draw_box(axes, left, COLUMN, y, texts[outcome, split], height)
            y += height
    y = top + split_height + GAP
    for lines, height in zip(names.values(), heights, strict=True):
        axes.text(0.05, y + PAD, "\n".join(lines), va="top", fontsize=FONT_POINTS, fontweight="bold", linespacing=1.3)
        y += height


def _write_lines(rows: list[FlowRow], outcomes: dict[str, str], splits: dict[str, str]) -> dict[object, list[str]]:
    """Return the lines of every box; the first one of a box is set bold."""
    texts: dict[object, list[str]] = {"left out": []}
    for row in rows:
        stays = _count(row.num_stays, "stay")
        if row.step == "source":
            texts["source"] = ["Stays in the source", stays]
        elif row.step == "left out":
            texts["left out"] = texts["left out"] or ["Left out"]
            texts["left out"] += _wrap(f"{row.reason}: {_number(row.num_stays)}", SIDE[1])
        elif row.step == "timeline":
            texts["timeline"] = ["Stays with a timeline", f"{stays} of {_count(row.num_patients, 'patient')}"]
        elif row.step == "split":
            texts["split", row.split] = [splits[row.split], stays, f"of {_count(row.num_patients, 'patient')}"]
        elif row.step == "labelled":
            texts[row.outcome, row.split] = [f"Labelled: {_number(row.num_stays)}"]
        else:
            line = f"Excluded, {row.reason}: {_number(row.num_stays)}"
            texts[row.outcome, row.split] += _wrap(line, COLUMN)
    return texts


def _number(count: int | None) -> str:
    return HIDDEN if count is None else f"{count:,}"


def _count(count: int | None, noun: str) -> str:
    return f"{_number(count)} {noun}{'' if count == 1 else 's'}"


def _wrap(text: str, width: float) -> list[str]:
    return textwrap.wrap(text, int((width - 2 * PAD) * CHARACTERS_PER_INCH), subsequent_indent="  ")


def _measure(lines: list[str]) -> float:
    return len(lines) * LINE + 2 * PAD


def _draw_box(axes: Axes, left: float, width: float, top: float, lines: list[str], height: float = 0) -> _Box:
    box = _Box(left, top, width, max(height, _measure(lines)))
    x, y = [left, left + width, left + width, left, left], [top, top, box.bottom, box.bottom, top]
    axes.plot(x, y, color="black", linewidth=0.8, solid_joinstyle="miter")
    for number, line in enumerate(lines):
        weight = "bold" if number == 0 else "normal"
        y_of_line = top + PAD + (number + 0.5) * LINE
        axes.text(left + PAD, y_of_line, line, va="center", fontsize=FONT_POINTS, fontweight=weight)
    return box


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, "color": "black", "mutation_scale": 8}
    axes.annotate("", end, start, arrowprops=style)
