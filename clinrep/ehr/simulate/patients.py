"""Who comes to the hospital and when: patients, their stays, and what is known of both at admission.

Shapes: N stays of a shard; a patient's stays follow each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clinrep.ehr.simulate.chain import number_groups
from clinrep.ehr.simulate.charts import MINUTES_PER_HOUR, Course
from clinrep.ehr.simulate.sites import CaseMix

SHARE_OF_NEW_PATIENTS = 0.6  # of stays; so a patient has 1 / 0.6 stays on average
MINUTES_PER_DAY = 24 * MINUTES_PER_HOUR
MINUTES_PER_YEAR = 365.25 * MINUTES_PER_DAY
# First admissions fall in 60 years from 2110-01-01, as in date-shifted data. Minutes since 1970.
FIRST_MINUTE = (np.datetime64("2110-01-01", "m") - np.datetime64("1970-01-01", "m")).astype(int)
FIRST_ADMISSION_YEARS = 60
MEAN_GAP_DAYS = 240  # between a discharge and the next admission, besides one day
_AGE_RANGES = ((18, 50), (50, 65), (65, 80), (80, 96))  # the groups of chain.AGE_LIMITS_YEARS, upper end excluded


@dataclass(frozen=True)
class Arrivals:
    """The stays of a shard as they are known at admission."""

    is_new: np.ndarray
    """bool (N,): first stay of its line of stays."""
    gaps: np.ndarray
    """i64 (N,): minutes between the last discharge and this admission."""
    ages: np.ndarray
    """i64 (N,), full years."""
    sexes: np.ndarray
    """i64 (N,), positions in chain.SEXES."""
    admissions: np.ndarray
    """i64 (N,), positions in chain.ADMISSIONS."""

    @property
    def groups(self) -> np.ndarray:
        """i64 (N,): the chain's groups."""
        return number_groups(self.ages, self.sexes, self.admissions)


@dataclass(frozen=True)
class Stays:
    """When the stays of a shard were, and whose; times are minutes since 1970."""

    patient: np.ndarray
    """i64 (N,), from 0 without gaps."""
    admission: np.ndarray
    """i64 (N,)."""
    length: np.ndarray
    """i64 (N,): minutes to discharge."""

    @property
    def discharge(self) -> np.ndarray:
        """i64 (N,)."""
        total: np.ndarray = self.admission + self.length
        return total


def draw_arrivals(case_mix: CaseMix, num_stays: int, generator: np.random.Generator) -> Arrivals:
    """Return who arrives."""
    is_new = generator.random(num_stays) < SHARE_OF_NEW_PATIENTS
    is_new[0] = True
    line = np.cumsum(is_new) - 1
    num_lines = int(line[-1]) + 1
    age_group = generator.choice(len(case_mix.ages), num_lines, p=case_mix.ages)
    low, high = np.array(_AGE_RANGES).T
    first_age = generator.uniform(low[age_group], high[age_group])
    sexes = generator.choice(len(case_mix.sexes), num_lines, p=case_mix.sexes)[line]
    gaps = (1 + generator.exponential(MEAN_GAP_DAYS, num_stays)) * MINUTES_PER_DAY
    gaps = np.where(is_new, 0, gaps).astype(np.int64)
    # years in hospital are left out, since lengths of stay are drawn later and depend on age
    ages = first_age[line] + _sum_since_new(gaps, is_new) / MINUTES_PER_YEAR
    admissions = generator.choice(len(case_mix.admissions), num_stays, p=case_mix.admissions)
    return Arrivals(is_new, gaps, ages.astype(np.int64), sexes, admissions)


def settle_stays(arrivals: Arrivals, course: Course, generator: np.random.Generator) -> Stays:
    """Return when the stays were; whoever comes after a death is another patient of the same age and sex."""
    # the minutes of discharge are uniform 0..59: truth.py relies on it
    length = MINUTES_PER_HOUR * course.hours + generator.integers(MINUTES_PER_HOUR, size=len(course.hours))
    first = FIRST_MINUTE + generator.integers(int(FIRST_ADMISSION_YEARS * MINUTES_PER_YEAR), size=len(length))
    since = np.concatenate([[0], length[:-1]]) + arrivals.gaps
    line_start = np.maximum.accumulate(np.where(arrivals.is_new, np.arange(len(length)), 0))
    admission = first[line_start] + _sum_since_new(np.where(arrivals.is_new, 0, since), arrivals.is_new)
    is_new_patient = arrivals.is_new | np.concatenate([[True], course.has_died[:-1]])
    return Stays(np.cumsum(is_new_patient) - 1, admission, length)


def _sum_since_new(values: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """Return the running sum (N,) that starts again at every new line."""
    total = np.cumsum(values)
    start = np.maximum.accumulate(np.where(is_new, np.arange(len(values)), 0))
    since: np.ndarray = total - total[start]
    return since
