"""The token embeddings in two dimensions, deciles joined (Figure 3 of the manuscript)."""

from __future__ import annotations

import re

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA

from clinrep.analysis.drawing import save_figure
from clinrep.analysis.metrics import Floats
from clinrep.analysis.study import Section, Study
from clinrep.analysis.style import COLORS, MARKERS, STYLE

BIN_KIND = "bin"
PANEL_POINTS = np.array([165.0, 160.0])  # what the path fills of its panel
LABEL_RADII_POINTS = (10, 15, 20)  # the nearest place that is clear wins
ENOUGH_POINTS = 13.0  # a label this far from everything is clear
_BIN_NAME = re.compile(r"Q(\d+)")


def build_embedding_section(study: Study) -> Section:
    """Draw the token embeddings of the first site's model."""
    with mpl.rc_context(STYLE):
        figure, caption = draw_embeddings(study.sites[0].token_embeddings)
        title = "Token embeddings and deciles"
        drawn = save_figure(figure, study.figures_dir, "token_embeddings", title, caption)
    return Section("embeddings", "Token embeddings", figures=[drawn])


def project_embeddings(embeddings: Floats) -> tuple[Floats, Floats]:
    """Return (V, 2) the first two principal components and (2,) their share of the variance.

    The full decomposition, so that nothing is random; scikit-learn fixes the signs.
    """
    num_components = min(2, *embeddings.shape)
    pca = PCA(n_components=num_components, svd_solver="full")
    points = np.zeros((embeddings.shape[0], 2))
    points[:, :num_components] = pca.fit_transform(embeddings)
    return points, np.nan_to_num(np.resize(pca.explained_variance_ratio_, 2))


def draw_embeddings(table: pl.DataFrame) -> tuple[Figure, str]:
    """Draw table `token_embeddings`: all tokens by kind, and the quantile bins joined; return the caption too."""
    points, shares = project_embeddings(table["embedding"].to_numpy().astype(np.float64))
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_kinds(left, table["kind"].to_list(), points)
    _draw_bins(right, table, points)
    for panel in (left, right):
        panel.set_xlabel(f"First principal component ({100 * shares[0]:.0f} % of variance)")
        panel.set_ylabel(f"Second ({100 * shares[1]:.0f} %)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    caption = (
        f"Input embeddings of all {table.height:,} tokens on their first two principal components, computed from all "
        "tokens. Left: every token, by kind. Right: the quantile-bin tokens alone, joined from the lowest to the "
        "highest. Nothing told the model that the bins are ordered: where they lie along a path, it learned the order "
        "from the timelines."
    )
    return figure, caption


def _draw_kinds(panel: Axes, kinds: list[str], points: Floats) -> None:
    *colors, black = COLORS
    others = sorted(set(kinds) - {BIN_KIND})
    # six colours and seven markers: 42 kinds differ in one or the other
    styles = {kind: (colors[index % len(colors)], MARKERS[index % len(MARKERS)]) for index, kind in enumerate(others)}
    for kind, (color, marker) in (styles | {BIN_KIND: (black, "o")}).items():
        chosen = np.array([own == kind for own in kinds])
        label = kind.replace("_", " ")
        panel.scatter(
            points[chosen, 0],
            points[chosen, 1],
            s=15,
            linewidths=0,
            alpha=0.85,
            color=color,
            marker=marker,
            label=label,
        )
    panel.set_title("All tokens")


def _draw_bins(panel: Axes, table: pl.DataFrame, points: Floats) -> None:
    found = ((_BIN_NAME.fullmatch(token), row) for row, token in enumerate(table["token"]))
    numbered = sorted((int(match[1]), row) for match, row in found if match and table["kind"][row] == BIN_KIND)
    panel.set_title("Quantile bins")
    if not numbered:
        panel.text(0.5, 0.5, "no quantile-bin tokens", ha="center", transform=panel.transAxes, color="0.25")
        return
    path = points[[row for _, row in numbered]]
    panel.plot(path[:, 0], path[:, 1], color="0.6", linewidth=1, zorder=1)
    steps = np.arange(len(path))
    panel.scatter(path[:, 0], path[:, 1], c=steps, cmap="viridis", s=36, edgecolors="black", linewidths=0.5, zorder=2)
    for (number, _), point, offset in zip(numbered, path, place_labels(path), strict=True):
        halo = [withStroke(linewidth=2, foreground="white")]  # the path may run below the words
        panel.annotate(f"Q{number}", point, offset, textcoords="offset points", ha="center", va="center",
                       path_effects=halo)  # fmt: skip
    panel.margins(0.12)


def place_labels(points: Floats) -> Floats:
    """Return (N, 2) offsets, in points, of labels that keep clear of the markers and of each other.

    Greedy: each label in turn takes, of places around its marker, the one farthest from everything.
    """
    extent = np.ptp(points, axis=0)
    at = (points - points.min(axis=0)) / np.where(extent > 0, extent, 1) * PANEL_POINTS
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    places = np.concatenate([radius * circle for radius in LABEL_RADII_POINTS])
    taken, offsets = at, []
    for index, point in enumerate(at):
        others = np.delete(taken, index, axis=0)
        distances = np.linalg.norm(point + places[:, None] - others, axis=2).min(axis=1, initial=ENOUGH_POINTS)
        offsets.append(places[np.argmax(np.minimum(distances, ENOUGH_POINTS))])
        taken = np.concatenate([taken, [point + offsets[-1]]])
    return np.array(offsets)
