"""Stage 00 once more, from the words of the YAML and of DESIGN: plain loops, nothing of clinrep, no polars."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from tests.ehr.brute_outcomes import label
from tests.ehr.brute_rows import END, HOUR, MINUTE, Event, Row, read_columns, read_source, spell

Item = tuple[Event, str, str | None]  # an event with its token and value token
Pairs = list[tuple[str, float]]

DEFAULTS: dict[str, Any] = {
    "admission_window": None,
    "length_filter": "stay",
    "keep_without_events": True,
    "keep_without_patient": True,
    "edge_time_sources": None,
    "learn_from_untimed": False,
    "unit_rules": [],
    "token_style": "separate",
    "gap_minutes": [],
    "clock_hours": 0,
    "clock_offset_hours": 0.0,
    "unknown_token": "UNK",
    "missing_value_token": "MISSING_VALUE",
    "missing_category": "missing",
    "bin_without_edges": "unknown",
}


def to_microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1)) // timedelta(microseconds=1)


def is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


class BruteForce:
    """Everything stage 00 should write, as attributes of plain Python."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = s = DEFAULTS | settings
        self.directory = s["clif_dir"]
        self.edges = {"static": s["static_tokens"], "discharge": s["discharge_tokens"]}
        self.bin_edges = [e for edges in self.edges.values() for e in edges if "{bin}" in e["token"]]
        self.bins = [f"Q{i}" for i in range(s["num_bins"])]
        self.read_stays()
        self.split()
        self.events: dict[str, list[Event]] = {subject: [] for subject in self.stays}
        for number in range(len(s["sources"])):
            for subject, event in read_source(s, number, self.stays):
                self.events[subject].append(event)
        self.learn_quantiles()
        self.render()
        self.learn_vocabulary()
        self.count_unknown()
        self.build_timelines()
        self.outcomes = label(self)

    def read_stays(self) -> None:
        edges = [*self.edges["static"], *self.edges["discharge"]]
        asked = {table: [e["column"] for e in edges if e.get("table") == table] for table in TABLES}
        texts = {e["column"] for e in edges if "{category}" in e["token"]} | {"discharge_category"}
        columns = [*TABLES["hospitalization"], "discharge_category", *asked["hospitalization"]]
        rows = read_columns(self.directory, "hospitalization", columns)
        people = [*TABLES["patient"], *asked["patient"]]
        patients: dict[str, Row] = {}
        for row in read_columns(self.directory, "patient", people) or []:
            patients.setdefault(row["patient_id"], row)
        window = [to_microseconds(text) for text in self.settings["admission_window"] or []]
        self.stays: dict[str, Row] = {}
        for row in rows or []:
            age, admission = row["age_at_admission"], row["admission_dttm"]
            if None in (row["hospitalization_id"], row["patient_id"], admission, age):
                continue
            if not age >= self.settings["min_age_years"] or (window and not window[0] <= admission <= window[1]):
                continue
            stay = {**patients.get(row["patient_id"], dict.fromkeys(people)), **row}
            stay |= {column: spell(stay[column], self.settings["normalize"], column) for column in texts}
            self.stays[row["hospitalization_id"]] = {**stay, "has_patient": row["patient_id"] in patients}

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
        self.train = {subject for subject, (_, split) in self.splits.items() if split == "train"}

    def has_bin(self, event: Event) -> bool:
        return bool(self.settings["sources"][event.source].get("value_column"))

    def learn_quantiles(self) -> None:
        values: dict[tuple[str, str | None], list[float]] = defaultdict(list)
        for event in self.train_events():
            if self.has_bin(event) and is_number(event.value):
                values[event.key, event.unit].append(event.value)
        for column in {edge["column"] for edge in self.bin_edges}:
            train = [self.stays[subject][column] for subject in self.train]
            values[column, None] += [float(value) for value in train if is_number(value)]
        step = 1 / self.settings["num_bins"]
        grid = np.arange(step, 1, step)[: self.settings["num_bins"] - 1]
        self.quantiles = {key: (len(v), np.quantile(np.array(v), grid).tolist()) for key, v in values.items() if v}

    def train_events(self) -> list[Event]:
        return [event for subject in self.train for event in self.events[subject]]

    def find_bin(self, value: float | None, key: str, unit: str | None) -> str:
        if not is_number(value):
            return str(self.settings["missing_value_token"])
        if (key, unit) not in self.quantiles:
            return str(self.settings["unknown_token"])
        return self.bins[sum(edge <= value for edge in self.quantiles[key, unit][1])]

    def name(self, event: Event, word: str | None) -> tuple[str, str | None]:
        """Return the tokens of an event whose bin or category is `word`."""
        if word is None:
            return event.key, None
        if self.settings["token_style"] == "fused":
            return event.key + ("_" if self.has_bin(event) else "=") + word, None
        if word == self.settings["unknown_token"] and self.has_bin(event):
            return event.key, word
        template = self.settings["sources"][event.source].get("value_token", "{value}")
        return event.key, template.replace("{category}", event.category or "").replace("{value}", word)

    def render(self) -> None:
        """Give every event its tokens, and every stay those at its ends."""
        kinds = {(e.source, e.category, e.unit, e.word, is_number(e.value)): e for e in self.train_events()}
        self.distinct = list(kinds.values())
        in_train = {(event.source, event.category, event.unit) for event in self.distinct}
        self.items: dict[str, list[Item]] = {subject: [] for subject in self.stays}
        for subject, events in self.events.items():
            for event in events:
                word = self.find_bin(event.value, event.key, event.unit) if self.has_bin(event) else event.word
                is_last = self.settings["bin_without_edges"] == "last" and is_number(event.value)
                is_last &= (event.key, event.unit) not in self.quantiles
                if is_last and self.has_bin(event) and (event.source, event.category, event.unit) in in_train:
                    word = self.bins[-1]
                self.items[subject].append((event, *self.name(event, word)))
        self.edge_words = {
            kind: {subject: [self.render_edge(stay, e) for e in edges] for subject, stay in self.stays.items()}
            for kind, edges in self.edges.items()
        }

    def render_edge(self, stay: Row, edge: dict[str, Any]) -> str:
        if "column" not in edge:
            return str(edge["token"])
        value = stay[edge["column"]]
        if "{bin}" in edge["token"]:
            word = self.find_bin(value, edge["column"], None)
            return word if word == self.settings["unknown_token"] else str(edge["token"]).replace("{bin}", word)
        return str(edge["token"]).replace("{category}", self.settings["missing_category"] if value is None else value)

    def list_words(self, number: int) -> list[tuple[str, str | None]]:
        """Return the tokens train has of a source; of a number, those of each bin that values could be in."""
        found = []
        for event in self.distinct:
            if event.source != number:
                continue
            if not self.has_bin(event):
                found.append(self.name(event, event.word))
                continue
            if (event.key, event.unit) in self.quantiles:
                edges = self.quantiles[event.key, event.unit][1]
                is_open = [True, *[low < high for low, high in itertools.pairwise(edges)], True]
                words = [word for word, is_it in zip(self.bins, is_open, strict=True) if is_it]
            else:
                words = self.bins[-1:] if self.settings["bin_without_edges"] == "last" else []
            missing = [] if is_number(event.value) else [self.settings["missing_value_token"]]
            found += [self.name(event, word) for word in {*words, *missing}]
        return found

    def learn_vocabulary(self) -> None:
        """Special, bins, times, static by position, sources in order (events, then values), discharge; each sorted."""
        s = self.settings
        fixed = [e["token"] for edges in self.edges.values() for e in edges if "column" not in e]
        has_bins = s["token_style"] == "separate" or self.bin_edges
        groups = [
            ("special", ["PAD", s["unknown_token"], *fixed]),
            ("bin", [*self.bins, s["missing_value_token"]] if has_bins else []),
            ("time", [f"GAP_{minutes:g}m" for minutes in s["gap_minutes"]]),
            ("time", [f"CLOCK_{hour:02d}" for hour in range(24) if s["clock_hours"] and hour % s["clock_hours"] == 0]),
        ]
        groups += [("static", self.list_edge_words("static", i)) for i in range(len(self.edges["static"]))]
        for number, source in enumerate(s["sources"]):
            words = self.list_words(number)
            groups.append((source["name"], sorted({token for token, _ in words})))
            groups.append((source["name"], sorted({value for _, value in words if value is not None})))
        groups += [("discharge", self.list_edge_words("discharge", i)) for i in range(len(self.edges["discharge"]))]
        self.kinds: dict[str, str] = {}
        for kind, tokens in groups:
            for token in tokens:
                self.kinds.setdefault(token, kind)
        self.ids = {token: number for number, token in enumerate(self.kinds)}

    def list_edge_words(self, kind: str, position: int) -> list[str]:
        return sorted({self.edge_words[kind][subject][position] for subject in self.train})

    def know(self, word: str) -> str:
        return word if word in self.ids else str(self.settings["unknown_token"])

    def count_unknown(self) -> None:
        """Count what becomes the unknown token, by source or column, over all adult stays."""
        self.unknown: Counter[str] = Counter()
        unknown = self.settings["unknown_token"]
        for items in self.items.values():
            for event, token, value in items:
                name = self.settings["sources"][event.source]["name"]
                self.unknown[name] += token not in self.ids
                self.unknown[name] += value is not None and self.know(value) == unknown
        for kind, words_of in self.edge_words.items():
            for words in words_of.values():
                for edge, word in zip(self.edges[kind], words, strict=True):
                    self.unknown[edge.get("column", "")] += self.know(word) == unknown
        self.unknown = +self.unknown

    def is_kept(self, subject: str, first: float, last: float) -> bool:
        s, stay = self.settings, self.stays[subject]
        if stay["discharge_dttm"] is None or (not s["keep_without_patient"] and not stay["has_patient"]):
            return False
        if not s["keep_without_events"] and not self.events[subject]:
            return False
        length = stay["discharge_dttm"] - stay["admission_dttm"]
        if s["length_filter"] == "timeline":
            return last - first >= s["min_length_of_stay_hours"] * HOUR
        return length >= 0 and length >= s["min_length_of_stay_hours"] * HOUR

    def find_ends(self, subject: str) -> tuple[float, float]:
        """Return the times of the static and of the discharge tokens."""
        names = self.settings["edge_time_sources"]
        times = [
            event.time
            for event in self.events[subject]
            if event.time not in (None, END)
            and (names is None or self.settings["sources"][event.source]["name"] in names)
        ]
        stay = self.stays[subject]
        return min([stay["admission_dttm"], *times]), max([stay["discharge_dttm"] or -END, *times])

    def build_timelines(self) -> None:
        self.timelines: dict[str, tuple[list[str], list[float]]] = {}
        self.first: dict[str, float] = {}
        self.kept_events: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for subject in sorted(self.stays):
            first, last = self.find_ends(subject)
            if not self.is_kept(subject, first, last):
                continue
            self.first[subject] = first
            known = []
            for event, token, value in self.items[subject]:
                if event.time is not None:
                    words = [self.know(word) for word in (token, value) if word is not None]
                    known.append((last if event.time == END else event.time, event.source, words))
                    self.kept_events[self.settings["sources"][event.source]["name"]] += 1
            known.sort(key=lambda one: (one[0], one[1], [self.ids[word] for word in one[2]]))
            pairs = [(self.know(word), first) for word in self.edge_words["static"][subject]]
            before: float | None = None
            for time, _, words in known:
                pairs += [(word, time) for word in [*self.tell_time(before, first, time), *words]]
                before = time
            pairs += [(self.know(word), last) for word in self.edge_words["discharge"][subject]]
            self.timelines[subject] = ([word for word, _ in pairs], [time for _, time in pairs])
            counts.update(word for word, _ in pairs if subject in self.train)
        self.vocabulary = [(token, kind, counts[token]) for token, kind in self.kinds.items()]

    def tell_time(self, before: float | None, first: float, now: float) -> list[str]:
        """Return the tokens between two events (None: the first of the stay, which follows the static tokens)."""
        passed = [m for m in self.settings["gap_minutes"] if now - (first if before is None else before) >= m * MINUTE]
        words = [f"GAP_{max(passed):g}m"] if passed else []
        if self.settings["clock_hours"]:
            shift = self.settings["clock_offset_hours"] * HOUR
            part = self.settings["clock_hours"] * HOUR
            if before is None or (now + shift) // part != (before + shift) // part:
                hour = int((now + shift) // HOUR % 24)
                words.append(f"CLOCK_{hour - hour % self.settings['clock_hours']:02d}")
        return words


TABLES = {
    "hospitalization": ["hospitalization_id", "patient_id", "admission_dttm", "discharge_dttm", "age_at_admission"],
    "patient": ["patient_id", "race_category", "ethnicity_category", "sex_category"],
}
