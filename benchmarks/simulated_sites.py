"""Finished runs of stages 00, 02 and 03 of a simulated site of any size, for the benchmark of stage 04."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.lengths import draw_lengths
from clinrep import artifacts

OUTCOMES = {"in_hospital_death": 0.06, "long_length_of_stay": 0.3, "icu_admission": 0.12, "imv_event": 0.08}
WIDTH, LAYER, HOUR = 64, 4, 3_600_000_000  # an hour in microseconds
BINS, CATEGORIES = 10, 150
PART_STAYS = 20_000


class SimulatedSite:
    """Finished runs of one site; whoever is sicker has higher bins, other vectors and longer paths."""

    def __init__(self, root: Path, num_stays: int, seed: int) -> None:
        """Draw the stays, their labels and their tokens of the first 24 hours, times in microseconds."""
        self.root, self.num_stays, self.rng = root, num_stays, np.random.default_rng(seed)
        rng = self.rng
        people = np.where(rng.random(num_stays) < 0.3, rng.integers(num_stays, size=num_stays), np.arange(num_stays))
        split = np.searchsorted([0.7, 0.8], rng.random(num_stays))[people]
        hours = 24 + rng.lognormal(4.2, 0.9, num_stays)
        start = int(datetime(2150, 1, 1).timestamp()) * 1_000_000 + rng.integers(3650 * 24, size=num_stays) * HOUR
        self.stays = pl.DataFrame(
            {
                "subject_id": pl.Series(np.char.mod("h%08d", rng.permutation(num_stays))),
                "patient_id": pl.Series(np.char.mod("p%08d", people)),
                "split": np.array(artifacts.SPLITS)[split],
                "start": pl.Series(start).cast(pl.Datetime("us")),
                "end": pl.Series(start + (hours * HOUR).astype(np.int64)).cast(pl.Datetime("us")),
                "age": rng.uniform(18, 95, num_stays),
                "sex": rng.choice(["female", "male"], num_stays),
                "race": rng.choice(["white", "black", "asian", "other"], num_stays, p=[0.5, 0.3, 0.05, 0.15]),
                "ethnicity": rng.choice(["hispanic", "non_hispanic"], num_stays, p=[0.1, 0.9]),
                "length_of_stay_hours": hours,
            }
        ).with_row_index("row")
        self.risk = rng.normal(size=num_stays)
        self.labels = {name: self.risk + rng.normal(size=num_stays) for name in OUTCOMES}
        self.labels = {name: score > np.quantile(score, 1 - OUTCOMES[name]) for name, score in self.labels.items()}
        self.lengths = draw_lengths("mimic", num_stays)
        self.lengths += self.lengths % 2  # two static tokens, then pairs of a category and a bin
        stay = np.repeat(np.arange(num_stays), self.lengths // 2)
        hour = np.sort(stay + rng.uniform(0, 1, stay.size)) - stay  # within a stay rising, from 0 to 1
        is_first = np.r_[True, stay[1:] != stay[:-1]]
        hour[is_first] = 0
        bins = np.clip(np.rint(4.5 + self.risk[stay] + rng.normal(0, 2, stay.size)), 0, BINS - 1)
        categories = rng.integers(BINS + 4, BINS + 4 + CATEGORIES, stay.size)
        pairs = np.stack([np.where(is_first, BINS, categories), np.where(is_first, BINS + 1, bins)], axis=1)
        self.tokens = pairs.ravel().astype(np.uint32)
        self.times = np.repeat(start[stay] + (hour * 24 * HOUR).astype(np.int64), 2)

    def write(self) -> None:
        """Write all that the three stages do, and the directories' DONE."""
        self.write_timelines()
        self.write_representations()
        self.write_predictions()

    def iterate_parts(self, split: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield number, rows and tokens (places in the arrays) of each part of a split's stays."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        rows = self.stays.filter(pl.col("split") == split)["row"].to_numpy()
        for part, first in enumerate(range(0, rows.size, PART_STAYS)):
            some = rows[first : first + PART_STAYS]
            lengths = self.lengths[some]
            places = np.arange(lengths.sum()) + np.repeat(offsets[some] - np.cumsum(lengths) + lengths, lengths)
            yield part, some, places

    def list_times(self, rows: np.ndarray, places: np.ndarray) -> pl.Series:
        """Return the times of some stays' tokens, a list a stay."""
        return artifacts.make_lists(pl.Series(self.times[places]).cast(pl.Datetime("us")), self.lengths[rows])

    def write_timelines(self) -> None:
        """Write stage 00's tables; the timelines end at 24 h."""
        directory = self.root / "00"
        artifacts.write_table("splits", self.stays, directory)
        artifacts.write_table("subjects", self.stays, directory)
        frames = []
        for number, (outcome, label) in enumerate(self.labels.items()):
            is_early = ~label & (np.arange(self.num_stays) % 11 == number) & (number > 0)
            of_outcome = self.stays.select(
                "subject_id",
                outcome=pl.lit(outcome),
                index_time=pl.col("start") + pl.duration(hours=24),
                label=pl.when(~pl.Series(is_early)).then(pl.Series(label)),
                event_time=pl.lit(None, pl.Datetime("us")),
                excluded_reason=pl.when(pl.Series(is_early)).then(pl.lit("event before index_time")),
            )
            frames.append(of_outcome)
        self.outcomes = pl.concat(frames)
        artifacts.write_table("outcomes", self.outcomes, directory)
        counts = [("hospitalization", "read", 2, 2, "rows of clif_hospitalization.parquet"),
                  ("hospitalization", "adult", 2, 1, "age_at_admission below 18"),
                  ("hospitalization", "length of stay", 1, 0, "shorter than 24 hours")]  # fmt: skip
        rows = [(table, step, before * 999 + self.num_stays, after * 999 + self.num_stays, why)
                for table, step, before, after, why in counts]  # fmt: skip
        names = dict.fromkeys(("table", "step"), pl.String) | dict.fromkeys(("rows_in", "rows_out"), pl.UInt64)
        names["reason"] = pl.String
        artifacts.write_table("ledger", pl.DataFrame(rows, schema=names, orient="row"), directory)
        words = [f"Q{one}" for one in range(BINS)] + ["SEX_female", "RACE_white", "PAD", "UNK"]
        words += [f"LAB_{number}" for number in range(CATEGORIES)]
        kinds = ["bin"] * BINS + ["static"] * 2 + ["special"] * 2 + ["labs"] * CATEGORIES
        self.vocabulary = pl.DataFrame({"token": words, "kind": kinds}).with_columns(
            token_id=pl.int_range(pl.len(), dtype=pl.UInt32), train_count=pl.lit(99, pl.UInt64)
        )
        artifacts.write_table("vocabulary", self.vocabulary, directory)
        quantiles = pl.DataFrame({"category": words[-CATEGORIES:]}).with_columns(
            unit=pl.lit(None, pl.String),
            train_count=pl.lit(99, pl.UInt64),
            edges=pl.Series([[float(edge) for edge in range(BINS - 1)]] * CATEGORIES),
        )
        artifacts.write_table("quantiles", quantiles, directory)
        for split in artifacts.SPLITS:
            for part, some, places in self.iterate_parts(split):
                tokens = artifacts.make_lists(pl.Series(self.tokens[places]), self.lengths[some])
                frame = self.stays[some].with_columns(token_ids=tokens, times=self.list_times(some, places))
                artifacts.write_table("timelines", frame.sort("subject_id"), directory, split, part)
        settings = "static_tokens: [sex, race]\ntoken_style: separate\nwindow: {is_end_closed: false}\n"
        artifacts.write_text(directory / "config.yaml", settings)
        artifacts.write_done(directory, "00_tokenize", {}, {})

    def write_representations(self) -> None:
        """Write stage 03's tables: last states of one layer, jumps and bits."""
        directory, frames = self.root / "03", []
        for split in artifacts.SPLITS:
            for part, some, places in self.iterate_parts(split):
                vectors = self.rng.normal(size=(some.size, WIDTH)).astype(np.float32)
                vectors[:, :4] += 0.5 * self.risk[some, None]
                lengths, times = self.lengths[some], self.list_times(some, places)
                of_part = (
                    self.stays[some]
                    .select("subject_id", "split")
                    .with_columns(
                        layer=pl.lit(LAYER, pl.Int16),
                        pooling=pl.lit("last_token"),
                        representation=pl.Series(vectors, dtype=pl.Array(pl.Float32, WIDTH)),
                        times=times,
                        token_ids=artifacts.make_lists(pl.Series(self.tokens[places]), lengths),
                        bits=self.draw_lists(lengths - 1),
                        jumps=self.draw_lists(lengths - 1),
                    )
                )
                of_part = of_part.with_columns(
                    path_length=pl.col("jumps").list.sum().cast(pl.Float64) + pl.Series(np.exp(self.risk[some])),
                    max_jump=pl.col("jumps").list.max(),
                    mean_jump=pl.col("jumps").list.mean().cast(pl.Float32),
                    total_bits=pl.col("bits").list.sum().cast(pl.Float64),
                )
                artifacts.write_table("representations", of_part, directory, split, part)
                artifacts.write_table("information", of_part, directory, split, part)
                frames.append(of_part.select(list(artifacts.TABLES["trajectories"].columns)))
        artifacts.write_frames("trajectories", frames, directory)
        values = np.random.default_rng(0).normal(size=(self.vocabulary.height, WIDTH)).astype(np.float32)
        embeddings = self.vocabulary.with_columns(embedding=pl.Series(values, dtype=pl.Array(pl.Float32, WIDTH)))
        artifacts.write_table("token_embeddings", embeddings, directory)
        artifacts.write_text(directory / "config.yaml", "max_length: 2048\ntruncation: keep_latest\n")
        artifacts.write_done(directory, "03_extract_reps", {}, {})

    def draw_lists(self, lengths: np.ndarray) -> pl.Series:
        """Return so many random numbers a stay."""
        return artifacts.make_lists(pl.Series(self.rng.random(lengths.sum(), dtype=np.float32)), lengths)

    def write_predictions(self) -> None:
        """Write what two classifiers an outcome say, and of the test stays after every token."""
        for outcome in OUTCOMES:
            labelled = self.outcomes.filter((pl.col("outcome") == outcome) & pl.col("label").is_not_null())
            for name, model, text in (("", "classifier", ""), ("_urt", "classifier_urt", "random_truncation: true\n")):
                logits = self.risk + self.rng.normal(0, 0.7, self.num_stays) - 2.5
                chance = pl.Series((1 / (1 + np.exp(-logits))).astype(np.float32))
                rows = labelled.join(self.stays.with_columns(probability=chance), on="subject_id")
                directory = self.root / "02" / f"{outcome}{name}"
                artifacts.write_table("predictions", rows, directory)
                frames = [
                    self.follow(model, outcome, logits, some, places).join(labelled, on="subject_id", how="semi")
                    for _, some, places in self.iterate_parts("test")
                ]
                artifacts.write_frames("risk_over_time", frames, directory)
                artifacts.write_text(directory / "config.yaml", f"outcome: {outcome}\n{text}")
                artifacts.write_done(directory, "02_finetune", {}, {})

    def follow(
        self, model: str, outcome: str, logits: np.ndarray, some: np.ndarray, places: np.ndarray
    ) -> pl.DataFrame:
        """Return risk over time of some stays, which nears what is said at the end."""
        lengths = self.lengths[some]
        ends = np.repeat(logits[some], lengths)
        noise = self.rng.normal(size=ends.size) * np.repeat(1 / np.sqrt(lengths), lengths)
        risks = (1 / (1 + np.exp(-ends - noise))).astype(np.float32)
        return self.stays[some].select(
            "subject_id",
            "split",
            model=pl.lit(model),
            outcome=pl.lit(outcome),
            times=self.list_times(some, places),
            probability=artifacts.make_lists(pl.Series(risks), lengths),
        )
