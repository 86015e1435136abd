"""What must be equal between a run of the manuscript config and the reference re-implementation."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime, timedelta

import numpy as np

from tests.ehr.reference_tokenizer import DAY, SEEDED, Reference
from tests.ehr.tiny_clif import Result

DEATH, LONG, ICU, IMV = "in_hospital_death", "long_length_of_stay", "icu_admission", "imv_event"
NUM_PREFIX, NUM_SUFFIX = 6, 2


def to_ms(time: datetime) -> int:
    return (time - datetime(1970, 1, 1)) // timedelta(milliseconds=1)


def name(word: str | None) -> str:
    return "None" if word is None else word


def find_first_after(times: list[datetime], index_time: datetime) -> int:
    """Return how many tokens stand before the first one after index_time (the window's end is closed)."""
    return next((i for i, time in enumerate(times) if time > index_time), len(times))


def check_edges(result: Result, reference: Reference) -> None:
    """Equal keys and bits; a key without a finite train value has no row (DESIGN section 3)."""
    finite = {
        key: edges
        for key, edges in reference.aux.items()
        if any(value is not None and math.isfinite(value) for value in reference.train_values[key])
    }
    assert result.quantiles.keys() == {(key, None) for key in finite}
    for key, edges in finite.items():
        assert np.array_equal(result.quantiles[key, None][1], edges, equal_nan=True), key


def check_words(result: Result, reference: Reference) -> None:
    ours = {token for token, _, _ in result.vocabulary}
    assert len(ours) == len(result.vocabulary)
    seeded = {name(word) for word in SEEDED}
    assert ours - seeded == {name(word) for word in reference.known} - seeded
    assert seeded - {"TRUNC"} <= ours


def check_timelines(result: Result, reference: Reference) -> None:
    """Prefix and suffix in order; between them the same words at the same times, in order of time."""
    assert result.timelines.keys() == reference.timelines.keys()
    assert result.subjects.keys() == reference.timelines.keys()
    for subject, (words, times) in result.timelines.items():
        ours = list(zip(words, map(to_ms, times), strict=True))
        theirs = [(name(word), time) for word, time in reference.timelines[subject]]
        assert ours[:NUM_PREFIX] == theirs[:NUM_PREFIX], subject
        assert ours[-NUM_SUFFIX:] == theirs[-NUM_SUFFIX:], subject
        middle = ours[NUM_PREFIX:-NUM_SUFFIX]
        assert [time for _, time in middle] == sorted(time for _, time in middle), subject
        assert Counter(middle) == Counter(theirs[NUM_PREFIX:-NUM_SUFFIX]), subject


def check_cuts(result: Result, reference: Reference) -> None:
    """The same first 24 h; a stay that the reference drops there has no label."""
    for subject, num_kept in reference.num_first_day.items():
        words, times = result.timelines[subject]
        rows = [row for (stay, _), row in result.outcomes.items() if stay == subject]
        assert len(rows) == 4
        (index_time,) = {row[0] for row in rows}
        assert to_ms(index_time) == min(time for _, time in reference.timelines[subject]) + DAY
        if num_kept is None:
            assert [row[1] for row in rows] == [None] * 4, subject
            continue
        num_ours = find_first_after(times, index_time)
        theirs = Counter((name(word), time) for word, time in reference.timelines[subject][:num_kept])
        assert Counter(zip(words[:num_ours], map(to_ms, times[:num_ours]), strict=True)) == theirs, subject


def expect_labels(reference: Reference, subject: str, index_ms: int) -> dict[str, bool | None]:
    """Return the reference's labels as ours: null once the event, or the end of the stay, is seen.

    Left out: a word that train lacks (the reference cannot see that outcome, D10), an unknown discharge.
    """
    stay, labels = reference.stays[subject], reference.labels[subject]
    is_over = reference.num_first_day[subject] is None or (stay.discharge is not None and stay.discharge <= index_ms)
    expected: dict[str, bool | None] = {LONG: labels.is_long_by_discharge}
    if "expired" in reference.known:
        expected[DEATH] = labels.same_admission_death if stay.discharge_category is not None else None
    if "icu" in reference.known:
        expected[ICU] = None if labels.icu_admission_24h else labels.icu_admission
    if "imv" in reference.known:
        expected[IMV] = None if labels.imv_event_24h else labels.imv_event
    if stay.discharge is None and not is_over:
        expected.pop(LONG), expected.pop(DEATH, None)
    return dict.fromkeys(expected, None) if is_over else expected


def check_labels(result: Result, reference: Reference) -> None:
    undated = {e.subject for e in reference.rows if e.time is None and {"icu", "imv"} & set(e.words)}
    for subject in reference.timelines:
        index_ms = to_ms(result.outcomes[subject, ICU][0])
        for outcome, expected in expect_labels(reference, subject, index_ms).items():
            found = result.label(outcome, subject)
            is_undated = found is None and outcome in (ICU, IMV) and subject in undated
            assert found is expected or is_undated, (subject, outcome)


def check_equal(result: Result, reference: Reference) -> None:
    assert result.splits == reference.splits
    check_edges(result, reference)
    check_words(result, reference)
    check_timelines(result, reference)
    check_cuts(result, reference)
    check_labels(result, reference)
