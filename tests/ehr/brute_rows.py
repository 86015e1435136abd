"""What the rows of CLIF tables mean, for the brute force: plain loops, nothing of clinrep, no polars."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MINUTE = 60_000_000  # times are whole microseconds since 1970, UTC
HOUR = 60 * MINUTE
END = math.inf  # the time of what has no time column: the end of the timeline
Row = dict[str, Any]
Settings = dict[str, Any]

# Of the renames of CLIF 3.0 those that the sample and the tests' folders need.
RENAMES = {
    "discharge_category": {
        "skilled_nursing_facility_snf": "snf",
        "acute_inpatient_rehab_facility": "acute_ip_rehab",
        "long_term_care_hospital_ltach": "ltach",
        "acute_care_hospital": "acute_care_hosp",
        "against_medical_advice_ama": "ama",
        "psychiatric_hospital": "mental_health_hosp",
    },
    "lab_category": {"glucose_fingerstick": "glucose", "glucose_serum": "glucose"},
    "device_category": {"high_flow_nc": "hfnc"},
    "mode_category": {
        "assist_control_volume_control": "acvc",
        "pressure_regulated_volume_control": "prvc",
        "pressure_support_or_cpap": "ps_or_cpap",
    },
}
JOINTS = {"&": "and", "/": "or"}
SIGNS = {"+": "plus", "-": "minus", "<": "below", ">": "above"}
MARKS = {".": "dot", "_": "underscore", "?": "question", "*": "star", "#": "number", "%": "percent", "=": "equal"}


@dataclass(frozen=True)
class Event:
    """One row of a table as one source sees it."""

    time: float | None  # None: it has none, and is only learned from
    source: int
    category: str | None
    key: str
    unit: str | None
    value: float | None
    word: str | None


def read_columns(directory: str | Path, table: str, columns: Iterable[str]) -> list[Row] | None:
    """Return a table's rows; times become whole microseconds since 1970, and columns it lacks are left out."""
    path = Path(directory) / f"clif_{table}.parquet"
    if not path.exists():
        return None
    file = pq.ParquetFile(path)
    content = file.read(columns=[c for c in dict.fromkeys(columns) if c in file.schema_arrow.names])
    data = {}
    for column in content.column_names:
        values = content[column]
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("us", values.type.tz), safe=False).cast(pa.int64())
        data[column] = values.to_pylist()
    return [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]


@functools.cache
def spell(text: str | None, rule: str, column: str | None = None) -> str | None:
    if text is None or rule == "none":
        return text
    text = text.lower()
    return text if rule == "lower" else spell_snake_case(text, column)


def spell_snake_case(text: str, column: str | None) -> str | None:
    kinds = {unicodedata.category(letter)[0] for letter in text}
    names = dict(JOINTS)
    if "L" not in kinds:
        names |= SIGNS
        if "N" in kinds:
            text = drop_inner_dashes(text)
        else:
            names |= MARKS
    spelled = "".join(f" {names[c]} " if c in names else c if unicodedata.category(c)[0] in "LN" else " " for c in text)
    word = "_".join(spelled.split()) or ("symbol" if text.strip() else None)
    return RENAMES.get(column or "", {}).get(word, word) if word is not None else None


def drop_inner_dashes(text: str) -> str:
    """Return text without the dashes between numbers, which are no signs: 1-2, 2020 - 03."""
    letters = list(text)
    for i, letter in enumerate(letters):
        before, after = text[:i].rstrip(), text[i + 1 :].lstrip()
        if letter == "-" and before and after and before[-1].isnumeric() and after[0].isnumeric():
            letters[i] = " "
    return "".join(letters)


@functools.cache
def spell_unit(text: str | None) -> str | None:
    return (" ".join(text.split()).lower() or None) if text is not None else None


def read_source(settings: Settings, number: int, stays: dict[str, Row]) -> Iterator[tuple[str, Event]]:
    """Yield (stay, event) of one source; `stays` are all adult ones."""
    source = settings["sources"][number]
    id_column = source.get("id_column", "hospitalization_id")
    names = ("time_column", "category_column", "value_column", "unit_column", "categorical_value_column")
    columns = {name: source.get(name) for name in names}
    asked = [id_column, *[column for column in columns.values() if column]]
    conditions = source.get("keep_if", [])
    compared = [c for condition in conditions for c in list_columns(condition)]
    texts = {columns["category_column"], columns["categorical_value_column"], columns["unit_column"]}
    texts |= {c for condition in conditions if is_compared(condition) for c in list_columns(condition)}
    for row in read_columns(settings["clif_dir"], source["table"], [*asked, *compared]) or []:
        if any(column not in row for column in asked):
            assert source["if_column_missing"] == "skip"
            return
        if not all(meets(row, condition, texts, settings["normalize"]) for condition in conditions):
            continue
        event = make_event(
            settings, number, {name: row[column] if column else None for name, column in columns.items()}
        )
        if event is None:
            continue
        subject = row[id_column]
        if id_column == "patient_id":
            subject = find_stay(stays, subject, event.time)
        if subject in stays:
            yield subject, event


