"""Calibration curves: what probabilities mean."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from clinrep.analysis.metrics import Floats, rank
from clinrep.analysis.safe_cuts import find_safe_cuts
from clinrep.analysis.style import Line
from clinrep.analysis.suppression import Cells

NUM_HISTOGRAM_BARS = 20


def group_by_probability(
    labels: NDArray[np.bool_],
    probabilities: Floats,
    num_groups: int,
    patients: NDArray[np.intp] | None = None,
    least: int = 0,
) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Return mean probability, share with the event and number of stays of each group, in rising order.

    Groups lie between quantiles of the probabilities; ties are never separated, so there may be
    fewer groups than asked for. Neighbours are one group where otherwise those with the event, or those without,
    would be stays of fewer than `least` patients and not none: share and size of a group tell how many they are.
    """
    edges = np.unique(np.quantile(probabilities, np.linspace(0, 1, num_groups + 1)[1:-1]))
    if patients is not None and least:
        num_above = [int((probabilities >= edge).sum()) for edge in edges]
        edges = edges[find_safe_cuts(rank(labels, probabilities), patients, num_above, least)]
    group = np.searchsorted(edges, probabilities, side="right")
    counts = np.bincount(group, minlength=edges.size + 1)
    is_filled = counts > 0
    sums = (np.bincount(group, values, minlength=edges.size + 1) for values in (probabilities, labels))
    means, shares = (total[is_filled] / counts[is_filled] for total in sums)
    return means, shares, counts[is_filled]


def compute_wilson_interval(shares: Floats, counts: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Return the 95 % Wilson score interval of each share of `counts` (Wilson, JASA 22 (1927) 209-212)."""
    z = 1.959964
    scale = 1 + z**2 / counts
    middle = (shares + z**2 / (2 * counts)) / scale
    half = z * np.sqrt(shares * (1 - shares) / counts + z**2 / (4 * counts**2)) / scale
    return middle - half, middle + half


def draw_calibration_panel(
    panel: Axes,
    histogram: Axes,
    models: list[tuple[NDArray[np.bool_], Floats, Line]],
    patients: NDArray[np.intp],
    num_groups: int,
    min_cell_count: int,
) -> None:
    """Draw the reliability curves of one outcome above the histogram of their probabilities.

    Groups and bars tell of no class, or stays, of fewer than `min_cell_count` patients; `patients` (N,) numbers each
    stay's.
    """
    panel.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.8)
    limit = 0.0
    for labels, probabilities, line in models:
        means, shares, counts = group_by_probability(labels, probabilities, num_groups, patients, min_cell_count)
        low, high = compute_wilson_interval(shares, counts)
        panel.vlines(means, low, high, color=line.color, linewidth=0.8, alpha=0.45)
        panel.plot(means, shares, color=line.color, linestyle=line.dashes, marker=line.marker, clip_on=False)
        limit = max(limit, means.max(), high.max())
    # rare events would huddle in a corner of the unit square
    limit = min(1.0, 1.05 * limit)
    bars = np.linspace(0, limit, NUM_HISTOGRAM_BARS + 1)
    for _, probabilities, line in models:
        bar = np.clip(np.searchsorted(bars, np.clip(probabilities, 0, limit), side="right") - 1, 0, bars.size - 2)
        counts = count_bars(bar, patients, bars.size - 1, min_cell_count)
        histogram.stairs(counts, bars, color=line.color, linestyle=line.dashes, linewidth=1)
    panel.set(xlim=(0, limit), ylim=(0, limit), ylabel="Observed share with the event")
    panel.tick_params(labelbottom=False)
    histogram.set(xlim=(0, limit), xlabel="Predicted probability", ylabel="Stays")
    histogram.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def count_bars(bar: NDArray[np.intp], patients: NDArray[np.intp], num_bars: int, least: int) -> NDArray[np.intp]:
    """Return how many stays are in each bar, 0 for those of few patients and those that would tell them.

    All bars together are all stays, which the title tells: without a second one hidden, one would be the difference.
    """
    of_patient = np.unique(np.stack([bar, patients]), axis=1)[0]
    counts, num_people = (np.bincount(of_bar, minlength=num_bars) for of_bar in (bar, of_patient))
    cells = Cells()
    cells.add("all", bar.size, num_people=np.unique(patients).size, is_fixed=True)
    for index, (count, people) in enumerate(zip(counts, num_people, strict=True)):
        cells.add(index, count, num_people=people)
    cells.add_sum("all", range(num_bars))
    hidden = cells.hide(least)
    return np.where([index in hidden for index in range(num_bars)], 0, counts)
