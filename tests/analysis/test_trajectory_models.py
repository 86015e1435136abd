"""Regressions on trajectories in stage 04: joined by id, held out by patient, in words where there is no fit."""

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from clinrep import artifacts
from clinrep.analysis.auroc import score_auroc
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.trajectory_fits import deal_folds
from clinrep.config import InputError
from clinrep.distributed import derive_seed
from clinrep.modality import resolve
from tests.analysis.fake_runs import EPOCH, FakeSite

FAST = ["--min_cell_count=0", "--num_bootstraps=50", "--layers=[2]", "--poolings=[mean]", "--sections=[trajectories]"]


def write_trajectories(site: FakeSite, splits=("train", "val", "test"), without=()) -> pl.DataFrame:
    """Write a path length that goes with the risk, of all stays in mixed order but those named."""
    rng = np.random.default_rng(11)
    lengths = 5000 + 800 * site.risk + rng.normal(scale=900, size=site.num_stays)
    jumps = rng.uniform(30, 60, site.num_stays).astype(np.float32)
    table = site.stays.select(
        "subject_id",
        "split",
        times=pl.lit([EPOCH, EPOCH]).cast(pl.List(pl.Datetime("us"))),
        jumps=pl.lit([1.0]).cast(pl.List(pl.Float32)),
        path_length=pl.Series(lengths),
        max_jump=pl.Series(jumps),
        mean_jump=pl.Series(jumps),
    ).filter(pl.col("split").is_in(list(splits)) & ~pl.col("subject_id").is_in(list(without)))
    artifacts.write_table("trajectories", table[rng.permutation(table.height)], site.representations)
    return table


def run(output, *flags):
    resolve("04_analyze:main")([*FAST, f"--output_dir={output}", *flags])
    return output


def read(output, name) -> pl.DataFrame:
    return pl.read_csv(output / "tables" / f"{name}.csv")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return FakeSite(tmp_path_factory.mktemp("site"), num_stays=360).write()


@pytest.fixture(scope="module")
def measures(site):
    return write_trajectories(site)


@pytest.fixture(scope="module")
def output(site, measures, tmp_path_factory):
    return run(tmp_path_factory.mktemp("run") / "out", *site.flags("demo"))


def join_by_id(site, measures, outcome, split):
    vectors = artifacts.read_table("representations", site.representations).filter(layer=2, pooling="mean")
    train = vectors.filter(split="train").sort("subject_id")["representation"].to_numpy()
    forest = IsolationForest(random_state=derive_seed(42, "anomalies") % 2**32).fit(train)
    scores = vectors.select("subject_id", score=-forest.score_samples(vectors["representation"].to_numpy()))
    rows = site.outcomes.filter(outcome=outcome).drop_nulls("label").join(measures, on="subject_id")
    rows = rows.join(scores, on="subject_id").filter(split=split)
    return rows["label"].to_numpy(), rows.select("path_length", "max_jump", "score").to_numpy().astype(float)


@pytest.mark.parametrize("outcome", ["icu_admission", "in_hospital_death"])
def test_coefficients_are_those_of_tables_joined_by_id(site, measures, output, outcome):
    labels, values = join_by_id(site, measures, outcome, "test")
    scaler = StandardScaler().fit(values)
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(scaler.transform(values), labels)
    found = read(output, f"trajectory_logit_demo_{outcome}")
    assert found["term"].to_list() == ["intercept", "path_length", "max_jump", "anomaly_score"]
    assert found["outcome"].unique().item() == outcome
    expected = other.coef_[0] / scaler.scale_
    assert found["coefficient"].to_numpy()[1:] == pytest.approx(expected, rel=1e-3)
    assert found["num_subjects"].unique().item() == labels.size
    assert found["num_events"].unique().item() == labels.sum()
    train = measures.filter(split="train")
    assert found["sd"][1] == pytest.approx(train["path_length"].std())
    assert found["coefficient_per_sd"][1] == pytest.approx(expected[0] * train["path_length"].std(), rel=1e-3)
    together = read(output, "trajectory_logits").filter(outcome=outcome)
    assert together["coefficient"].to_list() == found["coefficient"].to_list()
    assert "Logit Regression Results" in (output / "tables" / f"trajectory_logit_demo_{outcome}.txt").read_text()


def test_too_few_events_are_words(output):
    rows = read(output, "trajectory_logits").filter(outcome="imv_event")
    assert rows["term"].len() == 4
    assert rows["coefficient"].null_count() == 4
    assert set(rows["reason"]) == {"no fit: too few events (1)"}
    assert not (output / "tables" / "trajectory_logit_demo_imv_event.csv").exists()
    assert "no fit: too few events (1)" in (output / "report.html").read_text()


def test_where_nothing_is_fitted_the_overview_says_so(site, measures, tmp_path):
    out = run(tmp_path / "out", *site.flags("demo"), "--trajectories.min_events=1000")
    assert set(read(out, "trajectory_logits")["reason"].str.slice(0, 22)) == {"no fit: too few events"}
    assert not list((out / "tables").glob("trajectory_logit_*.csv"))


