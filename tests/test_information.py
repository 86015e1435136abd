from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from clinrep.ehr.models import CONTINUING_ATTENTION
from clinrep.information import InformationMeter
from clinrep.training.token_loss import mean_token_loss
from tests.zero_shot.markov import LAW, A, B, C, MarkovModel, make_sequences


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(2)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=9, num_key_value_heads=2, use_cache=False, attn_implementation=CONTINUING_ATTENTION, **shape
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # larger than the initial weights, so that wrong attention shows
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    return model


def test_bits_of_a_chain_are_those_of_its_steps():
    """A to B has 0.3, B to C 0.2, C to A 0.2: each stands where the second token of its step does, less one."""
    table = InformationMeter(MarkovModel(), 100).measure(make_sequences([[A, B, C, A], [B], [C, A]]))
    assert [np.round(bits, 4).tolist() for bits in table["bits"].to_list()] == [
        np.round(-np.log2([LAW[A, B], LAW[B, C], LAW[C, A]]), 4).tolist(),
        [],
        np.round(-np.log2([LAW[C, A]]), 4).tolist(),
    ]
    assert table["total_bits"].to_list() == pytest.approx([-np.log2(0.3 * 0.2 * 0.2), 0, -np.log2(0.2)], abs=1e-5)
    assert table["token_ids"].to_list() == [[A, B, C, A], [B], [C, A]]
    assert [len(times) for times in table["times"].to_list()] == [4, 1, 2]
    assert table["times"][2][0].minute == 5  # the sixth token of all


@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_bits_are_those_of_every_prefix_alone(model, batch_tokens):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 9, size).tolist() for size in (7, 3, 12, 1, 12, 5)]
    table = InformationMeter(model, batch_tokens).measure(make_sequences(prompts))
    assert table["subject_id"].to_list() == [f"S{number:03d}" for number in range(6)]
    for prompt, bits, total in table.select("token_ids", "bits", "total_bits").iter_rows():
        expected = []
        for end in range(1, len(prompt)):
            with torch.no_grad():
                law = model(input_ids=torch.tensor([prompt[:end]]), use_cache=False).logits[0, -1].double()
            expected.append(-float(law.log_softmax(0)[prompt[end]]) / np.log(2))
        assert bits == pytest.approx(expected, abs=1e-4)
        assert total == pytest.approx(sum(expected), abs=1e-3)


def test_total_bits_are_the_validation_loss(model):
    sequences = make_sequences([[1, 2, 3, 4, 5], [5, 4], [8, 8, 1]])
    total = InformationMeter(model, 100).measure(sequences)["total_bits"].sum()
    items = [
        {"input_ids": row, "labels": row} for row in (torch.tensor(t) for t in ([1, 2, 3, 4, 5], [5, 4], [8, 8, 1]))
    ]
    with torch.no_grad():
        loss = mean_token_loss(model, items, 1)["eval_loss"]  # type: ignore[arg-type]
    assert total == pytest.approx(loss * (4 + 1 + 2) / np.log(2), abs=1e-4)


def test_logits_at_once_are_bounded_for_a_large_vocabulary():
    class Counter(MarkovModel):
        most = 0

        def forward(self, input_ids, **others):
            self.most = max(self.most, input_ids.numel())
            return super().forward(input_ids, **others)

    model = Counter()
    model.config = SimpleNamespace(vocab_size=2**22)
    InformationMeter(model, 1000).measure(make_sequences([[A, B]] * 9))
    assert model.most == 4
