"""Section of the report: predictions over time, with and without the outcome (Figure 4 of the manuscript)."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from clinrep.analysis.auroc import score_auroc
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.drawing import DrawnFigure, save_figure
from clinrep.analysis.inputs import TEST_SPLIT, Site
from clinrep.analysis.metrics import Floats
from clinrep.analysis.risk_curves import (
    FollowedStays,
    follow_stays,
    read_risk,
    summarize_by_hours,
    summarize_by_tokens,
)
from clinrep.analysis.risk_tables import build_risk_table
from clinrep.analysis.study import Section, Study
from clinrep.analysis.style import COLORS, STYLE
from clinrep.analysis.suppression import HIDDEN, format_small, round_counts
from clinrep.analysis.tables import PrintedTable, label_outcome
from clinrep.distributed import derive_seed
from clinrep.run import show_progress

GROUPS = ((False, "without the outcome", COLORS[0], "-"), (True, "with the outcome", COLORS[1], (0, (5, 1.5))))
_HOW = {
    "fine-tuned": '02_finetune.py --risk_over_time "[test]", and once more with --random_truncation true for URT',
    "probes": "03_extract_reps.py --hidden_states true --poolings "
    '"[last_token, random_token]", then 04_analyze.py --risk_over_time true',
}


def build_risk_section(study: Study) -> Section:
    """Return curves and AUROC over time of every site and outcome that a model follows; words say how to get others."""
    figures: list[DrawnFigure] = []
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for site in show_progress(study.sites, study.config, "risk over time"):
        tables = read_risk(study, site)
        notes += _name_lacking(site, tables)
        for outcome, of_outcome in tables.items():
            if not of_outcome:
                continue
            stays = follow_stays(site, outcome, of_outcome, study.config.risk_figure.origin)
            rows += _score(study, site, outcome, stays)
            figure = _draw(study, site, outcome, stays)
            if isinstance(figure, str):
                notes.append(figure)
            else:
                figures.append(figure)
    printed: list[PrintedTable] = (
        [build_risk_table(rows, axis, study) for axis in ("hours", "num_tokens")] if rows else []
    )
    return Section("risk_over_time", "Predictions over time", " ".join(notes), printed, figures)


def _name_lacking(site: Site, tables: dict[str, dict[str, pl.DataFrame]]) -> list[str]:
    """Return what to run where no fine-tuned model, or no probe, is followed at a site."""
    models = {model for of_outcome in tables.values() for model in of_outcome}
    has = {"fine-tuned": any(one.startswith("Fine-tuned") for one in models)}
    has["probes"] = any(not one.startswith("Fine-tuned") for one in models)
    return [f"No risk over time of {kind} at {site.name}: run {_HOW[kind]}." for kind, is_there in has.items()
            if not is_there]  # fmt: skip


def _score(study: Study, site: Site, outcome: str, stays: FollowedStays) -> list[dict[str, Any]]:
    """Return the AUROC of every model at the hours and numbers of tokens of the settings, on stays all models reach."""
    settings = study.config.risk_figure
    hours, counts = np.array(settings.hours, dtype=np.float64), np.array(settings.num_tokens, dtype=np.int64)
    axes: dict[str, tuple[list[Any], dict[str, Floats]]] = {
        "hours": (settings.hours, {name: one.at_hours(hours) for name, one in stays.models.items()}),
        "num_tokens": (settings.num_tokens, {name: one.at_tokens(counts) for name, one in stays.models.items()}),
    }
    # points that the same stays reach share the replicates, whose drawing costs as much as a model
    reached: dict[bytes, list[tuple[str, int]]] = {}
    for axis, (points, values) in axes.items():
        is_reached = np.all(np.isfinite(np.stack(list(values.values()))), axis=0)  # (N, G)
        for index in range(len(points)):
            reached.setdefault(is_reached[:, index].tobytes(), []).append((axis, index))
    scored: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for packed, places in reached.items():
        scored |= _score_points(study, site, outcome, stays, np.frombuffer(packed, dtype=bool), places, axes)
    where = {"site": site.name, "outcome": outcome}
    return [
        where | {"axis": axis, "at": float(at)} | row
        for axis, (points, _) in axes.items()
        for index, at in enumerate(points)
        for row in scored[axis, index]
    ]


def _score_points(
    study: Study,
    site: Site,
    outcome: str,
    stays: FollowedStays,
    is_reached: NDArray[np.bool_],
    places: list[tuple[str, int]],
    axes: dict[str, tuple[list[Any], dict[str, Floats]]],
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Return the rows of the points, each an axis and an index on it, that these stays (N,) and no others reach."""
    probabilities = {
        (axis, index, name): values[is_reached, index]
        for axis, index in places
        for name, values in axes[axis][1].items()
    }
    axis, index = places[0]
    seed = f"risk_over_time/{site.name}/{outcome}/{axis}/{axes[axis][0][index]:g}"
    rows = score_auroc(
        *(stays.labels[is_reached], stays.patients[is_reached], probabilities, study.config),
        derive_seed(study.config.seed, seed),
    )
    found: dict[tuple[str, int], list[dict[str, Any]]] = {place: [] for place in places}
    for (axis, index, name), row in zip(probabilities, rows, strict=True):
        found[axis, index].append(row | {"model": name})
    return found


