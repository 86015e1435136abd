from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clinrep.config import InputError
from clinrep.ehr.configs.finetune import FinetuneConfig
from clinrep.ehr.models import LlamaClassifier, load_classifier
from clinrep.training import add_lora, make_rate_factors, merge_lora
from clinrep.training.layer_rates import split_by_rate
from clinrep.training_config import LoraConfig
from tests.ehr.fake_models import write_fake_backbone_run
from tests.ehr.fake_timelines import write_fake_tokenizer_run


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> FinetuneConfig:
    root: Path = tmp_path_factory.mktemp("runs")
    timelines = write_fake_tokenizer_run(root / "00", num_subjects=20, seed=1)
    backbone = write_fake_backbone_run(root / "01", timelines)
    return FinetuneConfig(
        timelines_dir=str(timelines), backbone_dir=str(backbone), outcome="x", output_dir="unused", max_length=64
    )


def score(model: LlamaClassifier) -> np.ndarray:
    ids = torch.arange(12)[None]
    with torch.no_grad():
        return model.eval()(ids).logits.numpy()


def train_a_little(model: LlamaClassifier) -> None:
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model.train()(torch.arange(12)[None], labels=torch.tensor([1])).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["down_proj"]])
def test_adapters_start_at_nothing_learn_alone_and_are_merged(settings, targets):
    plain, model = load_classifier(settings), load_classifier(settings)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    add_lora(model, LoraConfig(rank=4, targets=targets), model.HEAD, seed=1)
    assert np.abs(score(model) - score(plain)).max() < 1e-6
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert all("lora_" in name or name == "score.weight" for name in trained)
    assert len(trained) == 1 + 2 * 2 * len(targets)  # A and B in each of two layers
    train_a_little(model)
    learned = score(model)
    assert np.abs(learned - score(plain)).max() > 1e-2
    merge_lora(model)
    assert np.abs(score(model) - learned).max() < 1e-5
    after = dict(model.named_parameters())
    assert after.keys() == before.keys(), "an ordinary model again"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"score.weight"} | {name for name in before if name.split(".")[-2] in targets}


def test_rank_0_trains_everything(settings):
    model = add_lora(load_classifier(settings), LoraConfig(), "score", seed=1)
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert merge_lora(model) is model


def test_adapters_follow_the_seed(settings):
    weights = []
    for seed in (1, 1, 2):
        model = add_lora(load_classifier(settings), LoraConfig(rank=2), "score", seed)
        weights.append(torch.cat([w.flatten() for name, w in model.named_parameters() if "lora_A" in name]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_unknown_target_is_refused(settings):
    words = "lora.targets holds 'query', no linear layer of the model; known: down_proj, gate_proj, k_proj, o_proj"
    with pytest.raises(InputError, match=words):
        add_lora(load_classifier(settings), LoraConfig(rank=2, targets=["query"]), "score", seed=1)


def test_the_first_step_of_each_layer_is_its_learning_rate(settings):
    """Adam's first step moves a weight by its learning rate whatever the gradient."""
    model = load_classifier(settings)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, eps=1e-12)
    factors = make_rate_factors(model, 0.5, model.HEAD)
    assert factors is not None
    names = {weight: name for name, weight in model.named_parameters()}
    split_by_rate(optimizer, names, factors)
    assert optimizer.param_groups[0]["lr"] == 1e-2
    model.train()(torch.arange(12)[None], labels=torch.tensor([1])).loss.backward()
    optimizer.step()
    moved = {name: (weight - before[name]).abs().max().item() / 1e-2 for name, weight in model.named_parameters()}
    for name, factor in moved.items():
        expected = {"score.weight": 1, "model.norm.weight": 0.5, "model.embed_tokens.weight": 0.125}.get(name)
        if expected is None:
            expected = 0.25 if ".layers.0." in name else 0.5
        assert factor == pytest.approx(expected, rel=0.01), name


def test_decay_1_leaves_the_optimizer_alone(settings):
    assert make_rate_factors(load_classifier(settings), 1.0, "score") is None
