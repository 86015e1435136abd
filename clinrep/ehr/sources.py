"""Event sources applied to tables: which rows become which events, decided once per combination of texts."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from clinrep.analysis.suppression import MIN_CELL_COUNT
from clinrep.config import InputError
from clinrep.ehr.clif import ClifTables, Kind, find_absent, normalize_text, normalize_words
from clinrep.ehr.codes import Codes
from clinrep.ehr.configs.sources import Condition, EventSource
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.ledger import Ledger
from clinrep.ehr.units import normalize_unit, spell_ranges, spell_unit_rules, tell_unit, tell_units

logger = logging.getLogger("clinrep")

Columns = dict[str, set[Kind]]
NO_BOUNDS = (-np.inf, np.inf, 2)
MANY_BEYOND = 0.2  # share of a category's values beyond its range that looks like another unit
MAX_WARNINGS = 20  # of categories with such values
NUM_BEYOND_KEPT = 10_000  # values beyond a range whose median is taken
BEYOND_SCHEMA = {
    "source": pl.String(),
    "category": pl.String(),  # the token
    "unit": pl.String(),
    "num_beyond": pl.UInt64(),
    "median_beyond": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "action": pl.String(),
}
NULL = "null of "  # column of a table of combinations: whether a column is null


def _find_alike(word: str, others: set[str]) -> list[str]:
    """Return what a misspelt word may stand for; so2 is none of po2, so the first letter must be right."""
    return difflib.get_close_matches(word, sorted(other for other in others if other[:1] == word[:1]), n=1, cutoff=0.8)


def get_source_columns(source: EventSource, tables: ClifTables) -> Columns:
    """Return the columns a source reads of its table, with what each is read as.

    Raises:
        InputError: a condition compares a column of numbers, or names a column the table lacks.
    """
    columns: Columns = {source.id_column: {"id"}}
    for column in (source.category_column, source.categorical_value_column, source.unit_column):
        if column is not None:
            columns.setdefault(column, set()).add("category")
    for column, kind in ((source.time_column, "time"), (source.value_column, "number")):
        if column is not None:
            columns.setdefault(column, set()).add(kind)  # type: ignore[arg-type]
    for condition in source.keep_if:
        is_compared = bool(condition.one_of or condition.none_of)
        for column in find_condition_columns(condition, source, tables):
            kinds = columns.setdefault(column, set())
            if "id" in kinds:
                raise InputError(f"keep_if of source {source.name}: column {column!r} holds ids; leave it out")
            if is_compared and kinds & {"number", "time"}:
                name = f"keep_if of source {source.name}"
                raise InputError(f"{name}: column {column!r} holds numbers; one_of and none_of compare categories")
            if is_compared or not kinds:
                kinds.add("category" if is_compared else "any")
    return columns


def find_condition_columns(condition: Condition, source: EventSource, tables: ClifTables) -> list[str]:
    """Return the columns of a condition that the table has: the column, then its fallback."""
    present = tables.read_schema(source.table)
    asked = [name for name in (condition.column, condition.fallback_column) if name is not None]
    found = [name for name in asked if name in present]
    if not found and condition.if_column_missing == "error":
        path = tables.paths[source.table]
        raise InputError(
            f"{path} has no column {' or '.join(map(repr, asked))}, which keep_if of source {source.name!r} compares; "
            f"its columns are {', '.join(present)}; rename one, or correct the config"
        )
    return found


class SourcePlan:
    """One source on one table: what becomes of each combination of its texts, and how many rows did."""

    ACTIONS = ("drop", "clip", "keep")
    DROP, CLIP = 0, 1

    def __init__(self, number: int, source: EventSource, tables: ClifTables, config: TokenizeConfig) -> None:
        """Prepare for a table whose columns were checked."""
        self.number, self.source, self.config = number, source, config
        self.columns = get_source_columns(source, tables)
        self.conditions = [(c, find_condition_columns(c, source, tables)) for c in source.keep_if]
        self.steps: list[tuple[str, str]] = []  # (step, reason)
        self.failed = np.empty(0, dtype=np.int32)  # per combination: the step that drops it, -1 for none
        self.codes = np.empty(0, dtype=np.int64)  # per combination: its code, -1 where dropped
        self._ranges = spell_ranges(source, config)
        self._unit_rules = spell_unit_rules(source, config)
        self._rule_of = np.empty(0, dtype=np.int64)  # per combination: its unit rule, an index into _rules
        self._rules = list(self._unit_rules.values())
        self._bounds: list[tuple[float, float, int]] = []  # per code
        self.num_outside = 0  # rows of a patient at a time when he was not in hospital
        self.num_beyond: dict[int, int] = {}  # code -> values beyond the category's range
        self.some_beyond: dict[int, list[float]] = {}  # code -> the first of them, for their median

    def extend(self, combinations: pl.DataFrame, codes: Codes) -> None:
        """Decide about new combinations: raw texts by column, and `NULL`-columns."""
        source, rule = self.source, self.config.normalize
        steps: list[tuple[str, str, pl.Series]] = []
        for condition, columns in self.conditions:
            steps += self._check_condition(condition, columns, combinations)
        category = self._spell(source.category_column, combinations, rule)
        if source.category_column is not None:
            if source.null_category == "drop":
                steps.append((f"{source.name}: category", f"no {source.category_column}", category.is_not_null()))
            else:
                category = category.fill_null(self.config.missing_category)
        if source.time_column is not None:
            is_timed = ~combinations[NULL + source.time_column]
            steps.append((f"{source.name}: time", f"no {source.time_column}", is_timed))
        num_before_time = len(steps) - (source.time_column is not None)
        is_learned = self.config.learn_from_untimed
        self.steps = [(step, reason) for step, reason, _ in steps]
        failed = np.full(combinations.height, -1, dtype=np.int32)
        for i, (_, _, keep) in reversed(list(enumerate(steps))):
            failed[~keep.fill_null(False).to_numpy()] = i
        word = self._spell(source.categorical_value_column, combinations, source.normalize_value or rule)
        if source.categorical_value_column is not None:
            word = word.fill_null(self.config.missing_category)
        unit = self._convert(category, self._spell(source.unit_column, combinations, "unit"))
        rows = zip(failed.tolist(), category, unit, word, strict=True)
        made = [
            codes.number(self.number, *event) if step < 0 or (is_learned and step == num_before_time) else -1
            for step, *event in rows
        ]
        self.failed = np.concatenate([self.failed, failed])
        self.codes = np.concatenate([self.codes, np.array(made, dtype=np.int64)])

    def _convert(self, category: pl.Series, unit: pl.Series) -> pl.Series:
        """Return the units after the site's rules, remembering which rule each combination follows."""
        if not self._unit_rules:
            return unit
        found = [
            self._unit_rules.get(key) or self._unit_rules.get((None, key[1]))
            for key in zip(category, unit, strict=True)
        ]
        numbers = [-1 if rule is None else self._rules.index(rule) for rule in found]
        self._rule_of = np.concatenate([self._rule_of, np.array(numbers, dtype=np.int64)])
        units = [old if rule is None else rule.new_unit for old, rule in zip(unit, found, strict=True)]
        return pl.DataFrame({"unit": pl.Series(units, dtype=pl.String)}).select(normalize_unit(pl.col("unit")))["unit"]

    def convert_values(self, values: np.ndarray, combinations: np.ndarray) -> np.ndarray:
        """Return values in the units of the site's rules; `combinations` says which each row has."""
        if not self._rules:
            return values
        factor = np.array([rule.factor for rule in self._rules] + [1.0])[self._rule_of]
        offset = np.array([rule.offset for rule in self._rules] + [0.0])[self._rule_of]
        return values * factor[combinations] + offset[combinations]

    def get_bounds(self, codes: Codes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return low f64, high f64 and action i8 (an index into ACTIONS) of every code; others' are boundless."""
        while len(self._bounds) < len(codes.sources):
            number = len(self._bounds)
            category, unit = codes.categories[number], codes.units[number]
            found = self._ranges.get((category, unit)) or self._ranges.get((category, None))
            is_mine = codes.sources[number] == self.number and found is not None
            self._bounds.append((found.low, found.high, self.ACTIONS.index(found.action)) if is_mine else NO_BOUNDS)  # type: ignore[union-attr]
        bounds = np.array(self._bounds, dtype=np.float64).reshape(-1, 3)  # there may be no code at all
        return bounds[:, 0], bounds[:, 1], bounds[:, 2].astype(np.int8)

    def _spell(self, column: str | None, combinations: pl.DataFrame, rule: str) -> pl.Series:
        if column is None:
            return pl.Series([None] * combinations.height, dtype=pl.String)
        if rule == "unit":
            return combinations.select(normalize_unit(pl.col(column)))[column]
        return normalize_text(combinations[column], rule, column)

    def _check_condition(
        self, condition: Condition, columns: list[str], combinations: pl.DataFrame
    ) -> list[tuple[str, str, pl.Series]]:
        rule = condition.normalize or self.config.normalize
        step = f"{self.source.name}: keep_if {condition.column}"
        nothing = pl.Series([None] * combinations.height, dtype=pl.String)
        text, is_null = nothing, nothing.is_null()
        for column in reversed(columns):
            if "category" in self.columns[column]:
                spelled = self._spell(column, combinations, rule)
                text = spelled.to_frame("a").with_columns(b=text).select(pl.coalesce("a", "b"))["a"]
                is_null = is_null & spelled.is_null()
            else:
                is_null = is_null & combinations[NULL + column]
        steps = []
        if condition.is_null is not None:
            reason = "it is not null" if condition.is_null else "it is null"
            steps.append((step, reason, is_null if condition.is_null else ~is_null))
        if condition.one_of:
            words = normalize_words(condition.one_of, rule, condition.column)
            steps.append((step, f"it is not one of {', '.join(words)}", text.is_in(words).fill_null(False)))
        if condition.none_of:
            words = normalize_words(condition.none_of, rule, condition.column)
            steps.append((step, f"it is one of {', '.join(words)}", ~text.is_in(words).fill_null(False)))
        return steps

    def warn_of_absent_words(self, values: Mapping[str, list[str]]) -> None:
        """Warn of words of the conditions that no row had, where that looks like a misspelling."""
        for condition, columns in self.conditions:
            rule = condition.normalize or self.config.normalize
            found = [normalize_text(pl.Series(values[c], dtype=pl.String), rule, c) for c in columns if c in values]
            for asked, is_required in ((condition.one_of, True), (condition.none_of, False)):
                words = normalize_words(asked, rule, condition.column)
                if not words or not found:
                    continue
                every = pl.concat([series.alias("found") for series in found]).drop_nulls().unique().to_list()
                absent, known = find_absent(words, pl.Series(every, dtype=pl.String))
                alike = [word for word in absent if _find_alike(word, set(every) - set(words))]
                is_lost = is_required and len(absent) == len(words)
                if absent:
                    level = logging.WARNING if is_lost or alike else logging.DEBUG
                    where = (self.source.name, alike or absent, " or ".join(columns), known)
                    logger.log(level, "source %s: %s never occurs in %s; found: %s", *where)

    def warn_of_absent_ranges(self, codes: Codes) -> None:
        """Warn of ranges whose category has another unit here, or may be misspelt; many sites lack some category."""
        units: dict[str | None, set[str | None]] = {}
        for source, category, unit in zip(codes.sources, codes.categories, codes.units, strict=True):
            if source == self.number:
                units.setdefault(category, set()).add(unit)
        for category, unit in self._ranges:
            alike = _find_alike(category or "", {name for name in units if name})
            if category in units and unit is not None and unit not in units[category]:
                what = f"the range of {category} is for unit {unit}, but this site has {tell_units(units[category])}"
                what += ": not checked"
                logger.warning("source %s: %s", self.source.name, what)
            elif category not in units and alike:
                what = f"no row for the range of {category}; did you mean {alike[0]}?"
                logger.warning("source %s: %s", self.source.name, what)

    def write_ledger(self, counts: np.ndarray, num_rows: int, ledger: Ledger) -> None:
        """Record every step; `counts` is rows per combination, `num_rows` those of adult stays."""
        table, name = self.source.table, self.source.name
        left = num_rows
        for i, (step, reason) in enumerate(self.steps):
            dropped = int(counts[self.failed == i].sum())
            ledger.add(table, step, left, left - dropped, reason)
            left -= dropped
        for i, rule in enumerate(self._rules):
            count = int(counts[(self._rule_of == i) & (self.failed < 0)].sum())
            sign = "-" if rule.offset < 0 else "+"
            offset = f" {sign} {abs(rule.offset):g}" if rule.offset else ""
            what = f": value * {rule.factor:g}{offset}" if (rule.factor, rule.offset) != (1, 0) else ""
            unit = f" from {rule.unit} to {rule.new_unit}" if rule.new_unit is not None else ""
            reason = f"{rule.category or 'every category'}{unit}{what}"
            ledger.add(table, f"{name}: unit", count, count, reason)
            if not count:
                logger.warning("source %s: no row follows the unit rule %s", name, reason)
        if self.source.id_column == "patient_id":
            ledger.add(table, f"{name}: stay", left, left - self.num_outside, "the patient had no stay at that time")

    def write_ranges(self, counts: np.ndarray, codes: Codes, ledger: Ledger) -> list[dict[str, Any]]:
        """Record what was beyond its range: one step of the source, and one note per category, unit and action.

        Returns the rows of `BEYOND_SCHEMA`.
        """
        if not self.source.ranges:
            return []
        low, high, action = self.get_bounds(codes)
        num_events = int(counts[self.failed < 0].sum()) - self.num_outside
        num_dropped = sum(count for code, count in self.num_beyond.items() if action[code] == self.DROP)
        step = f"{self.source.name}: range"
        ledger.add(self.source.table, step, num_events, num_events - num_dropped, "value beyond its declared range")
        rows: list[dict[str, Any]] = []
        doubtful = []
        for code in sorted(self.num_beyond, key=lambda c: (codes.categories[c] or "", codes.units[c] or "")):
            count, total = self.num_beyond[code], int(counts[self.codes == code].sum())
            what = self.source.token.format(category=codes.categories[code])
            reason = f"{what} not in [{low[code]:g}, {high[code]:g}]{tell_unit(codes.units[code])}"
            reason += f": {self.ACTIONS[action[code]]}"
            ledger.add(self.source.table, f"{self.source.name}: beyond range", count, count, reason)
            # of few values it would be one of them
            median = float(np.median(self.some_beyond[code])) if count >= MIN_CELL_COUNT else None
            if count > MANY_BEYOND * total:
                told = "" if median is None else f" (median {median:g})"
                doubtful.append(f"{count} of {total} values of {reason}{told}; another unit?")
            values = (self.source.name, what, codes.units[code], count, median, low[code], high[code])
            rows.append(dict(zip(BEYOND_SCHEMA, (*values, self.ACTIONS[action[code]]), strict=True)))
        for line in doubtful[:MAX_WARNINGS]:
            logger.warning("%s", line)
        if len(doubtful) > MAX_WARNINGS:
            more = len(doubtful) - MAX_WARNINGS
            logger.warning("source %s: as many values of %d more pairs of category and unit", self.source.name, more)
        return rows
