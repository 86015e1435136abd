"""Section of the report: the test stays' vectors in two dimensions, coloured by outcome, site and outlier.

N stays, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

from clinrep.analysis.anomalies import choose_representation, select_main
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.drawing import save_figure
from clinrep.analysis.inputs import TEST_SPLIT, Site, describe_representation
from clinrep.analysis.metrics import Floats
from clinrep.analysis.study import Section, Study
from clinrep.analysis.style import COLORS, STYLE
from clinrep.analysis.suppression import HIDDEN
from clinrep.analysis.tables import label_outcome
from clinrep.config import InputError, lookup
from clinrep.distributed import derive_seed

NUM_COLUMNS = 3
PANEL_INCHES = 2.4
GREY = "0.75"


@dataclass(frozen=True)
class Projection:
    """Points in two dimensions and what their axes are called."""

    points: Floats
    """(N, 2)"""
    axes: tuple[str, str]
    note: str
    """Sentence for the caption."""


def project_pca(vectors: Floats, config: AnalyzeConfig, seed: int) -> Projection:
    """Return the first two principal components of standardized vectors (N, D)."""
    pca = PCA(n_components=2, svd_solver="full").fit(vectors)
    first, second = 100 * pca.explained_variance_ratio_
    axes = (f"First component ({first:.0f} %)", f"Second ({second:.0f} %)")
    return Projection(pca.transform(vectors), axes, "Principal components of these stays' standardized vectors.")


def project_t_sne(vectors: Floats, config: AnalyzeConfig, seed: int) -> Projection:
    """Return t-SNE (van der Maaten and Hinton, JMLR 9 (2008) 2579-2605) begun at the principal components."""
    perplexity = config.maps.perplexity
    if perplexity >= len(vectors):
        raise InputError(f"maps.perplexity is {perplexity:g} but {len(vectors)} stays are drawn; lower it")
    reduced = PCA(n_components=min(50, *vectors.shape), svd_solver="full").fit_transform(vectors)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(reduced)
    note = (
        f"t-SNE (perplexity {perplexity:g}) of these stays' standardized vectors: distances between groups mean little."
    )
    return Projection(points.astype(np.float64), ("t-SNE 1", "t-SNE 2"), note)


# name -> a function of vectors (N, D), settings and seed that returns (N, 2) points
PROJECTIONS: dict[str, Callable[[Floats, AnalyzeConfig, int], Projection]] = {
    "pca": project_pca,
    "t_sne": project_t_sne,
}


def build_map_section(study: Study) -> Section:
    """Draw the test stays of all sites by each method of the settings."""
    methods = {name: lookup(PROJECTIONS, name, "maps.methods") for name in study.config.maps.methods}
    fitted = next(site for site in study.sites if site.name == study.config.fitted_site)
    key = choose_representation(fitted)
    stays, vectors = draw_stays(study, key)
    if len(vectors) < 3:
        return Section("maps", "Maps of the stays", "There are fewer than three test stays to draw.")
    vectors, figures = StandardScaler().fit_transform(vectors), []
    with mpl.rc_context(STYLE):
        is_hidden = any(study.people.is_hidden("stays", site.name, TEST_SPLIT) for site in study.sites)
        num_drawn = HIDDEN if is_hidden else f"{len(vectors):,}"
        for name, project in methods.items():
            projection = project(vectors, study.config, derive_seed(study.config.seed, f"maps/{name}"))
            caption = (
                f"{num_drawn} test stays by their {describe_representation(fitted.source, key)}; "
                f"a point is one stay. {projection.note} Panels colour the same points by outcome (stays without a "
                "label are left out of its panel), by site, and by whether the anomaly score of the settings calls "
                f"them outliers; a panel is grey where the stays of fewer than {study.config.min_cell_count} "
                "patients could be told apart."
            )
            figure = _draw_panels(projection, stays, study)
            title = f"Test stays by {'PCA' if name == 'pca' else 't-SNE'}"
            figures.append(save_figure(figure, study.figures_dir, f"map_{name}", title, caption))
    return Section("maps", "Maps of the stays", figures=figures)


def draw_stays(study: Study, key: tuple[int, str]) -> tuple[pl.DataFrame, Floats]:
    """Return the stays to draw (ids, site, is_outlier, a label column an outcome) and their vectors (N, D).

    Of more than `max_stays`, a random sample of all sites' test stays together, in random order, so that no site or
    class lies on top of another.
    """
    frames = [_describe_site(site, study, key) for site in study.sites]
    rows = pl.concat([frame for frame, _ in frames])
    vectors = np.concatenate([values for _, values in frames])
    order = np.random.default_rng(derive_seed(study.config.seed, "maps")).permutation(rows.height)
    order = order[: study.config.maps.max_stays]
    return rows[order], vectors[order]


def _describe_site(site: Site, study: Study, key: tuple[int, str]) -> tuple[pl.DataFrame, Floats]:
    vectors = site.representations[TEST_SPLIT][key]
    flags = select_main(study.anomalies, study.config).filter(pl.col("site") == site.name)
    rows = vectors.subject_ids.sort().to_frame().with_columns(site=pl.lit(site.name))
    for known in (site.stays.select("subject_id", "patient_id"), flags.select("subject_id", "is_outlier")):
        rows = rows.join(known, on="subject_id", how="left", maintain_order="left")
    for outcome in study.outcomes:
        labels = site.outcomes.filter(pl.col("outcome") == outcome).select("subject_id", pl.col("label").alias(outcome))
        rows = rows.join(labels, on="subject_id", how="left", maintain_order="left")
    return rows, vectors.select(rows["subject_id"])


def _draw_panels(projection: Projection, stays: pl.DataFrame, study: Study) -> Figure:
    panels: list[tuple[str, NDArray[np.object_], list[object], list[str]]] = [
        (label_outcome(outcome, study.config), stays[outcome].to_numpy(), [False, True], ["without", "with"])
        for outcome in study.outcomes
    ]
    if len(study.sites) > 1:
        names = [site.name for site in study.sites]
        panels.append(("Site", stays["site"].to_numpy(), list(names), names))
    panels.append(("Anomaly", stays["is_outlier"].to_numpy(), [False, True], ["inlier", "outlier"]))
    num_rows, num_columns = -(-len(panels) // NUM_COLUMNS), min(NUM_COLUMNS, len(panels))
    size = (PANEL_INCHES * num_columns, (PANEL_INCHES + 0.25) * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, (title, values, levels, words) in zip(axes, panels, strict=False):
        is_two = title != "Site"
        counts = [stays.filter(pl.Series(values == level))["patient_id"].n_unique() for level in levels]
        if is_two and any(0 < count < study.config.min_cell_count for count in counts):
            _draw_panel(axis, projection.points, np.zeros(len(values), object), [0], ["too few to colour"], is_two)
        else:
            _draw_panel(axis, projection.points, values, levels, words, is_two)
        axis.set_title(title, pad=16)
    for place, axis in enumerate(axes):
        axis.set_visible(place < len(panels))
        if place + num_columns >= len(panels):  # the lowest of its column
            axis.set_xlabel(projection.axes[0])
            axis.tick_params(labelbottom=True)
        if place % num_columns == 0:
            axis.set_ylabel(projection.axes[1])
    return figure


def _draw_panel(
    axis: Axes, points: Floats, values: NDArray[np.object_], levels: list[object], words: list[str], is_two: bool
) -> None:
    """Draw the points of each level; of two, the second is drawn over the first, which is grey."""
    colors = (
        [GREY, COLORS[1]][: len(levels)] if is_two else [COLORS[index % len(COLORS)] for index in range(len(levels))]
    )
    size = float(np.clip(12_000 / max(len(points), 1), 3, 14))
    if is_two:
        for level, color, word in zip(levels, colors, words, strict=True):
            _scatter(axis, points[values == level], color, size, word)
    else:
        # in the random order of the stays: no site hides another
        chosen = np.array([levels.index(value) for value in values])
        axis.scatter(points[:, 0], points[:, 1], s=size, c=np.array(colors)[chosen], linewidths=0, rasterized=True)
        for color, word in zip(colors, words, strict=True):
            _scatter(axis, points[:0], color, size, word)
    # above the panel: points may be anywhere in it
    axis.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 0.97),
        ncols=min(3, len(words)),
        frameon=False,
        markerscale=max(1.0, (14 / size) ** 0.5),
        handletextpad=0.0,
        columnspacing=0.8,
    )
    axis.tick_params(labelsize=6)


def _scatter(axis: Axes, points: Floats, color: str, size: float, word: str) -> None:
    # rasterized: 5,000 points as vector marks make a page slow
    axis.scatter(points[:, 0], points[:, 1], s=size, color=color, linewidths=0, rasterized=True, label=word)
