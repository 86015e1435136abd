"""Order of events, stamps at both ends, and stays with nothing between."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinrep.ehr.configs.sources import EdgeToken
from clinrep.ehr.store import NO_TIME, UNTIMED, Events
from clinrep.ehr.timelines import Binning, Stays, TimeTokens, build_timelines, select_events
from clinrep.ehr.vocabulary import Encoder
from tests.ehr.tiny_clif import ADT, LABS, PRONE, make_config, make_stays, tokenize_tiny
from tests.ehr.tiny_tables import at

SECOND = 1_000_000
HOUR = 3600 * SECOND
NO_TOKENS = TimeTokens(np.empty(0), np.empty(0), np.empty(0), 0, 0.0)


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


NUM_SLOTS = (1, 4)  # of a code without and with numbers: bins Q0 and Q1, missing, unknown


def make_stays_of(rng: np.random.Generator, num: int, first: np.ndarray, last: np.ndarray) -> Stays:
    rows = np.sort(rng.choice(90, num, replace=False)).astype(np.int64)
    static, discharge = (rng.integers(low, low + 100, (num, size)) for low, size in ((100, 3), (200, 2)))
    names = pl.Series([f"S{i}" for i in range(num)])
    return Stays(rows, names, first, last, static.astype(np.uint32), discharge.astype(np.uint32))


NUM_CODES, NUM_RANKS, NUM_STAYS = 9, 12, 40
IS_NUMBER = np.arange(NUM_CODES) % 2 == 1
SIZES = np.array(NUM_SLOTS)[IS_NUMBER.astype(int)]
BASE = np.cumsum(SIZES) - SIZES
# A group with an edge, and one without.
BINNING = Binning(np.where(IS_NUMBER, np.arange(NUM_CODES) // 2 % 2, -1), np.array([[1.0], [np.nan]]))


def find_slot(code: int, value: float) -> int:
    if not IS_NUMBER[code]:
        return int(BASE[code])
    if not np.isfinite(value):
        return int(BASE[code]) + 2
    return int(BASE[code]) + (3 if BINNING.group_of_code[code] == 1 else int(value >= 1.0))


def draw_events(rng: np.random.Generator, unit: int, num: int = 500) -> Events:
    time = rng.integers(-60, 160, num) * HOUR + rng.integers(0, 3, num) * unit
    time[rng.random(num) < 0.1] = NO_TIME
    time[rng.random(num) < 0.1] = UNTIMED
    stay, code = (rng.integers(0, high, num).astype(np.uint32) for high in (90, NUM_CODES))
    return Events(stay, time, code, rng.choice([0.0, 1.0, 2.0, np.nan, np.inf], num))


def build_plainly(events: Events, stays: Stays, encoder: Encoder, i: int) -> list[tuple[int, int]]:
    """Return the tokens of the i-th stay with their times."""
    mine = []
    for stay, time, code, value in zip(events.stay, events.time, events.code, events.value, strict=True):
        if stay == stays.row[i] and time != UNTIMED:
            moment = stays.last[i] if time == NO_TIME else time
            mine.append((int(moment), int(encoder.rank[find_slot(int(code), value)])))
    pairs = [(int(k), int(stays.first[i])) for k in stays.static_ids[i]]
    for moment, rank in sorted(mine):
        tokens = [int(encoder.token_id[rank]), int(encoder.value_token_id[rank])]
        pairs += [(token, moment) for token in tokens if token >= 0]
    return pairs + [(int(k), int(stays.last[i])) for k in stays.discharge_ids[i]]


@pytest.mark.parametrize(
    ("unit", "is_far", "is_sorted_by_columns"),
    [(SECOND, False, False), (1, False, False), (SECOND, True, False), (1, True, True)],
)
def test_building_equals_a_plain_loop(
    monkeypatch: pytest.MonkeyPatch, unit: int, is_far: bool, is_sorted_by_columns: bool
):
    """Whole seconds and microseconds fit one integer with stay and rank; microseconds over centuries do not."""
    rng = np.random.default_rng(0)
    first, last = (rng.integers(*span, NUM_STAYS) * HOUR for span in ((-50, 50), (50, 150)))
    stays = make_stays_of(rng, NUM_STAYS, first, last)
    events = draw_events(rng, unit)
    events.stay[0], events.time[0] = stays.row[0], -is_far * 400 * 366 * 24 * HOUR
    encoder = Encoder(
        base=BASE,
        rank=rng.integers(0, NUM_RANKS, SIZES.sum()),
        token_id=rng.integers(0, 9, NUM_RANKS).astype(np.uint32),
        value_token_id=np.where(rng.random(NUM_RANKS) < 0.6, rng.integers(20, 24, NUM_RANKS), -1),
    )
    calls = []
    lexsort = np.lexsort
    monkeypatch.setattr(np, "lexsort", lambda keys: calls.append(1) or lexsort(keys))
    made = build_timelines(select_events(events, stays), stays, encoder, BINNING, NO_TOKENS).to_frame()
    assert bool(calls) == is_sorted_by_columns
    assert made["subject_id"].to_list() == stays.subject_id.to_list()
    for i in range(NUM_STAYS):
        times = made["times"][i].to_physical().to_list()
        assert list(zip(made["token_ids"][i], times, strict=True)) == build_plainly(events, stays, encoder, i)


def test_a_shard_without_stays_or_events_gives_empty_timelines():
    none = np.empty(0, dtype=np.int64)
    empty = Events(none.astype(np.uint32), none, none.astype(np.uint32), none.astype(float))
    encoder = Encoder(none, none, none.astype(np.uint32), none)
    rng = np.random.default_rng(0)
    for num, length in ((0, 0), (2, 5)):
        stays = make_stays_of(rng, num, np.zeros(num, dtype=np.int64), np.ones(num, dtype=np.int64))
        binning = Binning(none, np.empty((0, 1)))
        made = build_timelines(select_events(empty, stays), stays, encoder, binning, NO_TOKENS).to_frame()
        assert made["token_ids"].list.len().to_list() == [length] * num
    one = Events(np.zeros(1, dtype=np.uint32), np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.uint32), np.zeros(1))
    assert len(select_events(one, make_stays_of(rng, 0, none, none))) == 0


def test_every_event_is_in_exactly_one_timeline(tmp_path: Path):
    rng = np.random.default_rng(5)
    subjects = [f"H{i:02d}" for i in rng.integers(0, 6, 200)]
    rows = [
        {"hospitalization_id": s, "in_dttm": at(float(h))}
        for s, h in zip(subjects, rng.uniform(-9, 300, 200), strict=True)
    ]
    result = tokenize_tiny(tmp_path / "a", hospitalization=make_stays(6), adt=rows)
    assert {s: len(result.events(s)) for s in result.timelines} == dict(Counter(subjects))
