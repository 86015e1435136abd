"""Features of the baselines against loops over plain lists, and what is refused."""

import itertools
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr import baselines
from clinrep.ehr.baselines import count_events, find_last_values, read_stay_inputs
from clinrep.sequences import Sequences
from tests.ehr.fake_timelines import START, write_fake_tokenizer_run

ROOT = Path(__file__).parents[2]
NAMES = ["event_counts", "last_values"]


@pytest.fixture(scope="module")
def timelines(tmp_path_factory):
    return write_fake_tokenizer_run(tmp_path_factory.mktemp("site") / "00", num_subjects=30, seed=4)


@pytest.fixture(scope="module")
def inputs(timelines):
    return read_stay_inputs({"here": str(timelines)}, NAMES)["here"]


def read_windows(directory):
    """Return the words of each stay before index_time, by a loop."""
    words = artifacts.read_table("vocabulary", directory)["token"].to_list()
    outcomes = artifacts.read_table("outcomes", directory)
    index_times = dict(outcomes.select("subject_id", "index_time").iter_rows())
    windows = {}
    for split in artifacts.SPLITS:
        for subject_id, tokens, times in artifacts.read_table("timelines", directory, split).iter_rows():
            seen = [time < index_times[subject_id] for time in times]
            windows[subject_id] = [words[token] for token, is_in in zip(tokens, seen, strict=True) if is_in]
    return windows


def row_of(inputs, name, subject_id):
    features = inputs.features[name]
    values = features.values[inputs.find_rows(pl.Series([subject_id]))].toarray()[0]
    return {word: value for word, value in zip(features.names, values, strict=True) if value}


def test_counts_are_those_of_the_window_and_nothing_after_it(timelines, inputs):
    for subject_id, words in read_windows(timelines).items():
        expected = {word: np.log1p(words.count(word)) for word in set(words)}
        assert row_of(inputs, "event_counts", subject_id) == pytest.approx(expected)
        assert inputs.num_tokens[inputs.find_rows(pl.Series([subject_id]))].item() == len(words)


def test_last_values_are_the_last_of_the_window(timelines, inputs):
    statics = {"SEX_female", "SEX_male", "RACE_white", "RACE_other", "AGE"}
    num_changed = 0
    for subject_id, words in read_windows(timelines).items():
        pairs = [(a, b) for a, b in itertools.pairwise(words) if b.startswith("Q")]
        last = dict(pairs)
        num_changed += len(pairs) > len(last)
        expected = {f"{name} {value}" for name, value in last.items()} | last.keys() | (statics & set(words))
        found = row_of(inputs, "last_values", subject_id)
        assert found.keys() == expected
        assert set(found.values()) == {1.0}
    assert num_changed > 5, "values must repeat for the last to matter"


def test_fused_tokens_have_the_same_last_values():
    """LAB_a_Q1, LAB_b_Q0, LAB_a_Q2, LAB_b_Q0 again and a token without a value."""
    vocabulary = pl.DataFrame(
        {
            "token_id": range(6),
            "token": ["LAB_a_Q1", "LAB_a_Q2", "LAB_b_Q0", "ADT_icu", "SEX_male", "LAB_a_Q0"],
            "kind": ["labs", "labs", "labs", "adt", "static", "labs"],
        }
    )
    tokens = np.array([4, 0, 2, 1, 3, 2, 4, 2], dtype=np.uint32)
    sequences = Sequences(pl.DataFrame(), tokens, tokens, np.array([0, 6, 8]), 0, Path("unused"))
    before = sequences.offsets.copy()
    found = find_last_values(sequences, vocabulary)
    counts = count_events(sequences, vocabulary)
    names = np.array(found.names)
    rows = [set(names[row.nonzero()[0]]) for row in found.values.toarray()]
    # a category is named by the first of its tokens
    assert rows[0] == {"LAB_a_Q1 Q2", "LAB_b_Q0 Q0", "LAB_a_Q1", "LAB_b_Q0", "SEX_male"}
    assert rows[1] == {"LAB_b_Q0 Q0", "LAB_b_Q0", "SEX_male"}
    np.testing.assert_allclose(counts.values.toarray(), np.log([[2, 2, 3, 2, 2, 1], [1, 1, 2, 1, 2, 1]]))
    np.testing.assert_array_equal(sequences.offsets, before)  # scipy sums duplicates in place


