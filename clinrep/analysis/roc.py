"""ROC curves."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from clinrep.analysis.metrics import Floats, Ranking
from clinrep.analysis.style import Line

Estimate = tuple[float | None, float | None, float | None]  # estimate, low, high


def compute_roc(ranking: Ranking) -> tuple[Floats, Floats]:
    """Return false and true positive rate at each threshold, from (0, 0) to (1, 1); one step per tie."""
    tally = ranking.tally(np.ones((1, ranking.order.size)))
    rates = (np.r_[0, counts[0]] / counts[0, -1] for counts in (tally.false_positives, tally.true_positives))
    false_positive_rate, true_positive_rate = rates
    return false_positive_rate, true_positive_rate


def draw_roc_panel(panel: Axes, curves: list[tuple[Ranking, Line, Estimate]], heading: str) -> None:
    """Draw the curves of one outcome, with the numbers of each under `heading`."""
    for ranking, line, numbers in curves:
        panel.plot(
            *compute_roc(ranking), color=line.color, linestyle=line.dashes, label=_format(numbers), clip_on=False
        )
    panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="1 \N{MINUS SIGN} specificity", ylabel="Sensitivity")
    panel.set_xticks(np.linspace(0, 1, 6))
    if curves:
        panel.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.8, zorder=1)
        panel.legend(title=heading, title_fontsize=7, loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")


def _format(numbers: Estimate) -> str:
    estimate, low, high = numbers
    return f"{estimate:.2f}" + (f" ({low:.2f}\N{EN DASH}{high:.2f})" if low is not None else "")
