"""Which points of a curve over thresholds may be shown, when no small number of people is to be worked out of them."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from clinrep.analysis.metrics import Ranking

HIDDEN_REASON = "hidden: fewer than {least} people (min_cell_count)"


def find_safe_cuts(
    ranking: Ranking,
    patients: NDArray[np.intp],
    num_flagged: Sequence[int],
    least: int,
    first: Iterable[int] = (),
) -> NDArray[np.bool_]:
    """Return (T,) which of the cuts may be shown together.

    Sensitivity and the like say how many stays with and without the event are above a cut, and those of two cuts how
    many are between them. So of the stays between cuts that are shown, and above and below all of them, those with
    the event are of no patient or of `least` and more, and so are those without. Cuts are taken one after the
    other, each where this allows it.

    Args:
        ranking: of N stays.
        patients: (N,) number of each stay's patient, in the stays' own order.
        num_flagged: (T,) how many stays, of highest probability first, are above each cut.
        least: smallest number of people to show; 0 or 1 shows every cut.
        first: which cuts to try before the others.
    """
    kinds = [np.flatnonzero(ranking.labels == is_event) for is_event in (True, False)]
    ordered = [patients[ranking.order[places]] for places in kinds]

    def is_small(start: int, end: int) -> bool:
        for places, of_kind in zip(kinds, ordered, strict=True):
            people = of_kind[slice(*np.searchsorted(places, (start, end)))]
            # the first of many stays are mostly enough to find the least
            if people.size and all(np.unique(some).size < least for some in (people[: 2 * least], people)):
                return True
        return False

    is_shown = np.zeros(len(num_flagged), bool)
    ends = [0, ranking.order.size]
    for index in dict.fromkeys([*first, *range(len(num_flagged))]):
        flagged = num_flagged[index]
        at = bisect.bisect_left(ends, flagged, 1, len(ends) - 1)
        if least < 2 or not (is_small(ends[at - 1], flagged) or is_small(flagged, ends[at])):
            is_shown[index] = True
            ends.insert(at, flagged)
    return is_shown
