"""One shard: a fixed number of stays that depend on seed, site and shard number alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clinrep.config import lookup
from clinrep.distributed import derive_seed
from clinrep.ehr.simulate import tables, wide_tables
from clinrep.ehr.simulate.chain import PLACES, Chain, make_chain
from clinrep.ehr.simulate.charts import chart_panels, simulate_course
from clinrep.ehr.simulate.columns import Shard, write_numbers, write_texts
from clinrep.ehr.simulate.patients import draw_arrivals, settle_stays
from clinrep.ehr.simulate.schemas import TRUTH_SCHEMA
from clinrep.ehr.simulate.signals import Panel
from clinrep.ehr.simulate.sites import SITES, Site, list_panels, list_tables
from clinrep.ehr.simulate.truth import (
    OUTCOMES,
    WINDOW_HOURS,
    compute_outcome_probabilities,
    filter_severity,
    find_labels,
    score_hours,
)

MAKERS: dict[str, Callable[[Shard], pa.Table]] = {
    "patient": wide_tables.make_patients,
    "hospitalization": wide_tables.make_hospitalizations,
    "adt": wide_tables.make_adt,
    "labs": tables.make_labs,
    "vitals": tables.make_vitals,
    "medication_admin_continuous": tables.make_infusions,
    "medication_admin_intermittent": tables.make_doses,
    "patient_assessments": tables.make_assessments,
    "respiratory_support": wide_tables.make_respiratory_support,
    "position": wide_tables.make_positions,
}


@dataclass(frozen=True)
class Hospital:
    """A site ready to simulate."""

    site: Site
    tables: tuple[str, ...]
    """CLIF tables it has."""
    panels: tuple[Panel, ...]
    chain: Chain
    risks: dict[str, np.ndarray]
    """Outcome -> f64 (groups, severities, places): its probability given the state at 24 h."""


def open_hospital(site: str) -> Hospital:
    """Return the site of this name; an unknown one is an InputError that lists the known."""
    found = lookup(SITES, site, "site")
    chain = make_chain(found.case_mix.severity_shift)
    return Hospital(found, list_tables(found), list_panels(found), chain, compute_outcome_probabilities(chain))


def simulate_shard(hospital: Hospital, seed: int, number: int, num_stays: int) -> Shard:
    """Return what happens to the stays of shard `number`."""

    def make_generator(name: str) -> np.random.Generator:
        return np.random.default_rng([derive_seed(seed, f"simulate/{hospital.site.name}/{name}"), number])

    arrivals = draw_arrivals(hospital.site.case_mix, num_stays, make_generator("arrivals"))
    course = simulate_course(hospital.chain, arrivals.groups, make_generator("course"))
    stays = settle_stays(arrivals, course, make_generator("stays"))
    charts = chart_panels(hospital.panels, course, make_generator)
    return Shard(number, arrivals, course, stays, charts, make_generator)


def make_tables(hospital: Hospital, shard: Shard) -> dict[str, pa.Table]:
    """Return the CLIF tables of a shard, by name."""
    return {name: MAKERS[name](shard) for name in hospital.tables}


def make_truth(hospital: Hospital, shard: Shard) -> pa.Table:
    """Return one row for every stay and outcome; null where the outcome cannot be asked for."""
    course, groups, size = shard.course, shard.arrivals.groups, len(shard.stays.length)
    asked, scores = score_hours(shard.charts, course)
    places = course.place[course.starts[asked][:, None] + np.arange(WINDOW_HOURS)]
    belief = filter_severity(hospital.chain, groups[asked], places, scores)
    severity, place = np.full(size, -1), np.full(size, len(PLACES))
    severity[asked], place[asked] = course.severity[course.starts[asked] + WINDOW_HOURS - 1], places[:, -1]
    labels = find_labels(course, shard.stays.length)
    columns = []
    for outcome in OUTCOMES:
        is_void = np.isnan(labels[outcome])
        risk = hospital.risks[outcome][groups[asked], :, place[asked]]
        given_state, given_tables = np.full(size, np.nan), np.full(size, np.nan)
        given_state[asked] = risk[np.arange(len(asked)), severity[asked]]
        given_tables[asked] = (risk * belief).sum(axis=1)
        columns.append((labels[outcome], *(np.where(is_void, np.nan, p) for p in (given_state, given_tables))))
    label, given_state, given_tables = (np.stack(column, axis=1).ravel() for column in zip(*columns, strict=True))
    stay, outcome_number = np.divmod(np.arange(len(label)), len(OUTCOMES))
    arrays = [
        write_texts(shard.stay_ids, stay),
        write_texts(OUTCOMES, outcome_number),
        pa.array(label == 1, pa.bool_(), mask=np.isnan(label)),
        write_numbers(given_state),
        write_numbers(given_tables),
        pa.array(severity[stay].astype(np.int8), mask=severity[stay] < 0),
        write_texts([*PLACES, None], place[stay]),
    ]
    return pa.Table.from_arrays(arrays, schema=TRUTH_SCHEMA)
