"""Section of the report: ROC and calibration curves of each site."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clinrep.analysis.calibration import draw_calibration_panel
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.drawing import DrawnFigure, save_figure
from clinrep.analysis.metrics import rank
from clinrep.analysis.people import People
from clinrep.analysis.probes import Predicted
from clinrep.analysis.roc import draw_roc_panel
from clinrep.analysis.scores import ALL, explain_no_interval, explain_too_few
from clinrep.analysis.study import Section, Study
from clinrep.analysis.style import LINES, STYLE, Line
from clinrep.analysis.tables import label_model, label_outcome

PANEL_INCHES = 3.5
NUM_COLUMNS = 2


def build_curve_section(study: Study) -> Section:
    """Draw ROC and calibration of each site."""
    return Section("curves", "ROC and calibration", figures=_draw_curves(study))


def _draw_curves(study: Study) -> list[DrawnFigure]:
    predicted, config, directory = study.predicted, study.config, study.figures_dir
    scores = study.scores.filter(subgroup=ALL)
    lines = assign_lines(select_drawn(predicted))
    drawn = []
    with mpl.rc_context(STYLE):
        for site in study.sites:
            models = select_drawn([item for item in predicted if item.site == site.name])
            where = study.say_where(site.name)
            figure = _draw_roc(models, lines, scores.filter(pl.col("site") == site.name), config, study.people)
            drawn.append(
                save_figure(
                    figure,
                    directory,
                    f"roc_{site.name}",
                    f"ROC curves{where}",
                    _ROC_CAPTION.format(level=config.level),
                )
            )
            figure, left_out = _draw_calibration(models, lines, config, study.people)
            drawn.append(
                save_figure(
                    figure,
                    directory,
                    f"calibration_{site.name}",
                    f"Calibration{where}",
                    _CALIBRATION_CAPTION.format(bins=config.num_calibration_bins) + left_out,
                )
            )
    return drawn


_ROC_CAPTION = (
    "Sensitivity against 1 \N{MINUS SIGN} specificity over all thresholds, on the stays of the test split that have a "
    "label. In each panel: AUROC with its {level} interval where there are enough events for one. The dashed "
    "diagonal is chance. A count that is not shown (*) is few, or tells of few. "
    "Of the probes, those on the deepest layer are drawn; the table of performance has all."
)
_CALIBRATION_CAPTION = (
    "Above: observed share of stays with the event against the mean predicted probability, in up to {bins} groups of "
    "equal size by predicted probability (stays with the same probability stay together, and neighbours where few have "
    "the event, or have not), with 95 % Wilson intervals, "
    "which take stays as independent. Drawn where there are enough events for the intervals of the metrics. On the "
    "dashed diagonal a forecast means what it says. A count that is not shown (*) is few, or tells of few. Below: how "
    "many test stays received which probability, without bars of few or that tell of few."
)


def select_drawn(predicted: list[Predicted]) -> list[Predicted]:
    """Return the main classifiers and the probes on the deepest layer: more curves than that hide each other."""
    deepest = max((item.representation[0] for item in predicted if item.representation), default=0)
    main = [item for item in predicted if item.run is None or item.run.is_main]
    return [item for item in main if item.representation is None or item.representation[0] == deepest]


def assign_lines(predicted: list[Predicted]) -> dict[tuple[str, str], Line]:
    """Return one line style per model, classifiers first, the same in every panel and figure."""
    predicted = sorted(predicted, key=lambda item: item.representation is not None)
    models = dict.fromkeys((item.model, item.probe) for item in predicted)
    return {model: LINES[index % len(LINES)] for index, model in enumerate(models)}


def _draw_roc(
    models: list[Predicted],
    lines: dict[tuple[str, str], Line],
    scores: pl.DataFrame,
    config: AnalyzeConfig,
    people: People,
) -> Figure:
    """Draw one ROC panel per outcome, with the AUROC of each curve."""
    groups = group_by_outcome(models)
    figure, num_rows = start_figure(len(groups), PANEL_INCHES)
    grid = figure.add_gridspec(num_rows, min(NUM_COLUMNS, len(groups)))
    for index, (outcome, items) in enumerate(groups.items()):
        panel = figure.add_subplot(grid[index])
        numbers = {
            (row["model"], row["probe"]): (row["estimate"], row["low"], row["high"])
            for row in scores.filter(pl.col("outcome") == outcome, pl.col("metric") == "auroc").iter_rows(named=True)
        }
        shown, reason = select_shown(items, config.min_events_for_estimate, config.min_cell_count)
        title_panel(panel, outcome, items, reason, config, people)
        draw_roc_panel(
            panel,
            [
                (rank(item.labels, item.probabilities), lines[item.model, item.probe], numbers[item.model, item.probe])
                for item in shown
                if item.probabilities is not None
            ],
            f"AUROC ({config.level_ci})",
        )
    add_legend(figure, lines, has_markers=False)
    return figure


def _draw_calibration(
    models: list[Predicted], lines: dict[tuple[str, str], Line], config: AnalyzeConfig, people: People
) -> tuple[Figure, str]:
    """Draw one reliability panel per outcome, each above a histogram of the probabilities.

    Also return the sentence that names the outcomes with too few events, which have no panel unless all
    are such.
    """
    groups = group_by_outcome(models)
    reasons = {
        name: select_shown(items, config.min_events_for_interval, config.min_cell_count)[1]
        for name, items in groups.items()
    }
    left_out = [f"{label_outcome(name, config)}: {reason}" for name, reason in reasons.items() if reason]
    groups = {name: items for name, items in groups.items() if not reasons[name]} or groups
    figure, num_rows = start_figure(len(groups), 1.3 * PANEL_INCHES)
    grid = figure.add_gridspec(num_rows, min(NUM_COLUMNS, len(groups)))
    for index, (outcome, items) in enumerate(groups.items()):
        shown, reason = select_shown(items, config.min_events_for_interval, config.min_cell_count)
        inner = grid[index].subgridspec(2, 1, height_ratios=[3.2, 1])
        panel = figure.add_subplot(inner[0] if shown else grid[index])
        title_panel(panel, outcome, items, reason, config, people)
        if not shown:
            panel.set(xlabel="Predicted probability", ylabel="Observed share with the event")
            continue
        histogram = figure.add_subplot(inner[1])
        draw_calibration_panel(
            panel,
            histogram,
            [
                (item.labels, item.probabilities, lines[item.model, item.probe])
                for item in shown
                if item.probabilities is not None
            ],
            items[0].patients,
            config.num_calibration_bins,
            config.min_cell_count,
        )
    add_legend(figure, lines, has_markers=True)
    return figure, f" Not drawn: {'; '.join(left_out)}." if left_out else ""


def group_by_outcome(models: list[Predicted]) -> dict[str, list[Predicted]]:
    """Return the models of each outcome."""
    groups: dict[str, list[Predicted]] = {}
    for item in models:
        groups.setdefault(item.outcome, []).append(item)
    return groups


def start_figure(num_panels: int, panel_height: float) -> tuple[Figure, int]:
    """Return an empty figure for panels in rows of two, and the number of rows."""
    num_rows = -(-num_panels // NUM_COLUMNS)
    size = (PANEL_INCHES * min(NUM_COLUMNS, num_panels), panel_height * num_rows + 0.6)
    return Figure(figsize=size, layout="constrained"), num_rows


def select_shown(items: list[Predicted], least: int, min_cell_count: int) -> tuple[list[Predicted], str]:
    """Return the models of one outcome that can be drawn, or none and the words that say why."""
    labels = items[0].labels
    # a curve of few events, or of few patients', shows them one by one
    reason = explain_too_few(labels.size, int(labels.sum()), least, min_cell_count)
    reason = reason or explain_no_interval(labels, items[0].patients, min_cell_count, min_cell_count)
    shown = [item for item in items if not reason and item.probabilities is not None]
    return shown, reason or next((item.reason for item in items if not shown), "")


def title_panel(
    panel: Axes, outcome: str, items: list[Predicted], reason: str, config: AnalyzeConfig, people: People
) -> None:
    """Put outcome and counts above a panel, and into it why it is empty, if it is."""
    num_subjects, num_events = items[0].labels.size, int(items[0].labels.sum())
    panel.set_title(
        f"{label_outcome(outcome, config)}\n{people.describe(items[0].site, outcome, num_subjects, num_events)}"
    )
    panel.text(0.5, 0.5, reason, ha="center", transform=panel.transAxes, color="0.25")


def add_legend(
    figure: Figure, lines: dict[tuple[str, str], Line], has_markers: bool, others: Sequence[Line2D] = ()
) -> None:
    """Name the models once, below all panels, and after them other lines."""
    handles = [
        Line2D(
            [],
            [],
            label=label_model(*model),
            color=line.color,
            linestyle=line.dashes,
            marker=line.marker if has_markers else "",
        )
        for model, line in lines.items()
    ]
    figure.legend(handles=[*handles, *others], loc="outside lower center", ncols=1, frameon=False)
