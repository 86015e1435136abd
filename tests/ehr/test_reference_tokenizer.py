"""The guard of the guard: the independent reference against the facts published of it and of the sample.

clif_data.md A3, A4 and A7; manuscript.md sections 0 and 4.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.ehr.reference_tokenizer import DAY, HOUR, Reference, count_first_day
from tests.scripts import ROOT

SAMPLE = ROOT / "sample_data" / "clif_demo"
LITERALS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(SAMPLE)


def describe(lengths: list[int]) -> list[float]:
    """Return number, least, median, 95th percentile (to the nearest) and greatest."""
    p95 = np.percentile(lengths, 95, method="nearest")
    return [len(lengths), min(lengths), np.median(lengths), p95, max(lengths)]


def test_reference_has_the_published_lengths(reference: Reference):
    assert describe([len(tokens) for tokens in reference.whole.values()]) == [275, 10, 411, 5649, 14304]
    assert describe([len(tokens) for tokens in reference.timelines.values()]) == [245, 10, 579, 6348, 14304]
    cut = [num for num in reference.num_first_day.values() if num is not None]
    assert describe(cut) == [244, 6, 81, 750, 1055]
    assert round(np.mean(cut)) == 242
    events = [event for event in reference.rows if event.words != ("prone",)]
    assert len(events) == 174_485 - 78  # A7 counts the 78 assessments without any value, too


def test_reference_has_the_published_splits_and_edges(reference: Reference):
    patients = Counter(split for _, split in set(reference.splits.values()))
    assert patients == {"train": 70, "val": 10, "test": 20}
    assert len(reference.aux) == 94
    arrays = {key: np.array([np.nan if v is None else v for v in vs]) for key, vs in reference.train_values.items()}
    with_literals = {key: np.nanquantile(array, LITERALS).tolist() for key, array in arrays.items()}
    assert sum(with_literals[key] != edges for key, edges in reference.aux.items()) == 22
    # D12 counts 44 of the 105 categories of the 310-stay edition; here:
    assert sum(len(set(edges)) < 9 for edges in reference.aux.values()) == 31
    assert reference.aux["MED_sodium bicarbonate"] == [0.0] * 9
    assert reference.aux["ASMT_gcs_total"][2:] == [15.0] * 7


def test_reference_has_the_published_labels(reference: Reference):
    labels = reference.labels.values()
    totals = {field: sum(getattr(row, field) or 0 for row in labels) for field in next(iter(labels))._fields}
    # A4's 101 ICU stays with the clock at the earliest event are of the 310-stay edition (105 from admission).
    assert totals == {
        "same_admission_death": 14,
        "long_length_of_stay": 91,
        "is_long_by_events": 91,
        "is_long_by_discharge": 91,
        "icu_admission": 127,
        "imv_event": 56,
        "icu_admission_24h": 96,
        "imv_event_24h": 37,
    }
    seen = [
        any(word == "icu" and time <= reference.stays[subject].admission + DAY for word, time in tokens)
        for subject, tokens in reference.timelines.items()
    ]
    assert sum(seen) == 100


def test_reference_drops_the_stay_with_a_long_lead(reference: Reference):
    (subject,) = [subject for subject, num in reference.num_first_day.items() if num is None]
    earliest = min(time for _, time in reference.timelines[subject])
    assert round((reference.spans[subject][0] - earliest) / HOUR, 1) == 24.2


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        ([0, 0, 1, 24, 25, 30, 30], 4),  # the end is closed
        ([0, 0, 24, 24], 4),  # exactly a day: discharge stays
        ([0, 0, 30, 24, 24], 2),  # ... unless something follows it
        ([2, 2, -3, 5, 21, 22, 30], 5),  # the clock starts at the earliest event
        ([0, 0, -24, 3, 24, 24], 3),
        ([0, 0, -24.5, 3, 24, 24], None),  # no token is seen: read as all, and dropped for its span
    ],
)
def test_cut_of_the_first_day(hours: list[float], expected: int | None):
    assert count_first_day([round(hour * HOUR) for hour in hours]) == expected
