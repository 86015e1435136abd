"""00_tokenize.py refuses: wrong settings, wrong folders, another run's directory; one message, nothing left."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

from clinrep.config import InputError
from tests.ehr.tiny_clif import RECOMMENDED, make_stays, read_run, run_main, run_script, write_config, write_tiny_clif


def write_few(path: Path, clif: Path) -> Path:
    """Write the recommended settings with three of their sources: the parser takes a while over all of them."""
    sources = yaml.safe_load(RECOMMENDED.read_text())["sources"]
    few = [source for source in sources if source["name"] in ("adt", "labs", "vitals")]
    return write_config(path, clif_dir=str(clif), sources=few)


def test_a_finished_run_is_left_alone_and_another_is_refused(tmp_path: Path):
    clif = write_tiny_clif(tmp_path / "clif", hospitalization=make_stays(10))
    config = write_few(tmp_path / "config.yaml", clif)
    out = run_main(config, tmp_path / "out")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        run_main(config, out)
    assert stop.value.code == 0
    with pytest.raises(SystemExit) as stop:  # memory changes how a run is carried out, never what it computes
        run_main(config, out, "--memory_gb=2")
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
    (break_nothing, "--num_bins=1", r"num_bins is 1 but must be in 2 to 1000; use 10"),
    (break_nothing, "--train_fraction=0.95", r"train_fraction \+ val_fraction is 1\.05 but must be at most 1"),
    (break_nothing, "--outcomes=[icu]", r"unknown outcome 'icu'; known: "),
    (break_nothing, "--normalize=upper", r"normalize"),
    (break_nothing, "--token_style=one", r"token_style.*Expected one of .*separate.*fused"),
    (break_nothing, "--memory_gb=0.5", r"memory_gb is 0\.5 but must be in 1 to 100,000; use 4"),
    (break_nothing, "--gap_minutes=[60,5]", r"gap_minutes is \[60\.0, 5\.0\] but must be lengths above 0 in rising"),
    (break_nothing, "--clock_hours=5", r"clock_hours is 5 but must be 0 or divide 24; use 6"),
    (break_nothing, "--edge_time_sources=[lab]", r"unknown source in edge_time_sources 'lab'; .* Did you mean 'labs'"),
    (break_nothing, "--modality=ecgg", r"unknown modality 'ecgg'; known: "),
    (break_nothing, "--min_age_years=200", r"no adult stay of .* is left"),
    (break_nothing, "--splits_path=/nowhere/s.parquet", r"--splits_path /nowhere/s\.parquet does not exist"),
    (break_nothing, "--tokenizer_dir=docs", r"docs holds no DONE"),
]


def make_refused_run(tmp_path: Path, damage: Callable[[Path], None]) -> tuple[Path, Path]:
    rows = [{"hospitalization_id": "H00"}]
    clif = write_tiny_clif(tmp_path / "clif", hospitalization=make_stays(10), labs=rows, vitals=rows)
    damage(clif)
    return write_few(tmp_path / "config.yaml", clif), tmp_path / "runs" / "x" / "out"


@pytest.mark.parametrize(("damage", "flag", "message"), REFUSALS)
def test_bad_input_is_one_input_error_and_leaves_nothing(tmp_path: Path, damage, flag: str, message: str):
    config, out = make_refused_run(tmp_path, damage)
    with pytest.raises(InputError, match=message) as refusal:
        run_main(config, out, flag)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("index", [1, 4])  # found in a table, and by the parser
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


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("P00", "H00", "train")], "lacks 9 of the 10 patients"),
        ([(f"P{i:02d}", f"H{i:02d}", "dev") for i in range(10)], r"holds 1 words other than train, val, test"),
    ],
)
def test_bad_split_leaves_nothing(tmp_path: Path, rows: list, message: str):
    config, out = make_refused_run(tmp_path, break_nothing)
    path = tmp_path / "s.parquet"
    pl.DataFrame(rows, schema=["patient_id", "subject_id", "split"], orient="row").write_parquet(path)
    with pytest.raises(InputError, match=message):
        run_main(config, out, f"--splits_path={path}")
    assert not (tmp_path / "runs").exists()


def test_unquoted_dates_of_a_yaml_file_are_understood(tmp_path: Path):
    clif = write_tiny_clif(tmp_path / "clif", hospitalization=make_stays(10))
    config = write_few(tmp_path / "config.yaml", clif)
    config.write_text(
        re.sub("admission_window: null", "admission_window: [2150-01-02, 2150-01-04]", config.read_text())
    )
    result = read_run(run_main(config, tmp_path / "out", "--train_fraction=1", "--val_fraction=0"))
    assert sorted(result.splits) == ["H01", "H02", "H03"]
