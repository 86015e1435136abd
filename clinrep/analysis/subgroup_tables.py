"""Section of the report: the scores of subgroups, as a table and as forest plots of the AUROC."""

from __future__ import annotations

import matplotlib as mpl
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clinrep.analysis.differences import choose_reference
from clinrep.analysis.drawing import DrawnFigure, save_figure
from clinrep.analysis.metrics import METRICS
from clinrep.analysis.performance import (
    FEW_EVENTS,
    describe_ece_interval,
    describe_intervals,
    mark_few_events,
    pivot_scores,
)
from clinrep.analysis.replicates import group_models
from clinrep.analysis.scores import ALL
from clinrep.analysis.study import Section, Study
from clinrep.analysis.style import COLORS, STYLE
from clinrep.analysis.suppression import HIDDEN
from clinrep.analysis.tables import PrintedTable, label_model, label_outcome, to_words

ROW_INCHES = 0.17


def build_subgroup_section(study: Study) -> Section:
    """Return how the model that stands for each outcome does in each subgroup."""
    title = "Subgroups"
    if study.scores.filter(pl.col("subgroup") != ALL).is_empty():
        return Section("subgroups", title, "No subgroups were asked for.")
    scores = mark_few_events(study.scores, study)
    shown = scores.join(choose_models(study), on=["site", "outcome", "model", "probe"], maintain_order="left")
    figures = [_draw_site(study, site.name, shown.filter(site=site.name, metric="auroc")) for site in study.sites]
    return Section("subgroups", title, tables=[_build_table(study, scores, shown)], figures=figures)


def choose_models(study: Study) -> pl.DataFrame:
    """Return site, outcome, model, probe of the model that stands for each: chosen without a look at test."""
    schema = ["site", "outcome", "model", "probe"]
    rows = [
        (group.site, group.outcome, group.items[index].model, group.items[index].probe)
        for group in group_models(study.predicted, study.config)
        if (index := choose_reference(group.items, study.config)) is not None
    ]
    return pl.DataFrame(rows, schema=dict.fromkeys(schema, pl.String), orient="row")


def _build_table(study: Study, scores: pl.DataFrame, shown: pl.DataFrame) -> PrintedTable:
    config = study.config
    keys = ["site", "outcome", "model", "probe", "subgroup", "num_subjects", "num_events"]
    printed = pivot_scores(study.people.hide_scored(shown), keys, config)
    headings = {
        "outcome": "Outcome",
        "model": "Model",
        "subgroup": "Subgroup",
        "num_subjects": "Stays",
        "num_events": "Events",
        **{name: f"{metric.label} ({config.level_ci})" for name, metric in METRICS.items()},
    }
    words, num_keys = to_words(printed, headings)
    caption = (
        "Performance on the test split by subgroup, of the model the others are compared with (comparison_reference): "
        "the fine-tuned classifier or, where there is none, the first probe; the CSV file has every model. With "
        f"{describe_intervals(config)} {describe_ece_interval(config)} "
        f"{FEW_EVENTS} marks numbers from stays of fewer than {config.few_events} patients with the event, or without. "
        "Intervals are not adjusted for the number of subgroups; differences between subgroups are not tested."
    )
    numbers = study.people.hide_scored(scores)
    return PrintedTable("scores_by_subgroup", "Performance by subgroup", caption, numbers, words, num_keys + 2)


def _draw_site(study: Study, site: str, scores: pl.DataFrame) -> DrawnFigure:
    """Draw a panel an outcome, a row a subgroup."""
    outcomes = [name for name in study.outcomes if scores.filter(outcome=name)["low"].drop_nulls().len()]
    left_out = [label_outcome(name, study.config) for name in study.outcomes if name not in outcomes]
    panels = [scores.filter(outcome=name) for name in outcomes]
    num_rows = -(-max(len(panels), 1) // 2)
    height = num_rows * (0.9 + ROW_INCHES * max((panel.height for panel in panels), default=4))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6 if len(panels) > 1 else 5, height), layout="constrained")
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(num_rows, min(2, len(panels)), index + 1)
            _draw_panel(axes, panel, study, outcomes[index])
        if not panels:
            figure.text(0.5, 0.5, "too few events in every outcome", ha="center")
        where = study.say_where(site)
        caption = (
            f"AUROC in each subgroup of the test split with {describe_intervals(study.config)} Of each outcome the "
            "fine-tuned classifier or, where there is none, the first probe. Dashed line: all stays. In brackets: "
            f"stays with the event of all ({HIDDEN}: not shown, being few or telling of few). Hollow: from stays of "
            f"fewer than {study.config.few_events} patients with the event, or without. A subgroup without a mark has "
            "too few."
        )
        if left_out:
            caption += f" Not drawn, too few events: {', '.join(left_out)}."
        name = f"auroc_by_subgroup_{site}"
        return save_figure(figure, study.figures_dir, name, f"AUROC by subgroup{where}", caption)


def _draw_panel(axes: Axes, panel: pl.DataFrame, study: Study, outcome: str) -> None:
    hidden = study.people.hide_scored(panel)
    labels = []
    for place, (row, counts) in enumerate(zip(panel.rows(named=True), hidden.rows(named=True), strict=True)):
        is_all, is_few = row["subgroup"] == ALL, row["note"] is not None
        color = COLORS[-1] if is_all else COLORS[0]
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=color, linewidth=1)
        if row["estimate"] is not None:
            face = "white" if is_few else color
            axes.plot(row["estimate"], place, "D" if is_all else "o", color=color, markerfacecolor=face, markersize=4)
        numbers = [HIDDEN if counts[name] is None else f"{counts[name]:,}" for name in ("num_events", "num_subjects")]
        labels.append(f"{'all stays' if is_all else row['subgroup']} ({'/'.join(numbers)})")
    for everyone in panel.filter(subgroup=ALL)["estimate"].drop_nulls():
        axes.axvline(everyone, color="0.6", linestyle="--", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel="AUROC", xlim=(_find_left(panel), 1))
    axes.tick_params(axis="y", length=0)
    model, probe = panel.row(0, named=True)["model"], panel.row(0, named=True)["probe"]
    axes.set_title(f"{label_outcome(outcome, study.config)}\n{label_model(model, probe)}", loc="left")


def _find_left(panel: pl.DataFrame) -> float:
    """Return where the axis begins: 0.5, or lower in tenths where an interval does."""
    lowest = pl.concat([panel["low"], panel["estimate"]]).drop_nulls().to_numpy().min(initial=0.5)
    return int(10 * lowest) / 10
