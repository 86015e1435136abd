from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr.sequences import load_sequences
from tests.ehr.fake_timelines import NUM_STATIC, write_fake_tokenizer_run

ADMISSION = datetime(2150, 1, 2)
BINS = range(4, 14)  # ids of Q0 to Q9 in the fake vocabulary
FIRST = 14  # ids from here on are no bins


@pytest.fixture(scope="module")
def fake(tmp_path_factory) -> Path:
    return write_fake_tokenizer_run(tmp_path_factory.mktemp("fake") / "00", num_subjects=30, seed=3)


def cut_by_hand(directory: Path, max_length: int, truncation: str = "keep_latest") -> dict[str, list[int]]:
    """Return subject_id -> tokens, by a loop over rows and tokens."""
    rows = pl.concat([pl.read_parquet(path) for path in directory.glob("timelines/*/*.parquet")])
    outcomes = pl.read_parquet(directory / "outcomes.parquet")
    index_times = dict(zip(outcomes["subject_id"], outcomes["index_time"], strict=True))
    sequences = {}
    for subject_id, token_ids, times in rows.iter_rows():
        static, events = token_ids[:NUM_STATIC], []
        for token, time in zip(token_ids[NUM_STATIC:], times[NUM_STATIC:], strict=True):
            if time < index_times[subject_id]:
                events.append(token)
        room = max_length - NUM_STATIC
        if truncation == "keep_earliest":
            sequences[subject_id] = static + events[:room]
            continue
        left = events[-room:] if len(events) > room else events
        if len(events) > room and left[0] in BINS:  # its category was cut off
            left = left[1:]
        sequences[subject_id] = static + left
    return sequences


@pytest.mark.parametrize("truncation", ["keep_latest", "keep_earliest"])
@pytest.mark.parametrize("max_length", [256, 9, NUM_STATIC + 1])
def test_sequences_equal_a_loop_over_tokens(fake, max_length, truncation):
    sequences = load_sequences(str(fake), max_length, truncation=truncation)
    expected = cut_by_hand(fake, max_length, truncation)
    assert sequences.subjects["subject_id"].to_list() == sorted(expected)
    for row, subject_id in enumerate(sequences.subjects["subject_id"]):
        assert sequences.get(row).tolist() == expected[subject_id]
    assert max(sequences.lengths) <= max_length
    assert max(sequences.lengths) >= min(max_length, 64) - 1


def test_only_labelled_stays_come_with_an_outcome_and_labels_follow_ids(fake):
    sequences = load_sequences(str(fake), 64, "icu_admission")
    labels = pl.read_parquet(fake / "outcomes.parquet").filter(pl.col("outcome") == "icu_admission")
    expected = {row["subject_id"]: row["label"] for row in labels.iter_rows(named=True) if row["label"] is not None}
    found = dict(zip(sequences.subjects["subject_id"], sequences.labels.tolist(), strict=True))
    assert found == expected
    assert 0 < len(found) < 30
    splits = dict(pl.read_parquet(fake / "splits.parquet").select("subject_id", "split").iter_rows())
    assert all(splits[subject] == split for subject, split in sequences.subjects.select("subject_id", "split").rows())


def write_one_stay(directory: Path, minutes: list[float], is_end_closed: bool) -> Path:
    """One stay whose event tokens 10, 11, ... lie `minutes` after admission; index_time is admission + 24 h."""
    write_fake_tokenizer_run(directory, num_subjects=10)
    times = [ADMISSION + timedelta(minutes=offset) for offset in [0.0] * NUM_STATIC + minutes]
    frame = pl.DataFrame(
        {"subject_id": ["H"], "token_ids": [list(range(FIRST, FIRST + len(times)))], "times": [times]},
        schema_overrides={"token_ids": pl.List(pl.UInt32)},
    )
    for path in directory.glob("timelines/*/*.parquet"):
        path.unlink()
    artifacts.write_table("timelines", frame, directory, "train")
    outcome = {"subject_id": "H", "outcome": "imv_event", "index_time": ADMISSION + timedelta(hours=24)}
    outcome |= {"label": True, "event_time": None, "excluded_reason": None}
    types = {"event_time": pl.Datetime("us"), "excluded_reason": pl.String}
    artifacts.write_table("outcomes", pl.DataFrame([outcome], schema_overrides=types), directory)
    split = pl.DataFrame({"patient_id": ["P"], "subject_id": ["H"], "split": ["train"]})
    artifacts.write_table("splits", split, directory)
    settings = yaml.safe_load((directory / "config.yaml").read_text())
    settings["window"]["is_end_closed"] = is_end_closed
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))
    return directory


@pytest.mark.parametrize(("is_end_closed", "num_events"), [(False, 2), (True, 3)])
def test_the_window_keeps_what_precedes_admission_and_is_half_open(tmp_path, is_end_closed, num_events):
    day = 24 * 60
    directory = write_one_stay(tmp_path, [-600, day - 1e-3, day, day + 1e-3], is_end_closed)
    sequences = load_sequences(str(directory), 64)
    assert sequences.get(0).tolist() == list(range(FIRST, FIRST + NUM_STATIC + num_events))