def choose_stays(labels: NDArray[np.bool_], config: AnalyzeConfig, seed: int) -> NDArray[np.intp]:
    """Return the rising positions of the stays to draw: so many with the event and so many without, at most."""
    generator = np.random.default_rng(seed)
    settings, chosen = config.risk_figure, []
    for is_event, wanted in ((True, settings.num_with_event), (False, settings.num_without_event)):
        rows = np.flatnonzero(labels == is_event)
        size = rows.size if wanted is None else min(wanted, rows.size)
        chosen.append(generator.choice(rows, size, replace=False))
    return np.sort(np.concatenate(chosen))


def _draw(study: Study, site: Site, outcome: str, stays: FollowedStays) -> DrawnFigure | str:
    """Return the figure of one site and outcome, or why there is none."""
    config = study.config
    seed = derive_seed(config.seed, f"risk_figure/{site.name}/{outcome}")
    drawn = stays.take(choose_stays(stays.labels, config, seed))
    words = label_outcome(outcome, config)
    least = max(config.risk_figure.min_stays, config.min_cell_count)
    if max(int(drawn.labels.sum()), int((~drawn.labels).sum())) < least:
        return f"{words} at {site.name} is not drawn: fewer than {least} stays with the outcome, and without it."
    kinds = drawn.labels, ~drawn.labels
    is_whole = stays.labels.size == stays.num_labelled
    told = [_tell(drawn.patients[kind], config.min_cell_count, is_whole) for kind in kinds]
    told.append(_tell(stays.patients, config.min_cell_count, is_whole))
    told.append(format_small(stays.num_labelled, config.min_cell_count))
    if study.people.is_hidden("labelled", site.name, outcome, TEST_SPLIT):
        told[2:] = [HIDDEN, HIDDEN]
    has_counts = not study.people.is_hidden("events", site.name, outcome, TEST_SPLIT)
    told[:2] = told[:2] if has_counts else [HIDDEN, HIDDEN]
    below = "Below each axis: stays that contribute there"
    below += f", rounded down to multiples of {config.min_cell_count}. " if config.min_cell_count else ". "
    below *= has_counts
    with mpl.rc_context(STYLE):
        figure = draw_risk(drawn, least, config.min_cell_count, config.risk_figure.origin, has_counts)
        title = f"Predictions over time: {words}" + (f" at {site.name}" if len(study.sites) > 1 else "")
        caption = (
            f"Predicted probability of {words[:1].lower() + words[1:]} after each token (above) and by hours from "
            f"{_name_origin(config.risk_figure.origin)} (below): mean and 2.5\N{EN DASH}97.5 % band of "
            f"{told[0]} test stays with the outcome (dashed) and {told[1]} without (solid), the same in every "
            f"panel, drawn at random from {told[2]} of {told[3]} labelled stays, those that every "
            "model follows. The band is the spread of stays, not the uncertainty of the mean. By hours, what was said "
            f"at the last token stands until the next. {below}A curve is drawn where {least} stays or more contribute, "
            "of as many patients as a cell may count. URT: trained on sequences cut at a uniformly random token. "
            "Of classifiers that differ in their seed alone, that of the lowest seed."
        )
        return save_figure(figure, study.figures_dir, f"risk_over_time_{site.name}_{outcome}", title, caption)


