"""Packed attention: exactly what every document gives alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import varlen
from transformers import LlamaConfig, LlamaForCausalLM

from clinrep.training import attention
from clinrep.training.attention import PACKED_ATTENTION, attend_packed

LENGTHS = [5, 1, 9, 2, 7]
SIZES = {
    "vocab_size": 29,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "use_cache": False,
}


def build_pair(num_key_value_heads: int = 2, dtype: torch.dtype = torch.float32) -> tuple[LlamaForCausalLM, ...]:
    """Return two models of the same weights: with packed attention, and with transformers' own."""
    torch.manual_seed(0)
    models = []
    for name in (PACKED_ATTENTION, "sdpa"):
        config = LlamaConfig(**SIZES, num_key_value_heads=num_key_value_heads, attn_implementation=name)
        models.append(LlamaForCausalLM(config).to(dtype))
    models[1].load_state_dict(models[0].state_dict())
    return tuple(models)


def make_bounds(lengths: list[int], num_empty: int = 3) -> torch.Tensor:
    ends = np.cumsum(lengths).tolist()
    return torch.tensor([0, *ends, *[ends[-1]] * num_empty], dtype=torch.int32)


def make_batch(lengths: list[int] = LENGTHS) -> dict[str, Any]:
    """Return documents end to end, with three empty ones at the end."""
    generator = torch.Generator().manual_seed(1)
    bounds = make_bounds(lengths)
    return {
        "input_ids": torch.randint(0, 29, (1, sum(lengths)), generator=generator),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def run_apart(model: LlamaForCausalLM, input_ids: torch.Tensor, lengths: list[int] = LENGTHS) -> torch.Tensor:
    """Return the logits (1, T, V) of every document run alone, in a row of its own."""
    return torch.cat([model(input_ids=document).logits for document in input_ids.split(lengths, dim=1)], dim=1)


@pytest.mark.parametrize("num_key_value_heads", [4, 2, 1])
def test_logits_are_those_of_each_document_alone(num_key_value_heads: int) -> None:
    packed, plain = build_pair(num_key_value_heads)
    batch = make_batch()
    with torch.no_grad():
        expected = run_apart(plain, batch["input_ids"])
        assert expected.std() > 0.1
        assert (packed(**batch).logits - expected).abs().max() < 1e-5


def broken(name: str) -> dict[str, Any]:
    batch = make_batch()
    if name == "no bounds":
        return {key: value for key, value in batch.items() if key in ("input_ids", "position_ids")}
    lengths = {"one document": [24], "shifted by one": [6, 1, 9, 2, 6], "two joined": [6, 9, 2, 7]}[name]
    return {**batch, "cu_seq_lens_q": make_bounds(lengths), "cu_seq_lens_k": make_bounds(lengths)}


@pytest.mark.parametrize("name", ["no bounds", "one document", "shifted by one", "two joined"])
def test_that_comparison_notices_broken_isolation(name: str) -> None:
    packed, plain = build_pair()
    batch = broken(name)
    with torch.no_grad():
        assert (packed(**batch).logits - run_apart(plain, batch["input_ids"])).abs().max() > 0.1


def sum_losses(logits: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of every token but the first of a document."""
    pairs = zip(logits.split(LENGTHS, dim=1), input_ids.split(LENGTHS, dim=1), strict=True)
    return sum(F.cross_entropy(logit[0, :-1], ids[0, 1:], reduction="sum") for logit, ids in pairs)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
@pytest.mark.parametrize("is_checkpointing", [False, True])
def test_gradients_are_those_of_separate_documents(is_checkpointing: bool) -> None:
    packed, plain = build_pair(dtype=torch.float64)
    batch = make_batch()
    if is_checkpointing:
        packed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    packed.train()
    sum_losses(packed(**batch).logits, batch["input_ids"]).backward()
    sum_losses(run_apart(plain, batch["input_ids"]), batch["input_ids"]).backward()
    for (name, parameter), other in zip(packed.named_parameters(), plain.parameters(), strict=True):
        assert other.grad.abs().max() > 1e-4, name
        assert (parameter.grad - other.grad).abs().max() < 1e-10, name


def test_without_bounds_each_row_is_one_document() -> None:
    packed, plain = build_pair()
    input_ids = torch.randint(0, 29, (3, 11), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = plain(input_ids=input_ids).logits
        assert (packed(input_ids=input_ids).logits - expected).abs().max() < 1e-5


def test_compiled_logits_and_gradients_are_the_same() -> None:
    packed, plain = build_pair()
    batch = make_batch()
    for layer in packed.model.layers:
        layer.compile(backend="aot_eager")
    logits = packed(**batch).logits
    expected = run_apart(plain, batch["input_ids"])
    assert (logits - expected).abs().max() < 1e-5
    logits.square().sum().backward()
    expected.square().sum().backward()
    found, other = (model.model.embed_tokens.weight.grad for model in (packed, plain))
    assert (found - other).abs().max() < 1e-4 * other.abs().max()


def make_heads(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query (1, 4, T, 8), key and value (1, 2, T, 8)."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(1, num_heads, sum(LENGTHS), 8) for num_heads in (4, 2, 2)]
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return query, key, value


def attend_by_loop(heads: tuple[torch.Tensor, ...], lengths: list[int], scaling: float) -> np.ndarray:
    """Return (T, 4, 8): for every token of every document, the mean of its document's values so far."""
    query, key, value = (tensor[0].numpy() for tensor in heads)
    output = np.zeros((sum(lengths), 4, 8))
    begin = 0
    for length in lengths:
        for place in range(begin, begin + length):
            for head in range(4):
                group = head // 2
                scores = [scaling * query[head, place] @ key[group, other] for other in range(begin, place + 1)]
                weights = np.exp(np.array(scores) - max(scores))
                output[place, head] = weights / weights.sum() @ value[group, begin : place + 1]
        begin += length
    return output


@pytest.mark.parametrize("scaling", [None, 0.9])
def test_attention_is_that_of_a_plain_loop(scaling: float | None) -> None:
    heads = make_heads()
    output, weights = attend_packed(torch.nn.Module(), *heads, None, scaling, cu_seq_lens_q=make_bounds(LENGTHS))
    assert weights is None
    assert output.shape == (1, 24, 4, 8)
    expected = attend_by_loop(heads, LENGTHS, 8**-0.5 if scaling is None else scaling)
    assert np.abs(output[0].numpy() - expected).max() < 1e-12
    output, _ = attend_packed(torch.nn.Module(), *heads, None, scaling)
    whole = attend_by_loop(heads, [24], 8**-0.5 if scaling is None else scaling)
    assert np.abs(output[0].numpy() - whole).max() < 1e-12
    assert np.abs(whole - expected).max() > 0.1


def test_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="no mask and no dropout"):
        attend_packed(torch.nn.Module(), *make_heads(), torch.ones(1, 1, 24, 24, dtype=torch.bool))


def test_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match="no mask and no dropout"):
        attend_packed(torch.nn.Module(), *make_heads(), None, dropout=0.1)
    config = LlamaConfig(**SIZES, num_key_value_heads=2, attn_implementation=PACKED_ATTENTION, attention_dropout=0.1)
    with pytest.raises(ValueError, match="no mask and no dropout"):
        LlamaForCausalLM(config).train()(**make_batch())


