"""The manuscript's reference tokenizer once more, from the words of manuscript.md: plain loops over pyarrow columns.

Nothing of clinrep and no polars. Times are whole milliseconds since 1970, UTC wall time; a missing or
unknown word is Python's None, which the token `None` stands for. What the page leaves open is marked OPEN.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HOUR = 3_600_000
DAY = 24 * HOUR
PROBABILITIES = np.arange(0.1, 1, 0.1)  # not the literals 0.1 ... 0.9: some edges differ in the last bits
AGE = "age_at_admission"
SEEDED = {*(f"Q{i}" for i in range(10)), None, "nan", "TL_START", "TL_END", "PAD", "TRUNC"}
UNITS_PER_MS = {"ns": 1_000_000, "us": 1000, "ms": 1}

Token = tuple[str | None, int]

# Table -> (prefix, category column, value column, time column) of events that are a category and a decile.
NUMERIC = {
    "labs": ("LAB", "lab_category", "lab_value_numeric", "lab_result_dttm"),
    "vitals": ("VTL", "vital_category", "vital_value", "recorded_dttm"),
    "medication_admin_continuous": ("MED", "med_category", "med_dose", "admin_dttm"),
}


class Stay(NamedTuple):
    """One row of the hospitalization table."""

    subject: str
    patient: str
    admission: int | None
    discharge: int | None
    age: float | None
    admission_type: str | None
    discharge_category: str | None


class Event(NamedTuple):
    """One row that becomes tokens: `words` as they are, or one word that is a decile key, and its value."""

    subject: str
    time: int | None
    words: tuple[str | None, ...]
    value: float | None = None
    is_numeric: bool = False


class Labels(NamedTuple):
    """What stage 06 writes, and beside it the exact rules for a long stay; the _24h of a dropped stay are null."""

    same_admission_death: bool
    long_length_of_stay: bool  # whole hours from event_start to event_end > 168
    is_long_by_events: bool  # event_end - event_start > 168 h
    is_long_by_discharge: bool | None  # discharge - admission > 168 h
    icu_admission: bool
    imv_event: bool
    icu_admission_24h: bool | None
    imv_event_24h: bool | None


def read_rows(directory: Path, table: str, *columns: str) -> Iterable[tuple[Any, ...]]:
    """Return a table's rows in file order: ids as text, times in whole milliseconds (rounded down)."""
    content = pq.read_table(directory / f"clif_{table}.parquet", columns=list(columns))
    return zip(*(to_python(content[column], column) for column in columns), strict=True)


