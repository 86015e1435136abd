"""Settings of stage 00 for hospital records: cohort, event sources, tokens, outcomes."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from clinrep.config import StageConfig, require

PAD_TOKEN = "PAD"  # fills batches; never in a timeline
OUTCOME_NAMES = ("in_hospital_death", "long_length_of_stay", "icu_admission", "imv_event")


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
    one_of: list[str] = field(default_factory=list)
    """Keep only rows with one of these categories."""
    none_of: list[str] = field(default_factory=list)
    """Drop rows with one of these categories; rows where it is null stay."""
    is_null: bool | None = None
    """true: keep only rows where the column is null; false: only where it is not."""

    def __post_init__(self) -> None:
        """Refuse a condition that states nothing."""
        is_stated = bool(self.one_of or self.none_of or self.is_null is not None)
        require(is_stated, f"keep_if of column {self.column}", "empty", "state something", "give one_of or is_null")


@dataclass(frozen=True, kw_only=True)
class EventSource:
    """Where one kind of event lies in the CLIF tables, and the tokens it becomes."""

    name: str
    """Name of the source: the kind of its tokens in vocabulary.parquet."""
    table: str
    """CLIF table, without clif_."""
    time_column: str
    """When the event became known (labs: the result, not the collection); rows without a time are dropped."""
    token: str
    """Template of the event's token, with {category}; also the key of its quantiles."""
    category_column: str | None = None
    """Column that fills {category}."""
    value_column: str | None = None
    """Numeric column: the event gets a second token, the value's bin."""
    categorical_value_column: str | None = None
    """Category column: the event gets a second token, the normalised category."""
    value_token: str = "{value}"
    """Template of the second token, with {value} (the bin or the category) and {category}."""
    unit_column: str | None = None
    """Column with the unit of value_column; bins are then learned per (category, unit)."""
    keep_if: list[Condition] = field(default_factory=list)
    """Conditions a row must meet."""
    null_category: Literal["drop", "keep"] = "drop"
    """What becomes of rows without a category: dropped and counted, or kept with missing_category."""
    required: bool = False
    """Whether a missing table is an error; otherwise it is noted in log and ledger."""

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


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """The part of a timeline that a prediction may use."""

    origin: Literal["admission", "first_event"] = "admission"
    """When the clock starts; first_event is the earlier of admission and the first event."""
    length_hours: float = 24.0
    """index_time = origin + this."""
    is_end_closed: bool = False
    """Whether what happens exactly at index_time is seen."""

    def __post_init__(self) -> None:
        """Refuse a window without length or without end."""
        is_fine = 0 < self.length_hours < float("inf")
        require(is_fine, "window.length_hours", self.length_hours, "be above 0 and finite", "use 24")


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig(StageConfig):
    """Settings of 00_tokenize.py for CLIF tables."""

    clif_dir: str
    """Folder with the CLIF tables as clif_<table>.parquet."""
    sources: list[EventSource]
    """Event sources; at one instant, events stand in this order."""
    static_tokens: list[EdgeToken]
    """Tokens every timeline starts with."""
    discharge_tokens: list[EdgeToken]
    """Tokens every timeline ends with."""
    tokenizer_dir: str | None = None
    """A finished stage-00 directory whose vocabulary and quantiles are applied; nothing is learned."""
    splits_path: str | None = None
    """An existing splits.parquet; null splits patients by first admission."""
    train_fraction: float = 0.7
    """Share of patients, in order of first admission, in train."""
    val_fraction: float = 0.1
    """Share of patients after those in val; the rest is test."""
    admission_window: list[str] | None = None
    """Two dates or times [first, last], UTC: only stays admitted between them, both ends included.

    A date stands for its midnight, as in the manuscript's code.
    """
    min_age_years: float = 18.0
    """Stays of younger patients are left out."""
    min_length_of_stay_hours: float = 24.0
    """Shorter stays get no timeline (after splits and tokenizer are made); 0 keeps all."""
    window: WindowConfig = field(default_factory=WindowConfig)
    """Observation window."""
    normalize: Literal["snake_case", "lower", "none"] = "snake_case"
    """How categories are spelled: lower snake_case, lower case only, or as they are."""
    num_bins: int = 10
    """Bins of a numeric value, named Q0, Q1, ...; 10 are deciles."""
    unknown_token: str = "UNK"
    """Token of a category, or of the bin of a value, that train did not have."""
    missing_value_token: str = "MISSING_VALUE"
    """{value} of a numeric value that is null, NaN or infinite."""
    missing_category: str = "missing"
    """{category} of a null category that is kept."""
    outcomes: list[str] = field(default_factory=lambda: list(OUTCOME_NAMES))
    """Outcomes to label, by name."""
    subjects_per_part: int = 20_000
    """Stays per timelines/<split>/part-*.parquet."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        super().__post_init__()
        for name in ("train_fraction", "val_fraction"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "be in [0, 1]", "use 0.7 and 0.1")
        total = self.train_fraction + self.val_fraction
        require(total <= 1, "train_fraction + val_fraction", total, "be at most 1", "lower one of them")
        require(self.num_bins >= 2, "num_bins", self.num_bins, "be 2 or more", "use 10")
        require(self.min_age_years >= 0, "min_age_years", self.min_age_years, "be 0 or more", "use 18")
        hours = self.min_length_of_stay_hours
        require(hours >= 0, "min_length_of_stay_hours", hours, "be 0 or more", "use 24, or 0 to keep all stays")
        require(self.subjects_per_part >= 1, "subjects_per_part", self.subjects_per_part, "be 1 or more", "use 20000")
        # a stay may have no event in the window, and no model reads an empty sequence
        statics = [edge.token for edge in self.static_tokens]
        require(bool(statics), "static_tokens", statics, "hold at least one token", "start with {token: TL_START}")
        names = [source.name for source in self.sources]
        require(bool(names), "sources", names, "declare at least one event source", "see configs/ehr")
        require(len(set(names)) == len(names), "sources", names, "have different names", "rename one")
        outcomes = self.outcomes
        require(len(set(outcomes)) == len(outcomes), "outcomes", outcomes, "name each outcome once", "drop one")
        self._check_special_tokens()
        if self.admission_window is not None:
            parse_window(self.admission_window)

    def _check_special_tokens(self) -> None:
        special = [self.unknown_token, self.missing_value_token]
        require(all(special), "unknown_token, missing_value_token", special, "not be empty", "name them")
        fixed = [edge.token for edge in [*self.static_tokens, *self.discharge_tokens]]
        is_free = PAD_TOKEN not in [*special, *fixed]
        require(is_free, "tokens", [*special, *fixed], f"not hold {PAD_TOKEN}, which fills batches", "rename it")


def parse_window(window: Sequence[str]) -> tuple[datetime, datetime]:
    """Return [first, last] of `admission_window` as times without zone (UTC)."""
    rule, remedy = "be two dates or times in order", "write ['2020-03-01', '2022-03-01']"
    require(len(window) == 2, "admission_window", list(window), rule, remedy)
    try:
        first, last = (datetime.fromisoformat(text) for text in window)
    except ValueError as error:
        raise ValueError(f"admission_window is {list(window)!r} but must {rule}; {remedy}") from error
    has_zone = first.tzinfo is not None or last.tzinfo is not None
    require(not has_zone and first <= last, "admission_window", list(window), rule + ", without zone", remedy)
    return first, last
