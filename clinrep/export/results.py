"""The aggregate scores of a bundle: what stage 04 wrote, checked and not trusted."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.export.bundle import Bundle
from clinrep.export.config import ExportConfig
from clinrep.export.private import PATIENT_COLUMNS, find_private

TEXTS = ("model_card.md", "tripod_ai.md")
_COUNT_COLUMNS = re.compile(r"(num|count)_.*|.*_(count|counts)|count|n|rows_in|rows_out|left_out|train|val|test|all")
_NO_PEOPLE = re.compile(r"num_(bootstraps|replicates|parameters|layers|bins|trials|tokens|observations|features)")
_IN_WORDS = re.compile(r"^(\d+)(?= \()|\((\d+)\)")


def add_results(bundle: Bundle, config: ExportConfig) -> None:
    """Add scores without counts, the tables that hide small ones, and the model card and checklist."""
    if config.analyze_dir is None:
        return
    directory = Path(config.analyze_dir)
    hidden_under = _read_limit(directory / "config.yaml")
    is_open = hidden_under < config.min_cell_count
    why_open = f"stage 04 hid numbers under {hidden_under} only; run it with --min_cell_count {config.min_cell_count}"
    scores = artifacts.read_table("scores", directory)
    if artifacts.find_parts("class_patients", directory):
        shown = hide_scores(scores, artifacts.read_table("class_patients", directory), config.min_cell_count)
        bundle.suppressed["scores"] = shown["estimate"].null_count() - scores["estimate"].null_count()
        bundle.write_frame("scores/scores.csv", shown)
    else:
        bundle.leave_out("scores/scores.csv", "stage 04 did not say of how many patients they are; run it again")
    for path in sorted((directory / "tables").glob("*.csv")):
        name, problem = f"tables/{path.name}", why_open if is_open else find_problem(path, config.min_cell_count)
        if problem or not re.fullmatch(r"\w+", path.stem):
            bundle.leave_out(name, problem or "its name is not of letters, digits and _")
        else:
            bundle.copy(name, path)
    for text in TEXTS:
        path = directory / text
        if not path.is_file():
            bundle.leave_out(text, "stage 04 did not write it: name its section in `sections`")
        elif is_open:
            bundle.leave_out(text, why_open)
        elif private := find_private(path.read_text(encoding="utf-8")):
            bundle.leave_out(text, f"it holds {private.partition(' (')[0]}")
        else:
            bundle.copy(text, path)


def _read_limit(path: Path) -> int:
    """Return the counts under which stage 04 hid numbers."""
    limit = artifacts.read_settings(path).get("min_cell_count", 0)
    if not isinstance(limit, int):
        raise InputError(
            f"{path}: min_cell_count is {limit!r}, no whole number; restore it, or run 04_analyze.py again"
        )
    return limit


def hide_scores(scores: pl.DataFrame, patients: pl.DataFrame, least: int) -> pl.DataFrame:
    """Return the scores without their counts, and without numbers that rest on the stays of too few patients.

    `patients` is table `class_patients`; scores it does not have are not told. The counts are in tables/, where stage
    04 hides what would give a small one away; here they could undo that. So could more than the three decimals that
    stage 04 prints: an AUROC times twice the number of pairs of stays with and without the event is a whole number.
    """
    counts = ("num_event_patients", "num_other_patients")
    is_told = pl.all_horizontal(pl.col(name).fill_null(0) >= least for name in counts)
    scores = scores.join(patients, on=["site", "outcome", "subgroup"], how="left", maintain_order="left")
    values = [pl.col(name).round(3) if least else pl.col(name) for name in ("estimate", "low", "high")]
    told = [pl.when(is_told).then(value) for value in values]
    return scores.select("site", "model", "probe", "outcome", "subgroup", "metric", *told)


def find_problem(path: Path, least: int) -> str:
    """Return why a table of stage 04 may not leave, '' where it may."""
    text = path.read_text(encoding="utf-8")
    if private := find_private(text):
        return f"it holds {private.partition(' (')[0]}"
    try:
        table = pl.read_csv(path, infer_schema=False)
    except pl.exceptions.PolarsError:
        return "it cannot be read as CSV"
    if found := PATIENT_COLUMNS & set(table.columns):
        return f"it has columns of single patients: {', '.join(sorted(found))}"
    is_scored = {"estimate", "num_events"} <= set(table.columns)
    if is_scored and table.filter(pl.col("estimate").is_not_null() & pl.col("num_events").is_null()).height:
        return "it has numbers whose counts are hidden; scores/scores.csv has those that may leave"
    for name in table.columns:
        is_counted = _COUNT_COLUMNS.fullmatch(name) and not _NO_PEOPLE.fullmatch(name)
        for cell in table[name].drop_nulls():
            numbers = [int(number) for pair in _IN_WORDS.findall(cell) for number in pair if number]
            if is_counted and re.fullmatch(r"\d+(\.0)?", cell):
                numbers.append(int(float(cell)))
            if any(0 < number < least for number in numbers):
                return (
                    f"it shows a number under {least} in column {name}; run 04_analyze.py with --min_cell_count {least}"
                )
    return ""
