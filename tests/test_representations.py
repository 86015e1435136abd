from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch

from clinrep import extraction, representations
from clinrep.config import InputError
from clinrep.ehr.sequences import load_sequences
from clinrep.hidden_states import choose_layers, compute_states
from clinrep.sequences import Sequences
from tests.extracting import extract, load_tiny_encoder, make_config, run_layer_by_layer, write_runs


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def encoder(dirs):
    return load_tiny_encoder(dirs)


@pytest.fixture(scope="module")
def data(dirs) -> Sequences:
    return load_sequences(str(dirs[0]), 64)


def test_vectors_equal_each_sequence_alone_layer_by_layer(encoder, data):
    table = extract(encoder, data, layers=[0, 1, -1], poolings=["mean", "last_token"], batch_tokens=500)
    assert table.height == len(data) * 6
    assert table.columns == ["subject_id", "split", "layer", "pooling", "representation"]
    rows = {(row[0], row[2], row[3]): np.array(row[4]) for row in table.iter_rows()}
    for row, (subject_id, split) in enumerate(data.subjects.select("subject_id", "split").iter_rows()):
        states = run_layer_by_layer(encoder, data.get(row))
        for layer, state in enumerate(states):
            assert np.abs(rows[subject_id, layer, "last_token"] - state[-1]).max() < 1e-4
            assert np.abs(rows[subject_id, layer, "mean"] - state.mean(0)).max() < 1e-4
        assert table.filter(pl.col("subject_id") == subject_id)["split"].unique().to_list() == [split]


@pytest.mark.parametrize("batch_tokens", [1, 200, 100_000])
def test_a_vector_does_not_depend_on_its_batch(encoder, data, batch_tokens):
    settings = {"poolings": ["last_token", "mean", "random_token"], "positions": [3, -2]}
    one = extract(encoder, data, batch_tokens=1, **settings)
    shuffled = data.take(np.random.default_rng(0).permutation(len(data)))
    other = extract(encoder, shuffled, batch_tokens=batch_tokens, **settings)
    joined = one.join(other, on=["subject_id", "layer", "pooling"], suffix="_other")
    assert joined.height == one.height
    difference = joined["representation"].to_numpy() - joined["representation_other"].to_numpy()
    assert np.abs(difference).max() < 1e-4


def test_bf16_is_close_to_fp32_and_not_equal(encoder, data):
    one, other = (extract(encoder, data, precision=kind)["representation"].to_numpy() for kind in ("fp32", "bf16"))
    assert 0 < np.abs(one - other).max() < 0.3
    assert np.abs(one - other).mean() < 0.02
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}
    rounded = extraction.round_weights(encoder)
    assert {weight.dtype for weight in rounded.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in rounded.buffers()} == {torch.float32}  # else late positions are wrong


def test_positions_are_those_tokens_and_a_stay_without_them_has_no_row(encoder, data):
    positions = [0, 7, 40, -1, -3, -41]
    table = extract(encoder, data, layers=[1], poolings=["mean"], positions=positions)
    found = {(row[0], row[3]): np.array(row[4]) for row in table.iter_rows()}
    num_expected = 0
    for row, subject_id in enumerate(data.subjects["subject_id"]):
        state = run_layer_by_layer(encoder, data.get(row))[1]
        for position in positions:
            has_token = -len(state) <= position < len(state)
            num_expected += has_token
            assert ((subject_id, f"position_{position}") in found) == has_token
            if has_token:
                assert np.abs(found[subject_id, f"position_{position}"] - state[position]).max() < 1e-4
    assert 0 < num_expected < len(data) * len(positions)
    assert table.height == len(data) + num_expected


def test_random_token_is_the_state_at_the_drawn_position(encoder, data):
    table = extract(encoder, data, poolings=["random_token"], seed=3)
    drawn = representations.draw_positions(data, 3)
    for row in range(len(data)):
        state = run_layer_by_layer(encoder, data.get(row))[-1]
        assert np.abs(table["representation"][row].to_numpy() - state[drawn[row]]).max() < 1e-4


