"""Which edition of CLIF a folder is: 2.0, 2.1 or 3.0."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from clinrep.ehr.clif import LIKE_DATA, ClifTables, normalize_text
from clinrep.ehr.renames import RENAMES

logger = logging.getLogger("clinrep")

# Columns that an edition added. CLIF's own 2.0 tables lack adt.location_type and early exports lack
# hospital_type, so only both together say 2.1; both are found alone in 2.0 folders.
_COLUMNS_OF_2_1: dict[str, tuple[tuple[str, ...], ...]] = {
    "adt": (("location_type", "hospital_type"),),
    "respiratory_support": (("device_id",),),
    "medication_admin_continuous": (("mar_action_group",),),
}
_COLUMNS_OF_3_0: dict[str, tuple[tuple[str, ...], ...]] = {
    "patient": (("language_interpreter",),),
    "hospitalization": (("fips_version",),),
    "adt": (("room_id",), ("bed_id",)),
    "labs": (("loinc_version",),),
    "vitals": (("measured_dttm",),),
    "medication_admin_continuous": (("rx_norm_code",), ("volume_infusion_rate",)),
    "patient_assessments": (("documenting_provider_id",),),
}

_FILES = {
    "clif_patient_procedure": "2.0",
    "clif_sensitivity": "2.0",
    "clif_ecmo_mcs": "2.x",
    "clif_intake_output": "2.x",
    "clif_medication_admin_intermittent": "2.1",
    "clif_patient_procedures": "2.1",
    "clif_microbiology_susceptibility": "2.1",
    "clif_mcs": "3.0",
    "clif_input": "3.0",
    "clif_output": "3.0",
}

# Table -> category columns whose spelling tells 3.0 (lower snake_case) from 2.x.
_SPELLED = {
    "hospitalization": ("discharge_category",),
    "patient": ("race_category", "ethnicity_category", "sex_category", "language_category"),
    "adt": ("location_category",),
    "respiratory_support": ("device_category", "mode_category"),
    "patient_assessments": ("assessment_category",),
    "labs": ("lab_category",),
    "medication_admin_continuous": ("med_category",),
}
# 2.x writes most values of these in lower snake_case already, so only the words listed are of 3.0.
_WORDS_OF_3_0 = {
    "location_category": {"l_and_d"},
    "assessment_category": {"rass"},
    "lab_category": {"glucose"},
    "med_category": {"sodium_bicarbonate", "sodium_chloride"},
}
# Rows looked at per table: enough to meet its usual words, and the same time whatever the folder's size.
_NUM_ROWS = 50_000
_NUM_SHOWN = 4
_SNAKE_CASE = re.compile(r"[^\W_]+(_[^\W_]+)*")


@dataclass(frozen=True)
class Edition:
    """Which edition of CLIF a folder is, as far as its files, columns and words tell."""

    name: str
    """2.0, 2.1 or 3.0."""
    evidence: tuple[str, ...]
    """What tells it; on a mixed folder each with the edition it speaks for."""
    is_mixed: bool = False
    """Whether other evidence speaks for another edition."""

    def __str__(self) -> str:
        """Return for example `CLIF 2.1 (clif_patient_procedures; discharge_category 'Acute Care Hospital')`."""
        shown = list(self.evidence) if self.is_mixed else [*self.evidence[:_NUM_SHOWN]]
        more = len(self.evidence) - len(shown)
        mixed = ", mixed with another edition" if self.is_mixed else ""
        return f"CLIF {self.name}{mixed} ({'; '.join([*shown, *[f'and {more} more'] * bool(more)])})"


def detect_edition(tables: ClifTables) -> Edition:
    """Return the edition of a folder and log it; a mixed folder is a warning, since the words are made to meet.

    Reads the footers, and of the category columns the first 50,000 rows. CLIF 2.0 is what has no mark of a
    later edition.
    """
    marks: dict[str, list[str]] = {"2.0": [], "2.x": [], "2.1": [], "3.0": []}
    for name, mark in [*_find_files(tables), *_find_columns(tables), *_find_words(tables)]:
        marks[name].append(mark)
    edition = _decide(marks)
    if edition.is_mixed:
        logger.warning("%s: %s; the same things are given the same words", tables.directory, edition)
    else:
        logger.info("%s: %s", tables.directory, edition)
    return edition


def _decide(marks: dict[str, list[str]]) -> Edition:
    """Weigh 3.0 against 2.x by the number of marks (2.1 added tables that 3.0 keeps), then 2.1 against 2.0."""
    old, new = [*marks["2.0"], *marks["2.x"]], marks["3.0"]
    if new and len(new) >= len(old):
        name, is_mixed, own = "3.0", bool(old), new
    elif marks["2.1"]:
        name, is_mixed, own = "2.1", bool(new or marks["2.0"]), [*marks["2.1"], *marks["2.x"]]
    else:
        name, is_mixed = "2.0", bool(new)
        own = ["nothing of 2.1 or 3.0", *old]
    if is_mixed:
        own = [f"{mark}: {edition}" for edition, found in marks.items() for mark in found]
    return Edition(name, tuple(own), is_mixed)


def _find_files(tables: ClifTables) -> Iterator[tuple[str, str]]:
    names = [*(path.name for path in tables.paths.values()), *tables.ignored]
    for name in sorted(names):
        stem, _, suffix = name.lower().rpartition(".")
        if suffix == "parquet" and stem in _FILES:
            yield _FILES[stem], stem


def _find_columns(tables: ClifTables) -> Iterator[tuple[str, str]]:
    for edition, marks in (("2.1", _COLUMNS_OF_2_1), ("3.0", _COLUMNS_OF_3_0)):
        for table, groups in marks.items():
            schema = tables.read_schema(table) if table in tables.paths else {}
            for columns in groups:
                if all(column in schema for column in columns):
                    yield edition, f"{table}.{' and '.join(columns)}"


def _find_words(tables: ClifTables) -> Iterator[tuple[str, str]]:
    for table, columns in _SPELLED.items():
        schema = tables.read_schema(table) if table in tables.paths else {}
        texts = [c for c in columns if isinstance(schema.get(c), pl.String | pl.Categorical | pl.Enum)]
        for column in texts:
            old, new = _tell_apart(column, _read_words(tables, table, column))
            for edition, words in (("2.x", old), ("3.0", new)):
                if words:
                    shown = [repr(word) for word in words if not LIKE_DATA.search(word)]
                    yield edition, f"{column} {[*shown, 'with digits or of many words'][0]}"


def _read_words(tables: ClifTables, table: str, column: str) -> list[str]:
    """Return the distinct words among the first rows, those that CLIF 3.0 renamed or introduced first."""
    values = tables.scan(table, {column: "category"}).head(_NUM_ROWS).unique()
    with tables.explain_errors(table):
        found = values.collect(engine="streaming")[column].drop_nulls().str.strip_chars()
    words = found.filter(found != "").unique()
    is_renamed = normalize_text(words, "snake_case", column).is_in(list(RENAMES.get(column, {}).values()))
    return [word for _, word in sorted(zip((~is_renamed).to_list(), words, strict=True))]


def _tell_apart(column: str, words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words only 2.x has and those only 3.0 has."""
    renames = RENAMES.get(column, {})
    # glucose_serum is no mark: 3.0 still allows it, beside the glucose it is renamed to.
    is_old = [not _SNAKE_CASE.fullmatch(w) or w != w.lower() or w in set(renames) - {"glucose_serum"} for w in words]
    old = [word for word, one in zip(words, is_old, strict=True) if one]
    mine = _WORDS_OF_3_0.get(column)
    new = [word for word in words if word not in old and (mine is None or word in mine)]
    return old, new
