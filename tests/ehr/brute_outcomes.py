"""The outcomes once more, for the brute force: plain loops, nothing of clinrep, no polars."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.ehr.brute_rows import END, HOUR, Row, read_columns, spell

if TYPE_CHECKING:
    from tests.ehr.brute_force import BruteForce

Label = tuple[float, bool | None, float | None]  # end of the window, label (None: excluded), time of the event
DAY = 24 * HOUR


@dataclass
class Found:
    """What is known of one outcome in one stay."""

    time: float | None = None
    is_unknown: bool = False  # whether it happened
    is_undated: bool = False  # one of several may have happened at any time
    asked_from: float | None = -END  # None: it is not asked of this stay
    end: float = END  # an event after it does not count
    followed_until: float = END


def label(brute: BruteForce) -> dict[tuple[str, str], Label]:
    """Return (stay, outcome) -> label for every stay with a timeline."""
    labels = {}
    for name in brute.settings["outcomes"]:
        found = OUTCOMES[name](brute)
        for subject in brute.timelines:
            index = find_index(brute, subject)
            labels[subject, name] = (index, *judge(brute, subject, index, found[subject] if found else None))
    return labels


def judge(brute: BruteForce, subject: str, index: float, found: Found | None) -> tuple[bool | None, float | None]:
    """Return label and time of the event; `found` is None where its table is missing."""
    if found is None or found.is_unknown:
        return None, None
    is_over = is_seen(brute, brute.stays[subject]["discharge_dttm"], index)
    if is_over or not is_seen(brute, brute.first[subject], index) or not is_seen(brute, found.asked_from, index):
        return None, found.time
    if found.is_undated or is_seen(brute, found.time, index):
        return None, found.time
    if found.time is not None:
        return found.time <= index + found.end, found.time
    return (None if found.followed_until < index + found.end else False), None


def find_index(brute: BruteForce, subject: str) -> float:
    window = brute.settings["window"]
    times = [brute.stays[subject]["admission_dttm"]]
    if window.get("origin") == "first_event":
        times += [event.time for event in brute.events[subject] if event.time not in (None, END)]
    return float(min(times) + round(window["length_hours"] * HOUR))


def is_seen(brute: BruteForce, time: float | None, index: float) -> bool:
    is_closed = brute.settings["window"].get("is_end_closed", False)
    return time is not None and (time < index or (is_closed and time == index))


def says(brute: BruteForce, row: Row, column: str, *words: str) -> bool:
    rule = brute.settings["normalize"]
    value = spell(row[column], rule, column)
    return value is not None and value in [spell(word, rule, column) for word in words]


def find_first(table: str, time: str, column: str | None = None, *words: str) -> Callable[[BruteForce], dict | None]:
    """Return a function that finds a stay's first row that says one of the words."""

    def find(brute: BruteForce) -> dict[str, Found] | None:
        rows = read_columns(brute.directory, table, ["hospitalization_id", time, *([column] if column else [])])
        if rows is None:
            return None
        found: dict[str, Found] = defaultdict(Found)
        for row in rows:
            if column is not None and not says(brute, row, column, *words):
                continue
            one = found[row["hospitalization_id"]]
            if row[time] is None:
                one.is_undated = True
            elif one.time is None or row[time] < one.time:
                one.time = row[time]
        return found

    return find


def find_discharge(*words: str) -> Callable[[BruteForce], dict]:
    def find(brute: BruteForce) -> dict[str, Found]:
        found = {}
        for subject, stay in brute.stays.items():
            is_it = says(brute, stay, "discharge_category", *words)  # spelled already, and again the same
            is_unknown = stay["discharge_category"] is None
            found[subject] = Found(time=stay["discharge_dttm"] if is_it else None, is_unknown=is_unknown)
        return found

    return find


def find_long_stay(brute: BruteForce) -> dict[str, Found]:
    found: dict[str, Found] = defaultdict(Found)
    for subject in brute.timelines:
        stay = brute.stays[subject]
        if stay["discharge_dttm"] - stay["admission_dttm"] > 168 * HOUR:
            found[subject].time = stay["admission_dttm"] + 168 * HOUR
    return found


