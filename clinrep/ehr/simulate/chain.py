"""The course of illness: a Markov chain in hourly steps over (severity, place), with two ways out.

Shapes: G groups of stays, S severities, C places. A state is numbered severity * C + place; after the
S * C states of a stay come DISCHARGED and DEAD. The formulas are in the package's docstring.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

NUM_SEVERITIES = 5  # 0 is well enough to leave, 4 is dying
PLACES = ("ed", "ward", "stepdown", "icu", "icu_imv")  # icu_imv: in the ICU on invasive ventilation
ED, WARD, STEPDOWN, ICU, IMV = range(len(PLACES))
NUM_STATES = NUM_SEVERITIES * len(PLACES)
DISCHARGED, DEAD = NUM_STATES, NUM_STATES + 1

AGE_LIMITS_YEARS = (50, 65, 80)  # of the four age groups: below 50, 50 to 64, 65 to 79, 80 and older
SEXES = ("Female", "Male")
ADMISSIONS = ("emergency", "elective", "observation")

# Probability per hour, by severity 0..4, of one step worse and one step better.
_WORSEN = (0.0028, 0.0032, 0.0030, 0.0034, 0.0)
_RECOVER = (0.0, 0.0175, 0.0150, 0.0150, 0.0130)
# ... of leaving the hospital alive from each place, and of dying.
_DISCHARGE = {
    ED: (0.0060, 0.0015, 0.0, 0.0, 0.0),
    WARD: (0.0280, 0.0060, 0.0007, 0.0001, 0.0),
    STEPDOWN: (0.0140, 0.0030, 0.0003, 0.0, 0.0),
    ICU: (0.0020, 0.0010, 0.0002, 0.0, 0.0),
    IMV: (0.0, 0.0, 0.0, 0.0, 0.0),
}
_DIE = (0.000002, 0.000008, 0.000040, 0.000300, 0.006000)
# ... and of moving from one place to another.
_MOVE = {
    (ED, WARD): (0.1900, 0.1900, 0.1700, 0.1000, 0.0400),
    (ED, STEPDOWN): (0.0080, 0.0150, 0.0250, 0.0400, 0.0300),
    (ED, ICU): (0.0020, 0.0060, 0.0250, 0.0800, 0.1400),
    (ED, IMV): (0.0, 0.0002, 0.0030, 0.0150, 0.0600),
    (WARD, STEPDOWN): (0.0002, 0.0008, 0.0025, 0.0060, 0.0080),
    (WARD, ICU): (0.0001, 0.0002, 0.0007, 0.0055, 0.0320),
    (WARD, IMV): (0.0, 0.00002, 0.0001, 0.0010, 0.0100),
    (STEPDOWN, WARD): (0.0300, 0.0200, 0.0080, 0.0020, 0.0010),
    (STEPDOWN, ICU): (0.0001, 0.0003, 0.0011, 0.0075, 0.0380),
    (STEPDOWN, IMV): (0.0, 0.00003, 0.0001, 0.0015, 0.0120),
    (ICU, WARD): (0.0500, 0.0250, 0.0060, 0.0010, 0.0002),
    (ICU, STEPDOWN): (0.0300, 0.0200, 0.0080, 0.0015, 0.0003),
    (ICU, IMV): (0.0002, 0.0004, 0.0015, 0.0085, 0.0330),
    (IMV, ICU): (0.0700, 0.0400, 0.0120, 0.0030, 0.0008),
}
# Where a stay begins, by kind of admission: severity 0..4, and place.
_FIRST_SEVERITY = {
    "emergency": (0.12, 0.43, 0.32, 0.10, 0.03),
    "elective": (0.20, 0.50, 0.24, 0.055, 0.005),
    "observation": (0.30, 0.46, 0.20, 0.035, 0.005),
}
_FIRST_PLACE = {
    "emergency": (0.85, 0.08, 0.02, 0.04, 0.01),
    "elective": (0.0, 0.72, 0.10, 0.13, 0.05),
    "observation": (0.92, 0.08, 0.0, 0.0, 0.0),
}
# Factors of a group on getting worse, getting better and dying.
_AGE_WORSEN, _AGE_RECOVER, _AGE_DIE = (0.85, 1.0, 1.15, 1.3), (1.2, 1.0, 0.85, 0.7), (0.5, 1.0, 1.6, 2.6)
_SEX_WORSEN = {"Female": 0.97, "Male": 1.03}
_ADMISSION_RECOVER = {"emergency": 1.0, "elective": 1.15, "observation": 1.3}


@dataclass(frozen=True)
class Chain:
    """The probabilities of a site's course of illness."""

    initial: np.ndarray
    """f64 (G, S * C): of each state in the first hour."""
    transition: np.ndarray
    """f64 (G, S * C, S * C + 2): from each state to each state, DISCHARGED and DEAD in one hour."""


