"""The `unit_rules` that would mend what the report suspects, as a settings file of stage 00."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import yaml

from clinrep.ehr.site_report.units import PER_KG, is_same_scale

RULES_NAME = "site_unit_rules.yaml"
WHOLE_BEYOND = 0.98  # share beyond the range from which all values are in the other unit
HEADER = """\
# suggested by medians alone: check with your laboratory before you use it
# Then give this file to 00_tokenize.py as one more --config; unit_rules of an earlier file no longer count.
unit_rules:
"""


def suggest_unit_rule(row: dict[str, Any]) -> str | None:
    """Return one entry of `unit_rules` as YAML, such as `{source: labs, category: sodium, unit: mmol/l, ...}`.

    There is one for every suspected conversion and for every unit that may be new only by its name; none for
    too few events, for a category without a name in the tables, from a unit to none, which is no rule, where a
    part of the values is beyond the range, because a rule would convert the others too, nor for doses per kg.
    """
    is_part = row["num_beyond"] and row["share_beyond"] < WHOLE_BEYOND
    if is_part or row["conversion_factor"] in (PER_KG, 1 / PER_KG):
        return None
    unit, new_unit = row["unit"], row["compared_unit"]
    if not row["is_named"] or row["verdict"] == "too few" or (unit is not None and new_unit is None):
        return None
    if row["suspected_conversion"] is not None:
        # site = factor * train + offset, and the rule leads from site to train.
        factor = _round(1 / row["conversion_factor"])
        offset = _round(-row["conversion_offset"] / row["conversion_factor"])
    elif is_renamed(row):
        factor, offset = 1.0, 0.0
    else:
        return None
    rule = {"source": row["source"], "category": row["name"], "unit": unit, "new_unit": new_unit}
    rule |= {"factor": factor if factor != 1 else None, "offset": offset if offset != 0 else None}
    return write_rule(rule)


def write_rule(rule: Mapping[str, Any]) -> str:
    """Return one entry of `unit_rules` as YAML on one line, without what is null."""
    stated = {name: value for name, value in rule.items() if value is not None}
    text: str = yaml.safe_dump(stated, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.strip()


def is_renamed(row: dict[str, Any]) -> bool:
    """Return whether train probably has this unit under another name."""
    return row["presence"] == "new unit" and is_same_scale(row["median_train"], row["median_site"])


def _round(value: float) -> float:
    """Return 18.016 for 18.016000000000002, which its reciprocal's reciprocal is; 5 / 9 stays exact."""
    short = float(f"{value:.12g}")
    return short if math.isclose(short, value, rel_tol=1e-14) else value


def format_unit_rules(report: pl.DataFrame, kept_rules: Sequence[str] = ()) -> str:
    """Return the settings file with every rule the report suggests; empty where there is none.

    `kept_rules` are those the site was tokenized with, as YAML: they come first, or they would be lost.
    """
    rows = report.filter(pl.col("unit_rule").is_not_null())
    lines = []
    for row in rows.iter_rows(named=True):
        before, after = (row["suspected_conversion"] or " -> ").split(" -> ")
        names = f"{row['unit'] or 'no unit'} at the site, {row['compared_unit'] or 'no unit'} in train"
        medians = f"medians {row['median_site']:g} and {row['median_train']:g}" if not after else ""
        reason = f"{after} at the site, {before} in train" if after else f"perhaps another name: {names}, {medians}"
        lines.append(f"  # {reason}\n  - {row['unit_rule']}\n")
    kept = "".join(f"  # of this run\n  - {rule}\n" for rule in kept_rules)
    return HEADER + kept + "".join(lines) if lines else ""