def find_readmission(brute: BruteForce) -> dict[str, Found] | None:
    """Walk through each stay's places: out of the ICU and in again."""
    rows = read_columns(brute.directory, "adt", ["hospitalization_id", "in_dttm", "location_category"])
    if rows is None:
        return None
    walks: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    found: dict[str, Found] = defaultdict(lambda: Found(asked_from=None))
    icu_stays = {r["hospitalization_id"] for r in rows if says(brute, r, "location_category", "ICU", "icu")}
    for row in rows:
        subject, place = row["hospitalization_id"], spell(row["location_category"], brute.settings["normalize"])
        if place is None or not place.strip() or place in ("procedural", "radiology", "dialysis"):
            continue
        if row["in_dttm"] is None:
            found[subject].is_undated |= subject in icu_stays
        else:
            walks[subject].append((row["in_dttm"], says(brute, row, "location_category", "ICU", "icu")))
    for subject, walk in walks.items():
        has_left = False
        for time in sorted({time for time, _ in walk}):
            is_icu = (time, True) in walk
            one = found[subject]
            if is_icu and one.asked_from is None:
                one.asked_from = time
            elif is_icu and has_left and one.time is None:
                one.time = time
            has_left = one.asked_from is not None and not is_icu
    return found


def find_death(brute: BruteForce) -> dict[str, Found]:
    dates: dict[str | None, list[float | None]] = defaultdict(list)
    for row in read_columns(brute.directory, "patient", ["patient_id", "death_dttm"]) or []:
        dates[row["patient_id"]].append(row.get("death_dttm"))
    if not any(date is not None for told in dates.values() for date in told):
        return {subject: Found(is_unknown=True) for subject in brute.stays}
    columns = ["hospitalization_id", "patient_id", "admission_dttm", "discharge_dttm", "discharge_category"]
    stays_of: dict[str | None, list[Row]] = defaultdict(list)
    for row in read_columns(brute.directory, "hospitalization", columns) or []:
        stays_of[row["patient_id"]].append(row)
    days = brute.settings.get("death_follow_up_days") or 0
    found = {}
    for subject, stay in brute.stays.items():
        patient = stay["patient_id"]
        deaths, alive, records = {date for date in dates[patient] if date is not None}, [], []
        is_told_twice = len(deaths) > 1
        for other in stays_of[patient]:
            for column in ("admission_dttm", "discharge_dttm"):
                records += [other[column]] if other[column] is not None else []
            alive += [other["admission_dttm"]] if other["admission_dttm"] is not None else []
            category = spell(other["discharge_category"], brute.settings["normalize"], "discharge_category")
            if other["discharge_dttm"] is not None and category is not None:
                is_death = says(brute, other, "discharge_category", "Expired", "expired")
                deaths |= {other["discharge_dttm"]} if is_death else set()
                alive += [] if is_death else [other["discharge_dttm"]]
        one = found[subject] = Found(end=30 * DAY)
        if deaths:
            is_refuted = any(min(deaths) + DAY < sign for sign in alive)
            one.time, one.is_unknown = max(min(deaths), *alive), is_told_twice or is_refuted
        one.followed_until = max(records) + (days * DAY if dates[patient] else 0)
    return found


OUTCOMES = {
    "in_hospital_death": find_discharge("Expired", "expired"),
    "long_length_of_stay": find_long_stay,
    "icu_admission": find_first("adt", "in_dttm", "location_category", "ICU", "icu"),
    "imv_event": find_first("respiratory_support", "recorded_dttm", "device_category", "IMV", "imv"),
    "death_within_30_days": find_death,
    "icu_readmission": find_readmission,
    "renal_replacement": find_first("crrt_therapy", "recorded_dttm"),
    "hospice_discharge": find_discharge("Hospice", "hospice"),
    "discharge_against_advice": find_discharge("Against Medical Advice (AMA)", "ama"),
}
