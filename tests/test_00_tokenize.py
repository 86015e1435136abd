"""00_tokenize.py as people run it: the whole sample against a brute force, determinism, a second site."""

from __future__ import annotations

import copy
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from clinrep.config import InputError
from clinrep.ehr import events, scan, store
from clinrep.ehr.configs.tokenize import MANUSCRIPT_OUTCOMES
from clinrep.ehr.outcomes import OUTCOMES
from clinrep.ehr.tokenizer import find_token_id
from tests.ehr.brute_checks import check_against_brute_force, check_ledger, check_unknown
from tests.ehr.brute_force import BruteForce
from tests.ehr.brute_outcomes import label
from tests.ehr.tiny_clif import (
    RECOMMENDED,
    ROOT,
    Result,
    make_stays,
    read_run,
    run_main,
    run_script,
    write_config,
    write_tiny_clif,
)
from tests.ehr.tiny_tables import at

DEMO = ROOT / "configs" / "ehr" / "demo" / "00_tokenize.yaml"
SAMPLE = ROOT / "sample_data" / "clif_demo"
TIME = pl.Datetime("us")
# DESIGN section 3
SCHEMAS: dict[str, dict[str, Any]] = {
    "splits": {"patient_id": pl.String, "subject_id": pl.String, "split": pl.String},
    "vocabulary": {"token_id": pl.UInt32, "token": pl.String, "kind": pl.String, "train_count": pl.UInt64},
    "quantiles": {"category": pl.String, "unit": pl.String, "train_count": pl.UInt64, "edges": pl.List(pl.Float64)},
    "categories": {
        **dict.fromkeys(["source", "category", "unit", "value"], pl.String),
        **dict.fromkeys(["num_events", "num_missing"], pl.UInt64),
        "bin_counts": pl.List(pl.UInt64),
        "median": pl.Float64,
    },
    "outcomes": {
        "subject_id": pl.String,
        "outcome": pl.String,
        "index_time": TIME,
        "label": pl.Boolean,
        "event_time": TIME,
        "excluded_reason": pl.String,
    },
    "subjects": {
        **dict.fromkeys(["subject_id", "patient_id"], pl.String),
        **dict.fromkeys(["start", "end"], TIME),
        "age": pl.Float64,
        **dict.fromkeys(["sex", "race", "ethnicity"], pl.String),
        "length_of_stay_hours": pl.Float64,
    },
    "ledger": {
        "table": pl.String,
        "step": pl.String,
        "rows_in": pl.UInt64,
        "rows_out": pl.UInt64,
        "reason": pl.String,
    },
}
DEATH, LONG, ICU, IMV = "in_hospital_death", "long_length_of_stay", "icu_admission", "imv_event"


