"""Settings of stage 00 that say which rows of CLIF tables become which tokens."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass, field
from typing import Literal

from clinrep.config import require

Spelling = Literal["snake_case", "lower", "none"]


def _check_template(name: str, template: str, allowed: set[str]) -> None:
    """Refuse a token template with a field that nothing fills."""
    fields = {text for _, text, _, _ in string.Formatter().parse(template) if text is not None}
    rule = f"be text with no field but {sorted(allowed)}"
    require(bool(template) and fields <= allowed, name, template, rule, "write for example 'LAB_{category}'")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition on a column; a row is kept when all it states hold. Categories are compared normalised."""

    column: str
    """Column of the source's table."""
    fallback_column: str | None = None
    """Column to read where `column` is null, or where the table has no such column."""
    one_of: list[str] = field(default_factory=list)
    """Keep only rows with one of these categories."""
    none_of: list[str] = field(default_factory=list)
    """Drop rows with one of these categories; rows where it is null stay."""
    is_null: bool | None = None
    """true: keep only rows where the column is null; false: only where it is not."""
    normalize: Spelling | None = None
    """How the column is spelled before it is compared; null: as every category of the run."""
    if_column_missing: Literal["error", "null"] = "error"
    """What a table without the column (and its fallback) means: an error, or that every row is null there."""

    def __post_init__(self) -> None:
        """Refuse a condition that states nothing."""
        is_stated = bool(self.one_of or self.none_of or self.is_null is not None)
        require(is_stated, f"keep_if of column {self.column}", "empty", "state something", "give one_of or is_null")


@dataclass(frozen=True, kw_only=True)
class ValueRange:
    """What is physiologically possible for one category, and what becomes of values beyond it."""

    category: str | None = None
    """Category as the tables spell it, or normalised; null for a source without categories."""
    low: float = -math.inf
    """Least possible value."""
    high: float = math.inf
    """Greatest possible value."""
    unit: str | None = None
    """Only values in this unit are checked; null: values in any unit, and without one."""
    action: Literal["drop", "clip", "keep"] = "drop"
    """drop the event, clip its value to the bound, or keep it as it is; the ledger counts each."""

    def __post_init__(self) -> None:
        """Refuse a range that holds nothing, or everything."""
        bounds = [self.low, self.high]
        is_fine = self.low < self.high and math.isfinite(self.low) | math.isfinite(self.high)
        require(is_fine, f"range of {self.category}", bounds, "have low < high, one of them finite", "correct it")


@dataclass(frozen=True, kw_only=True)
class UnitRule:
    """A unit of this site that another name or scale stands for, so that bins of both are the same."""

    source: str
    """Name of the event source."""
    unit: str | None = None
    """Unit as the tables spell it, or normalised; null: where none is given."""
    new_unit: str | None = None
    """Unit to take it for, which also names the bins' row in quantiles.parquet; null only where `unit` is."""
    category: str | None = None
    """Category as the tables spell it, or normalised; null: every category of the source."""
    factor: float = 1.0
    """New value = value * factor + offset."""
    offset: float = 0.0
    """Added after the factor (Fahrenheit to Celsius: factor 0.5555555555555556, offset -17.77777777777778)."""

    def __post_init__(self) -> None:
        """Refuse a rule that loses the value."""
        is_fine = math.isfinite(self.factor) and self.factor != 0 and math.isfinite(self.offset)
        require(is_fine, f"factor of unit rule for {self.source}", self.factor, "be finite and not 0", "correct it")
        is_named = self.unit is None or self.new_unit is not None
        require(is_named, f"new_unit of unit rule for {self.unit}", self.new_unit, "be given with unit", "name it")


