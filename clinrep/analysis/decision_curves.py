"""Section of the report: decision curves, what acting on a model's probabilities is worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.curves import (
    NUM_COLUMNS,
    PANEL_INCHES,
    add_legend,
    assign_lines,
    select_drawn,
    start_figure,
    title_panel,
)
from clinrep.analysis.differences import choose_reference
from clinrep.analysis.drawing import DrawnFigure, save_figure
from clinrep.analysis.metrics import Floats
from clinrep.analysis.net_benefit import choose_thresholds, compute_net_benefit, compute_treat_all, count_flagged
from clinrep.analysis.replicates import ModelGroup, estimate_statistic, group_models, replicate_statistic
from clinrep.analysis.safe_cuts import HIDDEN_REASON, find_safe_cuts
from clinrep.analysis.scores import ALL
from clinrep.analysis.study import Section, Study
from clinrep.analysis.style import STYLE, Line
from clinrep.analysis.suppression import HIDDEN
from clinrep.analysis.tables import PrintedTable, label_outcome, print_model, print_outcome, to_words
from clinrep.run import show_progress

# of the thresholds, those printed: every so many
PRINTED_EVERY = 20
ALL_LINE = Line2D([], [], color="0.55", linewidth=1.0, label="Treat all")
NONE_LINE = Line2D([], [], color="0.55", linewidth=1.0, linestyle="--", label="Treat none")

_SCHEMA = {
    "site": pl.String,
    "outcome": pl.String,
    "threshold": pl.Float64,
    "model": pl.String,
    "probe": pl.String,
    "subgroup": pl.String,
    "net_benefit": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "net_benefit_treat_all": pl.Float64,
    "reason": pl.String,
}


@dataclass(frozen=True)
class DecisionCurves:
    """The curves of the models of one site and outcome."""

    group: ModelGroup
    thresholds: Floats
    """(T,)"""
    benefits: Floats
    """(M, T) NaN for a model without numbers; (M, 0) where no model has any."""
    bands: list[Floats | None]
    """One for each model: (2, T) low and high; None where there is no interval."""
    treat_all: Floats
    """(T,)"""
    is_shown: list[NDArray[np.bool_]]
    """One for each model: (T,) at which thresholds the numbers show no small cell."""


def build_decision_section(study: Study) -> Section:
    """Draw the decision curves of each site, with a panel an outcome, and print their numbers."""
    config = study.config
    groups = show_progress(group_models(study.predicted, config), config, "decision curves")
    curves = [compute_curves(group, config) for group in groups]
    figures = _draw_curves(study, curves)
    return Section("decision_curves", "Decision curves", tables=[_build_table(curves, study)], figures=figures)


def compute_curves(group: ModelGroup, config: AnalyzeConfig) -> DecisionCurves:
    """Compute net benefit at every threshold of every model, with pointwise intervals from the same replicates."""
    prevalence = group.num_events / max(group.num_subjects, 1)
    thresholds = choose_thresholds(prevalence, config.max_decision_threshold)
    compute = partial(compute_net_benefit, thresholds=thresholds)
    replicates = replicate_statistic(group, compute, config)
    bands: list[Floats | None] = [None] * len(group.items)
    if replicates is not None:
        for index, ranking in enumerate(group.rankings):
            if ranking is not None:
                tails = [(1 - config.confidence_level) / 2, (1 + config.confidence_level) / 2]
                bands[index] = np.quantile(replicates[index], tails, axis=1)
    treat_all = compute_treat_all(prevalence, thresholds)
    is_shown = [_find_shown(group, index, thresholds, config) for index in range(len(group.items))]
    return DecisionCurves(group, thresholds, estimate_statistic(group, compute), bands, treat_all, is_shown)


def _find_shown(group: ModelGroup, index: int, thresholds: Floats, config: AnalyzeConfig) -> NDArray[np.bool_]:
    """Return (T,) at which thresholds the net benefit of a model shows no small cell."""
    ranking = group.rankings[index]
    if ranking is None:
        return np.ones(thresholds.size, bool)
    num_flagged = count_flagged(ranking, thresholds)
    printed = range(PRINTED_EVERY, thresholds.size, PRINTED_EVERY)
    return find_safe_cuts(ranking, group.patients, num_flagged.tolist(), config.min_cell_count, printed)


def _list_rows(curves: DecisionCurves, config: AnalyzeConfig) -> list[dict[str, Any]]:
    """Return rows of `_SCHEMA`: every threshold of every model, one row of a model without numbers."""
    group = curves.group
    rows = []
    common: dict[str, Any] = {"site": group.site, "outcome": group.outcome, "subgroup": ALL}
    for at, threshold in enumerate(curves.thresholds.tolist()):
        for index, item in enumerate(group.items):
            reason, band = group.explain(index), curves.bands[index]
            row = common | {"model": item.model, "probe": item.probe, "reason": reason or group.no_interval or None}
            if reason:
                rows += [row] if at == 0 else []
                continue
            row["threshold"] = threshold
            if not curves.is_shown[index][at]:
                rows.append(row | {"reason": HIDDEN_REASON.format(least=config.min_cell_count)})
                continue
            row |= {"net_benefit_treat_all": float(curves.treat_all[at])}
            row["net_benefit"] = float(curves.benefits[index, at])
            row["low"], row["high"] = (None, None) if band is None else (float(band[0, at]), float(band[1, at]))
            rows.append(row)
    return rows


def _build_table(curves: list[DecisionCurves], study: Study) -> PrintedTable:
    """Return every number for the CSV file, and five thresholds of each outcome in words."""
    config = study.config
    listed = [(curve, _list_rows(curve, config)) for curve in curves]
    numbers = pl.DataFrame([row for _, rows in listed for row in rows], schema=_SCHEMA, orient="row")
    numbers = study.people.round_hidden(numbers)
    chosen = [
        row
        for curve, rows in listed
        for row in rows
        if "threshold" not in row or row["threshold"] in curve.thresholds[PRINTED_EVERY::PRINTED_EVERY]
    ]
    printed = study.people.round_hidden(pl.DataFrame(chosen, schema=_SCHEMA, orient="row")).with_columns(
        outcome=print_outcome(config),
        threshold=pl.col("threshold").map_elements(lambda value: f"{value:.3g}", pl.String),
        model=print_model(),
        benefit=pl.struct("net_benefit", "low", "high", "reason").map_elements(_format_benefit, pl.String),
        treat_all=pl.col("net_benefit_treat_all").map_elements(_format_number, pl.String),
    )
    headings = {
        "outcome": "Outcome",
        "threshold": "Threshold",
        "model": "Model",
        "benefit": f"Net benefit ({config.level_ci})",
    }
    words, num_keys = to_words(printed, headings | {"treat_all": "Treat all"})
    caption = (
        f"Net benefit in stays per 1,000 at five of the thresholds: true positives minus false positives weighted by "
        f"the odds of the threshold; treating none has 0. With {_describe_intervals(config)}. The CSV file has all "
        f"thresholds of the figure, as shares of all stays."
    )
    return PrintedTable("decision_curves", "Net benefit", caption, numbers, words, num_keys + 2)


def _describe_intervals(config: AnalyzeConfig) -> str:
    return (
        f"pointwise {config.level} percentile intervals of {config.num_bootstraps:,} bootstrap "
        f"replicates resampled by patient"
    )


def _format_benefit(row: dict[str, Any]) -> str:
    if str(row["reason"]).startswith("hidden"):
        return HIDDEN
    if row["net_benefit"] is None:
        return str(row["reason"])
    words = _format_number(row["net_benefit"])
    if row["low"] is None:
        return f"{words}, no interval: {row['reason']}"
    return f"{words} ({_format_number(row['low'])} to {_format_number(row['high'])})"


def _format_number(share: float) -> str:
    return f"{1000 * share:.1f}".replace("-", "\N{MINUS SIGN}")


def _draw_curves(study: Study, curves: list[DecisionCurves]) -> list[DrawnFigure]:
    config = study.config
    lines = assign_lines(select_drawn(study.predicted))
    drawn = []
    with mpl.rc_context(STYLE):
        for site in study.sites:
            of_site = [curve for curve in curves if curve.group.site == site.name]
            where = study.say_where(site.name)
            name, title = f"decision_curves_{site.name}", f"Decision curves{where}"
            figure, left_out = _draw_site(of_site, lines, study)
            caption = _CAPTION.format(intervals=_describe_intervals(config))
            if not all(is_shown.all() for curve in of_site for is_shown in curve.is_shown):
                caption += _GAPS.format(least=config.min_cell_count)
            caption += left_out
            drawn.append(save_figure(figure, study.figures_dir, name, title, caption))
    return drawn


_CAPTION = (
    "Net benefit of treating (or looking at) the stays whose predicted probability is at or above the threshold, on "
    "the labelled stays of the test split: true positives minus false positives weighted by the odds of the threshold, "
    "as a share of all stays. A model is worth using where its curve is above both grey lines. Probabilities are "
    "taken at their word, not recalibrated. The band, of the model that the others are compared with, is of "
    "{intervals}."
)
_GAPS = (
    " Curves with points are known at these alone, with straight lines between: at other thresholds they would tell of "
    "fewer than {least} people (min_cell_count)."
)


def _draw_site(curves: list[DecisionCurves], lines: dict[tuple[str, str], Line], study: Study) -> tuple[Figure, str]:
    """Draw one panel an outcome, and return the sentence that names those without any, unless all are such."""
    config = study.config
    reasons = {curve.group.outcome: reason for curve in curves if (reason := _explain_not_drawn(curve, config))}
    left_out = [f"{label_outcome(name, config)}: {reason}" for name, reason in reasons.items()]
    curves = [curve for curve in curves if curve.group.outcome not in reasons] or curves
    figure, num_rows = start_figure(len(curves), 0.85 * PANEL_INCHES)
    grid = figure.add_gridspec(num_rows, min(NUM_COLUMNS, len(curves)))
    for index, curve in enumerate(curves):
        panel = figure.add_subplot(grid[index])
        reason = reasons.get(curve.group.outcome, "")
        title_panel(panel, curve.group.outcome, curve.group.items, reason, config, study.people)
        panel.set(xlabel="Threshold probability", ylabel="Net benefit")
        if curve.group.outcome not in reasons:
            is_hidden = study.people.hides_labelled(curve.group.site, curve.group.outcome)
            _draw_panel(panel, curve, lines, choose_reference(curve.group.items, config), 3 if is_hidden else None)
    add_legend(figure, lines, has_markers=False, others=[ALL_LINE, NONE_LINE])
    return figure, f" Not drawn: {'; '.join(left_out)}." if left_out else ""


def _explain_not_drawn(curve: DecisionCurves, config: AnalyzeConfig) -> str:
    """Return why an outcome has no panel, or ''; a curve begins at the share of stays with the event."""
    if all(ranking is None for ranking in curve.group.rankings):
        return curve.group.explain(0)
    is_any_shown = any(is_shown.any() for is_shown in curve.is_shown)
    return "" if is_any_shown else HIDDEN_REASON.format(least=config.min_cell_count)


def _draw_panel(
    panel: Axes,
    curve: DecisionCurves,
    lines: dict[tuple[str, str], Line],
    reference: int | None,
    num_digits: int | None,
) -> None:
    """Draw the curves of one outcome; the lowest part of `Treat all` is cut off.

    A vector file holds every vertex, so it has no more numbers than the CSV file: none at hidden thresholds, and
    rounded to `num_digits` decimals, unless None.
    """
    benefits, treat_all = curve.benefits, curve.treat_all
    bands = curve.bands
    if num_digits is not None:
        benefits, treat_all = benefits.round(num_digits), treat_all.round(num_digits)
        bands = [None if band is None else band.round(num_digits) for band in bands]
    highest = treat_all[0]
    panel.plot(curve.thresholds, treat_all, color="0.55", linewidth=1.0, zorder=1)
    panel.axhline(0, color="0.55", linewidth=1.0, linestyle="--", zorder=1)
    for index, item in enumerate(curve.group.items):
        line, is_shown = lines.get((item.model, item.probe)), curve.is_shown[index]
        if line is None or curve.group.rankings[index] is None or not is_shown.any():
            continue
        thresholds, band = curve.thresholds[is_shown], bands[index]
        if index == reference and band is not None:
            low, high = band[:, is_shown]
            panel.fill_between(thresholds, low, high, color=line.color, alpha=0.18, linewidth=0)
            highest = max(highest, high.max())
        marker = "" if is_shown.all() else "."  # what is between points is not known
        panel.plot(thresholds, benefits[index, is_shown], color=line.color, linestyle=line.dashes, marker=marker)
    panel.set(xlim=(0, curve.thresholds[-1]), ylim=(-0.2 * treat_all[0], 1.05 * highest))
