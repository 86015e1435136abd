"""Drawing of a metric against the number of stays learned from, one line a start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from clinrep.analysis.classifier_runs import STARTS
from clinrep.analysis.metrics import METRICS
from clinrep.analysis.style import LINES, Line

PANEL_INCHES = (3.4, 2.6)
LEGEND_INCHES = 5.0  # of width, for two columns of words
UNCHANGED_COLOR, REFERENCE_COLOR = "#000000", "0.45"
_REFERENCE_DASHES = ((0, (1, 1.2)), (0, (4, 1.5, 1, 1.5)))


@dataclass(frozen=True)
class Reference:
    """A horizontal line in the panel of one metric."""

    metric: str
    value: float
    label: str


def draw_learning_curves(
    rows: pl.DataFrame,
    references: dict[str, list[Reference]],
    titles: dict[str, str],
    label_start: Callable[[str], str],
) -> Figure:
    """Draw a column an outcome, under its title, and a row a metric; `rows` as of `average_runs`, of one site."""
    outcomes = rows["outcome"].unique(maintain_order=True).to_list()
    metrics = [name for name in METRICS if name in set(rows["metric"])]
    size = (max(LEGEND_INCHES, PANEL_INCHES[0] * len(outcomes)), PANEL_INCHES[1] * len(metrics) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(metrics), len(outcomes), squeeze=False, sharex="col")
    labels = list(dict.fromkeys(line.label for lines in references.values() for line in lines))
    for column, outcome in enumerate(outcomes):
        for row, metric in enumerate(metrics):
            panel = panels[row, column]
            chosen = rows.filter((pl.col("outcome") == outcome) & (pl.col("metric") == metric))
            _draw_panel(panel, chosen)
            for line in references.get(outcome, []):
                if line.metric == metric:
                    dashes = _REFERENCE_DASHES[labels.index(line.label) % len(_REFERENCE_DASHES)]
                    panel.axhline(line.value, color=REFERENCE_COLOR, linestyle=dashes, linewidth=1)
            panel.set_ylabel(METRICS[metric].label if column == 0 else "")
        panels[0, column].set_title(titles[outcome])
        panels[-1, column].set_xlabel("Local training stays")
    figure.legend(handles=_make_handles(rows, labels, label_start), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_panel(panel: Axes, rows: pl.DataFrame) -> None:
    """Draw the lines of one outcome and metric; points without an estimate are left out."""
    drawn = rows.drop_nulls("estimate")
    reasons = rows.filter(pl.col("estimate").is_null())["reason"].drop_nulls()
    if drawn.is_empty():
        panel.text(0.5, 0.5, reasons[0] if len(reasons) else "", ha="center", transform=panel.transAxes, color="0.25")
    for row in drawn.filter(start="unchanged").iter_rows(named=True):
        panel.axhline(row["estimate"], color=UNCHANGED_COLOR, linestyle=(0, (5, 2)), linewidth=1.1)
        if row["low"] is not None:
            panel.axhspan(row["low"], row["high"], color=UNCHANGED_COLOR, alpha=0.08, linewidth=0)
    starts = [start for start in STARTS if start in set(drawn["start"])]
    for place, start in enumerate(starts):
        of_start = drawn.filter(pl.col("num_train_stays") > 0, start=start)  # 0 is few, and has no logarithm
        line, points = _find_line(start), of_start.sort("num_train_stays")
        x = points["num_train_stays"].to_numpy() * 1.04 ** (place - (len(starts) - 1) / 2)  # bars beside each other
        y = points["estimate"].to_numpy()
        low, high = (points[name].fill_null(points["estimate"]).to_numpy() for name in ("low", "high"))
        # the mean of several runs lies within their range, an estimate almost always within its interval
        errors = np.maximum([y - low, high - y], 0)
        style = {"color": line.color, "linestyle": line.dashes, "marker": line.marker}
        panel.errorbar(x, y, yerr=errors, elinewidth=0.8, capsize=2, **style)
    panel.set_xscale("log")
    stays = rows.filter(pl.col("num_train_stays") > 0)["num_train_stays"].to_numpy()
    if stays.size:  # also of a single point, around which a logarithmic axis chooses no limits
        panel.set_xlim(stays.min() / 1.4, stays.max() * 1.4)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    panel.xaxis.set_minor_formatter(NullFormatter())


def _find_line(start: str) -> Line:
    return LINES[list(STARTS).index(start)]


def _make_handles(rows: pl.DataFrame, labels: list[str], label_start: Callable[[str], str]) -> list[Line2D]:
    """Name what is drawn: the starts, the unchanged classifier, the references."""
    present = set(rows["start"])
    handles = []
    for start in STARTS:
        if start in present:
            line = _find_line(start)
            style = {"color": line.color, "linestyle": line.dashes, "marker": line.marker}
            handles.append(Line2D([], [], label=label_start(start), **style))
    if "unchanged" in present:
        handles.append(
            Line2D([], [], label=label_start("unchanged"), color=UNCHANGED_COLOR, linestyle=(0, (5, 2)), linewidth=1.1)
        )
    for place, label in enumerate(labels):
        dashes = _REFERENCE_DASHES[place % len(_REFERENCE_DASHES)]
        handles.append(Line2D([], [], label=label, color=REFERENCE_COLOR, linestyle=dashes, linewidth=1))
    return handles
