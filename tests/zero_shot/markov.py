"""A language model whose next-token law is a known Markov chain, with what a sampler asks of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import torch

from clinrep.sequences import Sequences
from clinrep.zero_shot.questions import Clock, Questions

TOKENS = ["PAD", "A", "B", "C", "EVENT", "OTHER", "HOME", "EXPIRED", "GAP"]
PAD, A, B, C, EVENT, OTHER, HOME, EXPIRED, GAP = range(len(TOKENS))
# fmt: off
#              PAD  A    B    C    EVT   OTH   HOME  EXP   GAP
LAW = np.array([
    [1.0, 0,   0,   0,   0,    0,    0,    0,    0],
    [0,   0.1, 0.3, 0.3, 0.05, 0.05, 0.05, 0.05, 0.1],   # A
    [0,   0.4, 0.1, 0.2, 0.1,  0.0,  0.1,  0.0,  0.1],   # B
    [0,   0.2, 0.2, 0.2, 0.0,  0.2,  0.05, 0.05, 0.1],   # C
    [0,   0.5, 0.0, 0.3, 0.0,  0.0,  0.0,  0.2,  0.0],   # EVENT
    [0,   0.3, 0.3, 0.3, 0.0,  0.0,  0.1,  0.0,  0.0],   # OTHER
    [1.0, 0,   0,   0,   0,    0,    0,    0,    0],
    [1.0, 0,   0,   0,   0,    0,    0,    0,    0],
    [0,   0.5, 0.2, 0.3, 0.0,  0.0,  0.0,  0.0,  0.0],   # GAP
])
# fmt: on


class MarkovModel(torch.nn.Module):
    """Gives logits of the law of the last token alone, and remembers which positions it was asked for."""

    def __init__(self, law: np.ndarray = LAW, max_positions: int = 10_000) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(np.log(np.maximum(law, 1e-30)), dtype=torch.float32))
        self.config = SimpleNamespace(max_position_embeddings=max_positions, vocab_size=len(law))
        self.last_position = 0

    def forward(self, input_ids: torch.Tensor, position_ids: Any = None, **unused: Any) -> SimpleNamespace:
        if position_ids is not None:
            self.last_position = max(self.last_position, int(position_ids.max()))
        logits = self.logits[input_ids]
        return SimpleNamespace(logits=logits[:, -1:] if "continuations" in unused else logits)


def make_sequences(prompts: list[list[int]], split: str = "test") -> Sequences:
    """Return sequences of stays S000, S001, ... one minute from token to token."""
    offsets = np.concatenate([[0], np.cumsum([len(prompt) for prompt in prompts])]).astype(np.int64)
    tokens = np.concatenate([np.array(prompt) for prompt in prompts]).astype(np.uint32)
    subjects = pl.DataFrame(
        {"subject_id": [f"S{number:03d}" for number in range(len(prompts))], "split": [split] * len(prompts)}
    )
    times = np.datetime64("2150-01-01", "us") + np.arange(len(tokens)) * np.timedelta64(60, "s")
    return Sequences(subjects, tokens, times, offsets, PAD, Path("vocabulary.parquet"))


def make_questions(num_stays: int, clock: Clock | None = None, **others: Any) -> Questions:
    """Return the questions event (EVENT), other (OTHER) and death (EXPIRED), asked of every stay."""
    is_event = np.zeros((3, len(TOKENS)), dtype=bool)
    is_event[[0, 1, 2], [EVENT, OTHER, EXPIRED]] = True
    is_end = np.zeros(len(TOKENS), dtype=bool)
    is_end[[HOME, EXPIRED]] = True
    settings: dict[str, Any] = {
        "outcomes": ["event", "other", "death"],
        "is_event": is_event,
        "is_end": is_end,
        "is_asked": np.ones((num_stays, 3), dtype=bool),
        "labels": np.zeros((num_stays, 3), dtype=bool),
        "deadline_hours": np.full((num_stays, 3), np.inf),
        "horizon_hours": np.full(num_stays, np.inf),
        "index_hours": np.zeros(num_stays),
        "is_index_closed": False,
        "never": np.array([PAD]),
        "clock": clock,
    }
    return Questions(**settings | others)


def make_clock(gaps: dict[int, list[float]]) -> Clock:
    """Return a clock where each token of `gaps` (GAP is the time token) is a class of its own, with these hours."""
    tokens = range(len(TOKENS))
    pieces = [np.sort(np.array(gaps.get(token, [0.0]), dtype=np.float64)) for token in tokens]
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    return Clock(np.arange(len(TOKENS)), np.concatenate(pieces), offsets, np.arange(len(TOKENS)) == GAP)


def solve_chance(token: int, start: int, law: np.ndarray = LAW) -> float:
    """Return the chance that the chain, from `start`, visits `token` before it ends."""
    ends = [HOME, EXPIRED, PAD]
    inner = [state for state in range(len(law)) if state not in ends and state != token]
    matrix = np.eye(len(inner)) - law[np.ix_(inner, inner)]
    chances = np.linalg.solve(matrix, law[inner, token])
    return float(chances[inner.index(start)])
