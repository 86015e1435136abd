"""Order of events, stamps at both ends, and stays with nothing between."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinrep.ehr.configs.tokenize import EdgeToken
from clinrep.ehr.timelines import build_timelines, sort_events
from tests.ehr.tiny_clif import ADT, LABS, PRONE, at, make_config, make_stays, tokenize_tiny


def test_static_tokens_lead_and_discharge_ends(tmp_path: Path):
    result = tokenize_tiny(tmp_path / "a", adt=[{"in_dttm": at(1)}], labs=[{"lab_result_dttm": at(2)}])
    assert list(zip(*result.timelines["H1"], strict=True)) == [
        ("TL_START", at(0)),
        ("SEX_female", at(0)),
        ("ADT_ward", at(1)),
        ("LAB_sodium", at(2)),
        ("Q9", at(2)),
        ("DISCHARGE_home", at(72)),
        ("TL_END", at(72)),
    ]


@pytest.mark.parametrize(
    ("hours", "first", "last"),
    [([-3.5, 10], -3.5, 72), ([10, 80], 0, 80), ([-1, 73], -1, 73), ([0, 72], 0, 72), ([], 0, 72), ([100], 0, 100)],
)
def test_stamps_are_the_earlier_of_admission_and_the_later_of_discharge(
    tmp_path: Path, hours: list[float], first: float, last: float
):
    result = tokenize_tiny(tmp_path / "a", adt=[{"in_dttm": at(hour)} for hour in hours])
    times = result.times()
    assert times[:2] == [at(first)] * 2
    assert times[-2:] == [at(last)] * 2
    assert times[2:-2] == [at(hour) for hour in hours]
    assert times == sorted(times)
    assert result.subjects["H1"]["start"] == at(0)  # length of stay keeps admission and discharge
    assert result.subjects["H1"]["length_of_stay_hours"] == 72.0


def test_stays_without_events_stand_among_others(tmp_path: Path):
    rows = [{"hospitalization_id": subject, "in_dttm": at(30 + i)} for i, subject in enumerate(["H03", "H01", "H03"])]
    result = tokenize_tiny(tmp_path / "a", hospitalization=make_stays(5), adt=rows)
    assert {subject: len(result.tokens(subject)) for subject in result.timelines} == {
        **dict.fromkeys(["H00", "H02", "H04"], 4),
        "H01": 5,
        "H03": 6,
    }
    assert result.times("H02") == [at(48), at(48), at(120), at(120)]
    assert result.times("H01")[0] == at(24)
    assert result.times("H03")[0] == at(30)


def test_no_event_at_all(tmp_path: Path):
    assert tokenize_tiny(tmp_path / "a").tokens() == ["TL_START", "SEX_female", "DISCHARGE_home", "TL_END"]


def test_no_discharge_tokens(tmp_path: Path):
    settings = {"static_tokens": [EdgeToken(token="TL_START")], "discharge_tokens": []}
    result = tokenize_tiny(tmp_path / "a", settings, adt=[{"in_dttm": at(2)}, {"in_dttm": at(1)}])
    assert result.timelines["H1"] == (["TL_START", "ADT_ward", "ADT_ward"], [at(0), at(1), at(2)])


def test_no_static_token_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"static_tokens is .* but must hold at least one token"):
        make_config(tmp_path, static_tokens=[])


def test_simultaneous_events_stand_in_source_then_vocabulary_order(tmp_path: Path):
    # The time decides first, then the source, though its words sort the other way; then the word; then the value.
    sources = [replace(PRONE, token="ZZZ"), replace(LABS, token="B_{category}"), replace(ADT, token="A_{category}")]
    labs = [
        {"lab_category": "x", "lab_value_numeric": 3.0},
        {"lab_category": "x", "lab_value_numeric": None},
        {"lab_category": "b", "lab_value_numeric": 1.0},
        {"lab_category": "x", "lab_value_numeric": 1.0},
        {"lab_category": "y", "lab_result_dttm": at(0, -1)},
    ]
    adt = [{"location_category": "ward"}, {"location_category": "icu"}]
    expected = ["B_y", "Q1", "ZZZ", "B_b", "Q1", "B_x", "Q0", "B_x", "Q1", "B_x", "MISSING_VALUE", "A_icu", "A_ward"]
    for i, (lab_rows, adt_rows) in enumerate(
        itertools.product([labs, labs[::-1], labs[2:] + labs[:2]], [adt, adt[::-1]])
    ):
        tables = {"labs": lab_rows, "adt": adt_rows, "position": [{}]}
        assert tokenize_tiny(tmp_path / str(i), {"sources": sources, "num_bins": 2}, **tables).events() == expected


def test_microseconds_decide(tmp_path: Path):
    rows = [{"location_category": c, "in_dttm": at(1, us)} for c, us in (("c", 0), ("b", 1), ("a", 2))]
    result = tokenize_tiny(tmp_path / "a", adt=rows[::-1])
    assert result.events() == ["ADT_c", "ADT_b", "ADT_a"]
    assert result.times()[2:-2] == [at(1, us) for us in (0, 1, 2)]


def test_one_time_in_three_zones_is_one_instant(tmp_path: Path):
    types = {"labs": {"lab_result_dttm": pl.Datetime("ns", "America/Chicago")}, "adt": {"in_dttm": pl.Datetime("ms")}}
    result = tokenize_tiny(tmp_path / "a", adt=[{"in_dttm": at(6)}], labs=[{"lab_result_dttm": at(6)}], types=types)
    # Naive is UTC; the lab's clock shows what Chicago shows: polars takes naive input as UTC.
    assert result.times()[2:-2] == [at(6)] * 3


def test_building_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    num_stays, num_events = 40, 500
    stays = pl.DataFrame(
        {
            "stay": pl.Series(np.sort(rng.choice(90, num_stays, replace=False)), dtype=pl.UInt32),
            "subject_id": [f"S{i}" for i in range(num_stays)],
            "admission_dttm": [at(int(h)) for h in rng.integers(-50, 50, num_stays)],
            "discharge_dttm": [at(int(h)) for h in rng.integers(50, 150, num_stays)],
        }
    )
    has_value = rng.random(num_events) < 0.6
    events = pl.DataFrame(
        {
            "stay": pl.Series(rng.choice(stays["stay"].to_numpy()[::2], num_events), dtype=pl.UInt32),
            "time": [at(int(h)) for h in rng.integers(-60, 160, num_events)],
            "source": pl.Series(rng.integers(0, 3, num_events), dtype=pl.UInt16),
            "token_id": pl.Series(rng.integers(0, 9, num_events), dtype=pl.UInt32),
            "value_token_id": pl.Series(
                np.where(has_value, rng.integers(20, 24, num_events), None).tolist(), dtype=pl.UInt32
            ),
        }
    )
    static = rng.integers(100, 200, (num_stays, 3)).astype(np.uint32)
    discharge = rng.integers(200, 300, (num_stays, 2)).astype(np.uint32)
    made = build_timelines(sort_events(events), stays, static, discharge)
    assert made["subject_id"].to_list() == stays["subject_id"].to_list()
    for i, (stay, _, admission, discharged) in enumerate(stays.iter_rows()):
        mine = sorted(
            (t, s, k, -1 if v is None else v) for t, s, k, v in (r[1:] for r in events.rows() if r[0] == stay)
        )
        first, last = min([admission, *[e[0] for e in mine]]), max([discharged, *[e[0] for e in mine]])
        pairs = [(int(k), first) for k in static[i]]
        for time, _, token, value in mine:
            pairs += [(token, time)] + ([(value, time)] if value >= 0 else [])
        pairs += [(int(k), last) for k in discharge[i]]
        assert list(zip(made["token_ids"][i], made["times"][i], strict=True)) == pairs


def test_every_event_is_in_exactly_one_timeline(tmp_path: Path):
    rng = np.random.default_rng(5)
    subjects = [f"H{i:02d}" for i in rng.integers(0, 6, 200)]
    rows = [
        {"hospitalization_id": s, "in_dttm": at(float(h))}
        for s, h in zip(subjects, rng.uniform(-9, 300, 200), strict=True)
    ]
    result = tokenize_tiny(tmp_path / "a", hospitalization=make_stays(6), adt=rows)
    assert {s: len(result.events(s)) for s in result.timelines} == dict(Counter(subjects))
