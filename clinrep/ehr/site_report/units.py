"""Conversion factors, and whether two medians look like the same quantity in two units."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

MIN_VALUES = 20  # finite values on each side before medians are compared
NEARNESS = 0.2  # the converted median must be five times nearer (in logarithms) than the unconverted one ...
MAX_DISTANCE = 0.3  # ... and within a factor of exp(0.3) = 1.35, which leaves room for another case mix
SAME_SCALE = 0.1  # medians within exp(0.1) = 1.11 of each other: perhaps only another name
PER_KG = 80.0  # kg of a patient; no rule for everybody follows from it

_MEDICATION = re.compile(r"\b(meds?|medications?|infusions?)\b")


@dataclass(frozen=True)
class Conversion:
    """`value in first = factor * value in second + offset`, for categories whose words match `pattern`."""

    topic: str
    factor: float
    first: str
    second: str
    pattern: str | None = None
    """Searched in source, category and units, lower case, every other character a space; None fits all."""
    is_medication: bool | None = None
    """Whether it is of medications or of anything but; None for both."""
    offset: float = 0.0


_UREA = r"\b(bun|urea)\b"
_HEMOGLOBIN = r"\b(hemoglobin|hgb)\b"
_SHARE = r"\b(fio2|spo2|s[av]?o2|saturation|hematocrit|hct|percent|fraction|ef)\b"
_PRESSURE = r"\b(p[av]?c?o2|pressure|map|[sd]bp|cvp|icp|etco2|mmhg|kpa)\b"

# Concentrations: a substance of M g/mol has 1 mmol/L = M / 10 mg/dL. M from PubChem: glucose 180.16, creatinine
# 113.12, bilirubin 584.7, calcium 40.08, magnesium 24.305, phosphorus 30.974, lactic acid 90.08, urea 60.06 with
# 28.01 of nitrogen, hemoglobin as its monomer 16114. Lengths, weights and pressures: NIST SP 811, appendix B.
CONVERSIONS = (
    Conversion("glucose", 18.016, "mg/dL", "mmol/L", r"\bglucose\b", False),
    Conversion("creatinine", 88.42, "umol/L", "mg/dL", r"\bcreatinine\b", False),
    Conversion("bilirubin", 17.10, "umol/L", "mg/dL", r"\bbilirubin\b", False),
    Conversion("calcium", 4.008, "mg/dL", "mmol/L", r"\bcalcium\b", False),
    Conversion("magnesium", 2.431, "mg/dL", "mmol/L", r"\bmagnesium\b", False),
    Conversion("magnesium", 1.2153, "mg/dL", "mEq/L", r"\bmagnesium\b", False),
    Conversion("calcium", 2.004, "mg/dL", "mEq/L", r"\bcalcium\b", False),
    Conversion("phosphate", 3.097, "mg/dL", "mmol/L", r"\bphosph(ate|orus)\b", False),
    Conversion("urea", 2.801, "mg/dL of urea nitrogen", "mmol/L", _UREA, False),
    Conversion("urea", 2.144, "mg/dL of urea", "mg/dL of urea nitrogen", _UREA, False),
    Conversion("urea", 6.006, "mg/dL of urea", "mmol/L", _UREA, False),
    Conversion("lactate", 9.008, "mg/dL", "mmol/L", r"\blactate\b", False),
    Conversion("hemoglobin", 1.611, "g/dL", "mmol/L", _HEMOGLOBIN, False),
    Conversion("hemoglobin", 10.0, "g/L", "g/dL", _HEMOGLOBIN, False),
    Conversion("albumin and other proteins", 10.0, "g/L", "g/dL", r"\b(albumin|protein|mchc)\b", False),
    Conversion("C-reactive protein", 10.0, "mg/L", "mg/dL", r"\b(crp|c reactive)\b", False),
    Conversion("fibrinogen", 100.0, "mg/dL", "g/L", r"\bfibrinogen\b", False),
    Conversion("shares such as FiO2, SpO2, hematocrit", 100.0, "percent", "fraction", _SHARE, False),
    Conversion("pressures of blood and gases", 7.50062, "mmHg", "kPa", _PRESSURE, False),
    Conversion("temperature", 1.8, "Fahrenheit", "Celsius", r"\btemp(erature)?\b", False, offset=32.0),
    Conversion("weight", 2.20462, "lb", "kg", r"\bweight\b", False),
    Conversion("weight", 35.274, "oz", "kg", r"\bweight\b", False),
    Conversion("height", 2.54, "cm", "in", r"\bheight\b", False),
    Conversion("height", 100.0, "cm", "m", r"\bheight\b", False),
    Conversion("anything", 1000.0, "the smaller unit (mg for g, ng/L for ng/mL)", "the larger unit"),
    Conversion("rates", 60.0, "per hour", "per minute", r"\b(h|hr|hour|min|minute|flow|rate)\b", False),
    Conversion("medications", 60.0, "per hour", "per minute", None, True),
    Conversion("medications", 1000 / 60, "mcg/min", "mg/hr", None, True),
    Conversion("medications", PER_KG, "dose of a patient of about 80 kg", "dose per kg", None, True),
)


@dataclass(frozen=True)
class Suspicion:
    """What turns a train value into a site value: `site = factor * train + offset`."""

    train_unit: str
    site_unit: str
    factor: float
    offset: float
    distance: float
    """|ln(site median / converted train median)|."""


def find_conversion(words: str, train_median: float | None, site_median: float | None) -> Suspicion | None:
    """Return the conversion that brings the train median to the site's, or None.

    `words` are source, category and units. Of the conversions that fit them, in both directions, the
    nearest one counts, if |ln(site / converted)| is at most 0.3 and at most a fifth of |ln(train / converted)|:
    near a small factor such as 2.2 a difference of patients is easily mistaken for one of units, so it
    must be hit closely. Medians that are not above 0 have no ratio.
    """
    if train_median is None or site_median is None or not (train_median > 0 and site_median > 0):
        return None
    found = []
    for conversion in CONVERSIONS:
        if not _fits(conversion, words):
            continue
        for suspicion in _apply(conversion, train_median, site_median):
            converted = suspicion.factor * train_median + suspicion.offset
            limit = min(MAX_DISTANCE, NEARNESS * abs(math.log(train_median / converted)))
            if suspicion.distance <= limit:
                found.append(suspicion)
    return min(found, key=lambda suspicion: suspicion.distance, default=None)


def is_same_scale(train_median: float | None, site_median: float | None) -> bool:
    """Return whether two medians are so near each other that only the unit's name may differ."""
    if train_median is None or site_median is None or not (train_median > 0 and site_median > 0):
        return False
    return abs(math.log(site_median / train_median)) <= SAME_SCALE


def _fits(conversion: Conversion, words: str) -> bool:
    plain = re.sub(r"[^a-z0-9]+", " ", words.lower())
    is_medication = _MEDICATION.search(plain) is not None
    if conversion.is_medication not in (None, is_medication):
        return False
    return conversion.pattern is None or re.search(conversion.pattern, plain) is not None


def _apply(conversion: Conversion, train_median: float, site_median: float) -> list[Suspicion]:
    """Return the conversion from second to first and from first to second, where the result is above 0."""
    factor, offset = conversion.factor, conversion.offset
    directions = [
        (conversion.second, conversion.first, factor, offset),
        (conversion.first, conversion.second, 1 / factor, -offset / factor),
    ]
    return [
        Suspicion(train_unit, site_unit, slope, shift, abs(math.log(site_median / (slope * train_median + shift))))
        for train_unit, site_unit, slope, shift in directions
        if slope * train_median + shift > 0
    ]