def to_python(values: pa.ChunkedArray, column: str) -> list[Any]:
    if pa.types.is_timestamp(values.type):
        factor = UNITS_PER_MS[values.type.unit]
        return [None if t is None else t // factor for t in values.cast(pa.int64()).to_pylist()]
    found = values.to_pylist()
    return [None if v is None else str(v) for v in found] if column.endswith("_id") else found


def lower(text: str | None) -> str | None:
    """Lower case and nothing else: blanks, punctuation and empty text stay."""
    return None if text is None else text.lower()


def learn_edges(values: list[float | None]) -> list[float]:
    """Nine deciles; infinities take part (edges beside them become NaN by numpy's formula), NaN and null do not."""
    array = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return list(map(float, np.nanquantile(array, PROBABILITIES)))


def name_bins(values: list[float | None], edges: list[float]) -> list[str]:
    """Name the decile of each value; null, NaN and infinities are `nan`."""
    array = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    bins = np.digitize(array, edges)
    return [f"Q{k}" if ok else "nan" for k, ok in zip(bins.tolist(), np.isfinite(array).tolist(), strict=True)]


def count_first_day(times: list[int]) -> int | None:
    """Return how many tokens the 24 h cut keeps; null where the stay is dropped.

    OPEN how the span of the kept part is measured; here latest minus earliest time.
    """
    first_fail = next((i for i, time in enumerate(times) if time > min(times) + DAY), 0)
    kept = times[: first_fail or len(times)]  # 0 is read as `none fails`, also where the first token does
    return len(kept) if max(kept) - min(kept) <= DAY else None


class Reference:
    """What the reference makes of a folder of nine CLIF-2.0 tables, as attributes of plain Python.

    With `do_undated_rows_count` a row without a time still teaches words and deciles and still makes its
    stay one with events, as in the reference; it never stands in a timeline.
    """

    def __init__(
        self,
        directory: str | Path,
        train_fraction: float = 0.7,
        val_fraction: float = 0.1,
        admission_window: tuple[str, str] | None = None,
        do_undated_rows_count: bool = True,
    ) -> None:
        self.directory = Path(directory)
        self.do_undated_rows_count = do_undated_rows_count
        self.read_stays(admission_window)
        self.read_patients()
        self.split(train_fraction, val_fraction)
        self.read_events()
        self.learn()
        self.build_timelines()
        self.cut()
        self.label()

    def read_stays(self, window: tuple[str, str] | None) -> None:
        """Keep adults admitted in the window, both ends closed. OPEN: a NaN age; here no adult."""
        columns = ("hospitalization_id", "patient_id", "admission_dttm", "discharge_dttm", AGE)
        columns += ("admission_type_name", "discharge_category")
        rows = [Stay(*row) for row in read_rows(self.directory, "hospitalization", *columns)]
        adults = [s for s in rows if s.subject is not None and s.age is not None and s.age >= 18]
        if window is not None:
            first, last = (datetime.fromisoformat(text + "+00:00").timestamp() * 1000 for text in window)
            adults = [s for s in adults if s.admission is not None and first <= s.admission <= last]
        self.stays = {stay.subject: stay for stay in adults}

    def read_patients(self) -> None:
        """Keep the first row of each patient, nulls included."""
        self.patients: dict[str, tuple[str | None, ...]] = {}
        columns = ("patient_id", "race_category", "ethnicity_category", "sex_category")
        for patient, *words in read_rows(self.directory, "patient", *columns):
            self.patients.setdefault(patient, tuple(lower(word) for word in words))

    def split(self, train_fraction: float, val_fraction: float) -> None:
        """Order patients by first admission. OPEN: ties (here by id) and no known admission (here first)."""
        times: dict[str, list[float]] = defaultdict(list)
        for stay in self.stays.values():
            times[stay.patient].append(math.inf if stay.admission is None else stay.admission)
        firsts = {patient: -math.inf if min(t) == math.inf else min(t) for patient, t in times.items()}
        order = sorted(firsts, key=lambda patient: (firsts[patient], patient))
        num_train, num_val = int(train_fraction * len(order)), int(val_fraction * len(order))
        names = {
            p: "train" if i < num_train else "val" if i < num_train + num_val else "test" for i, p in enumerate(order)
        }
        self.splits = {s.subject: (s.patient, names[s.patient]) for s in self.stays.values()}

    def read_events(self) -> None:
        """Read the rows of adult stays in table order, and the first and last vital of each stay."""
        rows = [*self.read_adt(), *self.read_numeric(), *self.read_assessments(), *self.read_respiratory()]
        rows += self.read_position()
        self.rows = [e for e in rows if e.subject in self.stays and (e.time is not None or self.do_undated_rows_count)]
        self.vital_times: dict[str, list[int]] = defaultdict(list)
        for subject, time in read_rows(self.directory, "vitals", "hospitalization_id", "recorded_dttm"):
            if time is not None:
                self.vital_times[subject].append(time)

    def read_adt(self) -> Iterable[Event]:
        for subject, time, place in read_rows(
            self.directory, "adt", "hospitalization_id", "in_dttm", "location_category"
        ):
            yield Event(subject, time, (lower(place),))

    def read_numeric(self) -> Iterable[Event]:
        for table, (prefix, category_column, value_column, time_column) in NUMERIC.items():
            columns = ("hospitalization_id", time_column, category_column, value_column)
            for subject, time, category, value in read_rows(self.directory, table, *columns):
                if category is not None or table != "labs":
                    yield Event(subject, time, (f"{prefix}_{lower(category)}",), value, True)

    def read_assessments(self) -> Iterable[Event]:
        columns = ("hospitalization_id", "recorded_dttm", "assessment_category", "numerical_value", "categorical_value")
        for subject, time, category, number, text in read_rows(self.directory, "patient_assessments", *columns):
            if number is not None:  # NaN is a number here
                yield Event(subject, time, (f"ASMT_{lower(category)}",), number, True)
            elif text is not None:
                yield Event(subject, time, (lower(category), text))

    def read_respiratory(self) -> Iterable[Event]:
        columns = ("hospitalization_id", "recorded_dttm", "mode_category", "device_category")
        for subject, time, mode, device in read_rows(self.directory, "respiratory_support", *columns):
            yield Event(subject, time, (lower(mode), lower(device)))

    def read_position(self) -> Iterable[Event]:
        columns = ("hospitalization_id", "recorded_dttm", "position_category")
        for subject, time, position in read_rows(self.directory, "position", *columns):
            if position == "prone":
                yield Event(subject, time, ("prone",))

    def learn(self) -> None:
        """Learn words and deciles on every adult train stay, also those that get no timeline.

        OPEN whether stays with event_start >= event_end, or whose patient has no row, teach; here they do.
        """
        self.train_values: dict[str | None, list[float | None]] = defaultdict(list)
        self.known: set[str | None] = set(SEEDED)
        train = {subject for subject, (_, split) in self.splits.items() if split == "train"}
        for stay in self.stays.values():
            if stay.subject in train:
                self.train_values[AGE].append(stay.age)
                self.known |= {*self.patients.get(stay.patient, ()), lower(stay.admission_type)}
                self.known.add(lower(stay.discharge_category))
        for event in self.rows:
            if event.subject in train:
                self.known.update(event.words)
                if event.is_numeric:
                    self.train_values[event.words[0]].append(event.value)
        self.aux = {key: learn_edges(values) for key, values in self.train_values.items()}

    def know(self, word: str | None) -> str | None:
        return word if word in self.known else None

    def name_values(self) -> dict[int, str | None]:
        """Return row number -> decile word of the numeric rows; a key that train lacks has none."""
        numbers: dict[str | None, list[int]] = defaultdict(list)
        for number, event in enumerate(self.rows):
            if event.is_numeric:
                numbers[event.words[0]].append(number)
        words: dict[int, str | None] = {}
        for key, found in numbers.items():
            values = [self.rows[number].value for number in found]
            names = name_bins(values, self.aux[key]) if key in self.aux else [None] * len(found)
            words.update(zip(found, names, strict=True))
        return words

    def build_timelines(self) -> None:
        """Write every stay that has a patient row, an event, and a start before its end.

        OPEN: an unknown admission or discharge; here the first or last vital alone counts.
        """
        decile_words = self.name_values()
        events: dict[str, list[Token]] = defaultdict(list)
        for number, event in enumerate(self.rows):
            words = [*event.words, decile_words[number]] if event.is_numeric else event.words
            dated = [] if event.time is None else [(self.know(word), event.time) for word in words]
            events[event.subject] += dated
        self.spans: dict[str, tuple[int, int]] = {}  # event_start, event_end
        self.whole: dict[str, list[Token]] = {}
        for subject, tokens in events.items():
            stay, vitals = self.stays[subject], self.vital_times[subject]
            start = min([time for time in (stay.admission, *vitals) if time is not None], default=None)
            end = max([time for time in (stay.discharge, *vitals) if time is not None], default=None)
            if stay.patient in self.patients and start is not None and end is not None and start < end:
                (age,) = name_bins([stay.age], self.aux[AGE])
                prefix = ["TL_START", *self.patients[stay.patient], age, lower(stay.admission_type)]
                suffix = [lower(stay.discharge_category), "TL_END"]
                self.spans[subject] = (start, end)
                self.whole[subject] = [(self.know(word), start) for word in prefix]
                self.whole[subject] += sorted(tokens, key=lambda token: token[1])
                self.whole[subject] += [(self.know(word), end) for word in suffix]

    def cut(self) -> None:
        """Keep stays of 24 h and more, and count the tokens of their first 24 h; null for those dropped there."""
        self.timelines = {s: tokens for s, tokens in self.whole.items() if self.spans[s][1] - self.spans[s][0] >= DAY}
        self.num_first_day = {s: count_first_day([time for _, time in tokens]) for s, tokens in self.timelines.items()}

    def label(self) -> None:
        self.labels: dict[str, Labels] = {}
        for subject, tokens in self.timelines.items():
            stay, (start, end) = self.stays[subject], self.spans[subject]
            words = {word for word, _ in tokens}
            num_kept = self.num_first_day[subject]
            seen = None if num_kept is None else {word for word, _ in tokens[:num_kept]}
            is_dated = stay.admission is not None and stay.discharge is not None
            self.labels[subject] = Labels(
                same_admission_death="expired" in words,
                long_length_of_stay=(end - start) // HOUR > 168,
                is_long_by_events=end - start > 168 * HOUR,
                is_long_by_discharge=stay.discharge - stay.admission > 168 * HOUR if is_dated else None,
                icu_admission="icu" in words,
                imv_event="imv" in words,
                icu_admission_24h=None if seen is None else "icu" in seen,
                imv_event_24h=None if seen is None else "imv" in seen,
            )
