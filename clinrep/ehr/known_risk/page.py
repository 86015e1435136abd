"""The known-risk report as Markdown: one table of performance and calibration, one of time."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import polars as pl

from clinrep.analysis.predictions import find_prediction_runs
from clinrep.ehr.known_risk.config import KnownRiskConfig
from clinrep.ehr.known_risk.scores import ORACLE

# heading -> metric, decimals, whether the interval is shown
COLUMNS = {
    "AUROC": ("auroc", 3, True),
    "minus oracle": ("auroc_difference", 4, True),
    "slope": ("slope", 2, True),
    "intercept": ("intercept", 2, False),
    "bias": ("bias", 4, True),
    "mean risk": ("mean_risk", 4, False),
    "mean abs. error": ("mean_absolute_error", 4, False),
    "risk slope": ("risk_slope", 2, True),
}


def write_markdown(scores: pl.DataFrame, times: dict[str, tuple[float, float]]) -> str:
    """Return the report: a row an outcome, set of stays and model, and the seconds of each stage.

    `times` are start and end of each, in seconds since 1970. Stages may run side by side.
    """
    heads = ["outcome", "stays", "events", "model", *COLUMNS]
    lines = [_join(heads), _join(["---", "---:", "---:", "---", *("---:" for _ in COLUMNS)])]
    for (outcome, stays, model), rows in scores.group_by("outcome", "stays", "model", maintain_order=True):
        found = {row["metric"]: row for row in rows.iter_rows(named=True)}
        cells = [_show(found[metric], digits, has_interval) for metric, digits, has_interval in COLUMNS.values()]
        if model == ORACLE:
            cells[list(COLUMNS).index("minus oracle")] = ""
        sizes = f"{rows['num_subjects'][0]:,} ({stays})", f"{rows['num_events'][0]:,}"
        lines.append(_join([str(outcome), *sizes, str(model), *cells]))
    lines += ["", _join(["stage", "seconds"]), _join(["---", "---:"])]
    lines += [_join([stage, f"{end - start:.0f}"]) for stage, (start, end) in times.items()]
    starts, ends = zip(*times.values(), strict=True)
    lines.append(_join(["first start to last end", f"{max(ends) - min(starts):.0f}"]))
    return "\n".join(lines) + "\n"


def _join(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _show(row: dict[str, float | None], digits: int, has_interval: bool) -> str:
    if row["estimate"] is None:
        return ""
    text = f"{row['estimate']:.{digits}f}"
    if has_interval and row["low"] is not None:
        text += f" ({row['low']:.{digits}f} to {row['high']:.{digits}f})"
    return text


def find_times(config: KnownRiskConfig) -> dict[str, tuple[float, float]]:
    """Return by stage its start, in provenance.json, and its end, when DONE was written, in seconds since 1970.

    Of a resumed run the start is that of its last part.
    """
    site = next(iter(config.timelines_dir))
    runs = {"simulate": config.simulate_dir, "00_tokenize": config.timelines_dir[site]}
    runs |= {"01_pretrain": config.backbone_dir} if config.backbone_dir else {}
    given = config.predictions_dir.get(site)
    for path in find_prediction_runs(Path(given)) if given else []:
        runs[f"02_finetune {path.name}"] = str(path)
    runs["03_extract_reps"] = config.representations_dir[site]
    runs |= {"03_extract_reps, zero-shot": config.zero_shot_dir} if config.zero_shot_dir else {}
    return {stage: _find_time(Path(directory)) for stage, directory in runs.items()}


def _find_time(directory: Path) -> tuple[float, float]:
    started = datetime.fromisoformat(json.loads((directory / "provenance.json").read_text())["started"])
    return started.timestamp(), (directory / "DONE").stat().st_mtime
