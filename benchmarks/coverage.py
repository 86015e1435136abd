"""How often the intervals of stage 04 hold the truth when few stays have the event, on simulated predictions.

Reads   nothing (draws labels and probabilities from a seed)
Writes  a Markdown table to the screen
Run     python benchmarks/coverage.py
        python benchmarks/coverage.py --num_samples 20 --num_events 10      # does it work?

One stay a patient; log-odds are normal, 1.5 standard deviations higher with the event (AUROC 0.856) and in slope and
intercept those of the right model. Each sample has about so many events among stays of a prevalence of 4 %, by chance
more or fewer; samples of fewer than 5 have no interval in stage 04 and are left out. `percentile` is the interval of
the score table; `logit` is 1.96 standard errors by DeLong on the log-odds of the AUROC (Pepe, The Statistical
Evaluation of Medical Tests, 2003, section 5.2.4), which stage 04 does not print.
"""

# ruff: noqa: E402  (the path must be mended before anything else is imported)

from __future__ import annotations

import sys

sys.path[0] = __file__.rpartition("/benchmarks/")[0] or "."

import argparse

import numpy as np
from scipy.special import expit, logit

from clinrep.analysis.bootstrap import bootstrap_metrics, compute_interval
from clinrep.analysis.delong import compute_auroc_covariance
from clinrep.analysis.metrics import METRICS, rank

PREVALENCE = 0.04
SHIFT = 1.5
LEAST_EVENTS = 5
PERCENTILE = ("auroc", "auprc", "brier", "calibration_slope")
LOGIT = "auroc, logit"


def simulate(rng: np.random.Generator, num_stays: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and the probabilities of the model that is right."""
    labels = rng.random(num_stays) < PREVALENCE
    values = rng.normal(size=num_stays) + SHIFT * labels
    return labels, expit(logit(PREVALENCE) + SHIFT * values - SHIFT**2 / 2)


def find_truth() -> dict[str, float]:
    """Return each metric of two million stays."""
    labels, probabilities = simulate(np.random.default_rng(0), 2_000_000)
    tally = rank(labels, probabilities).tally(np.ones((1, labels.size)))
    return {name: float(METRICS[name].compute(tally)[0]) for name in PERCENTILE}


def find_intervals(labels: np.ndarray, probabilities: np.ndarray, seed: int) -> dict[str, tuple[float, float] | None]:
    """Return the intervals of one sample, that of the AUROC in both ways."""
    ranking, patients = rank(labels, probabilities), np.arange(labels.size)
    values = bootstrap_metrics([ranking], patients, 500, seed, PERCENTILE)[0]
    found = dict(zip(PERCENTILE, (compute_interval(one, 0.95) for one in values), strict=True))
    (auroc,), covariance = compute_auroc_covariance([ranking], labels, patients)
    if not 0 < auroc < 1:
        return found | {LOGIT: None}
    reach = 1.96 * np.sqrt(covariance[0, 0]) / (auroc * (1 - auroc))
    return found | {LOGIT: (float(expit(logit(auroc) - reach)), float(expit(logit(auroc) + reach)))}


def main() -> None:
    """Print a row a number of events and metric: how often the truth is held, below and above."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--num_events", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--num_samples", type=int, default=1000)
    options = parser.parse_args()
    truth = find_truth()
    print("| events, about | metric | samples | truth held | truth below | truth above |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for num_events in options.num_events:
        measure(num_events, options.num_samples, truth)


def measure(num_events: int, num_samples: int, truth: dict[str, float]) -> None:
    """Print the rows of one number of events."""
    rng = np.random.default_rng(num_events)
    sides: dict[str, list[int]] = {name: [] for name in (*PERCENTILE, LOGIT)}
    for seed in range(num_samples):
        labels, probabilities = simulate(rng, round(num_events / PREVALENCE))
        if labels.sum() < LEAST_EVENTS:
            continue
        for name, interval in find_intervals(labels, probabilities, seed).items():
            if interval is not None:
                value = truth[name.partition(",")[0]]
                sides[name].append(int(value > interval[1]) - int(value < interval[0]))
    for name, found in sides.items():
        held, below, above = (np.mean(np.array(found) == side) for side in (0, -1, 1))
        print(f"| {num_events} | {name} | {len(found)} | {held:.3f} | {below:.3f} | {above:.3f} |", flush=True)


if __name__ == "__main__":
    main()
