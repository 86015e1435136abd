"""When patients died and until when they are known to have lived, from all stays of `hospitalization`."""

from __future__ import annotations

import logging
from datetime import timedelta

import polars as pl

from clinrep.ehr.clif import ClifTables, Kind, normalize_column
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.outcome_events import EXPIRED, MISSING, make_events, spell_words

logger = logging.getLogger("clinrep")

STAY: dict[str, Kind] = {
    "hospitalization_id": "id",
    "patient_id": "id",
    "admission_dttm": "time",
    "discharge_dttm": "time",
    "discharge_category": "category",
}
DEATH_DATE: dict[str, Kind] = {"patient_id": "id", "death_dttm": "time"}

# A death_dttm may be a date, which stands for its midnight: up to a day before the death (spec/clif_data.md A2).
DAY = timedelta(days=1)
NO_DATES = "no death dates"
CONTRADICTED = "death dates contradict each other or a later sign of life"


def find_deaths(tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    """Find the death of each stay's patient, in this stay, in another or after all; see `read_lives`."""
    if not _has_death_dates(tables):
        logger.warning("patient.death_dttm is missing or empty: who died after discharge is unknown")
        return make_events(stays, unknown=pl.lit(NO_DATES))
    lives = read_lives(tables, config).filter(pl.col("death").is_not_null())
    if lives.filter(pl.col("death") > pl.col("last_record") + DAY).is_empty():
        logger.warning(
            "patient.death_dttm: none of %d deaths is more than a day after the last discharge; the site seems to "
            "record deaths in hospital only, and then death_follow_up_days must be null (it is %s)",
            *(lives.height, "null" if config.death_follow_up_days is None else config.death_follow_up_days),
        )
    found = stays.select("subject_id", "patient_id").join(lives, on="patient_id")
    return make_events(found, pl.col("death"), pl.when("is_contradicted").then(pl.lit(CONTRADICTED)))


def find_last_signs_of_life(tables: ClifTables, stays: pl.DataFrame, config: TokenizeConfig) -> pl.DataFrame:
    """Return subject_id and followed_until: up to then, a patient without a known death has lived.

    It is the last admission or discharge of the patient, and `death_follow_up_days` later for patients who
    have a row in `patient`, which would tell their death.
    """
    if not _has_death_dates(tables):  # then no stay has a label
        return make_events(stays).select("subject_id", followed_until="event_time")
    days = timedelta(days=config.death_follow_up_days or 0)
    later = pl.when("has_row").then(pl.col("last_record") + days).otherwise("last_record")
    lives = read_lives(tables, config).select("patient_id", followed_until=later)
    joined = stays.select("subject_id", "patient_id").join(lives, on="patient_id", how="left", maintain_order="left")
    return joined.select("subject_id", "followed_until")


def read_lives(tables: ClifTables, config: TokenizeConfig) -> pl.DataFrame:
    """Return a row per patient: death (null = none known), is_contradicted, last_record, has_row.

    death is the earlier of death_dttm and the discharge of a stay that ended as Expired. The patient was
    alive at every admission and at every other discharge; a death up to a day before is taken to be at
    that time, since death_dttm may be a date, and one still earlier contradicts it, as do two dates of one
    patient. All stays count, also those that get no timeline.
    """
    stays = normalize_column(tables.read("hospitalization", STAY), "discharge_category", config.normalize)
    category, discharge = pl.col("discharge_category"), pl.col("discharge_dttm")
    is_expired = category.is_in(spell_words(EXPIRED, config, "discharge_category")).fill_null(False)
    unknown = spell_words((*MISSING, *config.unknown_discharges), config, "discharge_category")
    has_left_alive = category.is_not_null() & ~category.is_in(unknown) & ~is_expired
    lives = stays.group_by("patient_id").agg(
        expired=discharge.filter(is_expired).min(),
        last_alive=pl.max_horizontal(pl.col("admission_dttm").max(), discharge.filter(has_left_alive).max()),
        last_record=pl.max_horizontal(pl.col("admission_dttm").max(), discharge.max()),
    )
    dates = tables.read("patient", DEATH_DATE).group_by("patient_id")
    told = dates.agg(
        date=pl.col("death_dttm").min(),
        has_two_dates=pl.col("death_dttm").drop_nulls().n_unique() > 1,
        has_row=pl.lit(True),
    )
    lives = lives.join(told, on="patient_id", how="left").with_columns(
        pl.col("has_row", "has_two_dates").fill_null(False), death=pl.min_horizontal("date", "expired")
    )
    is_refuted = (pl.col("death") < pl.col("last_alive") - DAY).fill_null(False)
    death = pl.when(pl.col("death").is_not_null()).then(pl.max_horizontal("death", "last_alive"))
    return lives.select(
        "patient_id", "last_record", "has_row", death=death, is_contradicted=is_refuted | pl.col("has_two_dates")
    )


def _has_death_dates(tables: ClifTables) -> bool:
    if "death_dttm" not in tables.read_schema("patient"):
        return False
    return not tables.read("patient", {"death_dttm": "time"}).drop_nulls().is_empty()
