"""Stage 00 once more, from the words of the YAML and of DESIGN: plain loops, nothing of clinrep, no polars."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HOUR = 3_600_000_000  # times are whole microseconds since 1970, UTC
Event = tuple[int, int, str, str | None, float | None, str | None]  # time, source, key, unit, value, word


def read_columns(directory: str | Path, table: str, columns: Iterable[str]) -> list[dict[str, Any]] | None:
    """Return a table's rows; times become whole microseconds."""
    path = Path(directory) / f"clif_{table}.parquet"
    if not path.exists():
        return None
    columns = list(dict.fromkeys(columns))
    content = pq.read_table(path, columns=columns)
    data = {}
    for column in columns:
        values = content[column]
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("us", values.type.tz), safe=False).cast(pa.int64())
        data[column] = values.to_pylist()
    return [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]


def spell(text: str | None, rule: str) -> str | None:
    if text is None:
        return None
    if rule in ("lower", "snake_case"):
        text = text.lower()
    if rule == "snake_case":
        text = text.replace("&", "_and_").replace("/", "_or_")
        text = "_".join(part for part in re.split(r"[\W_]+", text) if part)
    return text or None


def spell_unit(text: str | None) -> str | None:
    return (" ".join(text.split()).lower() or None) if text is not None else None


def find_bin(value: float | None, edges: list[float] | None) -> str:
    if value is None or not math.isfinite(value):
        return "MISSING_VALUE"
    if edges is None:
        return "UNK"
    return f"Q{sum(edge <= value for edge in edges)}"