def test_documents_in_more_than_one_row_are_refused() -> None:
    heads = [tensor.repeat(2, 1, 1, 1) for tensor in make_heads()]
    with pytest.raises(ValueError, match="one row of T tokens, found 2 rows"):
        attend_packed(torch.nn.Module(), *heads, None, cu_seq_lens_q=make_bounds(LENGTHS))


def test_a_cache_is_refused() -> None:
    """One query to many keys: causal attention of torch would let it see the first key alone."""
    query, key, value = make_heads()
    with pytest.raises(ValueError, match="cache"):
        attend_packed(torch.nn.Module(), query[:, :, -1:], key, value, None)


def test_bounds_that_do_not_end_with_the_row_are_refused() -> None:
    with pytest.raises(RuntimeError, match="split"):
        attend_packed(torch.nn.Module(), *make_heads(), None, cu_seq_lens_q=make_bounds([5, 1, 9]))


def test_no_mask_is_built() -> None:
    """A mask of (L, L), which transformers makes of positions that restart, would be refused."""
    packed, _ = build_pair()
    batch = make_batch()
    assert packed(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits.shape == (1, 24, 29)


def flash_of_today(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Stand in for torch 2.13's varlen_attn on a machine without GPU."""
    assert torch.equal(cu_seq_q, cu_seq_k)
    lengths = torch.diff(cu_seq_q).tolist()
    assert max_q == max_k >= max(lengths)
    assert window_size == (-1, 0), "causal"
    outputs = []
    for rows in zip(*(tensor.split(lengths) for tensor in (query, key, value)), strict=True):
        heads = [tensor.transpose(0, 1)[None] for tensor in rows]
        output = F.scaled_dot_product_attention(*heads, is_causal=True, scale=scale, enable_gqa=enable_gqa)
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


def flash_of_yesterday(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
) -> torch.Tensor:
    """Stand in for an earlier varlen_attn: as many key heads as query heads, no scale."""
    assert is_causal
    assert query.shape == key.shape == value.shape
    return flash_of_today(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=(-1, 0))


@pytest.fixture
def fresh_settings() -> Iterator[None]:
    attention._flash_settings.cache_clear()
    yield
    attention._flash_settings.cache_clear()


def test_the_stand_in_has_the_names_of_the_real_one() -> None:
    real = inspect.signature(varlen.varlen_attn).parameters
    if "window_size" not in real:
        pytest.skip("this torch's varlen_attn is an earlier one")
    for name, parameter in inspect.signature(flash_of_today).parameters.items():
        assert real[name].kind == parameter.kind


@pytest.mark.usefixtures("fresh_settings")
@pytest.mark.parametrize(
    ("flash", "scaling"), [(flash_of_today, 0.9), (flash_of_today, 8**-0.5), (flash_of_yesterday, 8**-0.5)]
)
def test_flash_attention_is_asked_for_the_same(monkeypatch: pytest.MonkeyPatch, flash: Any, scaling: float) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", flash)
    heads = make_heads()
    rows = [tensor[0].transpose(0, 1) for tensor in heads]
    output = attention._attend_by_flash(*rows, make_bounds(LENGTHS), 9, scaling)
    assert np.abs(output.numpy() - attend_by_loop(heads, LENGTHS, scaling)).max() < 1e-12


@pytest.mark.usefixtures("fresh_settings")
def test_a_scale_that_flash_attention_cannot_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", flash_of_yesterday)
    rows = [tensor[0].transpose(0, 1) for tensor in make_heads()]
    with pytest.raises(ValueError, match=r"takes no scale, and 0\.9"):
        attention._attend_by_flash(*rows, make_bounds(LENGTHS), 9, 0.9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlashAttention needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_gpu_gives_the_same_with_empty_documents(dtype: torch.dtype) -> None:
    heads = make_heads(dtype)
    expected = attend_by_loop(tuple(tensor.double() for tensor in heads), LENGTHS, 8**-0.5)
    bounds = make_bounds(LENGTHS).cuda()
    on_gpu = [tensor.cuda() for tensor in heads]
    output, _ = attend_packed(torch.nn.Module(), *on_gpu, None, cu_seq_lens_q=bounds, max_length_q=24)
    assert np.abs(output[0].double().cpu().numpy() - expected).max() < (1e-4 if dtype == torch.float32 else 0.03)


def test_autocast_casts_all_three_before_the_kernel_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary positions are fp32, so query and key come in fp32 under autocast: FlashAttention would never be used."""
    seen: list[set[torch.dtype]] = []

    def watch(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append({query.dtype, key.dtype, value.dtype})
        return torch.zeros_like(query)

    monkeypatch.setattr("clinrep.training.attention._attend_one_by_one", watch)
    query, key = (torch.randn(1, 2, 6, 4) for _ in range(2))
    bounds = torch.tensor([0, 2, 6], dtype=torch.int32)
    attend_packed(torch.nn.Module(), query, key, key.bfloat16(), None, cu_seq_lens_q=bounds)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention = attend_packed(torch.nn.Module(), query, key, key.bfloat16(), None, cu_seq_lens_q=bounds)
    assert seen == [{torch.float32, torch.bfloat16}, {torch.bfloat16}]
    assert attention[0].dtype == torch.bfloat16
