"""Tables as people print them: one content, written as CSV (numbers), LaTeX and in the report (words)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from clinrep import artifacts
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.predictions import ZERO_SHOT
from clinrep.analysis.probes import NO_PROBE
from clinrep.analysis.suppression import HIDDEN

if TYPE_CHECKING:
    from clinrep.analysis.study import Section


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
    count_columns: tuple[str, ...] = ()
    """Columns of `numbers` that count people, beside those of `PEOPLE_COLUMNS`: a small number withholds the table."""
    alignment: str = ""
    r"""LaTeX columns of a long table of sentences, as `lp{9cm}`; it may go over several pages. '' is one `l` each."""

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


def write_tables(sections: list[Section], directory: Path) -> None:
    """Write NAME.csv and NAME.tex (booktabs) for each table of the sections."""
    for table in (table for section in sections for table in section.tables):
        artifacts.check_file_word(table.name, "table")
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


def print_outcome(config: AnalyzeConfig) -> pl.Expr:
    """Return column `outcome` in words."""
    return pl.col("outcome").map_elements(lambda outcome: label_outcome(outcome, config), pl.String)


def print_model() -> pl.Expr:
    """Return columns `model` and `probe` in words, as one column."""
    return pl.struct("model", "probe").map_elements(lambda row: label_model(row["model"], row["probe"]), pl.String)


def format_score(row: dict[str, Any]) -> str:
    """Return `0.812 (0.700-0.901)`, or the reason where the estimate or the interval is missing."""
    if row["estimate"] is None:
        return str(row["reason"])
    if row["low"] is None:
        return f"{row['estimate']:.3f}, no interval: {row['reason']}"
    dash = " to " if row["low"] < 0 else "\N{EN DASH}"
    return f"{row['estimate']:.3f} ({row['low']:.3f}{dash}{row['high']:.3f})"


def format_latex(table: PrintedTable) -> str:
    """Return a LaTeX table in booktabs rules, numbers right of the keys."""
    columns = table.words.columns
    if table.alignment:
        return _format_long_latex(table)
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


def _format_long_latex(table: PrintedTable) -> str:
    """Return a table of sentences that breaks over lines and pages."""
    lines = [
        r"% needs \usepackage{booktabs,longtable}",
        rf"\begin{{longtable}}{{{table.alignment}}}",
        rf"\caption{{{_escape_latex(table.title)}. {_escape_latex(table.caption)}}}\label{{tab:{table.name}}} \\",
        r"\toprule",
        " & ".join(_escape_latex(column) for column in table.words.columns) + r" \\",
        r"\midrule",
        r"\endhead",
        *(" & ".join(_escape_latex(cell) for cell in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{longtable}",
    ]
    return "\n".join(lines) + "\n"


_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
    | {"\N{EN DASH}": "--", "\N{NO-BREAK SPACE}": "~", "\N{MINUS SIGN}": "$-$", "\N{INFINITY}": r"$\infty$"}
    | {"\N{PLUS-MINUS SIGN}": r"$\pm$"}
)


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX)


def stack_sites(frames: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the sites' frames one below the other, with `site` first."""
    return pl.concat([frame.select(pl.lit(site).alias("site"), pl.all()) for site, frame in frames.items()])


def to_words(frame: pl.DataFrame, headings: dict[str, str]) -> tuple[pl.DataFrame, int]:
    """Return the columns under their headings, all strings, and 1 if `Site` is one (0 for a single site).

    An integer that is null is a hidden count.
    """
    is_several = frame["site"].n_unique() > 1
    names = {"site": "Site", **headings} if is_several else headings
    words = frame.select(
        (
            pl.col(name).map_elements(lambda value: f"{value:,}", pl.String).fill_null(HIDDEN)
            if frame.schema[name].is_integer()
            else pl.col(name).cast(pl.String).fill_null("")
        ).alias(heading)
        for name, heading in names.items()
    )
    return words, int(is_several)
