"""Medians a known conversion apart, and medians that only look so."""

from __future__ import annotations

import re

import pytest

from clinrep.ehr.site_report.units import CONVERSIONS, find_conversion


@pytest.mark.parametrize(
    ("category", "train", "site", "expected"),
    [
        ("LAB_glucose_serum", 125, 7.4, "mg/dL -> mmol/L"),
        ("LAB_glucose_serum", 6.6, 140, "mmol/L -> mg/dL"),
        ("LAB_creatinine", 1.0, 95, "mg/dL -> umol/L"),
        ("LAB_bun", 18, 6.9, "mg/dL of urea nitrogen -> mmol/L"),
        ("LAB_bun", 18, 38.5, "mg/dL of urea nitrogen -> mg/dL of urea"),
        ("LAB_calcium_ionized", 4.6, 1.15, "mg/dL -> mmol/L"),
        ("VITAL_temp_c", 36.9, 98.6, "Celsius -> Fahrenheit"),
        ("VITAL_temp_c", 98.4, 37.0, "Fahrenheit -> Celsius"),
        ("VITAL_weight_kg", 80, 178, "kg -> lb"),
        ("RESP_fio2", 0.4, 45, "fraction -> percent"),
        ("LAB_po2_arterial", 95, 12.5, "mmHg -> kPa"),
        ("medications MED_nicardipine", 5, 84, "mg/hr -> mcg/min"),
        ("LAB_glucose_serum", 110, 165, None),  # sicker patients, not another unit
        ("VITAL_temp_c", 36.9, 38.4, None),
        ("LAB_creatinine", 1.0, 18, None),  # glucose's factor
        ("MED_calcium_chloride", 1.0, 4.0, None),  # a laboratory's factor
        ("VITAL_weight_kg", 80, 140, None),  # between kg and lb
        ("VITAL_sbp", 0.0, 120, None),
        ("LAB_base_excess", -2.0, -20, None),
    ],
)
def test_conversions(category: str, train: float, site: float, expected: str | None):
    found = find_conversion(category, train, site)
    assert (f"{found.train_unit} -> {found.site_unit}" if found else None) == expected
    if found:
        assert found.factor * train + found.offset == pytest.approx(site, rel=0.35)


def test_every_conversion_is_found_exactly_and_undone():
    for one in CONVERSIONS:
        assert one.factor > 1
        words = {"rates": "flow", "weight": "weight", "urea": "bun", "medications": "medications"}.get(one.topic)
        words = words or re.sub(r"\\b|\(|\).*|\[.*?\]\?|\?", "", one.pattern or "x").split("|")[0]
        for train, site in ((50, one.factor * 50 + one.offset), (one.factor * 50 + one.offset, 50)):
            found = find_conversion(words, train, site)
            assert found is not None, one
            assert found.distance < 1e-9, one
