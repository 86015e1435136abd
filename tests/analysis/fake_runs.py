"""Fake directories of stages 00, 02 and 03, every table in its own shuffled row order, and stage 04 on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from clinrep import artifacts
from clinrep.modality import resolve

EPOCH = datetime(2150, 1, 1)
OUTCOMES = {"in_hospital_death": 0.25, "icu_admission": 0.4, "imv_event": None}
KINDS = ("special", "static", "discharge", "labs", "vitals", "medication", "respiratory")


@dataclass
class FakeSite:
    """Builds one site under `root`; the same seed gives the same stays, `shuffle` only their row orders."""

    root: Path
    seed: int = 0
    shuffle: int = 0
    num_stays: int = 150
    width: int = 8
    layers: tuple[int, ...] = (0, 2)
    poolings: tuple[str, ...] = ("last_token", "mean")
    prefix: str = "s"
    timelines: Path = field(init=False)
    representations: Path = field(init=False)
    predictions: Path = field(init=False)

    def __post_init__(self) -> None:
        self.timelines, self.representations = self.root / "00", self.root / "03"
        self.predictions = self.root / "02"
        self.mixer = np.random.default_rng([1, self.shuffle])
        rng = np.random.default_rng(self.seed)
        numbers = np.arange(self.num_stays)
        patients = numbers * 2 // 3  # some patients have two stays
        split = np.array(["train", "train", "train", "val", "test", "test"])[patients % 6]
        self.stays = pl.DataFrame(
            {
                "subject_id": [f"{self.prefix}{number:04d}" for number in rng.permutation(numbers)],
                "patient_id": [f"p{number}" for number in patients],
                "split": split,
                "age": rng.uniform(18, 95, self.num_stays),
                "length_of_stay_hours": rng.lognormal(4.5, 0.7, self.num_stays),
                "sex": rng.choice(["female", "male"], self.num_stays),
                "race": rng.choice(["white", "black_or_african_american", "asian"], self.num_stays, p=[0.7, 0.2, 0.1]),
            }
        )
        self.risk = rng.normal(size=self.num_stays)
        self.ids = self.stays["subject_id"]  # whose risks they are, whatever a test does to the stays
        self.rng = rng
        self.outcomes = self._label()

    def write(self) -> FakeSite:
        """Write all three stages."""
        self.write_timelines()
        self.write_representations()
        self.write_predictions()
        return self

    def _label(self) -> pl.DataFrame:
        frames = []
        for outcome, share in OUTCOMES.items():
            noise = self.rng.normal(size=self.num_stays)
            label = pl.Series(self.risk + noise > np.quantile(self.risk + noise, 1 - (share or 0.1)))
            if share is None:  # exactly one event in test, as in the sample
                is_test = self.stays["split"] == "test"
                first = int(np.flatnonzero(is_test.to_numpy())[0])
                label = (label & ~is_test) | (pl.int_range(self.num_stays, eager=True) == first)
            early = pl.Series(np.arange(self.num_stays) % 11 == 5) & ~label & (outcome != "in_hospital_death")
            frames.append(
                self.stays.select(
                    "subject_id",
                    outcome=pl.lit(outcome),
                    index_time=pl.lit(EPOCH + timedelta(days=1)).cast(pl.Datetime("us")),
                    label=pl.when(~early).then(label),
                    event_time=pl.lit(None, pl.Datetime("us")),
                    excluded_reason=pl.when(early).then(pl.lit("event before index_time")),
                )
            )
        return pl.concat(frames)

    def _mix(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame[self.mixer.permutation(frame.height)]

    def write_timelines(self) -> None:
        filtered = pl.DataFrame({"subject_id": ["short"], "patient_id": ["p0"], "split": ["train"]})
        splits = pl.concat([self.stays.select("subject_id", "patient_id", "split"), filtered])
        artifacts.write_table("splits", self._mix(splits), self.timelines)
        subjects = self.stays.drop("split").with_columns(
            start=pl.lit(EPOCH).cast(pl.Datetime("us")),
            end=pl.lit(EPOCH).cast(pl.Datetime("us")) + pl.duration(minutes=60 * pl.col("length_of_stay_hours")),
            ethnicity=pl.lit(None, pl.String),
        )
        artifacts.write_table("subjects", self._mix(subjects), self.timelines)
        artifacts.write_table("outcomes", self._mix(self.outcomes), self.timelines)
        count = self.num_stays
        ledger = [
            ("hospitalization", "read", count + 2, count + 2, "rows of clif_hospitalization.parquet"),
            ("hospitalization", "adult", count + 2, count + 1, "age_at_admission below 18"),
            ("labs", "labs: time", 9000, 8990, "no lab_result_dttm"),
            ("hospitalization", "length of stay", count + 1, count, "shorter than 24 hours"),
        ]
        schema = {"table": pl.String, "step": pl.String, "rows_in": pl.UInt64, "rows_out": pl.UInt64}
        frame = pl.DataFrame(ledger, schema=schema | {"reason": pl.String}, orient="row")
        artifacts.write_table("ledger", frame, self.timelines)
        self._write_tokens()
        artifacts.write_done(self.timelines, "00_tokenize", {}, {})

    def _write_tokens(self) -> None:
        """Write what a stay's sequence is made of: LAB_11 and LAB_12 with bins that carry the risk, six hours apart."""
        vocabulary = self._embed_tokens().select(
            "token_id",
            token=pl.when(pl.col("token") == "LAB_10").then(pl.lit("PAD")).otherwise("token"),
            kind="kind",
            train_count=pl.lit(1, pl.UInt64),
        )
        artifacts.write_table("vocabulary", vocabulary, self.timelines)
        edges = {"category": ["LAB_11", "LAB_12"], "edges": [[float(edge) for edge in range(9)]] * 2}
        quantiles = pl.DataFrame(edges).with_columns(unit=pl.lit(None, pl.String), train_count=pl.lit(9, pl.UInt64))
        artifacts.write_table("quantiles", quantiles.select("category", "unit", "train_count", "edges"), self.timelines)
        rng = np.random.default_rng([self.seed, 5])
        rows = []
        for risk in self.risk:
            level = 4.5 + 2 * risk
            values = np.clip(np.rint(rng.normal(level, 1, size=int(rng.integers(1, 9)))), 0, 9).astype(int)
            tokens = [11] + [token for value in values for token in (int(rng.choice([11, 12])), int(value))] + [13]
            hours = [0.0] + [6.0 * index + 1 for index in range(len(values)) for _ in range(2)] + [60.0]
            rows.append((tokens, [EPOCH + timedelta(hours=hour) for hour in hours]))
        schema = {"token_ids": pl.List(pl.UInt32), "times": pl.List(pl.Datetime("us"))}
        timelines = pl.DataFrame(rows, schema=schema, orient="row").with_columns(self.ids)
        timelines = timelines.join(self.stays.select("subject_id", "split"), on="subject_id")
        for split in artifacts.SPLITS:
            part = self._mix(timelines.filter(split=split)).drop("split")
            artifacts.write_table(
                "timelines", part.select("subject_id", "token_ids", "times"), self.timelines, split, 0
            )
        settings = "static_tokens: [start]\ntoken_style: separate\nwindow: {is_end_closed: false}\n"
        artifacts.write_text(self.timelines / "config.yaml", settings)

    def write_representations(self, vectors_of: pl.DataFrame | None = None) -> None:
        """Write vectors that carry the risk and noise; `vectors_of` names the stays (all when None)."""
        for split in artifacts.SPLITS:
            parts = []
            for layer in self.layers:
                for pooling in self.poolings:
                    name = sum(map(ord, pooling)) + layer
                    noise = np.random.default_rng([self.seed, name]).normal(size=(self.num_stays, self.width))
                    noise[:, 0] += self.risk
                    part = self.stays.select(
                        "subject_id",
                        "split",
                        layer=pl.lit(layer, pl.Int16),
                        pooling=pl.lit(pooling),
                        representation=pl.Series(noise.astype(np.float32), dtype=pl.Array(pl.Float32, self.width)),
                    )
                    parts.append(part.filter(pl.col("split") == split))
            frame = pl.concat(parts)
            if vectors_of is not None:
                frame = frame.join(vectors_of.select("subject_id"), on="subject_id")
            mixed = self._mix(frame)
            half = mixed.height // 2
            artifacts.write_table("representations", mixed[:half], self.representations, split, 0)
            artifacts.write_table("representations", mixed[half:], self.representations, split, 1)
        artifacts.write_table("token_embeddings", self._embed_tokens(), self.representations)
        artifacts.write_text(self.representations / "config.yaml", "max_length: 1024\ntruncation: keep_latest\n")
        artifacts.write_done(self.representations, "03_extract_reps", {}, {})

    def _embed_tokens(self) -> pl.DataFrame:
        """Return deciles on an arc and 90 other tokens in clouds, the same at every site."""
        rng = np.random.default_rng(7)
        kinds = ["bin"] * 10 + [KINDS[index % len(KINDS)] for index in range(90)]
        values = rng.normal(scale=0.4, size=(100, self.width))
        angle = np.linspace(0, 2.5, 10)
        values[:10, 0] += 3 * np.cos(angle)
        values[:10, 1] += 3 * np.sin(angle)
        return pl.DataFrame(
            {
                "token_id": pl.Series(range(100), dtype=pl.UInt32),
                "token": [f"Q{index}" if index < 10 else f"LAB_{index}" for index in range(100)],
                "kind": kinds,
                "embedding": pl.Series(values.astype(np.float32), dtype=pl.Array(pl.Float32, self.width)),
            }
        )

    def write_predictions(self) -> None:
        """Write one directory per outcome, rounded so that there are ties."""
        noise = np.random.default_rng([self.seed, 99]).normal(size=self.num_stays)
        probability = np.round(1 / (1 + np.exp(1 - self.risk - noise)), 1).astype(np.float32)
        of_stay = self.stays.select("subject_id", "split", probability=pl.Series(probability))
        for outcome in OUTCOMES:
            labelled = self.outcomes.filter((pl.col("outcome") == outcome) & pl.col("label").is_not_null())
            rows = labelled.select("subject_id", "outcome", "label").join(of_stay, on="subject_id")
            directory = self.predictions / outcome
            artifacts.write_table("predictions", self._mix(rows), directory)
            artifacts.write_text(directory / "config.yaml", f"outcome: {outcome}\n")
            artifacts.write_done(directory, "02_finetune", {}, {})

    def flags(self, name: str) -> list[str]:
        """Return the flags that give this site to stage 04."""
        return [
            f"--timelines_dir.{name}={self.timelines}",
            f"--representations_dir.{name}={self.representations}",
            f"--predictions_dir.{name}={self.predictions}",
        ]


def finish_again(directory: Path) -> None:
    """Write DONE anew after a change, as if the stage had written the tables so."""
    done = artifacts.read_content(directory / "DONE")
    artifacts.write_done(directory, done["stage"], done["rows"], done["inputs"])


def run_main(output: Path, *flags: str, is_drawn: bool = False) -> Path:
    """Run the stage in this process, quickly: one probe, few replicates, tables alone unless figures are asked for."""
    quick = ["--num_bootstraps=50", "--subgroups=[]", "--layers=[2]", "--poolings=[mean]", f"--output_dir={output}"]
    quick.append("--baselines=[]")
    drawn = ",curves,embeddings" if is_drawn else ""
    quick.append(f"--sections=[cohort,exclusions,outcomes,performance{drawn}]")
    resolve("04_analyze:main")([*quick, *flags])
    return output
