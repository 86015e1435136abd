"""Blocks with a model: logits and losses are those of each document alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import LlamaConfig, LlamaForCausalLM

from clinrep.ehr.blocks import Block, load_blocks
from clinrep.ehr.configs.pretrain import PackingConfig
from clinrep.training import PACKED_ATTENTION
from tests.ehr.fake_timelines import NUM_STATIC, read_token_ids, write_fake_tokenizer_run
from tests.ehr.tiny_blocks import (
    cut_by_loop,
    make_config,
    read,
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_fake_tokenizer_run(tmp_path / "00", num_subjects=30, seed=3)


# With a model


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def models() -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """Return two models of the same weights: as stage 01 runs it, and with transformers' own attention."""
    torch.manual_seed(0)
    config = {"vocab_size": 29, "num_key_value_heads": 2, "use_cache": False, "initializer_range": 0.3, **SIZES}
    packed, plain = (LlamaForCausalLM(LlamaConfig(**config, attn_implementation=n)) for n in (PACKED_ATTENTION, "sdpa"))
    plain.load_state_dict(packed.state_dict())
    return packed.eval(), plain.eval()


def take_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in ("num_tokens", "attention_pairs", "labels")}


def run_apart(model: LlamaForCausalLM, blocks: list[Block]) -> torch.Tensor:
    """Return logits (1, T, V) of every document run alone."""
    documents = []
    for block in blocks:
        documents += torch.from_numpy(block["input_ids"]).split(block["lengths"])
    return torch.cat([model(input_ids=ids[None]).logits for ids in documents], dim=1)


@pytest.mark.parametrize("repeats_static", [False, True])
@torch.no_grad()
def test_a_timeline_sees_no_other(run_dir: Path, models: Any, repeats_static: bool) -> None:
    packed, plain = models
    packing = PackingConfig(repeat_static_tokens=repeats_static)
    data = load_blocks(make_config(run_dir, block_size=64, packing=packing))
    blocks = [*list(data.train)[-3:], data.train.make_filler(), data.train[0]]
    assert sum(len(block["lengths"]) for block in blocks) > 6, "the rows should hold several timelines"
    inputs = take_inputs(data.train.collate(blocks))
    expected = run_apart(plain, blocks)
    assert expected.std() > 0.1
    assert (packed(**inputs).logits - expected).abs().max() < 1e-5
    bled = {name: value for name, value in inputs.items() if not name.startswith("cu_seq_lens")}
    assert (packed(**bled).logits - expected).abs().max() > 0.1
    shifted = torch.where(inputs["cu_seq_lens_q"] % 64 > 0, inputs["cu_seq_lens_q"] - 1, inputs["cu_seq_lens_q"])
    wrong = {**inputs, "cu_seq_lens_q": shifted, "cu_seq_lens_k": shifted}
    assert (packed(**wrong).logits - expected).abs().max() > 0.1


@torch.no_grad()
def test_the_loss_is_that_of_every_token_given_its_own_timeline(run_dir: Path, models: Any) -> None:
    """Static tokens of a later piece are given, never predicted a second time."""
    packed, plain = models
    packing = PackingConfig(repeat_static_tokens=True)
    data = load_blocks(make_config(run_dir, block_size=64, packing=packing))
    blocks = list(data.train)
    batch = data.train.collate([*blocks, data.train.make_filler()])
    loss = packed(**take_inputs(batch), labels=batch["labels"], num_items_in_batch=1000).loss
    total, num_later = 0.0, 0
    for timeline in read_token_ids(run_dir, "train"):
        num_given = 1
        for ids, _ in cut_by_loop(timeline, 64, NUM_STATIC):
            document = torch.tensor(ids)
            losses = F.cross_entropy(plain(input_ids=document[None]).logits[0, :-1], document[1:], reduction="none")
            total += float(losses[num_given - 1 :].sum())
            num_later += num_given > 1
            num_given = NUM_STATIC
    assert num_later > 3
    assert abs(float(loss) - total / 1000) < 1e-4 * total / 1000


@torch.no_grad()
def test_in_the_manuscript_attention_flows_across_timelines(run_dir: Path, models: Any) -> None:
    packed, plain = models
    data = load_blocks(make_config(run_dir, block_size=64, packing=PackingConfig(method="cross_document")))
    blocks = [data.train[0], data.train[1], data.train.make_filler()]
    inputs = take_inputs(data.train.collate(blocks))
    rows = torch.cat([plain(input_ids=torch.from_numpy(block["input_ids"])[None]).logits for block in blocks])
    assert rows.std() > 0.1
    logits = packed(**inputs).logits
    assert (logits - rows).abs().max() < 1e-5
    ids = inputs["input_ids"].clone()
    assert (ids[0, 1:] == 0).any(), "another timeline begins in the row"
    ids[0, 0] = (ids[0, 0] + 5) % 29
    assert (packed(input_ids=ids).logits[0, -1] - logits[0, -1]).abs().max() > 1e-3


def test_the_task_is_given_in_blocks(run_dir: Path, models: Any) -> None:
    config = make_config(run_dir, block_size=64, global_batch_tokens=256)
    data = load_blocks(config)
    task = data.make_task(config)
    assert task.items_per_step == 4
    assert task.dataset is data.train
    assert read([task.filler]) == read([data.train.make_filler()])
    assert task.collate([data.train[0]]).keys() == data.train.collate([data.train[0]]).keys()
    packed, plain = models
    with torch.no_grad():
        found = task.evaluate(packed)["eval_loss"]
        losses = []
        for timeline in read_token_ids(run_dir, "val"):
            for begin in range(0, len(timeline), 64):
                ids = torch.tensor(timeline[begin : begin + 64])
                losses += F.cross_entropy(plain(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none").tolist()
    assert abs(found - np.mean(losses)) < 1e-5
