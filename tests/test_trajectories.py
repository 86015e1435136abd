from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from clinrep.ehr.sequences import load_sequences
from clinrep.hidden_states import StateCollector
from clinrep.run import RunError
from clinrep.sequences import Sequences
from clinrep.trajectories import measure_jumps
from tests.extracting import extract, load_tiny_encoder, run_layer_by_layer, write_runs


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def encoder(dirs):
    return load_tiny_encoder(dirs)


@pytest.fixture(scope="module")
def data(dirs) -> Sequences:
    """Real sequences, the first cut to one token and the second to two."""
    whole = load_sequences(str(dirs[0]), 64)
    lengths = np.minimum(whole.lengths, [1, 2, *[64] * (len(whole) - 2)])
    keep = np.concatenate([whole.offsets[row] + np.arange(length) for row, length in enumerate(lengths)])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(
        whole.subjects, whole.tokens[keep], whole.times[keep], offsets, whole.pad_token_id, whole.vocabulary_path
    )


@pytest.mark.parametrize("layer", [-1, 1])
def test_trajectories_equal_numpy_on_each_sequence_alone(encoder, data, layer):
    table = extract(encoder, data, "trajectories", trajectory_layer=layer, layers=[0])
    assert table["subject_id"].to_list() == data.subjects["subject_id"].to_list()
    for row, found in enumerate(table.iter_rows(named=True)):
        states = run_layer_by_layer(encoder, data.get(row))[layer].astype(np.float64)
        jumps = np.linalg.norm(np.diff(states, axis=0), axis=1)
        assert np.array_equal(np.array(found["times"], dtype="datetime64[us]"), data.get_times(row))
        assert found["jumps"] == pytest.approx(jumps.tolist(), rel=1e-5, abs=1e-5)
        assert found["path_length"] == pytest.approx(jumps.sum(), rel=1e-5)
        if len(states) == 1:
            assert (found["jumps"], found["path_length"]) == ([], 0.0)
            assert found["max_jump"] is None
            assert found["mean_jump"] is None
        else:
            assert found["max_jump"] == pytest.approx(jumps.max(), rel=1e-5)
            assert found["mean_jump"] == pytest.approx(jumps.mean(), rel=1e-5)
    assert table["max_jump"].null_count() == 1


def test_large_jumps_are_neither_rounded_nor_infinite():
    states = np.random.default_rng(0).normal(size=(1, 9, 500)) * [[[1.0]], [[100.0]], [[1e4]]]
    expected = np.linalg.norm(np.diff(states, axis=1), axis=2)
    found = measure_jumps(torch.tensor(states, dtype=torch.float32)).numpy()
    assert found.dtype == np.float32
    assert np.abs(found / expected - 1).max() < 1e-6
    # of bf16 states too, once they are rounded
    rounded = torch.tensor(states, dtype=torch.bfloat16)
    expected = np.linalg.norm(np.diff(rounded.double().numpy(), axis=1), axis=2)
    assert np.abs(measure_jumps(rounded).numpy() / expected - 1).max() < 1e-6


def test_stored_hidden_states_are_every_tokens_in_float16(encoder, data):
    table = extract(encoder, data, "hidden_states", layers=[1, -1], batch_tokens=300)
    assert table["hidden_state"].dtype == pl.Array(pl.Float16, 16)
    assert table.height == 2 * len(data.tokens)
    for row, subject_id in enumerate(data.subjects["subject_id"]):
        states = run_layer_by_layer(encoder, data.get(row))
        for layer in (1, 2):
            found = table.filter(subject_id=subject_id, layer=layer)
            assert found["position"].to_list() == list(range(len(states[layer])))
            assert np.array_equal(found["time"].to_numpy(), data.get_times(row))
            # half a unit in the last place of float16, and what fp32 differs by
            allowed = np.abs(states[layer]) * 2**-11 + 1e-4
            assert (np.abs(found["hidden_state"].to_numpy().astype(np.float32) - states[layer]) <= allowed).all()


def test_a_state_beyond_float16_ends_the_run(data):
    collector = StateCollector(data, [0], 1, np.ones(len(data), dtype=bool))
    with pytest.raises(RunError, match="layer 0 has hidden states beyond 65504"):
        collector.add(np.array([1]), torch.tensor([2]), {0: torch.tensor([[[1.0], [7e4]]])})
