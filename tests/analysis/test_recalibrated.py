"""Recalibration on a site's val split against statsmodels and scikit-learn, and that test never takes part."""

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from sklearn.isotonic import IsotonicRegression

from clinrep import artifacts
from clinrep.analysis.recalibrated import RAW, fit_isotonic, fit_platt
from clinrep.config import InputError
from tests.analysis.fake_runs import FakeSite, finish_again, run_main

FLAGS = ["--sections=[recalibration]", "--num_bootstraps=60", "--outcomes=[in_hospital_death]"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a site whose classifier says twice the log-odds and nothing of 0 or 1."""
    site = FakeSite(tmp_path_factory.mktemp("site"), num_stays=900)
    probability = 1 / (1 + np.exp(1 - 2.5 * site.risk))
    site.write()
    rows = artifacts.read_table("predictions", site.predictions / "in_hospital_death").drop("probability")
    of_stay = site.stays.select("subject_id", probability=pl.Series(probability.astype(np.float32)))
    artifacts.write_table("predictions", rows.join(of_stay, on="subject_id"), site.predictions / "in_hospital_death")
    finish_again(site.predictions / "in_hospital_death")
    return site


def read(output):
    return pl.read_csv(output / "tables" / "recalibration.csv").filter(model="classifier")


@pytest.fixture(scope="module")
def output(site, tmp_path_factory):
    return run_main(tmp_path_factory.mktemp("run") / "out", *site.flags("demo"), *FLAGS)


def test_maps_are_those_of_statsmodels_and_scikit_learn():
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0.01, 0.99, 500)
    labels = rng.random(500) < probabilities**2
    logits = np.log(probabilities / (1 - probabilities))
    expected = sm.GLM(labels.astype(float), sm.add_constant(logits), family=sm.families.Binomial()).fit()
    np.testing.assert_allclose(fit_platt(labels, probabilities).apply(probabilities), expected.fittedvalues, rtol=1e-5)
    model = IsotonicRegression(out_of_bounds="clip").fit(probabilities, labels)
    np.testing.assert_allclose(fit_isotonic(labels, probabilities).apply(probabilities), model.predict(probabilities))
    assert fit_isotonic(labels, probabilities).apply(np.array([0.0, 1.0])).tolist() == model.predict([0, 1]).tolist()
    assert fit_platt(labels, np.full(500, 0.3)).reason


def test_platt_on_val_mends_what_is_too_extreme_on_test(site, output):
    found = {(name, metric): estimate for name, metric, estimate in
             read(output).select("recalibration", "metric", "estimate").iter_rows()}  # fmt: skip
    raw = artifacts.read_table("scores", output).filter(model="classifier", subgroup="all")
    for metric, estimate in raw.select("metric", "estimate").iter_rows():
        assert found[RAW, metric] == pytest.approx(estimate, abs=1e-9)
    assert found["Platt", "auroc"] == pytest.approx(found[RAW, "auroc"])
    for metric, right in (("calibration_slope", 1), ("calibration_intercept", 0)):
        assert abs(found["Platt", metric] - right) < abs(found[RAW, metric] - right)
    rows = artifacts.read_table("predictions", site.predictions / "in_hospital_death")
    finish_again(site.predictions / "in_hospital_death")
    val, test = rows.filter(split="val"), rows.filter(split="test")
    way = fit_platt(val["label"].to_numpy(), val["probability"].cast(pl.Float64).to_numpy())
    brier = np.mean((way.apply(test["probability"].cast(pl.Float64).to_numpy()) - test["label"].to_numpy()) ** 2)
    assert found["Platt", "brier"] == pytest.approx(brier)


def test_too_few_events_in_val_and_no_val_predictions_are_words(site, tmp_path):
    few = run_main(tmp_path / "few", *site.flags("demo"), *FLAGS, "--min_events_for_recalibration=90")
    reasons = read(few).filter(recalibration="Platt")["reason"].unique().to_list()
    assert len(reasons) == 1
    assert reasons[0].startswith("too few events (")
    assert reasons[0].endswith(" in val")
    other = FakeSite(tmp_path / "site", num_stays=900).write()
    where = other.predictions / "in_hospital_death"
    rows = artifacts.read_table("predictions", where).filter(pl.col("split") != "val")
    artifacts.write_table("predictions", rows, where)
    finish_again(where)
    out = run_main(tmp_path / "none", *other.flags("demo"), *FLAGS)
    assert read(out).filter(recalibration="isotonic")["reason"].unique().to_list() == ["no predictions of val"]
    probes = pl.read_csv(out / "tables" / "recalibration.csv").filter(probe="logistic_regression")
    assert probes.filter(recalibration="Platt")["estimate"].null_count() == 0


def test_recalibration_on_test_is_refused(site, tmp_path):
    with pytest.raises(InputError, match="recalibration_split is 'test' but must be train or val"):
        run_main(tmp_path / "out", *site.flags("demo"), "--recalibration_split=test")
