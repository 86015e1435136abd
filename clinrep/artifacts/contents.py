"""What a table must hold beyond its columns' types: whoever reads it is told, before a number comes of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from clinrep.artifacts.schema import SPLITS


def find_fault(name: str, frame: pl.DataFrame) -> str:
    """Return what is wrong with the rows of table `name`, whose columns are of the right types; '' for nothing.

    Counts alone: an id would be a patient's data.
    """
    for column, dtype in frame.schema.items():
        if isinstance(dtype, pl.List | pl.Array):
            values = frame[column].drop_nulls()
            nulls = values.explode(empty_as_null=False, keep_nulls=False).null_count() if len(values) else 0
            if nulls:
                return f"column {column!r} holds {nulls} nulls within its lists"
    for check in _CHECKS.get(name, ()):
        problem = check(frame)
        if problem:
            return problem
    return ""


def _check_unique(*keys: str) -> Callable[[pl.DataFrame], str]:
    def check(frame: pl.DataFrame) -> str:
        repeated = frame.height - frame.select(keys).n_unique() if frame.height else 0
        return f"{repeated} rows repeat a ({', '.join(keys)}) that must be unique" if repeated else ""

    return check


def _check_splits(frame: pl.DataFrame) -> str:
    is_unknown = ~frame["split"].is_in(SPLITS)
    if not is_unknown.any():
        return ""
    num_words = frame["split"].filter(is_unknown).n_unique()
    return f"column 'split' holds {num_words} words other than {', '.join(SPLITS)}, in {is_unknown.sum()} rows"


def _check_ids(frame: pl.DataFrame) -> str:
    ids = frame["token_id"].to_numpy()
    if np.array_equal(ids, np.arange(len(ids))):
        return ""
    return f"token_id should be 0..{len(ids) - 1} in order, each once; found {len(set(ids.tolist()))} different ones"


def _check_edges(frame: pl.DataFrame) -> str:
    lengths = np.unique(frame["edges"].list.len().to_numpy())
    if len(lengths) > 1:
        return f"column 'edges' has lists of {lengths.min()} to {lengths.max()} edges; each needs as many"
    if not len(lengths) or not lengths[0]:
        return ""
    edges = np.array(frame["edges"].to_list(), dtype=np.float64)
    with np.errstate(invalid="ignore"):  # beside infinite values an edge may be NaN
        falling = int((edges[:, 1:] < edges[:, :-1]).any(axis=1).sum())
    return f"the edges of {falling} categories decrease from one to the next" if falling else ""


def _check_lengths(one: str, other: str, fewer: int = 0) -> Callable[[pl.DataFrame], str]:
    """Return a check that lists of `other` are as long as those of `one`, or so many shorter."""

    def check(frame: pl.DataFrame) -> str:
        expected = frame[one].list.len().cast(pl.Int64) - fewer
        num_other = int((frame[other].list.len().cast(pl.Int64) != expected.clip(lower_bound=0)).sum())
        shorter = f" less {fewer}" if fewer else ""
        return f"in {num_other} rows {other!r} is not as long as {one!r}{shorter}" if num_other else ""

    return check


def _check_probability(column: str) -> Callable[[pl.DataFrame], str]:
    def check(frame: pl.DataFrame) -> str:
        values = frame[column]
        if isinstance(values.dtype, pl.List):
            values = values.explode(empty_as_null=False, keep_nulls=False)
        outside = int((~values.is_between(0, 1)).sum())  # NaN is not between
        return f"probabilities must be in [0, 1], but {outside} of column {column!r} are not" if outside else ""

    return check


def _check_reasons(frame: pl.DataFrame) -> str:
    """Refuse a label beside the reason why there is none."""
    wrong = int((frame["label"].is_not_null() & frame["excluded_reason"].is_not_null()).sum())
    return f"{wrong} rows have both a label and an excluded_reason" if wrong else ""


def _check_finite(*columns: str) -> Callable[[pl.DataFrame], str]:
    def check(frame: pl.DataFrame) -> str:
        for column in columns:
            wrong = int((~frame[column].is_finite()).sum() or 0)
            if wrong:
                return f"{wrong} values of column {column!r} are NaN or infinite"
        return ""

    return check


_CHECKS: dict[str, tuple[Callable[[pl.DataFrame], str], ...]] = {
    "splits": (_check_unique("subject_id"), _check_splits),
    "vocabulary": (_check_ids, _check_unique("token")),
    "quantiles": (_check_unique("category", "unit"), _check_edges),
    "timelines": (_check_unique("subject_id"), _check_lengths("token_ids", "times")),
    "outcomes": (_check_unique("subject_id", "outcome"), _check_reasons),
    "subjects": (_check_unique("subject_id"), _check_finite("age", "length_of_stay_hours")),
    "predictions": (_check_splits, _check_unique("subject_id", "outcome"), _check_probability("probability")),
    "zero_shot": (_check_splits, _check_probability("probability")),
    "risk_over_time": (_check_splits, _check_lengths("times", "probability"), _check_probability("probability")),
    "trajectories": (_check_splits, _check_lengths("times", "jumps", fewer=1)),
    "information": (_check_splits, _check_lengths("token_ids", "times"), _check_lengths("token_ids", "bits", fewer=1)),
    "representations": (_check_splits,),
}
