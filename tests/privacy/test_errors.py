"""What is said when something goes wrong holds no patient's id, date or value."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
import yaml

from clinrep.config import InputError, StageConfig
from clinrep.ehr.clif import find_absent
from clinrep.error_text import describe_error, describe_failure, hide_values
from clinrep.run import open_run, run_stage
from tests.ehr.tiny_clif import RECOMMENDED, run_main, write_config, write_tiny_clif

ROOT = Path(__file__).parents[2]
DAY = datetime(2250, 3, 4)
STAYS = [
    {
        "hospitalization_id": f"CANARYH{i}",
        "patient_id": f"CANARYP{i}",
        "admission_dttm": DAY.replace(day=4 + i),
        "discharge_dttm": DAY.replace(day=8 + i),
    }
    for i in range(10)
]
LABS = [{"hospitalization_id": f"CANARYH{i}", "lab_result_dttm": DAY.replace(day=5 + i)} for i in range(10)]
SECRETS = ("CANARY", "2250", "24681", "canary")


@pytest.fixture(autouse=True)
def new_screen():
    """Let the log go to this test's screen, not to that of one before."""
    root = logging.getLogger()
    for handler in [one for one in root.handlers if getattr(one, "is_clinrep", False)]:
        root.removeHandler(handler)


def edit(table: str, *columns: pl.Expr, **named: pl.Expr) -> Callable[[Path], None]:
    def apply(clif: Path) -> None:
        path = clif / f"clif_{table}.parquet"
        pl.read_parquet(path).with_columns(*columns, **named).write_parquet(path)

    return apply


def append_twice(table: str, **changed: pl.Expr) -> Callable[[Path], None]:
    def apply(clif: Path) -> None:
        path = clif / f"clif_{table}.parquet"
        frame = pl.read_parquet(path)
        pl.concat([frame, frame.head(1).with_columns(**changed)], how="vertical_relaxed").write_parquet(path)

    return apply


def cut_file(clif: Path) -> None:
    path = clif / "clif_labs.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def break_page(clif: Path) -> None:
    path = clif / "clif_labs.parquet"
    content = bytearray(path.read_bytes())
    content[40:80] = b"CANARY" * 6 + b"CANA"
    path.write_bytes(content)


# what is done to the tables; most are refused, some only counted
DAMAGES: dict[str, Callable[[Path], None]] = {
    "text in numbers": edit("labs", lab_value_numeric=pl.lit("CANARY24681")),
    "text in times": edit("labs", lab_result_dttm=pl.lit("2250-03-04 CANARY")),
    "numbers in categories": edit("labs", lab_category=pl.lit(24681)),
    "ids as categories": edit("labs", lab_category=pl.col("hospitalization_id")),
    "ids as places": edit("adt", location_category=pl.col("hospitalization_id")),
    "ids as units": edit(
        "labs",
        lab_category=pl.lit("sodium"),
        lab_value_numeric=pl.lit(9999.0),
        reference_unit=pl.lit("for ") + pl.col("hospitalization_id"),
    ),
    "dates as units": edit("labs", lab_category=pl.lit("sodium"), reference_unit=pl.lit("2250-03-04")),
    "one value beyond": edit(
        "labs", lab_category=pl.lit("sodium"), lab_value_numeric=pl.lit(24681.0), reference_unit=pl.lit("mmol/L")
    ),
    "ids as races": edit("patient", race_category=pl.col("patient_id")),
    "ids as discharge": edit("hospitalization", discharge_category=pl.col("patient_id")),
    "a stay twice": append_twice("hospitalization", age_at_admission=pl.lit(93)),
    "a patient twice": append_twice("patient", sex_category=pl.lit("CANARY")),
    "no column": lambda clif: pl.read_parquet(clif / "clif_labs.parquet").drop("lab_category").write_parquet(
        clif / "clif_labs.parquet"
    ),
    "discharge before admission": edit("hospitalization", discharge_dttm=pl.lit(DAY.replace(year=1749))),
    "no admission": edit("hospitalization", admission_dttm=pl.lit(None, pl.Datetime("us"))),
    "no ids": edit("hospitalization", hospitalization_id=pl.lit(None, pl.String)),
    "orphans": edit("labs", hospitalization_id=pl.lit("CANARYX")),
    "huge values": edit("labs", lab_value_numeric=pl.lit(24681e300)),
    "cut off": cut_file,
    "a page overwritten": break_page,
}  # fmt: skip


def assert_silent(text: str) -> None:
    assert not [secret for secret in SECRETS if secret in text], text


@pytest.mark.parametrize("name", DAMAGES)
def test_bad_tables_are_told_of_in_counts(tmp_path: Path, name: str, capfd):
    clif = write_tiny_clif(
        tmp_path / "clif", hospitalization=STAYS, labs=LABS, adt=[{"hospitalization_id": "CANARYH1"}]
    )
    DAMAGES[name](clif)
    sources = [one for one in yaml.safe_load(RECOMMENDED.read_text())["sources"] if one["name"] in ("adt", "labs")]
    config = write_config(tmp_path / "config.yaml", clif_dir=str(clif), sources=sources, log_level="DEBUG")
    said = ""
    try:
        run_main(config, tmp_path / "out")
    except InputError as error:
        said = str(error)
    printed = capfd.readouterr()
    log = tmp_path / "out" / "run.log"
    assert_silent(said + printed.out + printed.err + (log.read_text() if log.is_file() else ""))


