"""How well each token alone predicts each outcome: V tokens, K outcomes."""

from __future__ import annotations

import numpy as np
import polars as pl

from clinrep.ehr.leakage.findings import Finding
from clinrep.ehr.leakage.input_counts import InputCounts

SUSPICIOUS_AUROC = 0.95
"""AUROC of one token, in either direction, from which it is named."""
SUSPICIOUS_SHARE = 0.95
"""Share of the stays with a token that have the event, from which it is named, where it is not the outcome's own."""
MIN_PATIENTS = 11
"""Fewer patients say nothing, and are not to be told of."""


def compute_aurocs(counts: InputCounts) -> np.ndarray:
    """Return the AUROC of each token's number of occurrences (more than MAX_COUNT count alike), f64 (K, V).

    0.5 is what chance gives; NaN for an outcome of one class. Ties count half (Mann-Whitney).
    """
    histogram = counts.histogram.astype(np.float64)
    totals = counts.num_events[:, None, :]
    histogram[:, :, 0, :] = totals - histogram.sum(axis=2)
    without, with_event = histogram[..., 0], histogram[..., 1]
    below = np.cumsum(without, axis=2) - without
    with np.errstate(invalid="ignore", divide="ignore"):
        aurocs: np.ndarray = (with_event * (below + without / 2)).sum(axis=2) / totals.prod(axis=2)
    return aurocs


def describe_tokens(counts: InputCounts, vocabulary: pl.DataFrame) -> pl.DataFrame:
    """Return a row per outcome and token that at least MIN_PATIENTS patients have in their input.

    Columns: outcome, token, kind, num_subjects (labelled stays with it), num_patients (whose first labelled stay has
    it), share_with_event, share_of_all (of all labelled stays with the event), auroc; the most telling first.
    """
    aurocs, present = compute_aurocs(counts), counts.histogram.sum(axis=2, dtype=np.int64)
    frames = [pl.DataFrame(schema=_SCHEMA)]
    for k, outcome in enumerate(counts.outcomes):
        num = present[k].sum(axis=1)
        shown = np.flatnonzero(counts.patients[k].sum(axis=1) >= MIN_PATIENTS)
        rows = {
            "outcome": [outcome] * len(shown),
            "token": vocabulary["token"].gather(shown),
            "kind": vocabulary["kind"].gather(shown),
            "num_subjects": num[shown],
            "num_patients": counts.patients[k].sum(axis=1)[shown],
            "share_with_event": present[k, shown, 1] / num[shown],
            "share_of_all": [counts.num_events[k, 1] / max(1, counts.num_events[k].sum())] * len(shown),
            "auroc": aurocs[k, shown],
        }
        frames.append(pl.DataFrame(rows, schema_overrides=_SCHEMA).select(list(_SCHEMA)))
    telling = (pl.col("auroc") - 0.5).abs()
    return pl.concat(frames).sort("outcome", telling, "token", descending=[False, True, False], nulls_last=True)


_SCHEMA = {
    **dict.fromkeys(("outcome", "token", "kind"), pl.String()),
    **dict.fromkeys(("num_subjects", "num_patients"), pl.UInt64()),
    **dict.fromkeys(("share_with_event", "share_of_all", "auroc"), pl.Float64()),
}


def find_telling_tokens(table: pl.DataFrame, counts: InputCounts) -> list[Finding]:
    """Return the tokens that alone predict an outcome nearly perfectly, where there are enough of both classes."""
    enough = [name for name, both in zip(counts.outcomes, counts.num_events, strict=True) if both.min() >= MIN_PATIENTS]
    rows = table.filter(
        pl.col("outcome").is_in(enough)
        & (
            ((pl.col("auroc") - 0.5).abs() >= SUSPICIOUS_AUROC - 0.5)
            | ((pl.col("share_with_event") >= SUSPICIOUS_SHARE) & (pl.col("share_of_all") < SUSPICIOUS_SHARE / 2))
        )
    )
    words = (
        "alone it has AUROC {auroc:.3f}; {share_with_event:.1%} of the {num_subjects} stays with it have the event, of "
        "all {share_of_all:.1%}: is it charted because of the event, or after it?"
    )
    return [
        Finding(
            *("doubtful", "telling token", words.format(**row)),
            *(row["outcome"], row["token"], row["num_subjects"], row["num_patients"]),
        )
        for row in rows.iter_rows(named=True)
    ]
