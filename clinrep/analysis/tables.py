"""Tables as people print them: one content, written as CSV (numbers), LaTeX and in the report (words)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from clinrep import artifacts
from clinrep.analysis.cohort import describe_cohort, describe_exclusions, describe_outcomes
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import Site
from clinrep.analysis.metrics import METRICS
from clinrep.analysis.predictions import ZERO_SHOT
from clinrep.analysis.probes import NO_PROBE


@dataclass(frozen=True)
class PrintedTable:
    """One table: full numbers for the CSV file, words for paper and page."""

    name: str
    """Stem of its files."""
    title: str
    caption: str
    numbers: pl.DataFrame
    words: pl.DataFrame
    """All strings; column names are the printed headings."""
    num_keys: int = 1
    """Leading columns that group the rows: a value that repeats is printed once."""

    @property
    def rows(self) -> list[list[str]]:
        """The printed rows, with a repeated leading value blank."""
        printed: list[list[str]] = []
        before: tuple[str, ...] = ()
        for row in self.words.iter_rows():
            same = 0
            while same < self.num_keys and before[: same + 1] == row[: same + 1]:
                same += 1
            printed.append([""] * same + list(row[same:]))
            before = row
        return printed


def build_tables(
    sites: list[Site], outcomes: list[str], scores: pl.DataFrame, config: AnalyzeConfig
) -> list[PrintedTable]:
    """Return every table of the report, in its order."""
    return [
        _build_cohort_table(sites),
        _build_exclusion_table(sites),
        _build_outcome_table(sites, outcomes, config),
        _build_score_table(scores, config),
    ]


def write_tables(tables: list[PrintedTable], directory: Path) -> None:
    """Write NAME.csv and NAME.tex (booktabs) for each table."""
    for table in tables:
        artifacts.write_text(directory / f"{table.name}.csv", table.numbers.write_csv())
        artifacts.write_text(directory / f"{table.name}.tex", format_latex(table))


def label_outcome(outcome: str, config: AnalyzeConfig) -> str:
    """Return the words for an outcome: those of the settings, or its name with spaces."""
    words = outcome.replace("_", " ")
    return config.outcome_labels.get(outcome, words[:1].upper() + words[1:])


def label_model(model: str, probe: str) -> str:
    """Return the words for a model, for example `Logistic regression on backbone layer 4 last token`."""
    named = "zero-shot from the backbone" if model == ZERO_SHOT else f"fine-tuned {model}"
    words = named if probe == NO_PROBE else f"{probe} on {model}"
    words = words.replace("_", " ")
    return words[:1].upper() + words[1:]


def format_score(row: dict[str, Any]) -> str:
    """Return `0.812 (0.700-0.901)`, or the reason where the estimate or the interval is missing."""
    if row["estimate"] is None:
        return str(row["reason"])
    if row["low"] is None:
        return f"{row['estimate']:.3f}, no interval: {row['reason']}"
    return f"{row['estimate']:.3f} ({row['low']:.3f}\N{EN DASH}{row['high']:.3f})"


def format_latex(table: PrintedTable) -> str:
    """Return a LaTeX table in booktabs rules, numbers right of the keys."""
    columns = table.words.columns
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        rf"\caption{{{_escape_latex(table.title)}. {_escape_latex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{'l' * len(columns)}}}",
        r"\toprule",
        " & ".join(_escape_latex(column) for column in columns) + r" \\",
        r"\midrule",
        *(" & ".join(_escape_latex(cell) for cell in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
    | {"\N{EN DASH}": "--", "\N{NO-BREAK SPACE}": "~"}
)


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX)


def _stack(frames: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the sites' frames one below the other, with `site` first."""
    return pl.concat([frame.select(pl.lit(site).alias("site"), pl.all()) for site, frame in frames.items()])


def _to_words(frame: pl.DataFrame, headings: dict[str, str]) -> tuple[pl.DataFrame, int]:
    """Return the columns under their headings, all strings, and 1 if `Site` is one (0 for a single site)."""
    is_several = frame["site"].n_unique() > 1
    names = {"site": "Site", **headings} if is_several else headings
    words = frame.select(
        (
            pl.col(name).map_elements(lambda value: f"{value:,}", pl.String)
            if frame.schema[name].is_integer()
            else pl.col(name).cast(pl.String).fill_null("")
        ).alias(heading)
        for name, heading in names.items()
    )
    return words, int(is_several)