def number_groups(ages: np.ndarray, sexes: np.ndarray, admissions: np.ndarray) -> np.ndarray:
    """Return the group of each stay: age in years, and positions in SEXES and ADMISSIONS; all of them visible."""
    age_groups = np.searchsorted(AGE_LIMITS_YEARS, ages, side="right")
    groups: np.ndarray = (age_groups * len(SEXES) + sexes) * len(ADMISSIONS) + admissions
    return groups


def make_chain(severity_shift: float = 0.0) -> Chain:
    """Return the chain; the odds of first severity s are multiplied by exp(severity_shift * s)."""
    groups = itertools.product(range(len(AGE_LIMITS_YEARS) + 1), SEXES, ADMISSIONS)
    initial, transition = [], []
    for age_group, sex, admission in groups:
        odds = np.array(_FIRST_SEVERITY[admission]) * np.exp(severity_shift * np.arange(NUM_SEVERITIES))
        initial.append(np.outer(odds / odds.sum(), _FIRST_PLACE[admission]).ravel())
        worsen = np.array(_WORSEN) * _AGE_WORSEN[age_group] * _SEX_WORSEN[sex]
        recover = np.array(_RECOVER) * _AGE_RECOVER[age_group] * _ADMISSION_RECOVER[admission]
        transition.append(_make_transition(worsen, recover, np.array(_DIE) * _AGE_DIE[age_group]))
    return Chain(np.stack(initial), np.stack(transition))


def _make_transition(worsen: np.ndarray, recover: np.ndarray, die: np.ndarray) -> np.ndarray:
    """Return f64 (S * C, S * C + 2): first whether the stay ends, then severity and place, independently."""
    steps = np.diag(1 - worsen - recover) + np.diag(worsen[:-1], 1) + np.diag(recover[1:], -1)
    moves = np.zeros((NUM_SEVERITIES, len(PLACES), len(PLACES)))
    for (start, end), probabilities in _MOVE.items():
        moves[:, start, end] = probabilities
    stays = np.arange(len(PLACES))
    moves[:, stays, stays] = 1 - moves.sum(axis=2)
    leave = np.array([_DISCHARGE[place] for place in range(len(PLACES))]).T
    remain = 1 - leave - die[:, None]
    inside = remain[:, :, None, None] * steps[:, None, :, None] * moves[:, :, None, :]
    ends = np.stack([leave.ravel(), np.repeat(die, len(PLACES))], axis=1)
    return np.concatenate([inside.reshape(NUM_STATES, NUM_STATES), ends], axis=1)


def simulate_paths(chain: Chain, groups: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return the states of all hours of stays in these groups (N,).

    Returns:
        hours: i64 (N,), the number of hours each stay is in hospital; it ends within the next one.
        states: u8 (sum of hours,), stay after stay.
        ends: u8 (N,), DISCHARGED or DEAD.
    """
    cumulative, first = np.cumsum(chain.transition, axis=2), np.cumsum(chain.initial, axis=1)
    present = np.arange(len(groups))
    state = _draw(first[groups], generator)
    hours, ends, log = np.zeros(len(groups), np.int64), np.zeros(len(groups), np.uint8), []
    while len(present):
        log.append((present, state))
        state = _draw(cumulative[groups[present], state], generator)
        is_over = state >= NUM_STATES
        hours[present[is_over]] = len(log)
        ends[present[is_over]] = state[is_over]
        present, state = present[~is_over], state[~is_over]
    starts = np.cumsum(hours) - hours
    states = np.empty(int(hours.sum()), np.uint8)
    for hour, (stays, values) in enumerate(log):
        states[starts[stays] + hour] = values
    return hours, states, ends


def _draw(cumulative: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return one column number per row of cumulative probabilities (N, K)."""
    numbers = (generator.random(len(cumulative))[:, None] >= cumulative).sum(axis=1)
    # rounding may leave the last sum a hair below 1
    drawn: np.ndarray = np.minimum(numbers, cumulative.shape[1] - 1)
    return drawn
