"""One fake site whose stages 02 and 03 tell of every token: bits, jumps and risks that can be recognized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from clinrep import artifacts
from clinrep.ehr.sequences import load_sequences
from clinrep.sequences import Sequences
from tests.ehr.fake_timelines import write_fake_tokenizer_run

WIDTH = 4
CUT = {"max_length": 30, "truncation": "keep_latest"}
OUTCOMES = ("in_hospital_death", "icu_admission")


@dataclass
class TimelineSite:
    """Stages 00, 02 and 03 under `root`; `without` names tables that stages 02 and 03 were not asked for."""

    root: Path
    without: tuple[str, ...] = ()
    num_stays: int = 60

    def write(self) -> TimelineSite:
        self.timelines = write_fake_tokenizer_run(self.root / "00", self.num_stays, seed=3, max_events=90)
        artifacts.write_table("ledger", self._make_ledger(), self.timelines)
        self.sequences = load_sequences(str(self.timelines), **CUT)
        self.representations = self.root / "03"
        self._write_representations()
        self.predictions = self.root / "02"
        for outcome in OUTCOMES:
            self._write_predictions(outcome)
        return self

    def _make_ledger(self) -> pl.DataFrame:
        rows = [
            ("hospitalization", "read", self.num_stays + 31, self.num_stays + 31, "rows of clif_hospitalization"),
            ("hospitalization", "adult", self.num_stays + 31, self.num_stays + 14, "age_at_admission below 18"),
            ("hospitalization", "length of stay", self.num_stays + 14, self.num_stays, "shorter than 24 hours"),
        ]
        counts = {"rows_in": pl.UInt64, "rows_out": pl.UInt64}
        schema = {"table": pl.String, "step": pl.String, **counts, "reason": pl.String}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def lists(self, sequences: Sequences, offset: float, is_shorter: bool) -> pl.Series:
        """Return a number a token: its place among all tokens, so that no two places have the same."""
        values = [
            np.arange(start + int(is_shorter), end, dtype=np.float32) / 64 + offset
            for start, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
        ]
        return pl.Series(values, dtype=pl.List(pl.Float32))

    def times(self, sequences: Sequences) -> pl.Series:
        values = [sequences.get_times(row).tolist() for row in range(len(sequences))]
        return pl.Series(values, dtype=pl.List(pl.Datetime("us")))

    def _write_representations(self) -> None:
        directory, rng = self.representations, np.random.default_rng(0)
        for split in artifacts.SPLITS:
            some = self.sequences.select(split)
            vectors = rng.normal(size=(len(some), WIDTH)).astype(np.float32)
            frame = some.subjects.select(
                "subject_id",
                "split",
                layer=pl.lit(2, pl.Int16),
                pooling=pl.lit("mean"),
                representation=pl.Series(vectors, dtype=pl.Array(pl.Float32, WIDTH)),
            )
            artifacts.write_table("representations", frame, directory, split)
            if "information" not in self.without:
                artifacts.write_table("information", self._make_information(some), directory, split)
        if "trajectories" not in self.without:
            artifacts.write_table("trajectories", self._make_trajectories(), directory)
        vocabulary = artifacts.read_table("vocabulary", self.timelines).drop("train_count")
        values = rng.normal(size=(vocabulary.height, WIDTH)).astype(np.float32)
        embeddings = vocabulary.with_columns(embedding=pl.Series(values, dtype=pl.Array(pl.Float32, WIDTH)))
        artifacts.write_table("token_embeddings", embeddings, directory)
        artifacts.write_text(directory / "config.yaml", yaml.safe_dump(CUT))
        artifacts.write_done(directory, "03_extract_reps", {}, {})

    def _make_information(self, some: Sequences) -> pl.DataFrame:
        tokens = pl.Series([some.get(row) for row in range(len(some))], dtype=pl.List(pl.UInt32))
        bits = self.lists(some, 0.25, is_shorter=True)
        frame = some.subjects.select("subject_id", "split", token_ids=tokens, times=self.times(some), bits=bits)
        return frame.with_columns(total_bits=pl.col("bits").list.sum().cast(pl.Float64))

    def _make_trajectories(self) -> pl.DataFrame:
        jumps = self.lists(self.sequences, 0.5, is_shorter=True)
        frame = self.sequences.subjects.select("subject_id", "split", times=self.times(self.sequences), jumps=jumps)
        sums = {"path_length": pl.col("jumps").list.sum().cast(pl.Float64), "max_jump": pl.col("jumps").list.max()}
        return frame.with_columns(**sums, mean_jump=pl.col("jumps").list.mean().cast(pl.Float32))

    def _write_predictions(self, outcome: str) -> None:
        directory = self.predictions / outcome
        some = load_sequences(str(self.timelines), outcome=outcome, **CUT)
        rows = some.subjects.select("subject_id", "split", "label", outcome=pl.lit(outcome))
        chance = np.random.default_rng(1).random(len(some)).astype(np.float32)
        artifacts.write_table("predictions", rows.with_columns(probability=pl.Series(chance)), directory)
        if "risk_over_time" not in self.without:
            risk = (self.lists(some, 0, is_shorter=False).list.eval(pl.element() % 1)).cast(pl.List(pl.Float32))
            frame = rows.with_columns(times=self.times(some), probability=risk, model=pl.lit("classifier"))
            artifacts.write_table("risk_over_time", frame.filter(split="test"), directory)
        artifacts.write_text(directory / "config.yaml", f"outcome: {outcome}\n")
        artifacts.write_done(directory, "02_finetune", {}, {})

    def flags(self, name: str = "demo") -> list[str]:
        """Return the flags that give this site to stage 04."""
        return [
            f"--timelines_dir.{name}={self.timelines}",
            f"--representations_dir.{name}={self.representations}",
            f"--predictions_dir.{name}={self.predictions}",
        ]