def test_a_bin_that_opens_a_stay_is_not_the_value_of_the_stay_before():
    vocabulary = pl.DataFrame({"token_id": range(3), "token": ["Q0", "LAB_a", "X"], "kind": ["bin", "labs", "adt"]})
    tokens = np.array([2, 1, 0, 1], dtype=np.uint32)
    sequences = Sequences(pl.DataFrame(), tokens, tokens, np.array([0, 2, 4]), 0, Path("unused"))
    assert find_last_values(sequences, vocabulary).values.nnz == 0


def test_a_site_with_another_tokenizer_is_refused(timelines, tmp_path):
    other = write_fake_tokenizer_run(tmp_path / "00", num_subjects=20, seed=5)
    both = {"here": str(timelines), "away": str(other)}
    assert set(read_stay_inputs(both, NAMES)) == {"here", "away"}
    table = artifacts.read_table("quantiles", other)
    artifacts.write_table("quantiles", table.with_columns(pl.col("edges").list.eval(pl.element() + 1)), other)
    with pytest.raises(InputError, match=r"quantiles.parquet of site away .* differs .*--tokenizer_dir"):
        read_stay_inputs(both, NAMES)
    assert read_stay_inputs(both, [])["away"].num_tokens.min() > 0


def test_unknown_baselines_and_lost_stays_are_refused(timelines, inputs):
    with pytest.raises(InputError, match="unknown baseline 'counts'; known: event_counts, last_values"):
        read_stay_inputs({"here": str(timelines)}, ["counts"])
    with pytest.raises(InputError, match="1 of 2 stays have no token before index_time"):
        inputs.find_rows(pl.Series(["H0001", "nobody"]))


def test_a_closed_window_counts_its_end(tmp_path):
    directory = write_fake_tokenizer_run(tmp_path / "00", num_subjects=20, seed=6)
    outcomes = artifacts.read_table("outcomes", directory)
    first = artifacts.read_table("timelines", directory, "train").row(0, named=True)
    at = first["times"][6]  # an event's time, that of its value too
    assert at > START + timedelta(0)
    moved = pl.when(pl.col("subject_id") == first["subject_id"]).then(pl.lit(at)).otherwise("index_time")
    artifacts.write_table("outcomes", outcomes.with_columns(index_time=moved.cast(pl.Datetime("us"))), directory)
    rows = pl.Series([first["subject_id"]])
    counts = []
    for is_closed in (False, True):
        settings = yaml.safe_load((directory / "config.yaml").read_text())
        settings["window"]["is_end_closed"] = is_closed
        (directory / "config.yaml").write_text(yaml.safe_dump(settings))
        inputs = read_stay_inputs({"here": str(directory)}, NAMES)["here"]
        counts.append(int(inputs.num_tokens[inputs.find_rows(rows)].item()))
    assert counts[1] == counts[0] + first["times"].count(at)


def test_reading_them_imports_no_torch(timelines):
    code = f"""
import sys
from clinrep.modality import load_modality
load_modality("ehr").read_stay_inputs({{"here": {str(timelines)!r}}}, {NAMES!r})
assert not {{"torch", "transformers", "sklearn"}} & sys.modules.keys(), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_stays_read_some_at_a_time_have_the_same_features(timelines, inputs, monkeypatch):
    monkeypatch.setattr(baselines, "CHUNK_STAYS", 7)
    found = read_stay_inputs({"here": str(timelines)}, NAMES)["here"]
    for name in NAMES:
        assert found.features[name].names == inputs.features[name].names
        assert (found.features[name].values != inputs.features[name].values).nnz == 0
        assert found.features[name].values.indices.dtype == np.int32
