from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from clinrep import distributed, representations
from clinrep.config import InputError
from clinrep.ehr.configs.extract import ExtractConfig
from clinrep.ehr.models import load_encoder
from clinrep.ehr.sequences import load_sequences
from clinrep.representations import Extractor, choose_layers, share_parts
from clinrep.sequences import Sequences
from tests.ehr.fake_models import write_fake_backbone_run
from tests.ehr.fake_timelines import write_fake_tokenizer_run


@pytest.fixture(scope="module")
def dirs(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    timelines = write_fake_tokenizer_run(root / "00", num_subjects=25, seed=2)
    return timelines, write_fake_backbone_run(root / "01", timelines)


@pytest.fixture(scope="module")
def encoder(dirs):
    config = ExtractConfig(timelines_dir=str(dirs[0]), backbone_dir=str(dirs[1]), output_dir="unused", max_length=64)
    return load_encoder(config)


@pytest.fixture(scope="module")
def data(dirs) -> Sequences:
    return load_sequences(str(dirs[0]), 64)


def run_layer_by_layer(encoder, tokens: np.ndarray) -> list[np.ndarray]:
    """Return the hidden states (L, D) of one sequence after 0, 1, 2 layers, by calling the layers one by one."""
    with torch.no_grad():
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        hidden = encoder.embed_tokens(ids)
        positions = torch.arange(ids.shape[1])[None]
        rotary = encoder.rotary_emb(hidden, positions)
        states = [hidden]
        for layer in encoder.layers:
            hidden = layer(hidden, position_embeddings=rotary, position_ids=positions)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            states.append(hidden)
        states[-1] = encoder.norm(states[-1])
    return [state[0].numpy() for state in states]


def test_vectors_equal_each_sequence_alone_layer_by_layer(encoder, data):
    table = Extractor(encoder, [0, 1, -1], ["mean", "last_token"], batch_tokens=500).extract(data)
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
    one = Extractor(encoder, [-1], ["last_token", "mean"], batch_tokens=1).extract(data)
    shuffled = data.take(np.random.default_rng(0).permutation(len(data)))
    other = Extractor(encoder, [-1], ["last_token", "mean"], batch_tokens).extract(shuffled)
    keys = ["subject_id", "layer", "pooling"]
    joined = one.join(other, on=keys, suffix="_other")
    assert joined.height == one.height
    difference = joined["representation"].to_numpy() - joined["representation_other"].to_numpy()
    assert np.abs(difference).max() < 1e-4


def test_pooling_by_hand():
    hidden = torch.tensor([[[1.0], [2.0], [9.0]], [[5.0], [8.0], [9.0]]])
    lengths = torch.tensor([3, 1])
    assert representations.pool_last_token(hidden, lengths).tolist() == [[9.0], [5.0]]
    assert representations.pool_mean(hidden, lengths).tolist() == [[4.0], [5.0]]


def test_layers_are_counted_from_either_end():
    assert choose_layers([-1, 0, 1], num_layers=2) == [2, 0, 1]
    for wrong in ([3], [-4]):
        with pytest.raises(InputError, match=r"the model has layers 0 \(embeddings\) to 2"):
            choose_layers(wrong, num_layers=2)
    with pytest.raises(InputError, match="name one layer twice"):
        choose_layers([-1, 2], num_layers=2)


def test_an_unknown_pooling_is_refused(encoder):
    with pytest.raises(InputError, match="unknown pooling 'max'; known: last_token, mean"):
        Extractor(encoder, [-1], ["max"], 100)


@pytest.mark.parametrize(("num_rows", "world_size", "size"), [(10, 1, 4), (10, 3, 2), (2, 4, 5), (0, 2, 5)])
def test_every_row_is_in_one_part_of_one_rank(monkeypatch, num_rows, world_size, size):
    monkeypatch.setattr(distributed, "get_world_size", lambda: world_size)
    numbers, rows = [], []
    for rank in range(world_size):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        for number, part in share_parts(num_rows, size):
            numbers.append(number)
            rows += part.tolist()
            assert len(part) <= size
    assert sorted(rows) == list(range(num_rows))
    assert len(set(numbers)) == len(numbers) >= 1


def test_token_embeddings_are_the_models_and_keep_their_token(encoder, data):
    table = representations.read_token_embeddings(encoder, data.vocabulary_path)
    vocabulary = pl.read_parquet(data.vocabulary_path)
    assert table.select("token_id", "token", "kind").equals(vocabulary.select("token_id", "token", "kind"))
    assert np.array_equal(table["embedding"].to_numpy(), encoder.embed_tokens.weight.detach().numpy())
