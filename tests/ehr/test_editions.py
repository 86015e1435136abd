"""Every edition of CLIF, and every oddity of real folders, gives the same words for the same content."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

from clinrep.ehr.clif import ClifTables, normalize_column, normalize_text, normalize_words
from clinrep.ehr.editions import detect_edition
from clinrep.ehr.renames import RENAMES
from tests.ehr import editions
from tests.ehr.editions import Folder, read_folder, write_folder
from tests.ehr.tiny_clif import (
    RECOMMENDED,
    ROOT,
    Result,
    at,
    make_stays,
    read_run,
    run_main,
    tokenize_tiny,
    write_config,
    write_tiny_clif,
)

SAMPLE = ROOT / "sample_data" / "clif_demo"
# Name -> (transformer of the sample, its inverse).
EDITIONS: dict[str, tuple[Callable[[Folder], Folder], Callable[[Folder], Folder]]] = {
    "2.1": (editions.to_2_1, editions.from_2_1),
    "3.0": (editions.to_3_0, editions.from_3_0),
    "naive": (editions.to_naive, editions.from_naive),
    "Chicago": (editions.to_chicago, editions.from_chicago),
    "ns": (editions.to_ns, editions.from_ns),
    "singular": (editions.to_singular, editions.from_singular),
    "untidy": (editions.to_untidy, editions.from_untidy),
}


@pytest.fixture(scope="module")
def sample() -> Folder:
    return editions.round_doses(read_folder(SAMPLE))


def run_stage(clif_dir: Path, directory: Path) -> Result:
    """Run stage 00 with the recommended settings, on the tables that the sample has."""
    sources = yaml.safe_load(RECOMMENDED.read_text())["sources"]
    present = [source for source in sources if (SAMPLE / f"clif_{source['table']}.parquet").exists()]
    directory.mkdir(exist_ok=True)
    config = write_config(directory / "config.yaml", sources=present)
    return read_run(run_main(config, directory / "00_tokenize", f"--clif_dir={clif_dir}"))


@pytest.fixture(scope="module")
def expected(sample: Folder, tmp_path_factory: pytest.TempPathFactory) -> Result:
    directory = tmp_path_factory.mktemp("sample")
    return run_stage(write_folder(directory / "clif", sample), directory)


def assert_alike(result: Result, expected: Result) -> None:
    assert result.vocabulary == expected.vocabulary
    assert result.quantiles == expected.quantiles
    assert result.splits == expected.splits
    assert result.timelines.keys() == expected.timelines.keys()
    different = [stay for stay, timeline in expected.timelines.items() if result.timelines[stay] != timeline]
    assert different == []
    # the sample (2.0) has no crrt_therapy, which the folders of 2.1 have
    labels = [
        {key: row for key, row in one.outcomes.items() if key[1] != "renal_replacement"} for one in (result, expected)
    ]
    assert labels[0] == labels[1]
    assert result.subjects == expected.subjects


# --- the sample as each edition


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITIONS)
def test_each_edition_gives_what_the_sample_gives(name: str, sample: Folder, expected: Result, tmp_path: Path):
    clif = write_folder(tmp_path / "clif", EDITIONS[name][0](sample))
    assert_alike(run_stage(clif, tmp_path), expected)


@pytest.mark.slow
def test_3_0_folder_inside_a_2_1_folder_is_not_read_twice(sample: Folder, expected: Result, tmp_path: Path):
    clif = write_folder(tmp_path / "clif", editions.to_2_1(sample))
    write_folder(clif / "3.0", editions.to_3_0(sample))
    result = run_stage(clif, tmp_path)
    assert_alike(result, expected)
    assert len(result.timelines) > 200
    assert any(token == "LAB_glucose" for token, _, _ in result.vocabulary)


def read_words(folder: Folder) -> dict[str, pl.DataFrame]:
    """Return the normalised category columns, as the tables' readers give them."""
    words = {}
    for stem, frame in folder.items():
        columns = sorted(c for c in frame.columns if c.endswith("_category") and frame.schema[c] == pl.String)
        for column in columns:
            frame = normalize_column(frame, column, "snake_case")
        words[stem] = frame.select(columns)
    return words


