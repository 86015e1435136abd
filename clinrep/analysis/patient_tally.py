"""The sums that metrics read, from how often patients were drawn: replicates cost products with sparse matrices.

Shapes: R replicates, P patients, N stays, G merged groups of stays, B bins, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from clinrep.analysis.metrics import Floats, Ranking, Sums


@dataclass(frozen=True)
class Draws:
    """Replicates: how often each patient was drawn, those with an event in the first rows, and what a draw weighs."""

    counts: NDArray[np.float32]
    """(P, R) whole numbers: in single precision exact, and so are their sums over fewer than 2^24 stays."""
    num_with: int
    """Patients with an event."""
    scales: Floats
    """(2, R) weight of a draw of a patient with an event, and of one without."""

    @cached_property
    def weights(self) -> Floats:
        """(P, R) the counts times what each draw weighs."""
        weights = self.counts.astype(np.float64)
        weights[: self.num_with] *= self.scales[0]
        weights[self.num_with :] *= self.scales[1]
        return weights


class PatientSums:
    """How the sums of one ranking come from the draws of its patients; each matrix is made when it is first asked for.

    In order of probability the patients are scattered over memory, and to fetch them stay by stay costs more than all
    sums together. A product of a sparse matrix (G, P) with counts (P, R) reads them in runs of R.
    """

    def __init__(self, ranking: Ranking, rows: NDArray[np.intp], num_patients: int, num_with: int) -> None:
        """Keep the ranking, and of each stay (N,), in the stays' own order, the row of its patient in `Draws`."""
        self.ranking, self.rows = ranking, rows[ranking.order]
        self.num_patients, self.num_with = num_patients, num_with

    def _count_stays(self, is_counted: NDArray[np.bool_]) -> csr_array:
        """Return (G, P) which of these stays (N,) of each patient are in each merged group."""
        starts = self.ranking.merged[0]
        used = np.flatnonzero(is_counted)
        ends = np.searchsorted(used, np.r_[starts, self.rows.size])
        ones = np.ones(used.size, dtype=np.float32)
        return csr_array((ones, self.rows[used], ends), shape=(starts.size, self.num_patients))

    @cached_property
    def positives(self) -> csr_array:
        """(G, P) stays with the event, whose patients all are of the first stratum."""
        return self._count_stays(self.ranking.labels)

    @cached_property
    def negatives(self) -> csr_array:
        """(G, P) stays without the event of the patients who have none."""
        return self._count_stays(~self.ranking.labels & (self.rows >= self.num_with))

    @cached_property
    def negatives_of_first(self) -> tuple[NDArray[np.intp], csr_array]:
        """(g,) the groups that have other stays of patients with an event, and (g, P) these."""
        counted = self._count_stays(~self.ranking.labels & (self.rows < self.num_with))
        groups = np.flatnonzero(np.diff(counted.indptr))
        return groups, counted[groups]

    @cached_property
    def columns(self) -> Floats:
        """(P, 2 + B + C) of each patient's stays together: number, squared error, residual in each bin, expansion."""
        errors, residuals, *expansion = self.ranking.columns.T
        number = self.ranking.bins.size - 1
        bins = np.repeat(np.arange(number), np.diff(self.ranking.bins))
        binned = np.bincount(self.rows * number + bins, residuals, minlength=self.num_patients * number)
        summed = [np.bincount(self.rows, one, self.num_patients) for one in (np.ones(errors.size), errors, *expansion)]
        return np.column_stack([*summed[:2], binned.reshape(-1, number), *summed[2:]])


@dataclass(frozen=True)
class PatientTally(Sums):
    """The sums of one ranking in R replicates."""

    ranking: Ranking
    draws: Draws
    sums: PatientSums

    @cached_property
    def merged(self) -> tuple[Floats, Floats]:
        """Weights (R, G) with and without the event by merged group."""
        counts, (first, second) = self.draws.counts, self.draws.scales
        # transposed to double precision in one pass
        positives = np.ascontiguousarray((self.sums.positives @ counts).T, dtype=np.float64)
        negatives = np.ascontiguousarray((self.sums.negatives @ counts).T, dtype=np.float64)
        positives *= first[:, None]
        negatives *= second[:, None]
        groups, others = self.sums.negatives_of_first
        negatives[:, groups] += (others @ counts).T * first[:, None]
        return positives, negatives

    @cached_property
    def _columns(self) -> Floats:
        return np.asarray(self.draws.weights.T @ self.sums.columns)

    @property
    def total(self) -> Floats:
        """(R,) weight of all stays."""
        return self._columns[:, 0]

    @property
    def squared_errors(self) -> Floats:
        """(R,) weighted sums of the squared errors."""
        return self._columns[:, 1]

    @property
    def bin_residuals(self) -> Floats:
        """(R, B) weighted sums of label minus probability in each bin."""
        return self._columns[:, 2 : self.ranking.bins.size + 1]

    @property
    def expansion_sums(self) -> Floats:
        """(R, C) weighted sums of the columns of the expansion."""
        return self._columns[:, self.ranking.bins.size + 1 :]

    def weigh_stays(self, rows: NDArray[np.intp]) -> Floats:
        """Return (r, N) some weightings of the stays in the ranking's order."""
        return np.ascontiguousarray(self.draws.weights[:, rows].T)[:, self.sums.rows]
