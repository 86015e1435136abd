"""The outcomes once more, for the brute force: plain loops, nothing of clinrep, no polars."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tests.ehr.brute_rows import END, HOUR, Row, read_columns, spell

if TYPE_CHECKING:
    from tests.ehr.brute_force import BruteForce

Label = tuple[float, bool | None, float | None]  # end of the window, label (None: excluded), time of the event


def label(brute: BruteForce) -> dict[tuple[str, str], Label]:
    """Return (stay, outcome) -> label for every stay with a timeline."""
    icu, no_icu_time = find_first(brute, "adt", "in_dttm", "location_category", "ICU")
    imv, no_imv_time = find_first(brute, "respiratory_support", "recorded_dttm", "device_category", "IMV")
    undated = {"icu_admission": no_icu_time, "imv_event": no_imv_time}
    labels = {}
    for subject in brute.timelines:
        stay = brute.stays[subject]
        admission, discharge = stay["admission_dttm"], stay["discharge_dttm"]
        is_dead = stay["discharge_category"] == spell("Expired", brute.settings["normalize"])
        events = {
            "in_hospital_death": discharge if is_dead else None,
            "long_length_of_stay": admission + 168 * HOUR if discharge - admission > 168 * HOUR else None,
            "icu_admission": icu.get(subject),
            "imv_event": imv.get(subject),
        }
        index = find_index(brute, subject)
        for name, time in events.items():
            is_excluded = not is_seen(brute, brute.first[subject], index) or is_seen(brute, discharge, index)
            is_excluded |= is_seen(brute, time, index) or subject in undated.get(name, ())
            is_excluded |= name == "in_hospital_death" and stay["discharge_category"] is None
            labels[subject, name] = (index, None if is_excluded else time is not None, time)
    return labels


def find_index(brute: BruteForce, subject: str) -> float:
    window = brute.settings["window"]
    times = [brute.stays[subject]["admission_dttm"]]
    if window.get("origin") == "first_event":
        times += [event.time for event in brute.events[subject] if event.time not in (None, END)]
    return float(min(times) + round(window["length_hours"] * HOUR))


def is_seen(brute: BruteForce, time: float | None, index: float) -> bool:
    is_closed = brute.settings["window"].get("is_end_closed", False)
    return time is not None and (time < index or (is_closed and time == index))


def find_first(brute: BruteForce, table: str, time: str, column: str, word: str) -> tuple[dict[str, float], set[str]]:
    """Return stay -> first time, and the stays with a row that has none."""
    rule = brute.settings["normalize"]
    times: dict[str, list[float]] = defaultdict(list)
    rows: list[Row] = read_columns(brute.directory, table, ["hospitalization_id", time, column]) or []
    for row in rows:
        moment: Any = row[time]
        if spell(row[column], rule, column) == spell(word, rule, column):
            times[row["hospitalization_id"]].append(math.inf if moment is None else moment)
    undated = {stay for stay, found in times.items() if math.inf in found}
    return {stay: min(found) for stay, found in times.items() if min(found) < math.inf}, undated