def test_a_stay_without_events_has_its_static_tokens(tmp_path):
    sequences = load_sequences(str(write_one_stay(tmp_path, [], False)), 64)
    assert sequences.get(0).tolist() == list(range(FIRST, FIRST + NUM_STATIC))


def test_static_tokens_are_kept_even_when_stamped_after_index_time(tmp_path):
    """The manuscript's clock starts at the first event, which may be more than a day before admission."""
    directory = write_one_stay(tmp_path, [-2000, -1], False)
    outcomes = artifacts.read_table("outcomes", directory)
    early = outcomes.with_columns(index_time=pl.lit(ADMISSION - timedelta(minutes=560)).cast(pl.Datetime("us")))
    artifacts.write_table("outcomes", early, directory)
    sequences = load_sequences(str(directory), 64)
    assert sequences.get(0).tolist() == list(range(FIRST, FIRST + NUM_STATIC + 1))


def test_truncation_keeps_static_tokens_and_the_most_recent_events(tmp_path):
    sequences = load_sequences(str(write_one_stay(tmp_path, [1, 2, 3, 4], False)), NUM_STATIC + 2)
    assert sequences.get(0).tolist() == [
        *range(FIRST, FIRST + NUM_STATIC),
        FIRST + NUM_STATIC + 2,
        FIRST + NUM_STATIC + 3,
    ]


def test_no_room_for_events_is_refused(fake):
    with pytest.raises(InputError, match=f"max_length is {NUM_STATIC} but the static tokens alone are {NUM_STATIC}"):
        load_sequences(str(fake), NUM_STATIC)


def test_an_unknown_outcome_is_refused(fake):
    with pytest.raises(InputError, match=r"unknown outcome .*'icu'; known: icu_admission, imv_event"):
        load_sequences(str(fake), 64, "icu")


def test_a_stay_with_an_outcome_and_no_timeline_is_refused(tmp_path):
    directory = write_one_stay(tmp_path, [1], False)
    frame = artifacts.read_table("timelines", directory, "train")
    artifacts.write_table("timelines", frame[:0], directory, "train")
    with pytest.raises(InputError, match="1 stays with outcomes have no timeline"):
        load_sequences(str(directory), 64)


def test_every_token_keeps_its_time(fake):
    sequences = load_sequences(str(fake), 64)
    rows = pl.concat([pl.read_parquet(path) for path in fake.glob("timelines/*/*.parquet")])
    times = dict(rows.select("subject_id", "times").iter_rows())
    outcomes = pl.read_parquet(fake / "outcomes.parquet")
    index_times = dict(zip(outcomes["subject_id"], outcomes["index_time"], strict=True))
    for row, subject_id in enumerate(sequences.subjects["subject_id"]):
        whole = times[subject_id]
        seen = whole[:NUM_STATIC] + [time for time in whole[NUM_STATIC:] if time < index_times[subject_id]]
        found = sequences.get_times(row).tolist()
        assert found[:NUM_STATIC] == whole[:NUM_STATIC]
        assert len(found) == len(sequences.get(row))
        assert found[NUM_STATIC:] == seen[len(seen) - len(found) :][NUM_STATIC:]


def test_a_stay_without_any_token_is_left_out_and_counted(tmp_path, caplog):
    directory = write_one_stay(tmp_path, [1], False)
    frame = artifacts.read_table("timelines", directory, "train")
    empty = frame.with_columns(
        subject_id=pl.lit("E"), token_ids=pl.col("token_ids").list.head(0), times=pl.col("times").list.head(0)
    )
    artifacts.write_table("timelines", empty, directory, "train", 1)
    for name in ("outcomes", "splits"):
        table = artifacts.read_table(name, directory)
        artifacts.write_table(name, pl.concat([table, table.with_columns(subject_id=pl.lit("E"))]), directory)
    with caplog.at_level("WARNING", logger="clinrep"):
        sequences = load_sequences(str(directory), 64)
    assert sequences.subjects["subject_id"].to_list() == ["H"]
    assert "1 of 2 stays have no token before index_time: left out" in caplog.text


def test_selecting_rows_keeps_tokens_with_their_subjects(fake):
    sequences = load_sequences(str(fake), 64)
    picked = sequences.take(pl.Series([7, 2, 19]).to_numpy())
    for row, origin in enumerate([7, 2, 19]):
        assert picked.subjects.row(row) == sequences.subjects.row(origin)
        assert picked.get(row).tolist() == sequences.get(origin).tolist()
        assert picked.get_times(row).tolist() == sequences.get_times(origin).tolist()
    assert sum(len(sequences.select(split)) for split in artifacts.SPLITS) == len(sequences)