def _tell(patients: NDArray[np.intp], least: int, is_whole: bool) -> str:
    """Return how many stays, those of fewer than `least` patients as `fewer than 11`.

    Where not all labelled stays are followed, how many these are would tell how few are not: then rounded down.
    """
    if np.unique(patients).size < least:
        return f"fewer than {least}"
    if is_whole or not least:
        return f"{patients.size:,}"
    return f"at least {patients.size // least * least:,}"


def draw_risk(stays: FollowedStays, min_stays: int, min_people: int, origin: str, has_counts: bool = True) -> Figure:
    """Draw a column of panels for each model, by tokens and by hours, where enough stays of enough patients are."""
    figure = Figure(figsize=(max(4.2, 0.6 + 2.3 * len(stays.models)), 5.2), layout=ConstrainedLayoutEngine(w_pad=0.09))
    panels = figure.subplots(2, len(stays.models), sharey=True, squeeze=False)
    step = max(0.25, stays.last_hour / 200)  # of the curve, not of the data
    hours = np.arange(0, stays.last_hour + step / 2, step)
    for column, (name, followed) in enumerate(stays.models.items()):
        by_tokens = summarize_by_tokens(followed, stays.labels, stays.patients)
        by_hours = summarize_by_hours(followed, stays.labels, stays.patients, hours)
        for panel, summary, words in (
            (panels[0, column], by_tokens, "Number of tokens"),
            (panels[1, column], by_hours, f"Hours from {_name_origin(origin)}"),
        ):
            is_enough = (pl.col("num_stays") >= min_stays) & (pl.col("num_patients") >= min_people)
            marked = summary.with_columns(is_enough=is_enough)
            _draw_panel(panel, marked)
            panel.set_xlabel(words, labelpad=24)
            if has_counts:
                told = round_counts(marked, {"num_stays": "num_patients"}, min_people)
                _write_counts(panel, told, min_stays, is_named=column == 0)
        panels[0, column].set_title(name)
    for row in panels:
        row[0].set_ylabel("Predicted probability")
        row[0].set_ylim(bottom=0)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4 if len(stays.models) > 2 else 2, frameon=False)
    return figure


def _draw_panel(panel: Axes, summary: pl.DataFrame) -> None:
    for is_event, name, color, dashes in GROUPS:
        group = summary.filter(pl.col("label") == is_event)
        is_enough = group["is_enough"].to_numpy()
        at = group["at"].to_numpy()
        # NaN breaks a curve where too few contribute
        mean, low, high = (np.where(is_enough, group[one].to_numpy(), np.nan) for one in ("mean", "low", "high"))
        panel.fill_between(at, low, high, color=color, alpha=0.18, linewidth=0, label=f"95 % of stays {name}")
        panel.plot(at, mean, color=color, linestyle=dashes, label=f"mean {name}", linewidth=1.0)
    reached = summary.filter("is_enough")["at"]
    panel.set_xlim(0, max(1.0, float(reached.max() or 1)))  # type: ignore[arg-type]
    panel.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 3, 4, 5, 6, 10]))


def _write_counts(panel: Axes, summary: pl.DataFrame, min_stays: int, is_named: bool) -> None:
    """Write below the ticks how many stays of either group contribute there; of fewer than `min_stays`, only that."""
    low, high = panel.get_xlim()
    ticks = [tick for tick in panel.get_xticks() if low <= tick <= high]
    for place, (is_event, name, color, _) in enumerate(GROUPS):
        of_group = summary.filter(pl.col("label") == is_event)
        counts = {at: (count, is_enough) for at, count, is_enough in
                  of_group.select("at", "num_stays", "is_enough").iter_rows()}  # fmt: skip
        height = -21 - 9 * place
        style: dict[str, Any] = {
            "textcoords": "offset points",
            "annotation_clip": False,
            "fontsize": 6.5,
            "color": color,
            "va": "center",
        }
        where = ("data", "axes fraction")
        for tick in ticks:
            count, is_enough = counts.get(max(tick, min(counts, default=tick)), (0, True))
            words = str(count) if is_enough else f"<{min_stays}"
            panel.annotate(words, (tick, 0), (0, height), xycoords=where, ha="center", **style)
        if is_named:
            short = name.split(" ")[0]
            panel.annotate(short, (0, 0), (-14, height), xycoords="axes fraction", ha="right", **style)


def _name_origin(origin: str) -> str:
    return origin.replace("_", " ").replace("first event", "the first event")
