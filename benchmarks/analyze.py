"""Seconds that stage 04 takes for each metric with its interval, on simulated predictions.

Reads   nothing (draws labels, probabilities and patients from a seed)
Writes  a Markdown table to the screen
Run     python benchmarks/analyze.py
        python benchmarks/analyze.py --num_stays 500 --num_replicates 50      # does it work?

Each metric is timed by itself, from the ranking to the interval, the drawing of the replicates included; then all of
them together, as stage 04 computes them. CPU seconds are those of the process, all threads together.
"""

# ruff: noqa: E402  (the path must be mended before anything else is imported)

from __future__ import annotations

import sys

sys.path[0] = __file__.rpartition("/benchmarks/")[0] or "."

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np

from clinrep.analysis.bootstrap import (
    CHUNK_WEIGHTS,
    bootstrap_metrics,
    compute_interval,
    draw_patient_counts,
    find_patients_with_event,
)
from clinrep.analysis.metrics import METRICS, rank
from clinrep.analysis.null_ece import draw_null_ece


def simulate(num_stays: int, prevalence: float, decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, probabilities (too extreme by a quarter) and patients, one in three with two stays."""
    rng = np.random.default_rng(0)
    patients = np.minimum(np.arange(num_stays), rng.integers(num_stays, size=num_stays))
    patients = np.unique(np.where(rng.random(num_stays) < 1 / 3, patients, np.arange(num_stays)), return_inverse=True)[
        1
    ]
    logits = np.log(prevalence / (1 - prevalence)) + rng.normal(0, 1.3, num_stays)
    labels = rng.random(num_stays) < 1 / (1 + np.exp(-logits))
    return labels, np.round(1 / (1 + np.exp(-1.25 * logits)), decimals), patients


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--num_stays", type=int, nargs="+", default=[100_000])
    parser.add_argument("--num_replicates", type=int, default=1000)
    parser.add_argument("--prevalence", type=float, nargs="+", default=[0.05, 0.3])
    parser.add_argument("--decimals", type=int, default=9, help="of the probabilities; fewer make ties")
    options = parser.parse_args()
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    print(f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}\n")
    print(
        "| stays | with the event | metric | estimate | interval | seconds | CPU seconds |\n"
        "| ---: | ---: | --- | ---: | --- | ---: | ---: |"
    )
    for num_stays in options.num_stays:
        for prevalence in options.prevalence:
            measure(num_stays, prevalence, options.num_replicates, options.decimals)


def read_clocks() -> tuple[float, float]:
    """Return wall and CPU clock."""
    return time.perf_counter(), time.process_time()


def tell_seconds(start: tuple[float, float]) -> str:
    """Return the two cells of the seconds since then."""
    return " | ".join(f"{now - then:.2f}" for now, then in zip(read_clocks(), start, strict=True))


def measure(num_stays: int, prevalence: float, num_replicates: int, decimals: int) -> None:
    """Print a row a metric, one for the draws alone, and one for all metrics together."""
    labels, probabilities, patients = simulate(num_stays, prevalence, decimals)
    has_event = find_patients_with_event(labels, patients)
    start = read_clocks()
    for _ in draw_patient_counts(has_event, num_replicates, 1, max(1, CHUNK_WEIGHTS // num_stays)):
        pass
    where = f"| {num_stays:,} | {labels.sum():,} |"
    print(f"{where} draws alone | | | {tell_seconds(start)} |", flush=True)
    start = read_clocks()
    noise = np.quantile(draw_null_ece(rank(labels, probabilities), patients, 1), 0.95)
    print(f"{where} ece of labels from the probabilities | {noise:.4f} | | {tell_seconds(start)} |", flush=True)
    for names in [[name] for name in METRICS] + [list(METRICS)]:
        start = read_clocks()
        ranking = rank(labels, probabilities)
        estimate = METRICS[names[0]].compute(ranking.tally(np.ones((1, num_stays))))[0]
        values = bootstrap_metrics([ranking], patients, num_replicates, 1, names)
        low, high = compute_interval(values[0, 0], 0.95) or (np.nan, np.nan)
        told = f"{names[0]} | {estimate:.4f} | {low:.4f} to {high:.4f}" if len(names) == 1 else "**all together** | |"
        print(f"{where} {told} | {tell_seconds(start)} |", flush=True)


if __name__ == "__main__":
    main()
