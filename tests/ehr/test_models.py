"""The language model: built from numbers, or continued from a backbone of the same vocabulary."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr.blocks import load_blocks
from clinrep.ehr.configs.pretrain import LlamaShape, PretrainConfig
from clinrep.ehr.models import build_language_model, load_language_model
from tests.ehr.fake_timelines import write_fake_tokenizer_run

SHAPE = LlamaShape(
    hidden_size=24, intermediate_size=40, num_layers=2, num_heads=3, num_key_value_heads=1, head_dim=6, rope_theta=500.0
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_fake_tokenizer_run(tmp_path / "00", num_subjects=12, seed=1)


def make_config(run_dir: Path, **settings: object) -> PretrainConfig:
    values = {"output_dir": "unused", "timelines_dir": str(run_dir), "block_size": 32, "model": SHAPE, **settings}
    return PretrainConfig(**values)


def save_backbone(run_dir: Path, folder: Path) -> Path:
    data = load_blocks(make_config(run_dir))
    build_language_model(make_config(run_dir, seed=9), data).save_pretrained(folder)
    for path in data.companions:
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("is_tied", [True, False])
def test_parameters_are_those_of_the_architecture(run_dir: Path, is_tied: bool) -> None:
    """Counted by hand: q and o 24x18, k and v 24x6, three 24x40, two norms a layer; 29 tokens."""
    shape = LlamaShape(**{**SHAPE.__dict__, "tie_embeddings": is_tied})
    model = build_language_model(make_config(run_dir, model=shape), load_blocks(make_config(run_dir)))
    layer = 2 * 24 * 18 + 2 * 24 * 6 + 3 * 24 * 40 + 2 * 24
    assert model.num_parameters() == 2 * layer + 24 + 29 * 24 * (1 if is_tied else 2)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"
    assert not model.config.use_cache
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (0, 1, 2)


def test_rope_base_is_the_setting(run_dir: Path) -> None:
    model = build_language_model(make_config(run_dir), load_blocks(make_config(run_dir)))
    expected = torch.tensor([500.0 ** (-pair / 6) for pair in (0, 2, 4)])
    assert torch.allclose(model.model.rotary_emb.inv_freq, expected)


def test_weights_follow_the_seed(run_dir: Path) -> None:
    data = load_blocks(make_config(run_dir))
    weights = [build_language_model(make_config(run_dir, seed=seed), data).lm_head.weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_backbone_is_continued_with_its_weights_and_shape(run_dir: Path, tmp_path: Path) -> None:
    folder = save_backbone(run_dir, tmp_path / "backbone")
    config = make_config(run_dir, backbone_dir=str(folder), model=LlamaShape(hidden_size=16))
    model = build_language_model(config, load_blocks(config))
    saved = load_language_model(folder)
    assert model.config.hidden_size == 24
    for name, value in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_a_backbone_of_another_vocabulary_is_refused(run_dir: Path, tmp_path: Path) -> None:
    folder = save_backbone(run_dir, tmp_path / "backbone")
    vocabulary = artifacts.read_table("vocabulary", run_dir)
    renamed = vocabulary.with_columns(pl.col("token").replace("LAB_sodium", "LAB_potassium"))
    renamed.write_parquet(folder / "vocabulary.parquet")
    config = make_config(run_dir, backbone_dir=str(folder))
    with pytest.raises(InputError, match=r"vocabulary\.parquet of the model .* differs"):
        build_language_model(config, load_blocks(config))


def test_a_count_may_differ_where_the_tokens_do_not(run_dir: Path, tmp_path: Path) -> None:
    folder = save_backbone(run_dir, tmp_path / "backbone")
    vocabulary = artifacts.read_table("vocabulary", run_dir).with_columns(train_count=pl.lit(7, dtype=pl.UInt64))
    vocabulary.write_parquet(folder / "vocabulary.parquet")
    config = make_config(run_dir, backbone_dir=str(folder))
    assert build_language_model(config, load_blocks(config)).config.vocab_size == 29


def test_blocks_longer_than_the_positions_are_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"block_size is 9000 but must be at most model.max_positions \(8192\)"):
        make_config(run_dir, block_size=9000)
    folder = save_backbone(run_dir, tmp_path / "backbone")
    config = make_config(run_dir, block_size=9000, backbone_dir=str(folder))
    with pytest.raises(InputError, match="accepts at most 8192"):
        build_language_model(config, load_blocks(config))


def test_missing_weights_are_refused(run_dir: Path, tmp_path: Path) -> None:
    folder = save_backbone(run_dir, tmp_path / "backbone")
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model.norm.weight"):
        load_language_model(folder)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"hidden_size": 100, "num_heads": 8}, "model.hidden_size is 100"),
        ({"num_heads": 8, "num_key_value_heads": 3}, "model.num_key_value_heads is 3"),
        ({"head_dim": 7}, "model.head_dim is 7"),
        ({"num_layers": 0}, "model.num_layers is 0"),
        ({"rope_theta": 0.0}, "model.rope_theta is 0.0"),
    ],
)
def test_impossible_shapes_are_refused(shape: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LlamaShape(**shape)
