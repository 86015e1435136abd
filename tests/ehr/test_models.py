"""The language model: built from numbers, or continued from a backbone of the same vocabulary."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from transformers import LlamaForCausalLM

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr.blocks import load_blocks
from clinrep.ehr.configs.pretrain import Llama3Rope, LlamaShape, PretrainConfig
from clinrep.ehr.models import build_language_model, load_language_model, make_llama_config
from tests.ehr.fake_timelines import write_fake_tokenizer_run

SHAPE = LlamaShape(
    hidden_size=24, intermediate_size=40, num_layers=2, num_heads=3, num_key_value_heads=1, head_dim=6, rope_theta=500.0
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_fake_tokenizer_run(tmp_path / "00", num_subjects=12, seed=1)


def make_config(run_dir: Path, **settings: object) -> PretrainConfig:
    settings = {"timelines_dir": str(run_dir), "block_size": 32, "model": SHAPE} | settings
    settings["output_dir"] = str(run_dir.parent / "01")
    return PretrainConfig(**settings)


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
    assert model.config._attn_implementation == "packed"
    assert not model.config.use_cache
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (0, 1, 2)


@pytest.mark.parametrize(("size", "parameters"), [("67m", 67_339_264), ("1b", 973_572_096)])
def test_published_sizes(size: str, parameters: int) -> None:
    """As printed in arXiv 2507.22798 and 2504.10422, with their 208 tokens; on the meta device, so without memory."""
    text = (Path(__file__).parents[2] / "configs" / "ehr" / "model_sizes" / f"{size}.yaml").read_text()
    settings = yaml.safe_load(text)["model"]
    stretched = settings.pop("rope_llama3")
    shape = LlamaShape(**settings, rope_llama3=Llama3Rope(**stretched) if stretched else None)
    words = ["PAD", *(f"word_{number}" for number in range(207))]
    vocabulary = pl.DataFrame({"token": words, "kind": ["special"] + ["labs"] * 207}).with_row_index("token_id")
    with torch.device("meta"):
        model = LlamaForCausalLM(make_llama_config(shape, vocabulary))
    assert model.num_parameters() == parameters
    assert (size == "1b") == (model.model.rotary_emb.rope_type == "llama3")


def test_llama3_rope_is_that_of_transformers_own_config(run_dir: Path) -> None:
    """By the formula of Llama 3 (arXiv 2407.21783's code): slow turns by 32, fast ones not, linear between."""
    rope = Llama3Rope(factor=32.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_positions=100)
    shape = LlamaShape(**{**SHAPE.__dict__, "rope_llama3": rope, "rope_theta": 50.0})
    model = build_language_model(make_config(run_dir, model=shape), load_blocks(make_config(run_dir)))
    expected = []
    for pair in (0, 2, 4):
        frequency = 50.0 ** (-pair / 6)
        turns = 100 * frequency / (2 * math.pi)
        smooth = min(max((turns - 1) / (4 - 1), 0), 1)
        expected.append((1 - smooth) * frequency / 32 + smooth * frequency)
    assert 0 < (100 * 50.0 ** (-4 / 6) / (2 * math.pi) - 1) / 3 < 1, "one of the three should be in between"
    assert model.model.rotary_emb.inv_freq.tolist() == pytest.approx(expected, rel=1e-6)


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
    config = make_config(run_dir, block_size=9000, global_batch_tokens=9000, backbone_dir=str(folder))
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


@pytest.mark.parametrize("text", ["{}", "", '{"vocab_size": 28}'])
def test_a_config_of_another_model_is_refused_before_it_is_built(run_dir: Path, tmp_path: Path, text: str) -> None:
    """transformers would fill in the defaults: seven billion parameters."""
    folder = save_backbone(run_dir, tmp_path / "backbone")
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json (cannot be read|says vocab_size (None|28) but)"):
        load_language_model(folder)