class BruteForce:
    """Everything stage 00 should write, as attributes of plain Python."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.directory = settings["clif_dir"]
        self.read_stays()
        self.split()
        self.read_events()
        self.learn_quantiles()
        self.render()
        self.learn_vocabulary()
        self.build_timelines()
        self.label()

    def read_stays(self) -> None:
        edges = self.settings["static_tokens"] + self.settings["discharge_tokens"]
        asked = {t: [e["column"] for e in edges if e.get("table") == t] for t in ("patient", "hospitalization")}
        fixed = ["hospitalization_id", "patient_id", "admission_dttm", "discharge_dttm", "age_at_admission"]
        rows = read_columns(
            self.directory, "hospitalization", [*fixed, "discharge_category", *asked["hospitalization"]]
        )
        people = ["patient_id", "race_category", "ethnicity_category", "sex_category", *asked["patient"]]
        patients = {row["patient_id"]: row for row in read_columns(self.directory, "patient", people)}
        self.stays = {}
        for row in rows:
            age = row["age_at_admission"]
            if (
                None in (row["hospitalization_id"], row["patient_id"], row["admission_dttm"], age)
                or not age >= self.settings["min_age_years"]
            ):
                continue
            patient = patients.get(row["patient_id"], dict.fromkeys(people[1:]))
            self.stays[row["hospitalization_id"]] = {**patient, **row}

    def split(self) -> None:
        first: dict[str, int] = {}
        for stay in self.stays.values():
            patient = stay["patient_id"]
            first[patient] = min(first.get(patient, stay["admission_dttm"]), stay["admission_dttm"])
        order = sorted(first, key=lambda patient: (first[patient], patient))
        num_train = int(self.settings["train_fraction"] * len(order))
        num_val = int(self.settings["val_fraction"] * len(order))
        names = ["train"] * num_train + ["val"] * num_val
        names += ["test"] * (len(order) - len(names))
        split_of = dict(zip(order, names, strict=True))
        self.splits = {s: (stay["patient_id"], split_of[stay["patient_id"]]) for s, stay in self.stays.items()}

    def read_events(self) -> None:
        rule = self.settings["normalize"]
        self.events: dict[str, list[Event]] = defaultdict(list)
        for number, source in enumerate(self.settings["sources"]):
            names = ("time_column", "category_column", "value_column", "unit_column", "categorical_value_column")
            columns = {name: source.get(name) for name in names}
            conditions = source.get("keep_if", [])
            wanted = [c for c in columns.values() if c] + [condition["column"] for condition in conditions]
            for row in read_columns(self.directory, source["table"], ["hospitalization_id", *wanted]) or []:
                if row["hospitalization_id"] not in self.stays or row[source["time_column"]] is None:
                    continue
                if not all(self.meets(row[condition["column"]], condition) for condition in conditions):
                    continue
                values = {name: row[column] if column else None for name, column in columns.items()}
                category = spell(values["category_column"], rule)
                if columns["category_column"] and category is None:
                    if source.get("null_category", "drop") == "drop":
                        continue
                    category = "missing"
                key = source["token"].replace("{category}", category or "")
                unit = spell_unit(values["unit_column"])
                word = spell(values["categorical_value_column"], rule)
                if columns["categorical_value_column"]:
                    template = source.get("value_token", "{value}")
                    word = template.replace("{category}", category).replace("{value}", word or "missing")
                time = values["time_column"]
                self.events[row["hospitalization_id"]].append((time, number, key, unit, values["value_column"], word))

    def meets(self, value: Any, condition: dict[str, Any]) -> bool:
        rule = self.settings["normalize"]
        if isinstance(value, str):
            value = spell(value, rule)
        is_null = condition.get("is_null")
        return (
            (is_null is None or (value is None) == is_null)
            and (not condition.get("one_of") or value in [spell(word, rule) for word in condition["one_of"]])
            and (value is None or value not in [spell(word, rule) for word in condition.get("none_of", [])])
        )

    def has_bin(self, number: int) -> bool:
        return bool(self.settings["sources"][number].get("value_column"))

    def is_train(self, subject: str) -> bool:
        return self.splits[subject][1] == "train"

    def learn_quantiles(self) -> None:
        values: dict[tuple[str, str | None], list[float]] = defaultdict(list)
        for subject, events in self.events.items():
            for _, number, key, unit, value, _ in events:
                if self.is_train(subject) and self.has_bin(number) and value is not None and math.isfinite(value):
                    values[key, unit].append(value)
        for edge in self.settings["static_tokens"] + self.settings["discharge_tokens"]:
            if "{bin}" in edge["token"]:
                column = edge["column"]
                train = [stay[column] for subject, stay in self.stays.items() if self.is_train(subject)]
                values[column, None] = [float(value) for value in train if value is not None]
        step = 1 / self.settings["num_bins"]
        grid = np.arange(step, 1, step)
        self.quantiles = {key: (len(v), np.quantile(np.array(v), grid).tolist()) for key, v in values.items() if v}

    def edges_of(self, key: str, unit: str | None) -> list[float] | None:
        return self.quantiles[key, unit][1] if (key, unit) in self.quantiles else None

    def render(self) -> None:
        """Turn events into (time, source, token, value token) and stays into their edge tokens."""
        self.words: dict[str, list[tuple[int, int, str, str | None]]] = {subject: [] for subject in self.stays}
        for subject, events in self.events.items():
            for time, number, key, unit, value, word in events:
                if self.has_bin(number):
                    word = find_bin(value, self.edges_of(key, unit))
                self.words[subject].append((time, number, key, word))
        self.edge_words = {
            name: {
                subject: [self.render_edge(stay, e) for e in self.settings[name]]
                for subject, stay in self.stays.items()
            }
            for name in ("static_tokens", "discharge_tokens")
        }

    def render_edge(self, stay: dict[str, Any], edge: dict[str, Any]) -> str:
        if "column" not in edge:
            return str(edge["token"])
        value = stay[edge["column"]]
        if "{bin}" in edge["token"]:
            return str(edge["token"]).replace("{bin}", find_bin(value, self.edges_of(edge["column"], None)))
        return str(edge["token"]).replace("{category}", spell(value, self.settings["normalize"]) or "missing")

    def learn_vocabulary(self) -> None:
        """Special, bins, static by position, sources in order (events, then values), discharge; each sorted."""
        train = [subject for subject in self.stays if self.is_train(subject)]
        fixed = [
            e["token"] for e in self.settings["static_tokens"] + self.settings["discharge_tokens"] if "column" not in e
        ]
        bins = [f"Q{i}" for i in range(self.settings["num_bins"])] + ["MISSING_VALUE"]
        groups = [("special", ["PAD", "UNK", *fixed]), ("bin", bins)]
        for position in range(len(self.settings["static_tokens"])):
            words = {self.edge_words["static_tokens"][subject][position] for subject in train}
            groups.append(("static", sorted(words)))
        for number, source in enumerate(self.settings["sources"]):
            mine = [event for subject in train for event in self.words[subject] if event[1] == number]
            groups.append((source["name"], sorted({event[2] for event in mine})))
            groups.append((source["name"], sorted({event[3] for event in mine if event[3] is not None})))
        for position in range(len(self.settings["discharge_tokens"])):
            words = {self.edge_words["discharge_tokens"][subject][position] for subject in train}
            groups.append(("discharge", sorted(words)))
        self.kinds: dict[str, str] = {}
        for kind, tokens in groups:
            for token in tokens:
                self.kinds.setdefault(token, kind)
        self.ids = {token: number for number, token in enumerate(self.kinds)}

    def know(self, word: str) -> str:
        return word if word in self.ids else "UNK"

    def build_timelines(self) -> None:
        self.timelines: dict[str, tuple[list[str], list[int]]] = {}
        self.kept_events: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for subject in sorted(self.stays):
            stay = self.stays[subject]
            admission, discharge = stay["admission_dttm"], stay["discharge_dttm"]
            if discharge is None or discharge < admission:
                continue
            if discharge - admission < self.settings["min_length_of_stay_hours"] * HOUR:
                continue
            known = [
                (time, number, self.know(key), None if word is None else self.know(word))
                for time, number, key, word in self.words[subject]
            ]
            known.sort(key=lambda e: (e[0], e[1], self.ids[e[2]], -1 if e[3] is None else self.ids[e[3]]))
            for event in known:
                self.kept_events[self.settings["sources"][event[1]]["name"]] += 1
            start = min([admission, *[event[0] for event in known]])
            end = max([discharge, *[event[0] for event in known]])
            pairs = [(self.know(word), start) for word in self.edge_words["static_tokens"][subject]]
            for time, _, key, word in known:
                pairs += [(key, time)] if word is None else [(key, time), (word, time)]
            pairs += [(self.know(word), end) for word in self.edge_words["discharge_tokens"][subject]]
            self.timelines[subject] = ([word for word, _ in pairs], [time for _, time in pairs])
            if self.is_train(subject):
                counts.update(word for word, _ in pairs)
        self.vocabulary = [(token, kind, counts[token]) for token, kind in self.kinds.items()]

    def label(self) -> None:
        """Outcomes of kept stays, half-open window from admission: (index, label, event time, is excluded)."""
        rule = self.settings["normalize"]
        self.undated: set[tuple[str, str]] = set()
        first = {
            "icu_admission": self.find_first("adt", "in_dttm", "location_category", "ICU"),
            "imv_event": self.find_first("respiratory_support", "recorded_dttm", "device_category", "IMV"),
        }
        tables = {"icu_admission": "adt", "imv_event": "respiratory_support"}
        self.outcomes: dict[tuple[str, str], tuple[int, bool | None, float | None]] = {}
        for subject in self.timelines:
            stay = self.stays[subject]
            admission, discharge = stay["admission_dttm"], stay["discharge_dttm"]
            index = admission + round(self.settings["window"]["length_hours"] * HOUR)
            is_dead = spell(stay["discharge_category"], rule) == spell("Expired", rule)
            is_long = discharge - admission > 168 * HOUR
            events = {
                "in_hospital_death": discharge if is_dead else None,
                "long_length_of_stay": admission + 168 * HOUR if is_long else None,
                "icu_admission": first["icu_admission"].get(subject),
                "imv_event": first["imv_event"].get(subject),
            }
            for name, time in events.items():
                is_excluded = discharge < index or (time is not None and time < index)
                is_excluded |= (subject, tables.get(name)) in self.undated
                is_excluded |= name == "in_hospital_death" and stay["discharge_category"] is None
                self.outcomes[subject, name] = (index, None if is_excluded else time is not None, time)

    def find_first(self, table: str, time: str, column: str, word: str) -> dict[str, float]:
        """Return stay -> first time; a row without a time stands as infinity, so that it is not forgotten."""
        rule = self.settings["normalize"]
        times: dict[str, list[float]] = defaultdict(list)
        for row in read_columns(self.directory, table, ["hospitalization_id", time, column]) or []:
            if spell(row[column], rule) == spell(word, rule):
                times[row["hospitalization_id"]].append(math.inf if row[time] is None else row[time])
        self.undated |= {(stay, table) for stay, found in times.items() if math.inf in found}
        return {stay: min(found) for stay, found in times.items() if min(found) < math.inf}
