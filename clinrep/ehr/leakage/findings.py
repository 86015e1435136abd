"""What the audit found: certain leaks stop a run, doubtful ones are for a person to judge."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from clinrep.run import RunError

logger = logging.getLogger("clinrep")

Severity = Literal["certain", "doubtful"]
NUM_SHOWN = 5  # findings of one kind that a log spells out


@dataclass(frozen=True)
class Finding:
    """One leak, or one thing that may be one; never an id, only counts."""

    severity: Severity
    check: str
    """What was looked for: a name in docs/leakage.md."""
    detail: str
    """What was found and what to do."""
    outcome: str = ""
    token: str = ""
    num_subjects: int = 0
    """Stays concerned."""
    num_patients: int = 0
    """Patients whose stays these are, or at least so many; 0: they were not counted."""


SCHEMA = {
    "severity": pl.String(),
    "check": pl.String(),
    "outcome": pl.String(),
    "token": pl.String(),
    "num_subjects": pl.UInt64(),
    "num_patients": pl.UInt64(),
    "detail": pl.String(),
}


def make_table(findings: Iterable[Finding]) -> pl.DataFrame:
    """Return the findings as rows, certain ones first, each kind by falling number of stays."""
    rows = [dataclasses.asdict(finding) for finding in findings]
    order = {"by": ["severity", "check", "outcome", "num_subjects", "token"], "descending": [*3 * [False], True, False]}
    return pl.DataFrame(rows, schema=SCHEMA).sort(**order)  # type: ignore[arg-type]


def hide_small(table: pl.DataFrame, least: int) -> pl.DataFrame:
    """Return findings without their sentences and `num_patients`, and null for stays of fewer than `least` patients."""
    is_small = (pl.col("num_subjects") > 0) & (pl.col("num_patients") < least)
    shown = pl.when(~is_small).then("num_subjects").alias("num_subjects")
    return table.with_columns(shown).drop("num_patients", "detail")


def tell(findings: Sequence[Finding]) -> None:
    """Log every certain finding, and of each doubtful kind the first few."""
    shown: dict[tuple[str, str], int] = {}
    for finding in findings:
        key = (finding.check, finding.outcome)
        shown[key] = shown.get(key, 0) + 1
        if finding.severity == "certain":
            logger.error("leak: %s", spell(finding))
        elif shown[key] <= NUM_SHOWN:
            logger.warning("possible leak: %s", spell(finding))
    for (check, outcome), count in shown.items():
        if count > NUM_SHOWN:
            where = f" of {outcome}" if outcome else ""
            logger.warning("%d findings of %r%s in all: see leakage.csv", count, check, where)


def spell(finding: Finding) -> str:
    """Return a finding as one sentence."""
    where = " ".join(word for word in (finding.outcome, finding.token) if word)
    return f"{finding.check}{f' ({where})' if where else ''}: {finding.detail}"


def refuse_leaks(findings: Sequence[Finding]) -> None:
    """Raise a RunError where a leak is certain: what was made from it must not be used."""
    certain = [spell(finding) for finding in findings if finding.severity == "certain"]
    if certain:
        more = f"; and {len(certain) - NUM_SHOWN} more" if len(certain) > NUM_SHOWN else ""
        raise RunError(f"{len(certain)} certain leaks: {'; '.join(certain[:NUM_SHOWN])}{more}")
