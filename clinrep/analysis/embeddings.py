"""The token embeddings in two dimensions, deciles joined (Figure 3 of the manuscript)."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from clinrep import artifacts
from clinrep.analysis.config import EmbeddingConfig
from clinrep.analysis.drawing import save_figure
from clinrep.analysis.metrics import Floats
from clinrep.analysis.study import Section, Study
from clinrep.analysis.style import COLORS, MARKERS, STYLE
from clinrep.config import lookup
from clinrep.distributed import derive_seed

BIN_KIND = "bin"
PANEL_POINTS = np.array([165.0, 160.0])  # what the path fills of its panel
LABEL_RADII_POINTS = (10, 15, 20)  # the nearest place that is clear wins
ENOUGH_POINTS = 13.0  # a label this far from everything is clear
_BIN_NAME = re.compile(r"(?:(.+)_)?Q(\d+)")  # Q3, or a category and its bin, LAB_sodium_Q3

logger = logging.getLogger("clinrep")


def build_embedding_section(study: Study) -> Section:
    """Draw the token embeddings of the sites' model, which is one and the same, and of the others that are named."""
    settings, first = study.config.embeddings, study.sites[0]
    tables = {f"{first.source} of {first.name}".capitalize(): first.token_embeddings}
    for name, directory in settings.representations_dir.items():
        artifacts.read_done(Path(directory), "03_extract_reps")
        tables[name] = artifacts.read_table("token_embeddings", Path(directory)).sort("token_id")
    with mpl.rc_context(STYLE):
        figure, caption = draw_embeddings(tables, settings, derive_seed(study.config.seed, "embeddings"))
        drawn = save_figure(figure, study.figures_dir, "token_embeddings", "Token embeddings and deciles", caption)
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


def project_by_tsne(embeddings: Floats, perplexity: float, seed: int) -> tuple[Floats, float]:
    """Return (V, 2) the t-SNE map (van der Maaten and Hinton, JMLR 9 (2008) 2579-2605) and the perplexity used.

    That is lowered to a third of the other tokens where there are fewer than three times as many as it says.
    """
    used = min(perplexity, (len(embeddings) - 1) / 3)
    if used < perplexity:
        logger.warning("embeddings.perplexity %g is too many for %d tokens: %g", perplexity, len(embeddings), used)
    tsne = TSNE(perplexity=used, init="pca", random_state=seed % 2**32)
    points: Floats = tsne.fit_transform(embeddings.astype(np.float32)).astype(np.float64)
    return points, used


def draw_embeddings(tables: dict[str, pl.DataFrame], settings: EmbeddingConfig, seed: int) -> tuple[Figure, str]:
    """Draw each table `token_embeddings` in a row: all tokens by kind, and bins joined; return the caption too.

    Raises:
        InputError: a category of the settings that no table has bins of.
    """
    figure = Figure(figsize=(7.2, 0.7 + 3.2 * len(tables)), layout="constrained")
    panels = figure.subplots(len(tables), 2, squeeze=False)
    notes: list[str] = []
    all_paths = {name: find_bins(table, settings) for name, table in tables.items()}
    styles = _choose_styles(pl.concat([table["kind"] for table in tables.values()]).to_list())
    for (left, right), (name, table) in zip(panels, tables.items(), strict=True):
        embeddings = table["embedding"].to_numpy().astype(np.float64)
        prefix = f"{name}: " if len(tables) > 1 else ""
        axes = ("t-SNE 1", "t-SNE 2")
        if settings.method == "tsne":
            points, used = project_by_tsne(embeddings, settings.perplexity, seed)
            notes.append(f"{prefix}perplexity {used:g}")
        else:
            points, shares = project_embeddings(embeddings)
            axes = (
                f"First principal component ({100 * shares[0]:.0f} % of variance)",
                f"Second ({100 * shares[1]:.0f} %)",
            )
        _draw_kinds(left, table["kind"].to_list(), points, styles)
        _draw_paths(right, all_paths[name], points)
        left.set_title(f"{prefix}{'a' if prefix else 'A'}ll {table.height:,} tokens")
        right.set_title(f"{prefix}{'q' if prefix else 'Q'}uantile bins")
        for panel in (left, right):
            panel.set(xlabel=axes[0], ylabel=axes[1])
    by_kind: dict[str, Any] = {}
    for panel in panels[:, 0]:
        by_kind |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(by_kind.values(), by_kind.keys(), loc="outside lower center", ncols=6, frameon=False)
    return figure, _word_caption(
        settings, any(len(paths) > 1 or "" not in paths for paths in all_paths.values()), notes
    )


