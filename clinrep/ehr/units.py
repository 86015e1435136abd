"""Units, and what the settings say about values in them: rules of a site, ranges of what is possible."""

from __future__ import annotations

import re
from collections.abc import Iterable

import polars as pl

from clinrep.config import InputError
from clinrep.ehr.clif import normalize_words
from clinrep.ehr.configs.sources import EventSource, UnitRule, ValueRange
from clinrep.ehr.configs.tokenize import TokenizeConfig

Key = tuple[str | None, str | None]
"""Normalised category and unit."""


# The numbers of which units are made: 10^3/µl, mm3, cmH2O, 1.73 m2, 24 h, 100 ml.
_NUMBER_OF_UNIT = re.compile(r"10\s?[\^*e]\s?\d{1,2}|\b[cdkmnuµ]?m[23]\b|h2o|1\.73|\b(?:1|10|24|100|1000)(?!\d)")
_MAX_SHOWN, _MAX_LENGTH = 20, 20


def tell_unit(unit: str | None) -> str:
    """Return ` mg/dl` for a message or a ledger, or other words where it may be an id, a date or prose."""
    if unit is None:
        return ""
    return f" {unit}" if _is_plain(unit) else " in a unit that is not shown, being long or with numbers"


def tell_units(units: Iterable[str | None]) -> str:
    """Return the units that may be shown, by name, the first twenty of them, and how many others there are."""
    names = sorted({str(unit) for unit in units})
    shown = [name for name in names if _is_plain(name)][:_MAX_SHOWN]
    more = len(names) - len(shown)
    return ", ".join([*shown, *[f"{more} that are not shown"] * bool(more)])


def _is_plain(unit: str) -> bool:
    """Return whether a text is short and has no numbers but those of which units are made."""
    return len(unit) <= _MAX_LENGTH and not re.search(r"\d", _NUMBER_OF_UNIT.sub("", unit))


def normalize_unit(unit: pl.Expr) -> pl.Expr:
    """Return units in lower case with single blanks (found: '10^3/µL<tab>'); empty text becomes null."""
    spelled = unit.str.strip_chars().str.to_lowercase().str.replace_all(r"\s+", " ")
    return pl.when(spelled != "").then(spelled).alias(unit.meta.output_name())


def spell_category(category: str | None, source: EventSource, config: TokenizeConfig) -> str | None:
    """Return a category of the settings spelled as the source's are; a blank one is an InputError."""
    if category is None:
        return None
    words = normalize_words([category], config.normalize, source.category_column)
    if not words:
        raise InputError(
            f"source {source.name!r}: a range or unit rule names the category {category!r}, which is blank"
        )
    return words[0]


def _spell_unit(unit: str | None) -> str | None:
    found: str | None = pl.select(normalize_unit(pl.lit(unit, dtype=pl.String))).item()
    return found


def spell_unit_rules(source: EventSource, config: TokenizeConfig) -> dict[Key, UnitRule]:
    """Return the site's unit rules for a source by normalised category and unit; two for one are an InputError."""
    rules: dict[Key, UnitRule] = {}
    for rule in config.unit_rules:
        if rule.source != source.name:
            continue
        if source.unit_column is None and rule.unit is not None:
            raise InputError(
                f"unit_rules: source {source.name!r} has no unit_column, so unit {rule.unit!r} cannot occur"
            )
        key = (spell_category(rule.category, source, config), _spell_unit(rule.unit))
        if key in rules:
            raise InputError(f"unit_rules: two rules of source {source.name!r} for {key}; keep one")
        rules[key] = rule
    return rules


def spell_ranges(source: EventSource, config: TokenizeConfig) -> dict[Key, ValueRange]:
    """Return the ranges by normalised category and unit; two for the same are an InputError."""
    ranges: dict[Key, ValueRange] = {}
    for one in source.ranges:
        category, unit = spell_category(one.category, source, config), _spell_unit(one.unit)
        if (category, unit) in ranges:
            raise InputError(f"source {source.name}: two ranges for {category!r} in unit {unit!r}; keep one")
        ranges[category, unit] = one
    return ranges