@pytest.mark.parametrize("name", EDITIONS)
def test_there_and_back_again_gives_the_same_words(name: str, sample: Folder):
    transform, invert = EDITIONS[name]
    there = transform(sample)
    back = invert(there)
    assert back.keys() == sample.keys()
    expected = read_words(sample)
    for words in (read_words(there), read_words(back)):
        for stem, frame in expected.items():
            assert words[stem].select(frame.columns).equals(frame), stem
    assert not is_same(there, sample)


def is_same(folder: Folder, other: Folder) -> bool:
    """Return whether two folders hold the same columns, types and values."""
    if [*folder] != [*other]:
        return False
    return all(f.schema == o.schema and f.equals(o) for f, o in zip(folder.values(), other.values(), strict=True))


# --- words


@pytest.mark.parametrize(
    ("column", "old", "new"),
    [
        ("discharge_category", "Skilled Nursing Facility (SNF)", "snf"),
        ("discharge_category", "Acute Inpatient Rehab Facility", "acute_ip_rehab"),
        ("discharge_category", "Long Term Care Hospital (LTACH)", "ltach"),
        ("discharge_category", "Acute Care Hospital", "acute_care_hosp"),
        ("discharge_category", "Against Medical Advice (AMA)", "ama"),
        ("discharge_category", "Psychiatric Hospital", "mental_health_hosp"),
        ("lab_category", "glucose_fingerstick", "glucose"),
        ("lab_category", "glucose_serum", "glucose"),
        ("lab_specimen_category", "blood/plasma/serum", "plasma_blood"),
        ("device_category", "High Flow NC", "hfnc"),
        ("mode_category", "Assist Control-Volume Control", "acvc"),
        ("mode_category", "Pressure-Regulated Volume Control", "prvc"),
        ("mode_category", "Pressure Support/CPAP", "ps_or_cpap"),
        ("language_category", "Unknown or NA", "unknown"),
        ("organism_category", "clostridium_difficile", "clostridioides_difficile"),
        ("organism_category", "staphyloccocus_coagneg", "staphylococcus_coagneg"),
        # by spelling alone
        ("location_category", "l&d", "l_and_d"),
        ("race_category", "Black or African American", "black_or_african_american"),
        ("ethnicity_category", "Non-Hispanic", "non_hispanic"),
        ("assessment_category", "RASS", "rass"),
        ("med_category", "sodium chloride", "sodium_chloride"),
        ("code_status_category", "DNR/DNI", "dnr_or_dni"),
        # no exact equivalent in 3.0: left alone
        ("med_category", "albumin", "albumin"),
        ("mode_category", "Blow by", "blow_by"),
    ],
)
def test_words_of_2_x_become_those_of_3_0(column: str, old: str, new: str):
    written = pl.DataFrame({column: [old, new, f" {old.upper()}  ", None]})
    assert normalize_column(written, column, "snake_case")[column].to_list() == [new, new, new, None]
    assert normalize_words([old, new], "snake_case", column) == [new, new]
    assert normalize_text(written[column], "lower", column).to_list()[:2] == [old.lower(), new]
    assert normalize_text(written[column], "none", column).to_list()[:2] == [old, new]


def test_every_rename_is_spelled_as_it_is_met_and_ends_in_3_0():
    for column, renames in RENAMES.items():
        assert normalize_words([*renames], "snake_case") == [*renames]
        assert normalize_words([*renames.values()], "snake_case", column) == [*renames.values()]


def test_a_rename_is_of_its_column_only():
    words = ["High Flow NC", "glucose_serum"]
    assert normalize_words(words, "snake_case", "med_category") == ["high_flow_nc", "glucose_serum"]
    assert normalize_words(words, "snake_case") == ["high_flow_nc", "glucose_serum"]


def test_both_spellings_in_one_table_meet_in_one_token(tmp_path: Path):
    labs = [{"lab_category": word} for word in ("glucose_serum", "glucose_fingerstick", "Glucose ")]
    adt = [{"location_category": word, "in_dttm": at(1)} for word in ("l&d", "l_and_d", "L & D ")]
    events = tokenize_tiny(tmp_path / "clif", adt=adt, labs=labs).events()
    assert [event for event in events if event.startswith(("ADT", "LAB"))] == ["LAB_glucose"] * 3 + ["ADT_l_and_d"] * 3


# --- detection