def read_bytes(directory: Path) -> dict[str, bytes]:
    """Return the content of every table of a run."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*.parquet"))}


# --- the whole sample


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_main(DEMO, tmp_path_factory.mktemp("demo") / "00_tokenize")


@pytest.fixture(scope="module")
def demo(demo_dir: Path) -> Result:
    return read_run(demo_dir)


@pytest.fixture(scope="module")
def demo_brute_force() -> BruteForce:
    settings = yaml.safe_load(DEMO.read_text())
    return BruteForce({**settings, "clif_dir": ROOT / settings["clif_dir"]})


def test_demo_settings_are_the_recommended_ones():
    demo, recommended = (yaml.safe_load(path.read_text()) for path in (DEMO, RECOMMENDED))
    paths = {"clif_dir": "sample_data/clif_demo", "output_dir": "runs/demo/00_tokenize"}
    assert demo == {**recommended, **paths, "outcomes": list(MANUSCRIPT_OUTCOMES)}
    assert recommended["outcomes"] == list(OUTCOMES)  # the sample is too small for the rare ones


@pytest.mark.slow
def test_whole_sample_equals_the_brute_force(demo: Result, demo_brute_force: BruteForce):
    assert len(demo.timelines) == 245
    check_against_brute_force(demo, demo_brute_force)


@pytest.mark.slow
def test_ledger_of_the_sample_adds_up(demo: Result, demo_brute_force: BruteForce):
    assert len(demo_brute_force.kept_events) == 13
    check_ledger(demo, demo_brute_force)
    check_unknown(demo, demo_brute_force)


def test_numbers_of_the_audit(demo: Result):
    """spec/clif_data.md, A4 and A7."""
    assert len(demo.splits) == 275
    patients = {split: {p for p, s in demo.splits.values() if s == split} for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in patients.items()} == {"train": 70, "val": 10, "test": 20}
    assert len(set.union(*patients.values())) == 100
    assert len(demo.timelines) == len(demo.subjects) == 245
    labels = {
        name: Counter(r[1] for (_, o), r in demo.outcomes.items() if o == name) for name in (DEATH, LONG, ICU, IMV)
    }
    assert {name: found[True] for name, found in labels.items()} == {DEATH: 14, LONG: 91, ICU: 27, IMV: 19}
    assert {name: found[None] for name, found in labels.items()} == {DEATH: 0, LONG: 0, ICU: 100, IMV: 37}
    assert all(found.total() == 245 for found in labels.values())
    positives = Counter((name, demo.splits[subject][1]) for (subject, name), row in demo.outcomes.items() if row[1])
    # A7 says 3 deaths each: true of the 310-stay edition (A4); here val has 2, by the brute force too.
    expected = {DEATH: (9, 2, 3), LONG: (69, 12, 10), ICU: (21, 4, 2), IMV: (17, 1, 1)}
    splits = ("train", "val", "test")
    assert {name: tuple(positives[name, split] for split in splits) for name in expected} == expected


@pytest.mark.slow
def test_other_outcomes_of_the_sample(tmp_path: Path, demo_brute_force: BruteForce):
    others = list(OUTCOMES)[4:]
    result = read_run(run_main(DEMO, tmp_path / "run", f"--outcomes=[{','.join(others)}]"))
    brute = copy.copy(demo_brute_force)
    brute.settings = {**brute.settings, "outcomes": others}
    brute.outcomes = label(brute)
    check_against_brute_force(result, brute)
    found = {o: [r[1] for (_, name), r in result.outcomes.items() if name == o] for o in others}
    # This edition tells deaths in hospital only; of 100 stays in an ICU within 24 h (A7), one was there twice by then.
    assert {name: tuple(map(labels.count, (True, False, None))) for name, labels in found.items()} == {
        "death_within_30_days": (14, 142, 89),
        "icu_readmission": (7, 92, 146),
        "renal_replacement": (0, 0, 245),
        "hospice_discharge": (5, 240, 0),
        "discharge_against_advice": (4, 241, 0),
    }


def test_every_row_of_the_sample_is_read(demo: Result):
    read = {row[0]: row[2] for row in demo.ledger if row[1] == "read"}
    heights = {
        p.stem.removeprefix("clif_"): pl.scan_parquet(p).select(pl.len()).collect().item()
        for p in SAMPLE.glob("*.parquet")
    }
    assert read == heights


def test_no_timeline_goes_back_and_edges_stand_at_the_ends(demo: Result):
    for tokens, times in demo.timelines.values():
        assert times == sorted(times)
        assert tokens[0] == "TL_START"
        assert tokens[-1] == "TL_END"
        assert tokens[-2].startswith("DISCHARGE_") or tokens[-2] == "UNK"
        assert Counter(tokens)["TL_START"] == Counter(tokens)["TL_END"] == 1
        assert "PAD" not in tokens


def test_a_patient_is_in_one_split(demo: Result):
    pairs = set(demo.splits.values())
    assert len(pairs) == len({patient for patient, _ in pairs})


def test_vocabulary_is_sound(demo: Result):
    tokens = [token for token, _, _ in demo.vocabulary]
    assert len(set(tokens)) == len(tokens)
    counts = Counter(t for s, (found, _) in demo.timelines.items() if demo.splits[s][1] == "train" for t in found)
    assert {token: n for token, _, n in demo.vocabulary} == {token: counts[token] for token in tokens}


def test_files_have_the_promised_columns(demo_dir: Path):
    assert {name: dict(pl.read_parquet_schema(demo_dir / f"{name}.parquet")) for name in SCHEMAS} == SCHEMAS
    for split in ("train", "val", "test"):
        (part,) = (demo_dir / "timelines" / split).iterdir()
        schema = {"subject_id": pl.String, "token_ids": pl.List(pl.UInt32), "times": pl.List(TIME)}
        assert dict(pl.read_parquet_schema(part)) == schema
    vocabulary = pl.read_parquet(demo_dir / "vocabulary.parquet")
    assert vocabulary["token_id"].to_list() == list(range(vocabulary.height))
    assert (pl.read_parquet(demo_dir / "quantiles.parquet")["edges"].list.len() == 9).all()


# --- the same bytes, always


def test_row_order_of_the_files_does_not_matter(demo_dir: Path, tmp_path: Path):
    shuffled = shutil.copytree(SAMPLE, tmp_path / "clif")
    for i, path in enumerate(sorted(SAMPLE.glob("*.parquet"))):
        pl.read_parquet(path).sample(fraction=1, shuffle=True, seed=i).write_parquet(shuffled / path.name)
    again = run_main(DEMO, tmp_path / "out", f"--clif_dir={shuffled}")
    assert read_bytes(again) == read_bytes(demo_dir)


@pytest.mark.slow
def test_number_of_threads_does_not_matter(demo_dir: Path, tmp_path: Path):
    """Neither that nor the order of sets: `demo_dir` was made by this process's threads and hash seed."""
    others = "1" if pl.thread_pool_size() > 1 else "2"
    flags = (f"--config={DEMO}", f"--output_dir={tmp_path / 'out'}")
    assert run_script(*flags, POLARS_MAX_THREADS=others, PYTHONHASHSEED="1").returncode == 0
    assert read_bytes(tmp_path / "out") == read_bytes(demo_dir)


