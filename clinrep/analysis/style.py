"""How figures look: fonts, sizes, and colours that colour-blind readers and grey printers tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Okabe and Ito's palette (Color Universal Design, 2008), without its yellow, which is too light for lines
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # TrueType: text stays text that journals and editors can read
    "svg.hashsalt": "clinrep",
}


@dataclass(frozen=True)
class Line:
    """Colour, dashes and marker of one model."""

    color: str
    dashes: Any
    marker: str


LINES = tuple(Line(color, DASHES[index % len(DASHES)], MARKERS[index]) for index, color in enumerate(COLORS))
