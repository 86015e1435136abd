from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from clinrep.ehr.models import CONTINUING_ATTENTION
from clinrep.zero_shot import cache as cache_module
from clinrep.zero_shot.sampling import Sampler
from tests.zero_shot.markov import make_questions, make_sequences


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    from transformers import LlamaConfig

    torch.manual_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=9, num_key_value_heads=2, max_position_embeddings=200, attn_implementation="sdpa", **shape
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # larger than the initial weights, so that wrong attention shows
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    return model


PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [3], [2, 2, 5, 1], [5, 1], [8, 7, 6, 5, 4, 3, 2, 1]]


@pytest.mark.parametrize("batch_size", [8, 100])
@pytest.mark.parametrize("is_plain", [False, True])
def test_every_state_is_that_of_the_whole_sequence_without_a_cache(model, monkeypatch, batch_size, is_plain):
    """Prompts of unlike length, waves that join later, continuations that end and are dropped; both attentions."""
    if is_plain:
        monkeypatch.setattr(cache_module, "_attend", cache_module._attend_plainly)
    monkeypatch.setattr(cache_module, "FIRST_ROOM", 3)
    worst = []

    def check(sampler, waves, logits):
        row = 0
        for wave in waves:
            for here in range(len(wave.last_tokens)):
                if wave.is_alive[here]:
                    key = (int(wave._stays[wave._stay[here]]), int(wave._sample[here]))
                    history = histories.setdefault(key, list(PROMPTS[key[0]]))
                    if wave.num_tokens:
                        history.append(int(wave.last_tokens[here]))
                    with torch.no_grad():
                        expected = model(input_ids=torch.tensor([history])).logits[0, -1]
                    worst.append(float((expected - logits[row + here]).abs().max()))
            row += len(wave.last_tokens)

    histories: dict[tuple[int, int], list[int]] = {}
    sampler = make_checked_sampler(model, batch_size, check)
    tally = sampler.sample(make_sequences(PROMPTS), make_questions(len(PROMPTS)))
    assert tally.num_tokens == len(worst) > 100
    assert max(worst) < 1e-4
    assert np.ptp([len(history) for history in histories.values()]) > 5  # some end early, some late


def make_checked_sampler(model, batch_size, check) -> Sampler:
    class CheckedSampler(Sampler):
        def _step(self, waves, continuations, never, tally):
            self.waves = waves
            super()._step(waves, continuations, never, tally)

        def _run_model(self, input_ids, position_ids, continuations):
            model.set_attn_implementation(CONTINUING_ATTENTION)
            logits = super()._run_model(input_ids, position_ids, continuations)
            model.set_attn_implementation("sdpa")
            if continuations.start is None:
                check(self, self.waves, logits[:, 0])
            return logits

    return CheckedSampler(model, 8, 40, batch_size, batch_tokens=12, seed=0)
