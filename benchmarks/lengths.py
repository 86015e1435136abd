"""Lengths of 24 h sequences as they are found, for the benchmarks of stages 02 and 03."""

from __future__ import annotations

import numpy as np

# name -> median, mean and greatest number of tokens. Of the sample: spec/clif_data.md, A7; of MIMIC-IV the mean of
# the manuscript's train split (Table 1), at most 1,024, with the sample's median in proportion.
LENGTHS = {"sample": (82, 242, 1055), "mimic": (40, 102, 1024)}


def draw_lengths(name: str, num_sequences: int) -> np.ndarray:
    """Return lengths of 6 to 1,024 tokens, i64 (num_sequences,), always the same, with the mean of a cohort.

    A mixture of the log-normal kind: half at most the median, a long tail of the sickest, whose spread is chosen so
    that the mean is that of the cohort.
    """
    median, mean, longest = LENGTHS[name]
    scores = np.random.default_rng(0).normal(size=num_sequences)
    low, high = 0.1, 4.0
    for _ in range(60):  # the mean rises with the spread
        spread = (low + high) / 2
        lengths = np.clip(median * np.exp(spread * scores), 6, min(longest, 1024)).astype(np.int64)
        low, high = (spread, high) if lengths.mean() < mean else (low, spread)
    return lengths
