from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinrep.config import InputError
from clinrep.ehr import gaps

WORDS = [
    ("PAD", "special"), ("UNK", "special"), ("TL_START", "special"), ("TL_END", "special"),
    ("GAP_60m", "time"), ("GAP_240m", "time"),
    ("CLOCK_00", "time"), ("LAB", "labs"), ("Q0", "bin"), ("HOME", "discharge"),
]  # fmt: skip
IDS = {word: number for number, (word, _) in enumerate(WORDS)}
SETTINGS = {
    "gap_minutes": [60, 240],
    "static_tokens": [{"token": "TL_START"}],
    "discharge_tokens": [{"token": "HOME"}, {"token": "TL_END"}],
}
T0 = datetime(2150, 1, 1)


def make_part(*timelines: list[tuple[str, float]]) -> pl.DataFrame:
    """Return a part of table timelines; times are hours."""
    return pl.DataFrame(
        {
            "subject_id": [f"S{number}" for number in range(len(timelines))],
            "token_ids": [[IDS[word] for word, _ in timeline] for timeline in timelines],
            "times": [[T0 + timedelta(hours=hour) for _, hour in timeline] for timeline in timelines],
        },
        schema={"subject_id": pl.String, "token_ids": pl.List(pl.UInt32), "times": pl.List(pl.Datetime("us"))},
    )


def learn(monkeypatch, *parts: pl.DataFrame):
    monkeypatch.setattr(gaps, "iterate_table", lambda name, directory, split: iter(parts if split == "train" else []))
    vocabulary = pl.DataFrame(WORDS, schema=["token", "kind"], orient="row").with_row_index("token_id")
    is_end = np.array([word in ("HOME", "TL_END") for word, _ in WORDS])
    return gaps.learn_clock(Path("x"), vocabulary, SETTINGS, is_end, seed=0)


def get(clock, word: str) -> list[float]:
    kind = clock.class_of_token[IDS[word]]
    return clock.gaps[clock.offsets[kind] : clock.offsets[kind + 1]].tolist()


TIMELINE = [
    ("TL_START", 0), ("LAB", 0.25), ("Q0", 0.25), ("GAP_60m", 2.25), ("CLOCK_00", 2.25), ("LAB", 2.25), ("Q0", 2.25),
    ("LAB", 2.75), ("GAP_60m", 4.0), ("LAB", 4.0), ("HOME", 7.0), ("TL_END", 7.0),
]  # fmt: skip


def test_gaps_are_those_from_the_token_before_by_class(monkeypatch):
    """What follows a time token directly is not later than it and teaches nothing of its own class."""
    clock = learn(monkeypatch, make_part(TIMELINE, [("TL_START", 0), ("HOME", 30), ("TL_END", 30)]))
    assert get(clock, "GAP_60m") == [1.25, 2.0]
    assert get(clock, "HOME") == get(clock, "TL_END") == [3.0, 30.0]
    assert get(clock, "LAB") == [0.25, 0.5]
    assert get(clock, "Q0") == [0.0, 0.0]
    assert get(clock, "GAP_240m") == [4.0]  # never in train: what its name says
    assert get(clock, "CLOCK_00") == [0.0]  # always after a gap token here
    assert clock.is_time_token.tolist() == [kind == "time" for _, kind in WORDS]


def test_the_clock_of_a_timeline_runs_as_its_times_do(monkeypatch):
    """With one gap in each class, elapsed time is exact."""
    timeline = [
        ("TL_START", 0),
        ("GAP_60m", 2),
        ("LAB", 2),
        ("Q0", 2),
        ("GAP_60m", 4),
        ("LAB", 4),
        ("HOME", 9),
        ("TL_END", 9),
    ]
    clock = learn(monkeypatch, make_part(timeline))
    hours, is_after_time = 0.0, np.array([False])
    for word, hour in timeline[1:-1]:
        token = np.array([IDS[word]])
        hours += clock.draw(token, is_after_time, np.array([0.99]))[0]
        is_after_time = clock.is_time_token[token]
        assert hours == hour, word


def test_the_discharge_is_known_by_its_place_also_where_its_word_is_rare(monkeypatch):
    clock = learn(monkeypatch, make_part([("TL_START", 0), ("LAB", 1), ("UNK", 6), ("TL_END", 6)]))
    assert get(clock, "TL_END") == [5.0]
    assert get(clock, "UNK") == [0.0]  # so the end after it is as much later as a discharge is


def test_parts_count_alike_and_at_most_so_many_gaps_are_kept(monkeypatch):
    monkeypatch.setattr(gaps, "GAPS_PER_CLASS", 300)
    first = make_part(*[[("TL_START", 0), ("HOME", 1), ("TL_END", 1)]] * 2000)
    second = make_part(*[[("TL_START", 0), ("HOME", 2), ("TL_END", 2)]] * 1000)
    kept = get(learn(monkeypatch, first, second), "HOME")
    assert len(kept) == 300
    assert 150 < kept.count(1.0) < 250  # 200 expected


def test_train_without_events_is_refused(monkeypatch):
    with pytest.raises(InputError, match="no train timeline has an event"):
        learn(monkeypatch, make_part())
