"""00_tokenize.py as people run it: the whole sample against a brute force, determinism, refusals."""

from __future__ import annotations

import itertools
import re
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from clinrep.config import InputError
from tests.ehr.brute_force import BruteForce
from tests.ehr.tiny_clif import (
    RECOMMENDED,
    ROOT,
    Result,
    at,
    make_stays,
    read_run,
    run_main,
    run_script,
    write_config,
    write_tiny_clif,
)

DEMO = ROOT / "configs" / "ehr" / "demo" / "00_tokenize.yaml"
SAMPLE = ROOT / "sample_data" / "clif_demo"
TABLES = ("splits", "vocabulary", "quantiles", "outcomes", "subjects", "ledger")
EPOCH = datetime(1970, 1, 1)
DEATH, LONG, ICU, IMV = "in_hospital_death", "long_length_of_stay", "icu_admission", "imv_event"


def count_microseconds(time: datetime | None) -> int | None:
    return None if time is None else (time - EPOCH) // timedelta(microseconds=1)


def read_bytes(directory: Path) -> dict[str, bytes]:
    """Return the content of every table of a run."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*.parquet"))}


def check_against_brute_force(result: Result, brute: BruteForce) -> None:
    assert result.splits == brute.splits
    assert result.quantiles == brute.quantiles  # to the last bit
    assert result.vocabulary == brute.vocabulary  # tokens, kinds and train counts, in id order
    assert list(result.subjects) == sorted(brute.timelines)
    assert result.timelines.keys() == brute.timelines.keys()
    for subject, (tokens, times) in result.timelines.items():
        assert tokens == brute.timelines[subject][0], subject
        assert [count_microseconds(time) for time in times] == brute.timelines[subject][1], subject
    for split, subjects in result.timeline_splits.items():
        assert subjects == sorted(s for s in brute.timelines if brute.splits[s][1] == split)
    found = {
        key: (count_microseconds(row[0]), row[1], count_microseconds(row[2])) for key, row in result.outcomes.items()
    }
    assert found == brute.outcomes
    assert all((row[1] is None) == (row[3] is not None) for row in result.outcomes.values())


def check_ledger(result: Result, settings: dict[str, Any], kept_events: Counter[str]) -> None:
    """Every step starts with the rows that the one before it left; the last leaves what is in the timelines."""
    steps = [row for row in result.ledger if not row[1].endswith(": unknown") and row[1] != "file"]
    assert all(row[3] <= row[2] for row in steps)
    for table in ("hospitalization", "patient"):
        chain = [row for row in steps if row[0] == table]
        assert chain[0][1] == "read"
        assert all(after[2] == before[3] for before, after in itertools.pairwise(chain))
        if table == "hospitalization":
            assert chain[-1][3] == len(result.timelines)
            assert [row[3] for row in chain if row[1] == "adult"] == [len(result.splits)]
    for source in settings["sources"]:
        table, name = source["table"], source["name"]
        mine = [row for row in steps if row[0] == table and row[1].startswith(f"{name}: ")]
        if mine[0][1] == f"{name}: table":
            assert kept_events[name] == 0
            continue
        (read,) = [row for row in steps if row[:2] == (table, "read")]
        (adult,) = [row for row in steps if row[:2] == (table, "adult stay")]
        chain = [read, adult, *mine]
        assert read[2] == read[3]
        assert all(after[2] == before[3] for before, after in itertools.pairwise(chain)), name
        assert chain[-1][3] == kept_events[name], name


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
    assert demo == {**recommended, "clif_dir": "sample_data/clif_demo", "output_dir": "runs/demo/00_tokenize"}


@pytest.mark.slow
def test_whole_sample_equals_the_brute_force(demo: Result, demo_brute_force: BruteForce):
    assert len(demo.timelines) == 245
    check_against_brute_force(demo, demo_brute_force)


@pytest.mark.slow
def test_ledger_of_the_sample_adds_up(demo: Result, demo_brute_force: BruteForce):
    assert len(demo_brute_force.kept_events) == 9
    check_ledger(demo, demo_brute_force.settings, demo_brute_force.kept_events)


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
    """DESIGN section 3."""
    times = pl.Datetime("us")
    assert {name: dict(pl.read_parquet_schema(demo_dir / f"{name}.parquet")) for name in TABLES} == {
        "splits": {"patient_id": pl.String, "subject_id": pl.String, "split": pl.String},
        "vocabulary": {"token_id": pl.UInt32, "token": pl.String, "kind": pl.String, "train_count": pl.UInt64},
        "quantiles": {"category": pl.String, "unit": pl.String, "train_count": pl.UInt64, "edges": pl.List(pl.Float64)},
        "outcomes": {
            "subject_id": pl.String,
            "outcome": pl.String,
            "index_time": times,
            "label": pl.Boolean,
            "event_time": times,
            "excluded_reason": pl.String,
        },
        "subjects": {
            **dict.fromkeys(["subject_id", "patient_id"], pl.String),
            **dict.fromkeys(["start", "end"], times),
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
    for split in ("train", "val", "test"):
        (part,) = (demo_dir / "timelines" / split).iterdir()
        schema = {"subject_id": pl.String, "token_ids": pl.List(pl.UInt32), "times": pl.List(times)}
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
@pytest.mark.parametrize("num_threads", ["1", "2"])
def test_number_of_threads_does_not_matter(demo_dir: Path, tmp_path: Path, num_threads: str):
    flags = (f"--config={DEMO}", f"--output_dir={tmp_path / 'out'}")
    assert run_script(*flags, POLARS_MAX_THREADS=num_threads, PYTHONHASHSEED=num_threads).returncode == 0
    assert read_bytes(tmp_path / "out") == read_bytes(demo_dir)


def test_saved_settings_rerun_the_run(demo_dir: Path, tmp_path: Path):
    again = run_main(demo_dir / "config.yaml", tmp_path / "out")
    assert read_bytes(again) == read_bytes(demo_dir)


def test_parts_follow_the_setting(demo: Result, demo_dir: Path, tmp_path: Path):
    parts = run_main(DEMO, tmp_path / "out", "--subjects_per_part=20")
    names = [path.name for path in sorted((parts / "timelines" / "test").iterdir())]
    assert names == [f"part-{i:05d}.parquet" for i in range(3)]
    assert pl.read_parquet(parts / "timelines" / "test" / names[0]).height == 20
    assert read_run(parts) == demo


# --- nasty little folders against the brute force


def write_messy_clif(directory: Path, seed: int) -> Path:
    """Write a folder full of ties, nulls, NaN, odd spellings, strangers, minors and times on the edge."""
    rng = np.random.default_rng(seed)

    def pick(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    stays = []
    for i in range(30):
        admission = float(rng.integers(0, 12) * 24)
        length = pick(0, 23.5, 24, 24, 48, 72, 167, 168, 169, 300, -2, None)
        stays.append(
            {
                "hospitalization_id": f"H{rng.permutation(1000)[0]:03d}{i}",
                "patient_id": pick(*[f"P{k}" for k in range(14)]),
                "admission_dttm": at(admission),
                "discharge_dttm": None if length is None else at(admission + length, int(rng.integers(0, 2))),
                "age_at_admission": pick(17, 18, 40, 41, 90, None),
                "admission_type_name": pick("EW EMER.", "Urgent", None),
                "discharge_category": pick("Home", "home ", "Expired", "Hospice", None),
            }
        )
    starts = {stay["hospitalization_id"]: stay["admission_dttm"] for stay in stays}
    patients = [
        {"patient_id": f"P{k}", "race_category": pick("White", "Black", None), "sex_category": pick("Male", "Female")}
        for k in range(13)
    ]

    def make_rows(time: str, num: int, fill: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
        rows = []
        for _ in range(num):
            subject = pick(*starts, *starts, *starts, "stranger", None)
            offset = timedelta(hours=float(pick(-30, -1, 0, 1, 1, 2, 23, 24, 24, 25, 80)), microseconds=pick(0, 0, 1))
            moment = starts.get(subject, at(0)) + offset
            rows.append({"hospitalization_id": subject, time: pick(moment, moment, moment, None), **fill()})
        return rows

    def draw_value() -> float | None:
        return pick(None, float("nan"), float("inf"), 0.0, 0.0, 1.0, 7.0, float(rng.normal()), float(rng.normal()))

    tables = {
        "adt": make_rows("in_dttm", 60, lambda: {"location_category": pick("ICU", "icu ", "ward", "l&d", None, " ")}),
        "labs": make_rows(
            "lab_result_dttm",
            250,
            lambda: {
                "lab_category": pick("Sodium", "sodium", "bun", "wbc", None, f"rare {rng.integers(9)}"),
                "lab_value_numeric": draw_value(),
                "reference_unit": pick("mmol/L", "MMOL/l\t", "g", None),
            },
        ),
        "vitals": make_rows(
            "recorded_dttm", 150, lambda: {"vital_category": pick("sbp", "map", "one"), "vital_value": draw_value()}
        ),
        "medication_admin_continuous": make_rows(
            "admin_dttm",
            60,
            lambda: {
                "med_category": pick("a b", "c"),
                "med_dose": pick(0.0, 0.0, 2.0),
                "med_dose_unit": pick("g", "mL"),
            },
        ),
        "patient_assessments": make_rows(
            "recorded_dttm",
            120,
            lambda: {
                "assessment_category": pick("RASS", "cam", None),
                "numerical_value": pick(None, None, 0.0, -1.0, float("nan")),
                "categorical_value": pick(None, "Yes", "No (Stop)", "yes "),
            },
        ),
        "respiratory_support": make_rows(
            "recorded_dttm",
            60,
            lambda: {
                "mode_category": pick(None, "Assist/Control"),
                "device_category": pick("IMV", "NIPPV", "imv", None),
            },
        ),
        "position": make_rows(
            "recorded_dttm", 20, lambda: {"position_category": pick("prone", "Prone ", "not_prone", None)}
        ),
    }
    leave_out = ["position"] if seed % 3 == 0 else []
    return write_tiny_clif(directory, hospitalization=stays, patient=patients, leave_out=leave_out, **tables)


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        *[(seed, {}) for seed in range(6)],
        (6, {"num_bins": 4, "normalize": "lower"}),
        (7, {"normalize": "none", "min_length_of_stay_hours": 0}),
        (8, {"min_length_of_stay_hours": 0, "train_fraction": 0.4, "val_fraction": 0.3, "min_age_years": 41}),
        (9, {"window": {"length_hours": 2.5}, "num_bins": 2}),
    ],
)
def test_messy_folder_equals_the_brute_force(tmp_path: Path, seed: int, settings: dict[str, Any]):
    clif = write_messy_clif(tmp_path / "clif", seed)
    config = write_config(tmp_path / "config.yaml", clif_dir=str(clif), **settings)
    result = read_run(run_main(config, tmp_path / "out"))
    brute = BruteForce(yaml.safe_load(config.read_text()))
    assert len(result.timelines) >= 5
    check_against_brute_force(result, brute)
    check_ledger(result, brute.settings, brute.kept_events)


# --- a frozen tokenizer on a second site


def test_frozen_tokenizer_on_a_second_site(demo_dir: Path, tmp_path: Path):
    labs = [
        {"hospitalization_id": "H00", "lab_category": category, "reference_unit": unit, "lab_result_dttm": at(i)}
        for i, (category, unit) in enumerate(
            [("Sodium", "mEq/L"), ("sodium", "g"), ("never_seen", "g"), ("never_seen", "g")]
        )
    ]
    clif = write_tiny_clif(
        tmp_path / "clif", hospitalization=make_stays(3), labs=labs, adt=[{"hospitalization_id": "H01"}]
    )
    flags = (f"--tokenizer_dir={demo_dir}", f"--clif_dir={clif}")
    there = run_main(RECOMMENDED, tmp_path / "out", *flags)
    for name in ("vocabulary", "quantiles"):
        assert (there / f"{name}.parquet").read_bytes() == (demo_dir / f"{name}.parquet").read_bytes()
    result = read_run(there)
    number = np.digitize(140.0, read_run(demo_dir).quantiles["LAB_sodium", "meq/l"][1])
    assert result.tokens("H00")[6:-2] == ["LAB_sodium", f"Q{number}", "LAB_sodium", *["UNK"] * 5]
    notes = [row for row in result.ledger if row[1] == "labs: unknown" and "token LAB_never_seen " in row[4]]
    assert [row[2:4] for row in notes] == [(2, 2)]
    # What the refusal proposes works: the tokenizer's own settings first.
    with pytest.raises(InputError, match=r"other settings of num_bins; pass --config .*config\.yaml") as refusal:
        run_main(RECOMMENDED, tmp_path / "other", *flags, "--num_bins=5")
    assert not (tmp_path / "other").exists()
    proposed = Path(re.search(r"pass --config (\S+)", str(refusal.value))[1])
    assert read_run(run_main(proposed, tmp_path / "again", *flags)).timelines == result.timelines


# --- refusals


def test_a_finished_run_is_left_alone_and_another_is_refused(tmp_path: Path):
    clif = write_tiny_clif(tmp_path / "clif", hospitalization=make_stays(10))
    config = write_config(tmp_path / "config.yaml", clif_dir=str(clif))
    out = run_main(config, tmp_path / "out")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        run_main(config, out)
    assert stop.value.code == 0
    with pytest.raises(InputError, match=r"holds another run: num_bins was 10, now 5"):
        run_main(config, out, "--num_bins=5")
    pl.DataFrame({"x": [1]}).write_parquet(clif / "clif_code_status.parquet")
    with pytest.raises(InputError, match=r"the content of clif_dir has changed"):
        run_main(config, out)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


def break_column(clif: Path) -> None:
    pl.read_parquet(clif / "clif_labs.parquet").drop("lab_category").write_parquet(clif / "clif_labs.parquet")


def break_type(clif: Path) -> None:
    path = clif / "clif_vitals.parquet"
    pl.read_parquet(path).with_columns(vital_value=pl.lit("high")).write_parquet(path)


def break_nothing(clif: Path) -> None:
    del clif


REFUSALS: list[tuple[Callable[[Path], None], str, str]] = [
    (break_nothing, "--clif_dir=/nowhere/clif", r"--clif_dir /nowhere/clif does not exist"),
    (break_column, "--seed=1", r"clif_labs\.parquet has no column 'lab_category'; its columns are hospitalization_id,"),
    (break_type, "--seed=1", r"clif_vitals\.parquet: column 'vital_value' should be a number, found String"),
    (lambda clif: (clif / "clif_adt.parquet").unlink(), "--seed=1", r"lacks clif_adt\.parquet"),
    (break_nothing, "--num_binz=5", r"num_binz"),
    (break_nothing, "--num_bins=1", r"num_bins is 1 but must be 2 or more; use 10"),
    (break_nothing, "--train_fraction=0.95", r"train_fraction \+ val_fraction is 1\.05 but must be at most 1"),
    (break_nothing, "--outcomes=[icu]", r"unknown outcome 'icu'; known: "),
    (break_nothing, "--normalize=upper", r"normalize"),
    (break_nothing, "--modality=ecgg", r"unknown modality 'ecgg'; known: "),
    (break_nothing, "--min_age_years=200", r"no adult stay of .* is left"),
    (break_nothing, "--splits_path=/nowhere/s.parquet", r"--splits_path /nowhere/s\.parquet does not exist"),
    (break_nothing, "--tokenizer_dir=/tmp", r"/tmp holds no DONE"),
]


def make_refused_run(tmp_path: Path, damage: Callable[[Path], None]) -> tuple[Path, Path]:
    rows = [{"hospitalization_id": "H00"}]
    clif = write_tiny_clif(tmp_path / "clif", hospitalization=make_stays(10), labs=rows, vitals=rows)
    damage(clif)
    return write_config(tmp_path / "config.yaml", clif_dir=str(clif)), tmp_path / "runs" / "x" / "out"


@pytest.mark.parametrize(("damage", "flag", "message"), REFUSALS)
def test_bad_input_is_one_input_error_and_leaves_nothing(tmp_path: Path, damage, flag: str, message: str):
    config, out = make_refused_run(tmp_path, damage)
    with pytest.raises(InputError, match=message) as refusal:
        run_main(config, out, flag)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("index", [0, 1, 4, 5])
def test_bad_input_ends_with_code_2_and_one_line(tmp_path: Path, index: int):
    damage, flag, message = REFUSALS[index]
    config, out = make_refused_run(tmp_path, damage)
    done = run_script(f"--config={config}", f"--output_dir={out}", flag)
    lines = [line for line in done.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d [IW] ", line)]
    assert done.returncode == 2
    assert len(lines) == 1
    assert re.match(rf"00_tokenize\.py: error: .*{message}", lines[0])
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()


def test_directory_of_another_run_ends_with_code_2(tmp_path: Path):
    config, out = make_refused_run(tmp_path, break_nothing)
    run_main(config, out)
    before = read_bytes(out)
    done = run_script(f"--config={config}", f"--output_dir={out}", "--num_bins=5")
    assert done.returncode == 2
    assert "holds another run: num_bins was 10, now 5" in done.stderr
    assert "Traceback" not in done.stderr
    assert read_bytes(out) == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("P00", "H00", "train")], "lacks 9 of the 10 patients"),
        ([(f"P{i:02d}", f"H{i:02d}", "dev") for i in range(10)], r"holds \['dev'\]; expected train, val, test"),
    ],
)
def test_bad_split_leaves_nothing(tmp_path: Path, rows: list, message: str):
    config, out = make_refused_run(tmp_path, break_nothing)
    path = tmp_path / "s.parquet"
    pl.DataFrame(rows, schema=["patient_id", "subject_id", "split"], orient="row").write_parquet(path)
    with pytest.raises(InputError, match=message):
        run_main(config, out, f"--splits_path={path}")
    assert not (tmp_path / "runs").exists()


def test_own_split_of_another_run_gives_the_same_timelines(demo: Result, demo_dir: Path, tmp_path: Path):
    again = run_main(DEMO, tmp_path / "out", f"--splits_path={demo_dir / 'splits.parquet'}")
    assert read_run(again) == demo


def test_unquoted_dates_of_a_yaml_file_are_understood(tmp_path: Path):
    clif = write_tiny_clif(tmp_path / "clif", hospitalization=make_stays(10))
    config = write_config(tmp_path / "config.yaml", clif_dir=str(clif))
    config.write_text(
        re.sub("admission_window: null", "admission_window: [2150-01-02, 2150-01-04]", config.read_text())
    )
    result = read_run(run_main(config, tmp_path / "out", "--train_fraction=1", "--val_fraction=0"))
    assert sorted(result.splits) == ["H01", "H02", "H03"]