def test_random_positions_depend_on_seed_and_id_alone_and_are_uniform(data):
    def make(ids: list[str], length: int) -> Sequences:
        offsets = np.arange(len(ids) + 1) * length
        empty = np.zeros(offsets[-1], dtype="datetime64[us]")
        return Sequences(
            pl.DataFrame({"subject_id": ids}), empty.astype(np.uint32), empty, offsets, 0, data.vocabulary_path
        )

    ids = [f"H{number}" for number in range(7000)]
    one = representations.draw_positions(make(ids, 7), 42)
    mixed = np.random.default_rng(0).permutation(7000)
    other = representations.draw_positions(make([ids[row] for row in mixed[:500]], 7), 42)
    assert np.array_equal(one[mixed[:500]], other)
    assert not np.array_equal(one, representations.draw_positions(make(ids, 7), 43))
    counts = Counter(one.tolist())
    assert sorted(counts) == list(range(7))
    # chi-squared with 6 degrees of freedom: above 22.5 once in a thousand
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 22.5


def test_only_the_layers_asked_for_are_kept_and_no_hook_is_left(encoder, data):
    states, _ = compute_states(encoder, [1], [data.get(0), data.get(1)], data.pad_token_id)
    assert list(states) == [1]
    assert not any(module._forward_hooks for module in encoder.modules())


def test_pooling_by_hand():
    hidden = torch.tensor([[[1.0], [2.0], [9.0]], [[5.0], [8.0], [float("nan")]]])
    lengths, drawn = torch.tensor([3, 1]), torch.tensor([1, 0])
    assert representations.pool_last_token(hidden, lengths, drawn).tolist() == [[9.0], [5.0]]
    assert representations.pool_mean(hidden, lengths, drawn).tolist() == [[4.0], [5.0]]
    assert representations.pool_random_token(hidden, lengths, drawn).tolist() == [[2.0], [5.0]]
    assert representations.pool_position(hidden, lengths, drawn, 0).tolist() == [[1.0], [5.0]]
    assert representations.pool_position(hidden, lengths, drawn, -2)[0].tolist() == [2.0]


def test_layers_are_counted_from_either_end():
    assert choose_layers([-1, 0, 1], num_layers=2) == [2, 0, 1]
    for wrong in ([3], [-4]):
        with pytest.raises(InputError, match=r"the model has layers 0 \(embeddings\) to 2"):
            choose_layers(wrong, num_layers=2)
    with pytest.raises(InputError, match="name one layer twice"):
        choose_layers([-1, 2], num_layers=2)


def test_an_unknown_pooling_is_refused(encoder, data):
    with pytest.raises(InputError, match="unknown pooling 'max'; known: last_token, mean, random_token"):
        extract(encoder, data, poolings=["max"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"splits": ["dev"]}, "unknown split in splits 'dev'; known: test, train, val"),
        ({"splits": []}, "name one split or more"),
        ({"positions": [1, 1]}, "name each position once"),
        ({"poolings": []}, "name one pooling or more"),
        ({"max_subjects": 0}, "max_subjects is 0 but must be 1 or more"),
        ({"hidden_states": True, "splits": ["train"]}, "be among splits"),
    ],
)
def test_settings_that_make_no_table_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        make_config(**settings)
    assert make_config(poolings=[], positions=[0]).positions == [0]


def test_token_embeddings_are_the_models_and_keep_their_token(encoder, data):
    table = representations.read_token_embeddings(encoder, data.vocabulary_path)
    vocabulary = pl.read_parquet(data.vocabulary_path)
    assert table.select("token_id", "token", "kind").equals(vocabulary.select("token_id", "token", "kind"))
    assert np.array_equal(table["embedding"].to_numpy(), encoder.embed_tokens.weight.detach().numpy())
