"""The two truths of every stay and outcome: given the latent state, and given what the tables show.

Shapes: G groups, S severities, C places, E stays of at least 24 h, H = 24 hours of the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinrep.ehr.simulate.chain import DEAD, ICU, IMV, NUM_SEVERITIES, NUM_STATES, PLACES, Chain
from clinrep.ehr.simulate.charts import MINUTES_PER_HOUR, Chart, Course, find_open
from clinrep.ehr.simulate.signals import make_chances, make_masses

WINDOW_HOURS = 24
LONG_STAY_HOURS = 168
OUTCOMES = ("in_hospital_death", "long_length_of_stay", "icu_admission", "imv_event")
# Outcome -> the places whose first visit is the event; the question is void once it was seen.
TARGETS = {"icu_admission": (ICU, IMV), "imv_event": (IMV,)}


def compute_outcome_probabilities(chain: Chain) -> dict[str, np.ndarray]:
    """Return for each outcome f64 (G, S, C): its probability given the state in the window's last hour.

    Places where the question is void hold NaN.
    """
    inside = chain.transition[:, :, :NUM_STATES]
    risks = {
        "in_hospital_death": _solve(inside, chain.transition[:, :, DEAD]),
        "long_length_of_stay": _compute_long_stay(inside),
    }
    for outcome, targets in TARGETS.items():
        is_target = np.isin(np.arange(NUM_STATES) % len(PLACES), targets)
        hits = inside[:, :, is_target].sum(axis=2)
        risk = _solve(np.where(is_target, 0, inside), hits)
        risks[outcome] = np.where(is_target, np.nan, risk)
    shape = (len(inside), NUM_SEVERITIES, len(PLACES))
    return {outcome: risks[outcome].reshape(shape) for outcome in OUTCOMES}


def _solve(inside: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Return f64 (G, S * C): the probability of ever being hit, x = hits + inside x."""
    solution: np.ndarray = np.linalg.solve(np.eye(NUM_STATES) - inside, hits[:, :, None])[:, :, 0]
    return solution


def _compute_long_stay(inside: np.ndarray) -> np.ndarray:
    """Return f64 (G, S * C): the probability of discharge more than 168 h after admission.

    The discharge falls on a uniform minute 0..59 of the hour in which the stay ends, so a stay that
    lasts through hour 167 and ends in hour 168 is longer than 168 h unless that minute is 0.
    """
    num_steps = LONG_STAY_HOURS - WINDOW_HOURS  # from hour 23 to hour 167
    present = np.linalg.matrix_power(inside, num_steps).sum(axis=2)
    present_later = (inside @ present[:, :, None])[:, :, 0]
    probability: np.ndarray = present + (present_later - present) / MINUTES_PER_HOUR
    return probability


def score_hours(charts: Sequence[Chart], course: Course) -> tuple[np.ndarray, np.ndarray]:
    """Return the stays of at least 24 h, i64 (E,), and the log-likelihood of what each of their hours shows.

    f64 (E, 24, S): of the severity, given the place: panels charted, panels not charted, values written.
    """
    is_scored = (course.hours[course.stay] >= WINDOW_HOURS) & (course.hour < WINDOW_HOURS)
    row = np.cumsum(is_scored) - 1
    place = course.place[is_scored]
    scores = np.zeros((len(place), NUM_SEVERITIES))
    for chart in charts:
        chances = make_chances(chart.panel).T
        is_open = find_open(chart.panel, course)[is_scored]
        seen = is_scored[chart.position]
        rows = row[chart.position[seen]]
        is_absent = is_open.copy()
        is_absent[rows] = False
        scores[is_absent] += np.log1p(-chances)[place[is_absent]]
        by_chance = rows[is_open[rows]]
        with np.errstate(divide="ignore"):  # a panel is never charted where its chance is 0
            scores[by_chance] += np.log(chances)[place[by_chance]]
        for channel, cells in zip(chart.panel.channels, chart.cells, strict=True):
            scores[rows] += np.log(make_masses(channel)).T[cells[seen]]
    stays = np.flatnonzero(course.hours >= WINDOW_HOURS)
    return stays, scores.reshape(len(stays), WINDOW_HOURS, NUM_SEVERITIES)


def filter_severity(
    chain: Chain, groups: np.ndarray, places: np.ndarray, scores: np.ndarray, num_places: int = len(PLACES)
) -> np.ndarray:
    """Return f64 (E, S): the probability of each severity in the last hour, given all hours.

    The place is known in every hour, the severity never: the forward algorithm over severities. `groups`
    is (E,), `places` (E, hours), `scores` the log-likelihoods (E, hours, S).
    """
    num_severities = scores.shape[2]
    initial = chain.initial.reshape(-1, num_severities, num_places)
    num_states = num_severities * num_places
    steps = chain.transition[:, :, :num_states].reshape(-1, num_severities, num_places, num_severities, num_places)
    likelihood = np.exp(scores - scores.max(axis=2, keepdims=True))
    belief = initial[groups, :, places[:, 0]] * likelihood[:, 0]
    for hour in range(1, places.shape[1]):
        belief = belief / belief.sum(axis=1, keepdims=True)
        step = steps[groups, :, places[:, hour - 1], :, places[:, hour]]
        belief = np.einsum("es,est->et", belief, step) * likelihood[:, hour]
    result: np.ndarray = belief / belief.sum(axis=1, keepdims=True)
    return result


def find_labels(course: Course, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Return for each outcome f64 (N,): 1 where it comes at or after 24 h, 0 where not, NaN where void.

    `lengths` is i64 (N,): minutes from admission to discharge.
    """
    is_asked = course.hours >= WINDOW_HOURS
    labels = {
        "in_hospital_death": np.where(is_asked, course.has_died, np.nan),
        "long_length_of_stay": np.where(is_asked, lengths > LONG_STAY_HOURS * MINUTES_PER_HOUR, np.nan),
    }
    for outcome, targets in TARGETS.items():
        is_target = np.isin(course.place, targets)
        early, late = (
            np.bincount(course.stay[is_target & is_late], minlength=len(lengths)) > 0
            for is_late in (course.hour < WINDOW_HOURS, course.hour >= WINDOW_HOURS)
        )
        labels[outcome] = np.where(is_asked & ~early, late, np.nan)
    return labels
