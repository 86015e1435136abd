"""The sites: a reference, sites that differ from it in one documented way, and one that differs in all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from clinrep.ehr.simulate.schemas import SCHEMAS
from clinrep.ehr.simulate.signals import Conversion, Panel, load_catalog


@dataclass(frozen=True)
class CaseMix:
    """Who comes: shares of the groups, and how ill they arrive."""

    ages: tuple[float, ...] = (0.22, 0.27, 0.32, 0.19)
    """Shares of the age groups of chain.AGE_LIMITS_YEARS at a patient's first admission."""
    sexes: tuple[float, ...] = (0.45, 0.55)
    """Shares in the order of chain.SEXES."""
    admissions: tuple[float, ...] = (0.68, 0.20, 0.12)
    """Shares in the order of chain.ADMISSIONS."""
    severity_shift: float = 0.0
    """The odds of arriving at severity s are multiplied by exp(severity_shift * s)."""


@dataclass(frozen=True)
class Site:
    """A hospital, as its difference from the reference site."""

    name: str
    story: str
    conversions: Mapping[str, Conversion] = field(default_factory=dict)
    """Category -> the unit it is measured in."""
    missing: frozenset[str] = frozenset()
    """Categories that are never charted."""
    charting_factor: float = 1.0
    """Factor of every panel's probability of being charted in an hour."""
    case_mix: CaseMix = CaseMix()
    extra_tables: frozenset[str] = frozenset()
    """CLIF tables it has beyond the nine of the sample."""


# Conversion factors of the SI units that European laboratories report (conventional -> SI).
_SI_UNITS = {
    "glucose_serum": Conversion("mmol/L", 1 / 18.016, 0.1),
    "creatinine": Conversion("umol/L", 88.42, 1),
    "bun": Conversion("mmol/L", 0.357, 0.1),
    "bilirubin_total": Conversion("umol/L", 17.1, 1),
    "hemoglobin": Conversion("g/L", 10, 1),
    "albumin": Conversion("g/L", 10, 1),
    "calcium_total": Conversion("mmol/L", 0.2495, 0.01),
    "magnesium": Conversion("mmol/L", 0.4114, 0.01),
    "phosphate": Conversion("mmol/L", 0.3229, 0.01),
    # A mistake of the kind that real exports hold: CLIF wants degrees Celsius and has no unit column here.
    "temp_c": Conversion("degF", 1.8, 0.1, offset=32),
}
_RARE_CATEGORIES = frozenset(
    {"lactate", "troponin_t", "albumin", "ph_arterial", "pco2_arterial", "po2_arterial", "map", "RASS"}
    | {"phenylephrine", "midazolam"}
    | {f"braden_{part}" for part in ("sensory", "moisture", "activity", "mobility", "nutrition", "friction")}
)
_OLDER_AND_SICKER = CaseMix(
    ages=(0.12, 0.20, 0.36, 0.32), sexes=(0.50, 0.50), admissions=(0.82, 0.10, 0.08), severity_shift=0.25
)
_TENTH_TABLE = frozenset({"medication_admin_intermittent"})

_LIST = (
    Site("reference", "the hospital of catalog.yaml"),
    Site("si_units", "nine laboratory values in SI units; temperature in Fahrenheit", conversions=_SI_UNITS),
    Site("missing_categories", "16 categories are never charted", missing=_RARE_CATEGORIES),
    Site("sparse_charting", "everything is charted half as often", charting_factor=0.5),
    Site("older_sicker", "older patients, more emergencies, worse on arrival", case_mix=_OLDER_AND_SICKER),
    Site("extra_table", "a tenth table, medication_admin_intermittent", extra_tables=_TENTH_TABLE),
    Site(
        "all_shifts", "the five differences together", _SI_UNITS, _RARE_CATEGORIES, 0.5, _OLDER_AND_SICKER, _TENTH_TABLE
    ),
)
SITES = {site.name: site for site in _LIST}


def list_tables(site: Site) -> tuple[str, ...]:
    """Return the CLIF tables a site has."""
    return tuple(table for table in SCHEMAS if table not in _TENTH_TABLE - site.extra_tables)


def list_panels(site: Site) -> tuple[Panel, ...]:
    """Return what a site charts: the catalog with the site's units, without what it lacks, at its frequency."""
    tables = list_tables(site)
    panels = [_shift_panel(panel, site) for panel in load_catalog() if panel.table in tables]
    return tuple(panel for panel in panels if panel.channels)


def _shift_panel(panel: Panel, site: Site) -> Panel:
    kept = [channel for channel in panel.channels if channel.category not in site.missing]
    converted = [
        channel.convert(site.conversions[channel.category]) if channel.category in site.conversions else channel
        for channel in kept
    ]
    rates = tuple(rate * site.charting_factor for rate in panel.rates)
    # a sum would still show what the site lacks
    total = panel.total if len(kept) == len(panel.channels) else None
    return replace(panel, channels=tuple(converted), rates=rates, total=total)