def list_columns(condition: dict[str, Any]) -> list[str]:
    return [c for c in (condition["column"], condition.get("fallback_column")) if c is not None]


def is_compared(condition: dict[str, Any]) -> bool:
    return bool(condition.get("one_of") or condition.get("none_of"))


def meets(row: Row, condition: dict[str, Any], texts: set[str | None], rule: str) -> bool:
    """Return whether a row meets a condition; `texts` are the columns that this source reads as text."""
    rule = condition.get("normalize") or rule
    found = [column for column in list_columns(condition) if column in row]
    assert found or condition["if_column_missing"] == "null"
    values = [spell(row[c], rule, c) if c in texts else row[c] for c in found]
    value = next((value for value in values if value is not None), None)

    def is_in(words: list[str]) -> bool:
        return value is not None and value in [spell(word, rule, condition["column"]) for word in words]

    is_null = condition.get("is_null")
    return (
        (is_null is None or (value is None) == is_null)
        and (not condition.get("one_of") or is_in(condition["one_of"]))
        and not is_in(condition.get("none_of", []))
    )


def make_event(settings: Settings, number: int, values: Row) -> Event | None:
    """Return the event of a row that meets the conditions; None where it is dropped."""
    source, rule = settings["sources"][number], settings["normalize"]
    category = spell(values["category_column"], rule, source.get("category_column"))
    if source.get("category_column") and category is None:
        if source.get("null_category", "drop") == "drop":
            return None
        category = settings["missing_category"]
    time = END if source.get("time_column") is None else values["time_column"]
    if time is None and not settings["learn_from_untimed"]:
        return None
    word = None
    if source.get("categorical_value_column"):
        column = source["categorical_value_column"]
        word = spell(values["categorical_value_column"], source.get("normalize_value") or rule, column)
        word = settings["missing_category"] if word is None else word
    value = None if values["value_column"] is None else float(values["value_column"])
    unit, value = convert(settings, source, category, spell_unit(values["unit_column"]), value)
    for one in find_range(settings, source, category, unit):
        low, high, action = one.get("low", -math.inf), one.get("high", math.inf), one.get("action", "drop")
        if value is not None and math.isfinite(value) and (value < low or value > high):
            if action == "drop":
                return None
            value = min(max(value, low), high) if action == "clip" else value
    key = source["token"].replace("{category}", category if category is not None else "")
    return Event(time, number, category, key, unit, value, word)


def convert(
    settings: Settings, source: dict[str, Any], category: str | None, unit: str | None, value: float | None
) -> tuple[str | None, float | None]:
    """Return unit and value after the site's rule for this category, or else for every category."""
    for wanted in (category, None):
        for rule in settings["unit_rules"]:
            own = spell(rule.get("category"), settings["normalize"], source.get("category_column"))
            if (rule["source"], own, spell_unit(rule["unit"])) == (source["name"], wanted, unit):
                if value is not None:
                    value = value * rule.get("factor", 1.0) + rule.get("offset", 0.0)
                return spell_unit(rule["new_unit"]), value
    return unit, value


def find_range(
    settings: Settings, source: dict[str, Any], category: str | None, unit: str | None
) -> list[dict[str, Any]]:
    """Return the range of the category in this unit, or else in any; none is an empty list."""
    for wanted in (unit, None):
        for one in source.get("ranges", []):
            own = spell(one.get("category"), settings["normalize"], source.get("category_column"))
            if own == category and spell_unit(one.get("unit")) == wanted:
                return [one]
    return []


def find_stay(stays: dict[str, Row], patient: str | None, time: float | None) -> str | None:
    """Return, of the patient's stays that `time` lies in, the one of the latest admission."""
    if time is None:
        return None
    mine = [(stay["admission_dttm"], subject) for subject, stay in stays.items() if stay["patient_id"] == patient]
    inside = []
    for admission, subject in mine:
        discharge = stays[subject]["discharge_dttm"]
        if admission <= time and (discharge is None or time <= discharge):
            inside.append((admission, subject))
    return max(inside)[1] if inside else None