def test_splits_of_other_words_are_counted(tmp_path: Path, capfd):
    clif = write_tiny_clif(tmp_path / "clif", hospitalization=STAYS)
    path = tmp_path / "splits.parquet"
    pl.DataFrame({"patient_id": ["CANARYP1"], "subject_id": ["CANARYH1"], "split": ["CANARYP1"]}).write_parquet(path)
    config = write_config(tmp_path / "config.yaml", clif_dir=str(clif))
    with pytest.raises(InputError, match="1 words other than") as refusal:
        run_main(config, tmp_path / "out", f"--splits_path={path}")
    assert_silent(str(refusal.value) + capfd.readouterr().err)


def test_a_failure_of_ours_leaves_out_what_it_quotes(tmp_path: Path):
    program = (
        "import sys; from clinrep.run import open_run, run_stage; from clinrep.config import StageConfig\n"
        "def main(argv):\n"
        "    with open_run('00_tokenize', StageConfig(output_dir=argv[0])):\n"
        "        try:\n"
        "            float(argv[1])\n"
        "        except ValueError as error:\n"
        "            raise KeyError(argv[1]) from error\n"
        "run_stage(main)\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "out"), "CAN" + "ARY24681"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    log = (tmp_path / "out" / "run.log").read_text()
    for text in (done.stderr, log):
        assert "KeyError: …" in text
        assert "ValueError: could not convert string to float: …" in text
        assert "CANARY" not in text
        assert text.count("Traceback") == 2, "told once"


def test_a_panic_of_polars_is_a_failure_like_any_other(tmp_path: Path, monkeypatch, capsys):
    """It is no Exception, so Python would print what it quotes, and run.log would say nothing."""

    def panic(argv: list[str]) -> None:
        with open_run("00_tokenize", StageConfig(output_dir=str(tmp_path / "out"))):
            raise pl.exceptions.PanicException(f"no time zone '{SECRETS[0]}'")

    monkeypatch.setattr(sys, "argv", ["00_tokenize.py"])
    with pytest.raises(SystemExit) as ended:
        run_stage(panic)
    assert ended.value.code == 1
    for text in (capsys.readouterr().err, (tmp_path / "out" / "run.log").read_text()):
        assert "PanicException: no time zone …" in text
        assert text.count("Traceback") == 1, "told once"
        assert_silent(text)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("could not convert string to float: 'CANARY'", "could not convert string to float: …"),
        ('from `str` failed for 1 out of 2 values: ["CANARY"]', "from … failed for … out of … values: …"),
        ("stay CANARY1 has no row", "stay … has no row"),
        ("it's at 2250-03-04 (the day)", "it's at … (the day)"),
        ("'O'CANARY' not known", "… not known"),
        ("'CANARY with no end", "…"),
        ("two\nlines <CANARY>", "two lines …"),
    ],
)  # fmt: skip
def test_prose_stays_and_data_go(message: str, shown: str):
    assert hide_values(message) == shown


def test_errors_of_files_and_memory_are_told_in_full():
    assert describe_error(OSError(28, "No space left on device", "/data/x1")) == str(
        OSError(28, "No space left on device", "/data/x1")
    )
    assert describe_error(ValueError("bad 'CANARY'")) == "bad …"
    assert "MemoryError: 5 GB" in describe_failure(MemoryError("5 GB"))


def test_words_of_a_column_are_listed_only_where_they_look_like_categories():
    assert find_absent(["died"], pl.Series(["expired", "home"])) == (["died"], "expired, home")
    assert find_absent(["died"], pl.Series(["CANARYH123", "CANARYH124"])) == (
        ["died"],
        "2 values with digits or of many words",
    )
    assert find_absent(["died"], pl.Series(["a sentence of some forty letters or more it is"])) == (
        ["died"],
        "1 values with digits or of many words",
    )


def test_another_choice_of_stays_is_told_without_ids(tmp_path: Path):
    config = StageConfig(output_dir=str(tmp_path / "out"))
    with open_run("04_analyze", config):
        pass
    saved = tmp_path / "out" / "config.yaml"
    saved.write_text(yaml.safe_dump(yaml.safe_load(saved.read_text()) | {"timelines": {"subject_ids": ["CANARYH9"]}}))
    with (
        pytest.raises(InputError, match=r"timelines\.subject_ids are others") as refusal,
        open_run("04_analyze", config),
    ):
        pass
    assert_silent(str(refusal.value))


def test_a_quoted_value_of_several_lines_is_hidden_whole():
    with pytest.raises(pl.exceptions.InvalidOperationError) as failure:
        pl.Series(["Anna\nhas hiv now\nand more"]).cast(pl.Int64)
    assert "hiv" in str(failure.value)
    assert "hiv" not in describe_error(failure.value)