def _word_caption(settings: EmbeddingConfig, is_fused: bool, notes: list[str]) -> str:
    where = "on their first two principal components, computed from all tokens of the model"
    if settings.method == "tsne":
        where = f"by t-SNE ({'; '.join(notes)}), in which neighbours mean something and distances do not"
    joined = "the quantile-bin tokens alone, joined from the lowest to the highest"
    if is_fused:
        joined = (
            "categories fused with their quantile bins, each joined from the lowest (pale) to the highest bin; "
            "a category has no more than the bins that occur"
        )
    return (
        f"Input embeddings of all tokens {where}. Left: every token, by kind. Right: {joined}. Nothing told the model "
        "that the bins are ordered: where they lie along a path, it learned the order from the timelines."
    )


def find_bins(table: pl.DataFrame, settings: EmbeddingConfig) -> dict[str, list[tuple[int, int]]]:
    """Return category -> its (bin, row of the table), rising; the category of bins that all share is ''.

    Of fused tokens, such as LAB_sodium_Q3, the categories of the settings, or those with most bins, by name where as
    many. {} where there are no bins.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for row, (token, kind) in enumerate(table.select("token", "kind").iter_rows()):
        match = _BIN_NAME.fullmatch(token)
        if match and (match[1] is not None or kind == BIN_KIND):
            found.setdefault(match[1] or "", []).append((int(match[2]), row))
    if settings.categories is not None:
        known = {name: name for name in found}
        chosen = [lookup(known, name, "category with bins") for name in settings.categories]
    elif "" in found:
        chosen = [""]
    else:
        most = sorted(found, key=lambda name: (-len(found[name]), name))
        chosen = most[: settings.num_categories]
    return {name: sorted(found[name]) for name in chosen}


def _choose_styles(kinds: list[str]) -> dict[str, tuple[str, str]]:
    """Return kind -> colour and marker, the same in every row; black circles are bins."""
    *colors, black = COLORS
    others = sorted(set(kinds) - {BIN_KIND})
    # six colours and seven markers: 42 kinds differ in one or the other
    styles = {kind: (colors[index % len(colors)], MARKERS[index % len(MARKERS)]) for index, kind in enumerate(others)}
    return styles | ({BIN_KIND: (black, "o")} if BIN_KIND in kinds else {})


def _draw_kinds(panel: Axes, kinds: list[str], points: Floats, styles: dict[str, tuple[str, str]]) -> None:
    for kind, (color, marker) in styles.items():
        chosen = np.array([own == kind for own in kinds])
        if not chosen.any():
            continue
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


def _draw_paths(panel: Axes, bins: dict[str, list[tuple[int, int]]], points: Floats) -> None:
    panel.margins(0.12)
    if not bins:
        panel.text(0.5, 0.5, "no quantile-bin tokens", ha="center", transform=panel.transAxes, color="0.25")
    elif list(bins) == [""]:
        _draw_shared_bins(panel, bins[""], points)
    else:
        _draw_categories(panel, bins, points)


def _draw_shared_bins(panel: Axes, numbered: list[tuple[int, int]], points: Floats) -> None:
    path = points[[row for _, row in numbered]]
    panel.plot(path[:, 0], path[:, 1], color="0.6", linewidth=1, zorder=1)
    steps = np.arange(len(path))
    panel.scatter(path[:, 0], path[:, 1], c=steps, cmap="viridis", s=36, edgecolors="black", linewidths=0.5, zorder=2)
    for (number, _), point, offset in zip(numbered, path, place_labels(path), strict=True):
        halo = [withStroke(linewidth=2, foreground="white")]  # the path may run below the words
        panel.annotate(f"Q{number}", point, offset, textcoords="offset points", ha="center", va="center",
                       path_effects=halo)  # fmt: skip


def _draw_categories(panel: Axes, bins: dict[str, list[tuple[int, int]]], points: Floats) -> None:
    for index, (name, numbered) in enumerate(bins.items()):
        path = points[[row for _, row in numbered]]
        color, marker = COLORS[index], MARKERS[index]
        panel.plot(path[:, 0], path[:, 1], color=color, linewidth=1, alpha=0.6, zorder=1)
        shades = np.linspace(0.15, 1, len(path))
        filled = [(*mpl.colors.to_rgb(color), shade) for shade in shades]
        panel.scatter(path[:, 0], path[:, 1], c="white", marker=marker, s=26, linewidths=0, zorder=2)
        panel.scatter(path[:, 0], path[:, 1], c=filled, marker=marker, s=26, edgecolors=color, linewidths=0.6, zorder=3)
        label = f"{name or 'all'} (Q{numbered[0][0]}\N{EN DASH}Q{numbered[-1][0]})"
        panel.plot([], [], color=color, marker=marker, linewidth=1, label=label)
    panel.legend(frameon=False, fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)  # off the paths


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
