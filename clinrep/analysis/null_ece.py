"""How large a calibration error chance alone gives a model whose probabilities are right.

Shapes: N stays, B bins, D draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinrep.analysis.metrics import Floats, Ranking

# Of 500 draws the 95 % quantile has a Monte Carlo error of about 1 % in level: [0.93, 0.97] at worst.
NUM_DRAWS = 500


def draw_null_ece(ranking: Ranking, patients: NDArray[np.intp], seed: int, num_draws: int = NUM_DRAWS) -> Floats:
    """Return (D,) the ECE of labels drawn from the model's own probabilities, each stay's by itself.

    Consistency resampling (Broecker and Smith, Weather and Forecasting 22 (2007) 651-661; as a test of calibration:
    Vaicenavicius et al., AISTATS 2019, section 5), exact but for patients with several stays. Their labels go
    together more than such draws do, so the errors are widened by the root of the design effect
    (`compute_design_effect`); with one stay a patient it is 1.
    """
    starts, num_stays = ranking.bins[:-1], ranking.order.size
    probabilities = ranking.stay_probabilities
    expected = np.add.reduceat(probabilities, starts)
    generator = np.random.default_rng([seed, 3])  # the bootstrap has 0 to 2
    errors = np.empty(num_draws)
    for draw in range(num_draws):  # one draw at a time stays in the cache
        events = np.add.reduceat(generator.random(num_stays) < probabilities, starts, dtype=np.int64)
        errors[draw] = np.abs(events - expected).sum()
    return errors * np.sqrt(compute_design_effect(ranking, patients)) / num_stays


def compute_design_effect(ranking: Ranking, patients: NDArray[np.intp]) -> float:
    """Return by how much the variance of the bins' sums of residuals exceeds that of independent stays, at least 1.

    As in Rao and Scott, Biometrics 48 (1992) 577-585: squared sums of each patient's stays in a bin over squared
    residuals, both less the bin's mean, so that a miscalibrated model is not taken for patients whose stays are alike.
    """
    sizes = np.diff(ranking.bins)
    residuals = ranking.labels - ranking.stay_probabilities
    residuals -= np.repeat(np.add.reduceat(residuals, ranking.bins[:-1]) / sizes, sizes)
    of_stays = float(residuals @ residuals)
    bins = np.repeat(np.arange(sizes.size), sizes)
    of_patients = np.bincount(patients[ranking.order] * sizes.size + bins, residuals)
    return max(1.0, float(of_patients @ of_patients) / of_stays) if of_stays > 0 else 1.0