def test_held_out_auroc_of_the_fit_on_train(site, measures, output):
    train_labels, train = join_by_id(site, measures, "icu_admission", "train")
    labels, values = join_by_id(site, measures, "icu_admission", "test")
    scaler = StandardScaler().fit(train)
    other = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(scaler.transform(train), train_labels)
    expected = roc_auc_score(labels, other.decision_function(scaler.transform(values)))
    rows = read(output, "trajectory_held_out").filter(outcome="icu_admission")
    assert rows["fitted_on"].to_list() == [
        "the same stays (not held out)", "other patients of test (5 folds)", "train split of demo"]  # fmt: skip
    assert rows["estimate"][2] == pytest.approx(expected)
    assert (rows["low"] < rows["estimate"]).all()
    assert rows["estimate"][1] < rows["estimate"][0]


def test_no_fit_to_judge_is_no_row_also_with_enough_events():
    at = {"timelines_dir": {"a": "00"}, "representations_dir": {"a": "03"}, "train_site": "a", "output_dir": "out"}
    config = AnalyzeConfig(**at, min_events_for_estimate=2, min_events_for_interval=3)
    assert not score_auroc(np.arange(20) % 2 == 0, np.arange(20), {}, config, seed=1)


def test_folds_keep_patients_together_and_events_apart():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 60, 200)
    labels = patients % 4 == 0
    folds = deal_folds(labels, patients, 5, seed=1)
    assert all(len(set(folds[patients == one])) == 1 for one in set(patients))
    events = [len(set(patients[labels & (folds == fold)])) for fold in range(5)]
    assert max(events) - min(events) <= 1


def test_missing_subjects_are_refused_with_their_number(site, tmp_path):
    other = FakeSite(tmp_path / "site").write()
    lost = other.stays.filter(split="test")["subject_id"][:3].to_list()
    write_trajectories(other, without=lost)
    with pytest.raises(InputError, match=r"trajectories.parquet, split test: 3 of 48 stays .* are missing"):
        run(tmp_path / "out", *other.flags("demo"))


def test_without_trajectories_the_section_names_the_command(tmp_path):
    other = FakeSite(tmp_path / "site").write()
    out = run(tmp_path / "out", *other.flags("demo"))
    assert "run 03_extract_reps.py --trajectories true" in (out / "report.html").read_text()


def test_without_train_trajectories_folds_check_and_stays_of_one_token_are_left_out_and_counted(tmp_path):
    other = FakeSite(tmp_path / "site", num_stays=360).write()
    table = write_trajectories(other, splits=("test",))
    short = table["subject_id"][0]
    is_short = pl.col("subject_id") == short
    table = table.with_columns(path_length=pl.when(is_short).then(0.0).otherwise("path_length"),
                               max_jump=pl.when(~is_short).then("max_jump"))  # fmt: skip
    artifacts.write_table("trajectories", table, other.representations)
    out = run(tmp_path / "out", *other.flags("demo"))
    rows = read(out, "trajectory_logit_demo_in_hospital_death")
    assert rows["num_left_out"].unique().item() == 1
    assert rows["num_subjects"].unique().item() == table.height - 1
    assert len(read(out, "trajectory_held_out").filter(outcome="in_hospital_death")) == 2
    assert "a single token have no jump and are left out: 1." in (out / "report.html").read_text()
    assert "of the same test stays" in (out / "report.html").read_text()


@pytest.mark.parametrize("num_short", [3, 30])
def test_few_stays_left_out_follow_from_no_file(tmp_path, num_short):
    """All labelled stays are told elsewhere, so those of the fit would tell 3 left out, or 3 with the event of 30."""
    other = FakeSite(tmp_path / "site", num_stays=600).write()
    labels = other.outcomes.filter(outcome="in_hospital_death").join(other.stays.filter(split="test"), on="subject_id")
    has_event = labels.filter("label")["subject_id"][:3].to_list()
    short = has_event + labels.filter(~pl.col("label"))["subject_id"][: num_short - 3].to_list()
    table = write_trajectories(other, splits=("test",))
    table = table.with_columns(max_jump=pl.when(~pl.col("subject_id").is_in(short)).then("max_jump"))
    artifacts.write_table("trajectories", table, other.representations)
    out = run(tmp_path / "out", *other.flags("demo"), "--min_cell_count=11", "--outcomes=[in_hospital_death]",
              "--sections=[trajectories,published]", "--published_sites.mimic=demo")  # fmt: skip
    fit, scored = read(out, "trajectory_logit_demo_in_hospital_death"), read(out, "trajectory_held_out")
    assert fit["coefficient"].null_count() == 0
    counts = ["num_subjects", "num_patients", "num_events", "num_left_out"]
    telling = ["pseudo_r2", "log_likelihood", "log_likelihood_null", "llr_p"]
    for rows in (fit, read(out, "trajectory_logits")):
        assert rows.select(counts + telling).null_count().row(0) == (4,) * 8
    assert scored["num_subjects"].null_count() == scored["num_events"].null_count() == scored.height
    assert scored["estimate"].equals(scored["estimate"].round(3))
    assert not list((out / "tables").glob("*.txt"))
    ours = read(out, "published").filter(model="regression")
    told = {row["quantity"]: row["estimate"] for row in ours.iter_rows(named=True)}
    assert told["num_subjects"] is None
    assert told["pseudo_r2"] is None
    assert told["max_jump"] is not None
    assert str(table.height - num_short) not in (out / "report.html").read_text().partition("trajectory_logits")[2]