@pytest.mark.parametrize(
    ("name", "edition", "mark"),
    [
        (None, "2.0", "discharge_category 'Acute Care Hospital'"),
        ("2.1", "2.1", "adt.location_type and hospital_type"),
        ("3.0", "3.0", "discharge_category 'acute_care_hosp'"),
        ("naive", "2.0", "nothing of 2.1 or 3.0"),
        ("singular", "2.0", "clif_patient_procedure"),
        ("untidy", "2.0", "nothing of 2.1 or 3.0"),
    ],
)
def test_edition_of_the_sample_rewritten(
    name: str | None, edition: str, mark: str, sample: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = sample if name is None else EDITIONS[name][0](sample)
    tables = ClifTables(write_folder(tmp_path / "clif", folder))
    with caplog.at_level(logging.INFO, logger="clinrep"):
        found = detect_edition(tables)
    assert (found.name, found.is_mixed) == (edition, False)
    assert mark in found.evidence
    (line,) = [record for record in caplog.records if f"CLIF {edition} (" in record.getMessage()]
    assert (line.levelno, line.getMessage().startswith(f"{tables.directory}: ")) == (logging.INFO, True)


def test_mixed_folder_is_a_warning_and_names_both_sides(
    sample: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    newer = editions.to_3_0(sample)
    folder = sample | {stem: newer[stem] for stem in ("clif_labs", "clif_vitals")}
    found = detect_edition(ClifTables(write_folder(tmp_path / "clif", folder)))
    assert (found.name, found.is_mixed) == ("2.0", True)
    assert {"discharge_category 'Acute Care Hospital': 2.x", "lab_category 'glucose': 3.0"} <= set(found.evidence)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "CLIF 2.0, mixed with another edition" in warning


def test_mixed_folder_gives_the_same_words(tmp_path: Path):
    stays = make_stays(3)
    sex = [{"patient_id": stay["patient_id"], "sex_category": "female"} for stay in stays]
    old = [stay | {"discharge_category": "Psychiatric Hospital"} for stay in stays]
    new = [stay | {"discharge_category": "mental_health_hosp"} for stay in stays]
    mixed = tokenize_tiny(tmp_path / "mixed", hospitalization=old, patient=sex)
    pure = tokenize_tiny(tmp_path / "pure", hospitalization=new, patient=sex)
    assert_alike(mixed, pure)
    assert "DISCHARGE_mental_health_hosp" in mixed.tokens("H00")


def test_edition_of_a_folder_without_marks_is_2_0(tmp_path: Path):
    types = {"patient": dict.fromkeys(("race_category", "ethnicity_category", "sex_category"), pl.Int32)}
    tables = ClifTables(write_tiny_clif(tmp_path / "a", types=types, patient=[], hospitalization=[]))
    found = detect_edition(tables)
    assert (found.name, found.evidence) == ("2.0", ("nothing of 2.1 or 3.0",))


@pytest.mark.parametrize(
    ("stem", "edition"), [("clif_mcs", "3.0"), ("clif_patient_procedures", "2.1"), ("clif_sensitivity", "2.0")]
)
def test_files_tell_the_edition_also_those_not_read(tmp_path: Path, stem: str, edition: str):
    write_tiny_clif(tmp_path, leave_out=["patient", "hospitalization"])
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / f"{stem}.parquet")
    found = detect_edition(ClifTables(tmp_path))
    assert found.name == edition
    assert stem in found.evidence


def test_what_two_editions_share_is_no_contradiction(sample: Folder, tmp_path: Path):
    folder = editions.to_3_0(editions.to_2_1(sample))  # keeps the tables of 2.1, which 3.0 has too
    category = pl.col("lab_category").replace({"glucose": "glucose_serum", "glucose_fingerstick": "glucose"})
    folder["clif_labs"] = folder["clif_labs"].with_columns(category)  # 3.0 still allows glucose_serum
    found = detect_edition(ClifTables(write_folder(tmp_path / "clif", folder)))
    assert (found.name, found.is_mixed) == ("3.0", False)


def test_files_of_2_0_beside_those_of_2_1_are_named(tmp_path: Path):
    for stem in ("clif_patient_procedure", "clif_microbiology_susceptibility", "clif_labs"):
        pl.DataFrame({"x": [1]}).write_parquet(tmp_path / f"{stem}.parquet")
    found = detect_edition(ClifTables(tmp_path))
    assert (found.name, found.is_mixed) == ("2.1", True)
    assert found.evidence == ("clif_patient_procedure: 2.0", "clif_microbiology_susceptibility: 2.1")