@dataclass(frozen=True, kw_only=True)
class EventSource:
    """Where one kind of event lies in the CLIF tables, and the tokens it becomes."""

    name: str
    """Name of the source: the kind of its tokens in vocabulary.parquet."""
    table: str
    """CLIF table, without clif_."""
    token: str
    """Template of the event's token, with {category}; also the key of its quantiles."""
    time_column: str | None
    """When the event became known (labs: the result, not the collection); rows without a time are dropped.

    null: the table does not say when (diagnoses coded at discharge). Such events stand at the end of the
    timeline, just before the discharge tokens and with their time, so that no prediction sees them.
    """
    id_column: Literal["hospitalization_id", "patient_id"] = "hospitalization_id"
    """patient_id (code_status has no other): the row belongs to the patient's stay it falls in, both ends included."""
    category_column: str | None = None
    """Column that fills {category}."""
    value_column: str | None = None
    """Numeric column: the event gets a second token, the value's bin."""
    categorical_value_column: str | None = None
    """Category column: the event gets a second token, the normalised category."""
    value_token: str = "{value}"
    """Template of the second token, with {value} (the bin or the category) and {category}."""
    normalize_value: Spelling | None = None
    """How categorical_value_column is spelled; null: as every category of the run."""
    unit_column: str | None = None
    """Column with the unit of value_column; bins are then learned per (category, unit)."""
    ranges: list[ValueRange] = field(default_factory=list)
    """What is physiologically possible, by category."""
    keep_if: list[Condition] = field(default_factory=list)
    """Conditions a row must meet."""
    null_category: Literal["drop", "keep"] = "drop"
    """What becomes of rows without a category: dropped and counted, or kept with missing_category."""
    required: bool = False
    """Whether a missing table is an error; otherwise it is noted in log and ledger."""
    if_column_missing: Literal["error", "skip"] = "error"
    """What a table without one of the columns means: an error, or no events, noted in log and ledger."""

    def __post_init__(self) -> None:
        """Refuse templates and columns that contradict each other."""
        _check_template(f"token of source {self.name}", self.token, {"category"})
        _check_template(f"value_token of source {self.name}", self.value_token, {"category", "value"})
        has_field = "{category}" in self.token
        rule, remedy = "hold {category} exactly when category_column is given", "change one of the two"
        require(has_field == (self.category_column is not None), f"token of {self.name}", self.token, rule, remedy)
        is_one = self.value_column is None or self.categorical_value_column is None
        require(is_one, f"value_column of {self.name}", self.value_column, "be the only value", "make two sources")
        is_unit = self.unit_column is None or self.value_column is not None
        require(is_unit, f"unit_column of {self.name}", self.unit_column, "go with a value_column", "drop it")
        for one in self.ranges:
            has_both = (one.category is not None) == (self.category_column is not None)
            rule = "name a category exactly when the source has a category_column"
            require(has_both, f"ranges of {self.name}", one.category, rule, "correct it")
        is_numeric = not self.ranges or self.value_column is not None
        require(is_numeric, f"ranges of {self.name}", len(self.ranges), "go with a value_column", "drop them")
        is_placed = self.time_column is not None or self.id_column == "hospitalization_id"
        require(is_placed, f"id_column of {self.name}", self.id_column, "go with a time_column", "give one")


@dataclass(frozen=True, kw_only=True)
class EdgeToken:
    """One token at the start (static) or the end (discharge) of every timeline."""

    token: str
    """Template: fixed text, or with {category}, or with {bin} for a number."""
    table: Literal["patient", "hospitalization"] | None = None
    """Table of `column`."""
    column: str | None = None
    """Column that fills the template; its bins are learned on the stays of train patients."""

    def __post_init__(self) -> None:
        """Refuse a template that its column does not fill, or fills twice."""
        _check_template("token", self.token, {"category", "bin"})
        is_one = not ("{category}" in self.token and "{bin}" in self.token)
        require(is_one, "token", self.token, "hold {category} or {bin}, not both", "make two tokens")
        is_filled = ("{" in self.token) == (self.column is not None) == (self.table is not None)
        require(is_filled, "token", self.token, "have a field exactly when table and column are given", "give both")
