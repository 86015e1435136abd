"""The simulator: its truths against independent checks, its tables against its own promises."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from clinrep.config import InputError
from clinrep.ehr.simulate import __main__ as program
from clinrep.ehr.simulate import shards, writing
from clinrep.ehr.simulate.chain import Chain
from clinrep.ehr.simulate.charts import draw_cells
from clinrep.ehr.simulate.signals import Channel, Conversion, make_grid, make_masses
from clinrep.ehr.simulate.sites import SITES, list_panels
from clinrep.ehr.simulate.truth import OUTCOMES, filter_severity
from tests.ehr.simulate_oracle import StayOracle, label_from_tables, read_tables
from tests.ehr.tiny_clif import RECOMMENDED, ROOT, run_main, write_config

SAMPLE = ROOT / "sample_data" / "clif_demo"
STATE, TABLES = "probability_given_state", "probability_given_tables"
NUM_STAYS = 1300  # one full shard and a part of one


def simulate(directory: Path, site: str = "reference", num_stays: int = 300, seed: int = 7) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    writing.write_site(shards.open_hospital(site), num_stays, seed, directory)
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("simulated") / "reference", num_stays=NUM_STAYS)


@pytest.fixture(scope="module")
def tables(folder: Path) -> dict[str, pl.DataFrame]:
    return read_tables(folder)


@pytest.fixture(scope="module")
def other_sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, pl.DataFrame]]:
    base = tmp_path_factory.mktemp("sites")
    return {site: read_tables(simulate(base / site, site)) for site in SITES if site != "reference"}


@pytest.fixture(scope="module")
def large() -> pl.DataFrame:
    """The truth of 6,000 stays, without their tables."""
    hospital = shards.open_hospital("reference")
    parts = [shards.make_truth(hospital, shards.simulate_shard(hospital, 11, number, 1000)) for number in range(6)]
    return pl.concat([pl.from_arrow(part) for part in parts])


# The truths -------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["reference", "all_shifts"])
def test_truths_are_those_of_a_filter_that_reads_the_tables(site: str, tmp_path: Path) -> None:
    directory = simulate(tmp_path / site, site)
    found = read_tables(directory)
    truth = pl.read_parquet(directory / "truth.parquet")
    asked = truth.filter(pl.col("severity").is_not_null()).unique("subject_id", maintain_order=True, keep="first")
    picked = asked.group_by("place", maintain_order=True).head(2)
    assert {"ward", "icu", "icu_imv"} <= set(picked["place"])
    for subject, severity, place in picked.select("subject_id", "severity", "place").iter_rows():
        oracle = StayOracle(found, subject, site)
        assert oracle.places[-1] == place
        expected = {TABLES: oracle.predict(oracle.filter()), STATE: oracle.predict({(severity, place): 1.0})}
        for row in truth.filter(pl.col("subject_id") == subject, pl.col("label").is_not_null()).iter_rows(named=True):
            for column, by_outcome in expected.items():
                assert row[column] == pytest.approx(by_outcome[row["outcome"]], abs=1e-10), (subject, row["outcome"])


def test_filter_equals_the_sum_over_all_paths() -> None:
    generator = np.random.default_rng(3)
    num_groups, num_severities, num_places, num_hours = 2, 3, 2, 5
    num_states = num_severities * num_places
    initial = generator.dirichlet(np.ones(num_states), num_groups)
    transition = generator.dirichlet(np.ones(num_states + 2), (num_groups, num_states))
    groups, places = np.array([0, 1, 1]), generator.integers(num_places, size=(3, num_hours))
    scores = generator.normal(size=(3, num_hours, num_severities)) * 3
    found = filter_severity(Chain(initial, transition), groups, places, scores, num_places)
    for stay, group in enumerate(groups):
        expected = np.zeros(num_severities)
        for path in itertools.product(range(num_severities), repeat=num_hours):
            states = [s * num_places + c for s, c in zip(path, places[stay], strict=True)]
            p = initial[group, states[0]]
            for start, end in itertools.pairwise(states):
                p *= transition[group, start, end]
            expected[path[-1]] += p * np.exp(sum(scores[stay, hour, s] for hour, s in enumerate(path)))
        np.testing.assert_allclose(found[stay], expected / expected.sum(), atol=1e-12)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("column", [STATE, TABLES])
def test_truths_are_calibrated(column: str, outcome: str, large: pl.DataFrame) -> None:
    asked = large.filter(pl.col("outcome") == outcome, pl.col("label").is_not_null()).sort(column)
    assert asked.height > 4000
    for rows in [asked, *asked.iter_slices(asked.height // 5 + 1)]:
        p, y = rows[column].to_numpy(), rows["label"].to_numpy()
        deviation = np.sqrt((p * (1 - p)).sum())
        assert abs(y.sum() - p.sum()) < 3.5 * deviation


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_truth_given_tables_is_the_mean_of_that_given_state(outcome: str, large: pl.DataFrame) -> None:
    """Sharper than labels: the two differ by far less than an event from its probability."""
    asked = large.filter(pl.col("outcome") == outcome, pl.col("label").is_not_null()).sort(TABLES)
    for rows in [asked, *asked.iter_slices(asked.height // 5 + 1)]:
        difference = (rows[STATE] - rows[TABLES]).to_numpy()
        assert abs(difference.mean()) < 3.5 * difference.std() / np.sqrt(len(difference))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_tables_tell_less_than_the_state_and_more_than_the_place(outcome: str, large: pl.DataFrame) -> None:
    asked = large.filter(pl.col("outcome") == outcome, pl.col("label").is_not_null())
    by_place = asked.select(pl.col(STATE).mean().over("place"))[STATE]
    labels = asked["label"].to_numpy()
    state, shown, place = (roc_auc_score(labels, scores) for scores in (asked[STATE], asked[TABLES], by_place))
    assert place + 0.05 < shown < state - 0.01
    assert 0.72 < shown < 0.92
    assert asked[TABLES].var() < asked[STATE].var()


def test_rates_are_those_of_a_hospital(large: pl.DataFrame) -> None:
    rates = dict(large.group_by("outcome").agg(pl.col("label").mean()).iter_rows())
    assert large["severity"].is_not_null().mean() == pytest.approx(0.85, abs=0.02)
    assert rates["in_hospital_death"] == pytest.approx(0.04, abs=0.01)
    assert rates["long_length_of_stay"] == pytest.approx(0.27, abs=0.02)
    assert rates["icu_admission"] == pytest.approx(0.09, abs=0.015)
    assert rates["imv_event"] == pytest.approx(0.06, abs=0.015)


def test_labels_are_those_the_tables_give(folder: Path, tables: dict[str, pl.DataFrame]) -> None:
    truth = pl.read_parquet(folder / "truth.parquet")
    labels = {(subject, outcome): label for subject, outcome, label in truth.select(truth.columns[:3]).iter_rows()}
    assert labels == label_from_tables(tables)
    assert {None, False, True} == set(labels.values())
    is_null = truth.select(pl.col("label", STATE, TABLES).is_null())
    assert (is_null["label"] == is_null[STATE]).all()
    assert (is_null["label"] == is_null[TABLES]).all()


# Laws of the values -----------------------------------------------------------------------------

CHANNELS = {
    "normal": Channel("a", "a", center=10, slope=2, spread=3, low=0, high=30),
    "log": Channel("b", "b", center=1, slope=1.3, spread=0.5, low=0.1, high=9, step=0.1, is_log=True),
}


@pytest.mark.parametrize("law", CHANNELS)
def test_masses_are_those_of_rounded_draws(law: str) -> None:
    channel, generator = CHANNELS[law], np.random.default_rng(0)
    masses, grid = make_masses(channel), make_grid(channel)
    np.testing.assert_allclose(masses.sum(axis=1), 1, atol=1e-12)
    for severity in range(5):
        noise = channel.spread * generator.standard_normal(200_000)
        is_log = channel.is_log
        raw = channel.center * channel.slope**severity * np.exp(noise) if is_log else 10 + 2 * severity + noise
        rounded = np.round(np.clip(raw, channel.low, channel.high) / channel.step) * channel.step
        drawn = grid[draw_cells(channel, np.full(200_000, severity), generator)]
        for values in (rounded, drawn):
            cells = np.searchsorted(grid - channel.step / 2, values, side="right") - 1
            shares = np.bincount(cells, minlength=len(grid))
            assert np.abs(shares / 200_000 - masses[severity]).max() < 0.005


@pytest.mark.parametrize(("law", "conversion"), [("normal", (1.8, 0.1, 32)), ("log", (88.4, 1, 0))])
def test_a_converted_channel_is_the_same_quantity(law: str, conversion: tuple[float, float, float]) -> None:
    factor, step, offset = conversion
    pair = (CHANNELS[law], CHANNELS[law].convert(Conversion("other", factor, step, offset)))
    before, after = (make_masses(channel) @ make_grid(channel) for channel in pair)
    np.testing.assert_allclose((after - offset) / factor, before, atol=0.01)


# The tables -------------------------------------------------------------------------------------


def test_tables_have_the_columns_and_types_of_the_sample(folder: Path, tables: dict[str, pl.DataFrame]) -> None:
    assert {path.name for path in folder.iterdir()} == {*(f"clif_{name}.parquet" for name in tables), "truth.parquet"}
    assert set(tables) == {path.stem.removeprefix("clif_") for path in SAMPLE.glob("clif_*.parquet")}
    for name, frame in tables.items():
        assert frame.schema == pl.read_parquet_schema(SAMPLE / f"clif_{name}.parquet"), name


def test_words_are_those_of_the_sample(tables: dict[str, pl.DataFrame]) -> None:
    for name, frame in tables.items():
        sample = pl.read_parquet(SAMPLE / f"clif_{name}.parquet")
        for column in [c for c in frame.columns if c.endswith("_category") and frame[c].dtype == pl.String]:
            assert set(frame[column]) - {"Asian"} <= set(sample[column]), (name, column)
    seen = {c: set(tables[t][c]) for t, c in (("position", "position_category"), ("adt", "location_category"))}
    assert {"prone", "not_prone"} <= seen["position_category"]
    assert {"ed", "ward", "stepdown", "icu", None} == seen["location_category"]


def test_every_event_lies_in_its_stay(tables: dict[str, pl.DataFrame]) -> None:
    stays = tables["hospitalization"].select("hospitalization_id", "admission_dttm", "discharge_dttm")
    for name, frame in tables.items():
        columns = [c for c, dtype in frame.schema.items() if isinstance(dtype, pl.Datetime) and frame[c].count()]
        if name in ("patient", "hospitalization"):
            continue
        joined = frame.join(stays, on="hospitalization_id", how="left")
        for column in columns:
            rows = joined.filter(pl.col(column).is_not_null())
            end = pl.col("discharge_dttm")
            is_before_end = pl.col(column) <= end if name == "adt" else pl.col(column) < end
            assert rows.select(((pl.col(column) >= pl.col("admission_dttm")) & is_before_end).all()).item(), column
            assert rows.select((pl.col(column).dt.truncate("1m") == pl.col(column)).all()).item()
    labs = tables["labs"]
    assert (labs["lab_collect_dttm"] < labs["lab_result_dttm"]).all()


def test_stays_of_a_patient_never_overlap_and_end_with_death(tables: dict[str, pl.DataFrame]) -> None:
    stays = tables["hospitalization"].sort("patient_id", "admission_dttm")
    assert stays["hospitalization_id"].n_unique() == NUM_STAYS
    assert stays["patient_id"].n_unique() < 0.75 * NUM_STAYS
    following = stays.with_columns(
        end=pl.col("discharge_dttm").shift().over("patient_id"),
        fate=pl.col("discharge_category").shift().over("patient_id"),
        younger=pl.col("age_at_admission").diff().over("patient_id") < 0,
    ).filter(pl.col("end").is_not_null())
    assert (following["end"] + timedelta(days=1) <= following["admission_dttm"]).all()
    assert "Expired" not in set(following["fate"])
    assert not following["younger"].any()
    assert (stays["age_at_admission"] >= 18).all()
    patients = tables["patient"]
    assert set(patients["patient_id"]) == set(stays["patient_id"])
    dead = stays.filter(pl.col("discharge_category") == "Expired")
    deaths = patients.filter(pl.col("death_dttm").is_not_null()).join(dead, on="patient_id")
    assert deaths.height == dead.height == patients["death_dttm"].count()
    assert (deaths["death_dttm"] == deaths["discharge_dttm"]).all()


def test_adt_is_a_chain_of_places(tables: dict[str, pl.DataFrame]) -> None:
    adt = tables["adt"].with_columns(after=pl.col("in_dttm").shift(-1).over("hospitalization_id"))
    inside = adt.filter(pl.col("location_category").is_not_null())
    assert (inside["out_dttm"] == inside["after"]).all()
    last = adt.filter(pl.col("location_category").is_null())
    assert last.height == NUM_STAYS
    assert last["out_dttm"].null_count() == NUM_STAYS
    repeated = inside.with_columns(before=pl.col("location_category").shift().over("hospitalization_id"))
    assert not (repeated["before"] == repeated["location_category"]).any()


def test_totals_texts_and_infusions_follow_from_what_is_charted(tables: dict[str, pl.DataFrame]) -> None:
    labs = tables["labs"]
    assert (labs["lab_value"].cast(pl.Float64) == labs["lab_value_numeric"]).all()
    scores = tables["patient_assessments"].filter(pl.col("assessment_category").str.starts_with("gcs"))
    wide = scores.pivot("assessment_category", index=["hospitalization_id", "recorded_dttm"], values="numerical_value")
    assert wide.null_count().sum_horizontal().item() == 0
    assert (wide["gcs_total"] == wide["gcs_eye"] + wide["gcs_verbal"] + wide["gcs_motor"]).all()
    doses = tables["medication_admin_continuous"]
    order = ["hospitalization_id", "med_category"]
    before = doses.sort(*order, "admin_dttm").with_columns(last=pl.col("mar_action_name").shift().over(order))
    after_stop = pl.col("last").is_null() | (pl.col("last") == "Stopped")
    assert before.select((after_stop == (pl.col("mar_action_name") == "start")).all()).item()
    assert before.select(((pl.col("mar_action_name") == "Stopped") == (pl.col("med_dose") == 0)).all()).item()
    orders = before.group_by("med_order_id").agg(
        pl.col("mar_action_name").first().alias("first"), pl.struct(order).n_unique()
    )
    assert set(orders["first"]) == {"start"}
    assert set(orders["hospitalization_id"]) == {1}


def test_rows_per_stay(tables: dict[str, pl.DataFrame]) -> None:
    per_stay = sum(frame.height for frame in tables.values()) / NUM_STAYS
    assert 350 < per_stay < 600
    ties = tables["vitals"].select(pl.struct("hospitalization_id", "recorded_dttm").n_unique()).item()
    assert ties < 0.4 * tables["vitals"].height
    assert tables["vitals"].group_by("hospitalization_id").len()["len"].max() > 2000


def test_nothing_of_the_truth_is_in_the_tables(folder: Path, tables: dict[str, pl.DataFrame]) -> None:
    """A stay's severity must show only through values: no column is a function of it beyond the labels' own."""
    truth = pl.read_parquet(folder / "truth.parquet").filter(pl.col("severity").is_not_null())
    severity = truth.unique("subject_id").select(hospitalization_id="subject_id", severity="severity")
    names = {name for frame in tables.values() for name in frame.columns}
    assert not names & {*truth.columns, "severity", "state", "group", "label"}
    for frame in tables.values():
        if "hospitalization_id" not in frame.columns:
            continue
        joined = frame.join(severity, on="hospitalization_id")
        ids = [c for c in joined.columns if c.endswith("_id")]
        for column in joined.drop("severity", *ids).columns:
            values = joined.filter(pl.col(column).is_not_null()).select(column, "severity")
            counts = values.group_by(column).agg(pl.col("severity").n_unique(), pl.len()).filter(pl.col("len") >= 200)
            assert (counts["severity"] > 1).all(), column


# Sites ------------------------------------------------------------------------------------------


def test_each_site_differs_in_one_way_and_one_in_all() -> None:
    shifts = {
        name: {
            field.name
            for field in dataclasses.fields(site)
            if field.name not in ("name", "story")
            and getattr(site, field.name) != getattr(SITES["reference"], field.name)
        }
        for name, site in SITES.items()
    }
    combined = shifts.pop("all_shifts")
    assert shifts.pop("reference") == set()
    assert all(len(fields) == 1 for fields in shifts.values())
    assert sorted(field for fields in shifts.values() for field in fields) == sorted(combined)
    for fields in shifts.values():
        (field,) = fields
        (owner,) = [name for name, its in shifts.items() if its == fields]
        assert getattr(SITES["all_shifts"], field) == getattr(SITES[owner], field)


def test_units_of_si_units(tables: dict[str, pl.DataFrame], other_sites: dict[str, dict[str, pl.DataFrame]]) -> None:
    units = SITES["si_units"].conversions
    labs = {"reference": tables["labs"], "si_units": other_sites["si_units"]["labs"]}
    for category in set(labs["reference"]["lab_category"]):
        rows = {site: frame.filter(pl.col("lab_category") == category) for site, frame in labs.items()}
        found = {site: set(frame["reference_unit"]) for site, frame in rows.items()}
        medians = {site: frame["lab_value_numeric"].median() for site, frame in rows.items()}
        factor = units[category].factor if category in units else 1
        assert (found["si_units"] == found["reference"]) == (category not in units)
        assert found["si_units"] == ({units[category].unit} if category in units else found["reference"])
        assert medians["si_units"] / factor / medians["reference"] == pytest.approx(1, abs=0.35), category
    temperature = pl.col("vital_category") == "temp_c"
    assert other_sites["si_units"]["vitals"].filter(temperature)["vital_value"].min() > 85


def test_what_missing_categories_lacks(
    tables: dict[str, pl.DataFrame], other_sites: dict[str, dict[str, pl.DataFrame]]
) -> None:
    columns = {"labs": "lab_category", "vitals": "vital_category", "patient_assessments": "assessment_category",
               "medication_admin_continuous": "med_category"}  # fmt: skip
    lost = set()
    for name, column in columns.items():
        lost |= set(tables[name][column]) - set(other_sites["missing_categories"][name][column])
    assert lost == SITES["missing_categories"].missing | {"braden_total"}


def test_sparse_charting_and_case_mix_and_tables(
    tables: dict[str, pl.DataFrame], other_sites: dict[str, dict[str, pl.DataFrame]]
) -> None:
    def count(frame: pl.DataFrame) -> float:
        stays = frame["hospitalization_id"].n_unique()
        return frame.filter(pl.col("vital_category") == "heart_rate").height / stays

    assert count(other_sites["sparse_charting"]["vitals"]) / count(tables["vitals"]) == pytest.approx(0.5, abs=0.08)
    ages = {site: found["hospitalization"]["age_at_admission"].mean() for site, found in other_sites.items()}
    assert ages["older_sicker"] > tables["hospitalization"]["age_at_admission"].mean() + 4
    extra = "medication_admin_intermittent"
    assert {site for site, found in other_sites.items() if extra in found} == {"extra_table", "all_shifts"}
    assert other_sites["extra_table"][extra].height > 1000


def test_sites_of_one_seed_have_other_patients(
    tables: dict[str, pl.DataFrame], other_sites: dict[str, dict[str, pl.DataFrame]]
) -> None:
    admissions = [set(found["hospitalization"]["admission_dttm"]) for found in [tables, *other_sites.values()]]
    assert all(len(a & b) <= 1 for a, b in itertools.combinations(admissions, 2))


def test_every_site_is_told_in_the_docstring() -> None:
    text = __import__("clinrep.ehr.simulate", fromlist=["_"]).__doc__
    assert all(site in text for site in SITES)
    assert all(site in (program.SimulateConfig.__doc__ or "") + Path(program.__file__).read_text() for site in SITES)


def test_a_total_is_not_shown_without_its_parts() -> None:
    panels = {panel.name: panel for panel in list_panels(dataclasses.replace(SITES["reference"], missing={"gcs_eye"}))}
    assert panels["gcs"].total is None
    assert panels["braden"].total is not None


# Shards -----------------------------------------------------------------------------------------


def read_bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.parquet"))}


def test_same_seed_same_bytes_other_seed_other_data(tmp_path: Path) -> None:
    first, again, other = (simulate(tmp_path / str(i), num_stays=60, seed=s) for i, s in enumerate((1, 1, 2)))
    assert read_bytes(first) == read_bytes(again)
    assert all(read_bytes(first)[name] != read_bytes(other)[name] for name in read_bytes(first))


def test_full_shards_do_not_depend_on_what_follows(folder: Path, tmp_path: Path) -> None:
    smaller = simulate(tmp_path / "smaller", num_stays=1000)
    for path in sorted(smaller.glob("*.parquet")):
        few, many = pl.read_parquet(path), pl.read_parquet(folder / path.name)
        assert few.equals(many.head(few.height)), path.name
    stays = pl.read_parquet(folder / "clif_hospitalization.parquet")
    assert not set(stays["patient_id"].head(1000)) & set(stays["patient_id"].tail(NUM_STAYS - 1000))


def test_a_failure_leaves_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "make_truth", fail)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, num_stays=5)
    assert not list(tmp_path.iterdir())


# The program ------------------------------------------------------------------------------------


def test_program_writes_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flags = ["--num_stays=40", "--seed=5", f"--output_dir={tmp_path / 'out'}"]
    program.main(flags)
    before = read_bytes(tmp_path / "out")
    assert before == read_bytes(simulate(tmp_path / "again", num_stays=40, seed=5))
    assert (tmp_path / "out" / "DONE").is_file()
    with pytest.raises(SystemExit) as stop, caplog.at_level(logging.INFO, logger="clinrep"):
        program.main(flags)
    assert stop.value.code == 0
    assert "already done" in caplog.text
    (tmp_path / "out" / "DONE").unlink()  # as after a kill, which may leave a temporary file too
    (tmp_path / "out" / ".clif_labs.parquet.1.tmp").touch()
    shutil.rmtree(tmp_path / "again")
    program.main(flags)
    assert read_bytes(tmp_path / "out") == before
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num_stays=10", "--site=nowhere"], ["nowhere", "reference", "all_shifts"]),
        (["--num_stays=0"], ["num_stays", "0", "use 20000"]),
        (["--num_stays=ten"], ["num_stays", "ten"]),
        ([], ["num_stays"]),
        (["--num_stays=10", "--seed=-1"], ["seed", "-1"]),
        (["--num_stay=10"], ["num_stay"]),
    ],
)
def test_bad_input_is_refused(flags: list[str], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        program.main([*flags, f"--output_dir={tmp_path / 'out'}"])
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files"):
        program.main(["--num_stays=10", f"--output_dir={tmp_path}"])
    program.main(["--num_stays=10", f"--output_dir={tmp_path / 'out'}"])
    with pytest.raises(InputError, match="num_stays was 10, now 11"):
        program.main(["--num_stays=11", f"--output_dir={tmp_path / 'out'}"])


def test_program_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clinrep.ehr.simulate", "--num_stays=5", "--site=x", f"--output_dir={tmp_path}/o"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("clinrep.ehr.simulate: error: unknown site 'x'")


# Stage 00 ---------------------------------------------------------------------------------------


def test_stage_00_reads_it_and_finds_the_same_labels(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_config(tmp_path / "config.yaml", RECOMMENDED, clif_dir=str(folder), outcomes=list(OUTCOMES))
    with caplog.at_level(logging.WARNING):
        run = run_main(config, tmp_path / "run")
    assert not [record.getMessage() for record in caplog.records if "never" in record.getMessage()]
    columns = ["subject_id", "outcome", "label"]
    truth = pl.read_parquet(folder / "truth.parquet").filter(pl.col("severity").is_not_null()).select(columns)
    found = pl.read_parquet(run / "outcomes.parquet").select(columns)
    assert found.sort(columns).equals(truth.sort(columns))
