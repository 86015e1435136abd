"""Who is studied: adult stays with their patients' demographics."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import polars as pl

from clinrep.config import InputError
from clinrep.ehr.clif import ClifTables, Kind, normalize_column
from clinrep.ehr.configs.sources import EdgeToken
from clinrep.ehr.configs.tokenize import TokenizeConfig, parse_window
from clinrep.ehr.ledger import Ledger

logger = logging.getLogger("clinrep")

NO_ID = ("", "nan", "none", "null", "<na>")  # what programs write for a missing one; else many would be one person
MAX_AGE_YEARS = 150  # nobody has lived so long; a number above it is a placeholder or a year
_STAY_COLUMNS: dict[str, Kind] = {
    "hospitalization_id": "id",
    "patient_id": "id",
    "admission_dttm": "time",
    "discharge_dttm": "time",
    "age_at_admission": "number",
    "discharge_category": "category",
}
_PATIENT_COLUMNS: dict[str, Kind] = {
    "patient_id": "id",
    "race_category": "category",
    "ethnicity_category": "category",
    "sex_category": "category",
}


def read_cohort(tables: ClifTables, config: TokenizeConfig, ledger: Ledger) -> pl.DataFrame:
    """Return every adult stay in the admission window, sorted by subject_id.

    Columns: stay u32 (row number), subject_id, patient_id, has_patient (whether it has a row), and those
    read of the two tables under their CLIF names; categories are normalised; demographics are null
    where `patient` lacks a row.
    """
    stays = _read_unique(tables, "hospitalization", "hospitalization_id", config, ledger)
    stays = _keep_adults(stays, config, ledger)
    patients = _read_unique(tables, "patient", "patient_id", config, ledger)
    _check_blanks(tables, "hospitalization_id", stays["hospitalization_id"])
    _check_blanks(tables, "patient_id", pl.concat([stays["patient_id"], patients["patient_id"]]))
    is_needed = pl.col("patient_id").is_in(stays["patient_id"].unique().implode())
    if not patients.is_empty() and not patients.select(is_needed.any()).item():
        raise InputError(
            f"{tables.paths['patient']}: none of its {patients.height} rows has the patient_id of an adult stay; "
            "ids of another site, or spelled otherwise? correct the export"
        )
    patients = ledger.filter(patients, is_needed, "patient", "adult stay", "patient_id is not of an adult stay")
    num_unknown = stays.join(patients, on="patient_id", how="anti").height
    if num_unknown:
        reason = f"{num_unknown} stays have no row in patient: kept, demographics missing"
        ledger.add("hospitalization", "patient known", stays.height, stays.height, reason)
        logger.warning("%d of %d adult stays have no row in patient: demographics missing", num_unknown, stays.height)
    patients = patients.with_columns(has_patient=pl.lit(True))
    cohort = stays.join(patients, on="patient_id", how="left").rename({"hospitalization_id": "subject_id"})
    return cohort.with_columns(pl.col("has_patient").fill_null(False)).sort("subject_id").with_row_index("stay")


def keep_complete_stays(
    cohort: pl.DataFrame,
    first: pl.Series,
    last: pl.Series,
    num_events: pl.Series,
    config: TokenizeConfig,
    ledger: Ledger,
) -> pl.DataFrame:
    """Return the stays that get a timeline, with length_of_stay_hours, and first and last.

    `first` and `last` are the times of the edge tokens, `num_events` the events, in the order of `cohort`.
    """
    table = "hospitalization"
    length = (pl.col("discharge_dttm") - pl.col("admission_dttm")).dt.total_microseconds() / 3.6e9
    span = (pl.col("last") - pl.col("first")).dt.total_microseconds() / 3.6e9
    kept = cohort.with_columns(length_of_stay_hours=length, first=first, last=last, _events=num_events)
    kept = ledger.filter(kept, pl.col("discharge_dttm").is_not_null(), table, "discharge", "no discharge_dttm")
    if not config.keep_without_patient:
        kept = ledger.filter(kept, pl.col("has_patient"), table, "patient row", "the patient has no row")
    if not config.keep_without_events:
        kept = ledger.filter(kept, pl.col("_events") > 0, table, "events", "no event")
    measured = span if config.length_filter == "timeline" else length
    if config.length_filter == "stay":
        kept = ledger.filter(kept, length >= 0, table, "order", "discharge_dttm is before admission_dttm")
    hours = config.min_length_of_stay_hours
    kept = ledger.filter(kept, measured >= hours, table, "length of stay", f"shorter than {hours:g} hours")
    if kept.is_empty():
        raise InputError(f"no stay of {config.clif_dir} is left; see the counts above, or lower the filters")
    return kept.drop("_events")


def describe_subjects(kept: pl.DataFrame) -> pl.DataFrame:
    """Return the table `subjects` for the stays that get a timeline."""
    return kept.select(
        "subject_id",
        "patient_id",
        start="admission_dttm",
        end="discharge_dttm",
        age="age_at_admission",
        sex="sex_category",
        race="race_category",
        ethnicity="ethnicity_category",
        length_of_stay_hours="length_of_stay_hours",
    )


def get_columns(table: str, config: TokenizeConfig) -> dict[str, Kind]:
    """Return the columns of `patient` or `hospitalization` that this config needs, with their kind.

    Raises:
        InputError: an edge token needs a number where another use needs text, or the other way round.
    """
    columns = dict(_STAY_COLUMNS if table == "hospitalization" else _PATIENT_COLUMNS)
    edges: Sequence[EdgeToken] = [*config.static_tokens, *config.discharge_tokens]
    for edge in edges:
        if edge.table == table and edge.column is not None:
            kind: Kind = "number" if "{bin}" in edge.token else "category"
            found = columns.setdefault(edge.column, kind)
            if found != kind:
                raise InputError(
                    f"token {edge.token!r} takes column {edge.column!r} of {table} as a {kind}, but it is a {found}; "
                    "write {bin} for a number and {category} for text"
                )
    return columns


def _read_unique(tables: ClifTables, table: str, key: str, config: TokenizeConfig, ledger: Ledger) -> pl.DataFrame:
    """Read a table with one row per key; two rows that disagree are an InputError, not a choice."""
    columns = get_columns(table, config)
    frame = tables.read(table, columns)
    ledger.add(table, "read", frame.height, frame.height, f"rows of {tables.paths[table].name}")
    for column, kind in columns.items():
        if kind == "time":
            ledger.note_placeholders(table, column, tables.count_placeholders(table, column), frame.height)
        if kind == "id":
            is_none = pl.col(column).str.strip_chars().str.to_lowercase().is_in(NO_ID)
            frame = frame.with_columns(pl.when(~is_none).then(pl.col(column)).alias(column))
        if kind == "category":
            frame = normalize_column(frame, column, config.normalize)
    frame = ledger.filter(frame, pl.col(key).is_not_null(), table, "key", f"no {key}")
    unique = frame.unique(maintain_order=True)
    ledger.add(table, "duplicates", frame.height, unique.height, "the same row again")
    if table == "patient" and config.duplicate_patients == "first":
        first = unique.unique(key, keep="first", maintain_order=True)
        ledger.add(table, "first row", unique.height, first.height, "the patient has an earlier row")
        return first
    twice = unique.filter(pl.col(key).is_duplicated())[key].n_unique()
    if twice:
        path = tables.paths[table]
        raise InputError(f"{path}: {twice} values of {key} have several rows that differ; leave one row for each")
    return unique


def _check_blanks(tables: ClifTables, column: str, ids: pl.Series) -> None:
    """Refuse ids that differ from others only in the blanks around them: one person would be in train and in test."""
    num_ids, num_spelled = ids.str.strip_chars().n_unique(), ids.n_unique()
    if num_ids < num_spelled:
        raise InputError(
            f"{tables.directory}: {num_spelled - num_ids} values of {column} are those of others but for blanks before "
            "or behind; take the blanks off in every table, and export again"
        )


def _keep_adults(stays: pl.DataFrame, config: TokenizeConfig, ledger: Ledger) -> pl.DataFrame:
    table, age = "hospitalization", pl.col("age_at_admission")
    stays = ledger.filter(stays, pl.col("patient_id").is_not_null(), table, "patient", "no patient_id")
    stays = ledger.filter(stays, pl.col("admission_dttm").is_not_null(), table, "admission", "no admission_dttm")
    stays = ledger.filter(stays, age.is_not_null() & age.is_not_nan(), table, "age known", "no age_at_admission")
    is_odd = stays.select((age > MAX_AGE_YEARS).sum()).item()
    if is_odd:  # infinity too: one would be the mean of all
        reason = f"age_at_admission above {MAX_AGE_YEARS}"
        stays = ledger.filter(stays, age <= MAX_AGE_YEARS, table, "age possible", reason)
    limit = config.min_age_years
    stays = ledger.filter(stays, age >= limit, table, "adult", f"age_at_admission below {limit:g}")
    if config.admission_window is not None:
        first, last = parse_window(config.admission_window)
        is_inside = pl.col("admission_dttm").is_between(first, last, closed="both")
        stays = ledger.filter(stays, is_inside, table, "admission window", f"not admitted in [{first}, {last}]")
    if stays.is_empty():
        raise InputError(f"no adult stay of {config.clif_dir} is left; see the counts above, or admission_window")
    return stays