def _build_cohort_table(sites: list[Site]) -> PrintedTable:
    numbers = _stack({site.name: describe_cohort(site) for site in sites})
    headings = {"characteristic": "Characteristic", "train": "Train", "val": "Validation", "test": "Test", "all": "All"}
    words, num_keys = _to_words(numbers, headings)
    caption = (
        "Hospital stays with a timeline, by split. A patient is in exactly one split. SD: standard deviation; "
        "IQR: interquartile range."
    )
    return PrintedTable("cohort", "Cohort by split", caption, numbers, words, num_keys)


def _build_exclusion_table(sites: list[Site]) -> PrintedTable:
    numbers = _stack({site.name: describe_exclusions(site) for site in sites})
    headings = {
        "table": "Table",
        "step": "Step",
        "rows_in": "Rows before",
        "left_out": "Left out",
        "rows_out": "Rows after",
        "reason": "Reason",
    }
    words, num_keys = _to_words(numbers.filter(pl.col("left_out") > 0), headings)
    caption = (
        "Steps of tokenization that left rows out, by source table. Every row read is kept or accounted for; "
        "the CSV file also lists the steps that left nothing out."
    )
    return PrintedTable("exclusions", "Rows left out, and why", caption, numbers, words, num_keys + 1)


def _build_outcome_table(sites: list[Site], outcomes: list[str], config: AnalyzeConfig) -> PrintedTable:
    numbers = _stack({site.name: describe_outcomes(site, outcomes) for site in sites})
    share = (100 * pl.col("num_events") / pl.col("num_labelled")).round(1).fill_nan(None)
    printed = numbers.with_columns(
        outcome=pl.col("outcome").map_elements(lambda outcome: label_outcome(outcome, config), pl.String),
        share=pl.format("{} ({})", "num_events", share).fill_null("0"),
    )
    headings = {
        "outcome": "Outcome",
        "split": "Split",
        "num_stays": "Stays",
        "num_excluded": "Excluded",
        "excluded_because": "Excluded because",
        "num_labelled": "Labelled",
        "share": "Events (% of labelled)",
    }
    words, num_keys = _to_words(printed, headings)
    caption = "Stays excluded from an outcome have no label; they count neither as events nor as non-events."
    return PrintedTable("outcomes", "Outcomes by split", caption, numbers, words, num_keys + 1)


def _build_score_table(scores: pl.DataFrame, config: AnalyzeConfig) -> PrintedTable:
    keys = ["site", "outcome", "num_subjects", "num_events", "model", "probe"]
    printed = scores.select(
        *keys,
        "metric",
        cell=pl.struct("estimate", "low", "high", "reason").map_elements(format_score, pl.String),
    ).pivot("metric", index=keys, values="cell", maintain_order=True)
    printed = printed.with_columns(
        outcome=pl.col("outcome").map_elements(lambda outcome: label_outcome(outcome, config), pl.String),
        model=pl.struct("model", "probe").map_elements(lambda row: label_model(row["model"], row["probe"]), pl.String),
        prevalence=(pl.col("num_events") / pl.col("num_subjects"))
        .fill_nan(None)
        .map_elements(lambda value: f"{value:.3f}", pl.String),
    )
    level = f"{100 * config.confidence_level:g}\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}CI"
    headings = {
        "outcome": "Outcome",
        "num_subjects": "Stays",
        "num_events": "Events",
        "prevalence": "Prevalence",
        "model": "Model",
        **{name: f"{metric.label} ({level})" for name, metric in METRICS.items()},
    }
    words, num_keys = _to_words(printed, headings)
    caption = (
        f"Performance on the test split, with {100 * config.confidence_level:g} % percentile intervals of "
        f"{config.num_bootstraps:,} bootstrap replicates resampled by patient. The prevalence is the AUPRC of a "
        f"model that knows nothing. A number needs {config.min_events_for_estimate} stays with the event and as "
        f"many without, an interval {config.min_events_for_interval}. Probes were fitted on the train split of "
        f"site {config.fitted_site}."
    )
    numbers = scores.with_columns(prevalence=pl.col("num_events") / pl.col("num_subjects"))
    return PrintedTable("scores", "Performance on held-out patients", caption, numbers, words, num_keys + 4)
