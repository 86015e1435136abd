"""Lengths of 24 h sequences as they are found, for the benchmarks of stages 02 and 03."""

from __future__ import annotations

import statistics

import numpy as np

# name -> median, mean and longest, tokens: of the sample's 24 h sequences (spec/clif_data.md, A7), and of MIMIC-IV's in
# the manuscript, which gives the mean (Table 1) but no median: 52 is a guess
LENGTHS = {"sample": (82.0, 242.0, 1055), "mimic": (52.0, 102.0, 1024)}
MAX_LENGTH = 1024  # where stages 02 and 03 cut, as in the manuscript


def draw_lengths(name: str, num_stays: int) -> np.ndarray:
    """Return lengths i64 in file order, at most MAX_LENGTH: a log-normal with the median and mean of `name`.

    The spread that gives the mean before the last cut is found by bisection.
    """
    median, mean, longest = LENGTHS[name]
    uniform = (np.arange(num_stays) + 0.5) / num_stays
    normal = np.array([statistics.NormalDist().inv_cdf(one) for one in uniform])
    low, high = 0.1, 6.0
    for _ in range(60):
        spread = (low + high) / 2
        lengths = np.clip(np.rint(median * np.exp(spread * normal)), 8, longest).astype(np.int64)
        low, high = (spread, high) if lengths.mean() < mean else (low, spread)
    return np.minimum(np.random.default_rng(0).permutation(lengths), MAX_LENGTH)