def test_a_small_budget_changes_no_byte(demo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tiny batches, many shards, nearly all events in files; tests/ehr/test_memory.py takes these one by one."""
    made = []
    monkeypatch.setattr(scan, "BATCH_ROWS", 5000)
    monkeypatch.setattr(store, "SHARD_EVENTS", 3000)
    kind = store.EventStore
    monkeypatch.setattr(events, "EventStore", lambda n, e, m, d: made.append(kind(n, e, 100_000, d)) or made[0])
    again = run_main(DEMO, tmp_path / "out", "--memory_gb=1")
    assert made[0].num_shards > 30
    assert read_bytes(again) == read_bytes(demo_dir)


def test_saved_settings_rerun_the_run_and_parts_follow_the_setting(demo: Result, demo_dir: Path, tmp_path: Path):
    parts = run_main(demo_dir / "config.yaml", tmp_path / "out", "--subjects_per_part=20")
    names = [path.name for path in sorted((parts / "timelines" / "test").iterdir())]
    assert names == [f"part-{i:05d}.parquet" for i in range(3)]
    assert pl.read_parquet(parts / "timelines" / "test" / names[0]).height == 20
    assert read_run(parts) == demo
    whole, again = (
        {name: content for name, content in read_bytes(directory).items() if "/" not in name}
        for directory in (demo_dir, parts)
    )
    assert again == whole


# --- a frozen tokenizer on a second site


def test_frozen_tokenizer_on_a_second_site(tmp_path: Path):
    """With two of the sources, as the parser takes a second over all; the second site asks another outcome, too."""
    sources = [one for one in yaml.safe_load(RECOMMENDED.read_text())["sources"] if one["name"] in ("adt", "labs")]
    config = write_config(tmp_path / "few.yaml", clif_dir=str(SAMPLE), sources=sources, outcomes=[DEATH])
    home = run_main(config, tmp_path / "home")
    labs = [
        {"hospitalization_id": "H00", "lab_category": category, "reference_unit": unit, "lab_result_dttm": at(i)}
        for i, (category, unit) in enumerate(
            [("Sodium", "mEq/L"), ("sodium", "g"), ("never_seen", "g"), ("never_seen", "g")]
        )
    ]
    clif = write_tiny_clif(
        tmp_path / "clif", hospitalization=make_stays(3), labs=labs, adt=[{"hospitalization_id": "H01"}]
    )
    flags = (f"--tokenizer_dir={home}", f"--clif_dir={clif}", f"--outcomes=[{IMV}]")
    there = run_main(config, tmp_path / "out", *flags)
    for name in ("vocabulary", "quantiles", "categories"):
        assert (there / f"{name}.parquet").read_bytes() == (home / f"{name}.parquet").read_bytes()
    result = read_run(there)
    number = np.digitize(140.0, read_run(home).quantiles["LAB_sodium", "meq/l"][1])
    assert result.tokens("H00")[6:-2] == ["LAB_sodium", f"Q{number}", "LAB_sodium", *["UNK"] * 5]
    for name in ("site_report.html", "site_report.csv"):
        assert "LAB_never_seen" in (there / name).read_text()
        assert not (home / name).exists()
    notes = [row for row in result.ledger if row[1] == "labs: unknown" and "token LAB_never_seen " in row[4]]
    assert [row[2:4] for row in notes] == [(2, 2)]
    # What the refusal proposes works: the tokenizer's own settings first.
    with pytest.raises(InputError, match=r"other settings of num_bins; pass --config .*config\.yaml") as refusal:
        run_main(config, tmp_path / "other", *flags, "--num_bins=5")
    assert not (tmp_path / "other").exists()
    proposed = Path(re.search(r"pass --config (\S+)", str(refusal.value))[1])
    assert read_run(run_main(proposed, tmp_path / "again", *flags)).timelines == result.timelines
    # What was written with a frozen tokenizer is no place to take one from: it names the one that was learned.
    with pytest.raises(InputError, match="was itself written with a frozen tokenizer; give the directory") as refusal:
        run_main(config, tmp_path / "other", f"--tokenizer_dir={there}", f"--clif_dir={clif}")
    assert str(refusal.value).endswith(f"that learned it: {home}")
    assert not (tmp_path / "other").exists()


def test_frozen_tokenizer_at_home_gives_the_same_timelines(demo: Result, demo_dir: Path, tmp_path: Path):
    """Learning and applying are the same words; unknown ones, too, are those of val and test."""
    again = read_run(run_main(DEMO, tmp_path / "out", f"--tokenizer_dir={demo_dir}"))
    for name in ("splits", "quantiles", "vocabulary", "timelines", "outcomes", "subjects", "categories"):
        assert getattr(again, name) == getattr(demo, name), name
    assert set(again.ledger) == set(demo.ledger)


def test_a_misspelt_word_raises_with_a_hint(demo_dir: Path):
    vocabulary = pl.read_parquet(demo_dir / "vocabulary.parquet")
    assert find_token_id(vocabulary, "LAB_sodium") == vocabulary["token"].to_list().index("LAB_sodium")
    with pytest.raises(
        InputError, match=r"unknown token of the vocabulary 'LAB_sodum'; .* Did you mean 'LAB_sodium'\?"
    ):
        find_token_id(vocabulary, "LAB_sodum")


def test_own_split_of_another_run_gives_the_same_timelines(demo: Result, demo_dir: Path, tmp_path: Path):
    again = run_main(DEMO, tmp_path / "out", f"--splits_path={demo_dir / 'splits.parquet'}")
    assert read_run(again) == demo
