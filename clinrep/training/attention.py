"""Attention that keeps the documents of a packed batch apart without ever building a mask.

B rows, L positions, T = B * L tokens of all documents, H query heads, K key/value heads, D head width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import varlen
from transformers import AttentionInterface

# The value of `attn_implementation`. No mask function is registered under it, so transformers builds no
# (L, L) mask, compiled or not (spec/stack.md section 2); a 2-D attention mask would be ignored, so models
# that get one (padded sequences, stages 02 and 03) must not use it.
PACKED_ATTENTION = "packed"

_FLASH_TYPES = (torch.bfloat16, torch.float16)


def attend_packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention (B, L, H, D) of query (B, H, L, D) to key and value (B, K, L, D).

    With `cu_seq_lens_q`, i32 (num_documents + 1,), the one row (B = 1) is documents end to end, each
    starting where the last ended, and none sees another; empty documents at the end are allowed. Without,
    every row is one document. The names are those of transformers' flash-attention batches.

    Raises:
        ValueError: a mask, dropout, keys of a cache, or documents in more than one row: none would be right.
    """
    if attention_mask is not None or dropout > 0:
        raise ValueError("packed attention takes no mask and no dropout; use attn_implementation sdpa for these")
    if query.shape[2] != key.shape[2]:
        raise ValueError("packed attention takes no key/value cache: pass use_cache=False, or use sdpa")
    if cu_seq_lens_q is None:
        is_grouped = query.shape[1] != key.shape[1]
        output = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=is_grouped)
        return output.transpose(1, 2), None
    if len(query) != 1:
        raise ValueError(f"packed documents come as one row of T tokens, found {len(query)} rows")
    query, key, value = _cast_as_autocast_would(query, key, value)
    if query.is_cuda and query.dtype in _FLASH_TYPES:
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        output = _attend_by_flash(q, k, v, cu_seq_lens_q, max_length_q or query.shape[2], scaling)
        return output[None], None
    return _attend_one_by_one(query, key, value, cu_seq_lens_q, scaling).transpose(1, 2), None


def _cast_as_autocast_would(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return `tensors` in the type that autocast computes attention in, as it does by itself for torch's own.

    Under autocast query and key come in fp32, because the rotary positions are: without this FlashAttention,
    which has no fp32, would never be used.
    """
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)


def _attend_by_flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scaling: float | None,
) -> torch.Tensor:
    """Return (T, H, D) by torch's own FlashAttention for documents of unequal length; inputs are (T, heads, D)."""
    settings, is_grouping = _flash_settings()
    if not is_grouping:
        repeats = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    if "scale" in settings:
        settings = settings | {"scale": scaling}
    elif scaling is not None and abs(scaling - query.shape[-1] ** -0.5) > 1e-9:
        raise ValueError(f"this torch's varlen_attn takes no scale, and {scaling} is not 1 / sqrt(head width)")
    output: Any = varlen.varlen_attn(query, key, value, bounds, bounds, longest, longest, **settings)
    return output


@cache
def _flash_settings() -> tuple[dict[str, Any], bool]:
    """Return how this torch's varlen_attn is told to be causal, and whether it groups heads itself.

    2.13 takes window_size, scale and enable_gqa; earlier ones is_causal (spec/stack.md section 9).
    """
    known = inspect.signature(varlen.varlen_attn).parameters
    settings: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "scale" in known:
        settings["scale"] = None
    if "enable_gqa" in known:
        settings["enable_gqa"] = True
    return settings, "enable_gqa" in known


@torch.compiler.disable  # it loops over lengths that differ from batch to batch
def _attend_one_by_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Return (1, H, T, D), one document after another: for CPUs, and for fp32, which FlashAttention lacks."""
    lengths: Sequence[int] = torch.diff(bounds).tolist()
    lengths = [length for length in lengths if length]
    is_grouped = query.shape[1] != key.shape[1]
    # split and cat: slices would each give back a gradient of the whole row
    pieces = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=is_grouped)
        for q, k, v in pieces
    ]
    return torch.cat(outputs, dim=2)


AttentionInterface.register(PACKED_ATTENTION, attend_packed)
