"""Keys and values of prompts and their continuations, and the attention over both.

S prompts, n continuations of each, R = S * n continuations, P positions of a prompt, T tokens of a
continuation so far, L positions of a query, H query heads, K key/value heads, G = H / K, D head width.

The prompt of a stay is kept once for all its continuations: on 2 CPU cores reading keys and values is
most of the work, and this divides it by n.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

FIRST_ROOM = 32  # tokens; the room of continuations doubles when it is full


class WaveCache:
    """Keys and values, layer by layer, of continuations that began together and are equally long."""

    def __init__(self, prompt_lengths: torch.Tensor, num_samples: int, dtype: torch.dtype) -> None:
        """Make room for prompts of `prompt_lengths`, i64 (S,), 0 allowed, with `num_samples` continuations each."""
        self.num_samples, self.num_tokens = num_samples, 0
        self._dtype = dtype
        self._longest = int(prompt_lengths.max())
        is_real = torch.arange(self._longest, device=prompt_lengths.device) < prompt_lengths[:, None]
        bias = torch.zeros(is_real.shape, dtype=dtype, device=is_real.device).masked_fill(~is_real, -torch.inf)
        self._bias = bias[:, None, None]  # (S, 1, 1, P)
        self._is_empty = (prompt_lengths == 0)[:, None, None, None]
        self._has_empty = bool((prompt_lengths == 0).any())
        self._prompts: dict[int, list[torch.Tensor]] = {}
        self._tokens: dict[int, list[torch.Tensor]] = {}

    @property
    def num_prompts(self) -> int:
        """S; one prompt may be kept several times."""
        return len(self._bias)

    @property
    def num_rows(self) -> int:
        """R."""
        return self.num_prompts * self.num_samples

    @property
    def prompt_length(self) -> int:
        """P."""
        return self._longest

    def put_prompts(self, layer: int, start: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep keys and values (s, K, l, D) of the prompts start .. start + s, padded right to any l <= P."""
        if layer not in self._prompts:
            shape = (self.num_prompts, key.shape[1], self._longest, key.shape[3])
            self._prompts[layer] = [key.new_zeros(shape, dtype=self._dtype) for _ in range(2)]
        for kept, new in zip(self._prompts[layer], (key, value), strict=True):
            kept[start : start + len(new), :, : new.shape[2]] = new

    def put_token(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep keys and values (R, K, 1, D) of the next token; `num_tokens` counts it after the last layer."""
        if layer not in self._tokens:
            shape = (self.num_rows, key.shape[1], FIRST_ROOM, key.shape[3])
            self._tokens[layer] = [key.new_empty(shape, dtype=self._dtype) for _ in range(2)]
        kept = self._tokens[layer]
        if self.num_tokens == kept[0].shape[2]:
            kept[:] = [torch.cat([tensor, torch.empty_like(tensor)], dim=2) for tensor in kept]
        for tensor, new in zip(kept, (key, value), strict=True):
            tensor[:, :, self.num_tokens] = new[:, :, 0]

    def keep(self, prompts: torch.Tensor, rows: torch.Tensor) -> None:
        """Keep only these `prompts`, i64 (S',), with len(rows) / S' continuations each, i64 (S' * n',)."""
        self._bias, self._is_empty = self._bias[prompts], self._is_empty[prompts]
        for kept in self._prompts.values():
            kept[:] = [tensor[prompts] for tensor in kept]
        for kept in self._tokens.values():
            room = max(FIRST_ROOM, self.num_tokens + self.num_tokens // 4)
            kept[:] = [tensor[rows, :, :room] for tensor in kept]
        self.num_samples = len(rows) // len(prompts)

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """Return attention (R, H, 1, D) of the query (R, H, 1, D) of the token put last to all before it."""
        num_rows, num_heads, _, width = query.shape
        num_groups = self._tokens[layer][0].shape[1]
        key, value = (tensor[:, :, : self.num_tokens + 1] for tensor in self._tokens[layer])
        grouped = query.to(self._dtype).view(num_rows, num_groups, -1, width)
        output, weight = _attend(grouped, key, value, None, scale)
        if not self._longest:
            return output.view(num_rows, num_heads, 1, width)
        # (S, K, n * G, D): all continuations of a prompt ask it together
        shape = (self.num_prompts, self.num_samples, num_groups, -1, width)
        together = grouped.view(shape).transpose(1, 2).flatten(2, 3)
        prompt_key, prompt_value = self._prompts[layer]
        seen, seen_weight = _attend(together, prompt_key, prompt_value, self._bias, scale)
        if self._has_empty:
            seen = seen.masked_fill(self._is_empty, 0.0)
            seen_weight = seen_weight.masked_fill(self._is_empty[..., 0], -torch.inf)
        shape = (self.num_prompts, num_groups, self.num_samples, -1, width)
        seen = seen.view(shape).transpose(1, 2).reshape(output.shape)
        seen_weight = seen_weight.view(shape[:4]).transpose(1, 2).reshape(weight.shape)
        # softmax over the two parts at once
        total = torch.logaddexp(weight, seen_weight)
        mixed = output * (weight - total).exp()[..., None] + seen * (seen_weight - total).exp()[..., None]
        return mixed.to(output.dtype).view(num_rows, num_heads, 1, width)


class Continuations:
    """What a forward pass is about: prompts to be read, or one more token of every wave's continuations."""

    def __init__(self) -> None:
        """Begin without any."""
        self.waves: list[WaveCache] = []
        self.start: int | None = None
        """Where the prompts now being read stand in the last wave; None: a token is added."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return (B, H, L, D) for query (B, H, L, D), key and value (B, K, L, D) of the new tokens, and keep these."""
        if self.start is not None:
            self.waves[-1].put_prompts(layer, self.start, key, value)
            return attend_causally(query, key, value, scale)
        outputs, row = [], 0
        for wave in self.waves:
            rows = slice(row, row + wave.num_rows)
            wave.put_token(layer, key[rows], value[rows])
            outputs.append(wave.attend(layer, query[rows], scale))
            row = rows.stop
        return torch.cat(outputs)


def attend_causally(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Return causal attention (B, H, L, D) of query (B, H, L, D) to key and value (B, K, L, D)."""
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast rotary positions leave these in fp32
    is_grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=is_grouped)


def attend_continuations(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    continuations: Continuations | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Return attention (B, L, H, D) as transformers asks for it; without `continuations`, plain causal attention.

    Inputs as in `Continuations.attend`. Padding right needs no mask, and none is taken.
    """
    assert attention_mask is None, "sequences are padded right, which needs no mask"
    assert dropout == 0, "nothing is trained"
    if continuations is None:
        output = attend_causally(query, key, value, scaling)
    else:
        output = continuations.attend(module.layer_idx, query, key, value, scaling)  # type: ignore[arg-type]
    return output.transpose(1, 2), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention (B, K, L, D) of query (B, K, L, D) to all keys (B, K, P, D), and log of its sum of weights.

    The latter, f32 (B, K, L), is what two such results are mixed by.
    """
    # half the time of the other, and the only one of torch that tells its sum of weights; its name is private
    flash = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if query.device.type == "cpu" and flash is not None:
        output, weight = flash(query, key, value, attn_mask=bias, scale=scale)
        return output, weight
    return _attend_plainly(query, key, value, bias, scale)


def _attend_plainly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = (query @ key.transpose(-1, -2)).float() * scale
    scores = scores if bias is None else scores + bias
    weight = scores.logsumexp(-1)
    return (scores - weight[..., None]).exp().to(value.dtype) @ value, weight
