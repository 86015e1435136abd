"""Sampling of continuations: waves of stays, decoded together until everything asked of them is decided.

B continuations of all waves, R of one, L positions, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from clinrep import distributed
from clinrep.batches import pad_right
from clinrep.sequences import Sequences, iterate_batches
from clinrep.zero_shot.cache import Continuations, WaveCache
from clinrep.zero_shot.questions import Questions
from clinrep.zero_shot.wave import Tally, Wave

KEPT_SHARE = 0.75  # a wave is copied without its finished continuations when no more rows than this are left
BLOCK = 64  # tokens


class Sampler:
    """Counts events in continuations sampled from a language model.

    The numbers that decide a stay's continuations come from a generator of its own, made from the seed and
    its subject_id, so they do not depend on what is sampled beside them.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        num_samples: int,
        max_new_tokens: int,
        batch_size: int,
        batch_tokens: int,
        seed: int,
        precision: Literal["fp32", "bf16"] = "fp32",
        max_positions: int | None = None,
    ) -> None:
        """Keep how to sample.

        Args:
            model: gives `.logits` (B, 1, V) of the last position for input_ids and position_ids (B, L) and
                `continuations`, with which its attention is `cache.attend_continuations`.
            num_samples: continuations of each stay.
            max_new_tokens: tokens after which a continuation is unfinished.
            batch_size: continuations at once (but always one stay).
            batch_tokens: tokens of prompts read at once, padding included (but always one prompt).
            seed: of every stay's generator, together with its subject_id.
            precision: compute type; logits, and the kept keys and values, are in it, probabilities fp32.
            max_positions: where a continuation is unfinished too; None: at the last that `.config` of the model has.
        """
        self._model = model.eval()
        self._num_samples, self._max_new_tokens = num_samples, max_new_tokens
        self._batch_size, self._batch_tokens, self._seed = batch_size, batch_tokens, seed
        self._device = next(model.parameters()).device
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._max_positions = max_positions or int(model.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]

    @torch.no_grad()
    def sample(
        self,
        sequences: Sequences,
        questions: Questions,
        progress: Callable[[list[int]], Iterable[int]] = iter,
    ) -> Tally:
        """Return what the continuations of N sequences came to, in their order.

        A sequence of which nothing is asked is not sampled. `progress` wraps the list of the others.
        """
        shape = questions.is_asked.shape
        tally = Tally(np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64))
        asked = np.flatnonzero(questions.is_asked.any(axis=1))
        # prompts of like length together
        order: list[int] = asked[np.argsort(-sequences.lengths[asked], kind="stable")].tolist()
        waiting, queue = iter(progress(order)), deque(order)
        continuations = Continuations()
        waves: list[Wave] = []
        is_reduced = self._dtype == torch.bfloat16
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=is_reduced):
            while queue or waves:
                room = self._batch_size - sum(len(wave.last_tokens) for wave in waves)
                if queue and (room >= max(self._num_samples, self._batch_size // 4) or not waves):
                    num_stays = min(len(queue), max(1, room // self._num_samples))
                    stays = np.array([queue.popleft() for _ in range(num_stays)])
                    for _ in stays:
                        next(waiting)
                    waves.append(self._begin(stays, sequences, questions, continuations))
                self._step(waves, continuations, questions.never, tally)
                waves = self._drop_finished(waves, continuations)
        next(waiting, None)  # progress sees the end
        return tally

    def _begin(
        self, stays: np.ndarray, sequences: Sequences, questions: Questions, continuations: Continuations
    ) -> Wave:
        """Return the wave of `stays`, all of their prompts read but the last tokens."""
        prompts = [sequences.get(stay) for stay in stays]
        lengths = np.array([len(prompt) for prompt in prompts]) - 1
        cache = WaveCache(torch.from_numpy(lengths).to(self._device), self._num_samples, self._dtype)
        continuations.waves.append(cache)
        for rows in iterate_batches(lengths, self._batch_tokens):
            longest = int(lengths[rows].max())
            if longest == 0:
                continue
            continuations.start = int(rows[0])
            self._run_model(pad_right([prompts[row][:-1] for row in rows], 0), torch.arange(longest), continuations)
        continuations.start = None
        subject_ids = sequences.subjects["subject_id"].gather(stays)
        seeds = [distributed.derive_seed(self._seed, f"zero_shot/{subject_id}") for subject_id in subject_ids]
        # The last token that fits is drawn from the state at the last position, and needs none itself.
        max_tokens = np.minimum(self._max_new_tokens, self._max_positions - lengths)
        generators = [np.random.default_rng(seed) for seed in seeds]
        return Wave(stays, prompts, questions.take(stays), generators, self._num_samples, max_tokens)

    def _step(self, waves: list[Wave], continuations: Continuations, never: np.ndarray, tally: Tally) -> None:
        """Append one token to every continuation."""
        last_tokens = torch.from_numpy(np.concatenate([wave.last_tokens for wave in waves]))
        positions = torch.from_numpy(np.concatenate([wave.positions for wave in waves]))
        logits = self._run_model(last_tokens[:, None], positions[:, None], continuations)[:, 0]
        logits[:, torch.from_numpy(never).to(self._device)] = -torch.inf
        row = 0
        for wave, cache in zip(waves, continuations.waves, strict=True):
            cache.num_tokens += 1
            uniforms = wave.draw_uniforms()
            rows = logits[row : row + len(uniforms)]
            weights = wave.find_weights()
            repeated = None
            if weights is not None:
                repeated = torch.from_numpy(weights).to(self._device).repeat_interleave(self._num_samples, dim=0)
            tokens, is_conditioned = draw_tokens(rows, torch.from_numpy(uniforms[:, 0]).to(self._device), repeated)
            tally.num_unconditioned += int((~is_conditioned).sum()) // self._num_samples
            wave.advance(tokens.cpu().numpy(), is_conditioned.cpu().numpy(), uniforms[:, 1], tally)
            row += len(uniforms)

    def _run_model(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, continuations: Continuations
    ) -> torch.Tensor:
        """Return the logits of the last positions, f32 (B, 1, V)."""
        output: Any = self._model(
            input_ids=input_ids.to(self._device),
            position_ids=position_ids.expand_as(input_ids).to(self._device),
            use_cache=False,
            logits_to_keep=1,
            continuations=continuations,
        )
        return output.logits.float()

    def _drop_finished(self, waves: list[Wave], continuations: Continuations) -> list[Wave]:
        """Return the waves that go on, those with many finished continuations copied without them."""
        kept = []
        for wave, cache in zip(waves, continuations.waves, strict=True):
            num_alive = int(wave.is_alive.sum())
            if not num_alive:
                continue
            kept.append((wave, cache))
            if num_alive > KEPT_SHARE * cache.num_rows:
                continue
            rows, is_repeat, prompts = wave.find_layout(cache.prompt_length)
            if len(rows) > KEPT_SHARE * cache.num_rows:
                continue
            cache.keep(*(torch.from_numpy(places).to(self._device) for places in (prompts, rows)))
            wave.keep(rows, is_repeat, len(prompts))
        continuations.waves = [cache for _, cache in kept]
        return [wave for wave, _ in kept]


def draw_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one token of each row's law by inverting its distribution function, i64 (R,).

    And whether it was drawn by the weights, bool (R,): not where these leave the law nothing.

    Args:
        logits: f32 (R, V).
        uniforms: numbers in [0, 1), f64 (R,).
        weights: factors of the probabilities, f64 (R, V).
    """
    mass = (logits - logits.amax(-1, keepdim=True)).exp()
    is_conditioned = torch.ones(len(mass), dtype=torch.bool, device=mass.device)
    if weights is not None:
        weighted = mass * weights
        is_conditioned = weighted.sum(-1) > 0
        mass = torch.where(is_conditioned[:, None], weighted, mass)
    # Two small cumulative sums instead of a long one, which CPUs take token by token.
    blocks = F.pad(mass, (0, -mass.shape[1] % BLOCK)).view(len(mass), -1, BLOCK)
    block_ends = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniforms[:, None] * block_ends[:, -1:]
    block = torch.searchsorted(block_ends, target, right=True).clamp(max=block_ends.shape[1] - 1)
    before = block_ends.gather(1, block) - blocks.gather(1, block[..., None].expand(-1, -1, BLOCK)).sum(
        -1, dtype=torch.float64
    )
    inside = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    place = torch.searchsorted(inside, target - before, right=True).clamp(max=BLOCK - 1)
    return (block * BLOCK + place)[:, 0].clamp(max=logits.shape[1] - 1), is_conditioned
