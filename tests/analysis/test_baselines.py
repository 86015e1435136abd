"""Baselines in stage 04: fitted on train of one site, penalty from val, judged at every site."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from clinrep import artifacts
from clinrep.analysis.baselines import fit_baseline, predict_baselines, read_inputs
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import read_sites
from clinrep.analysis.model_config import BaselineConfig
from clinrep.config import InputError
from clinrep.ehr.baselines import read_stay_inputs
from tests.analysis.fake_runs import FakeSite, run_main

OUTCOME = "icu_admission"
PENALTIES = [1e-3, 1e-1, 10.0]


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    root = tmp_path_factory.mktemp("sites")
    return FakeSite(root / "here").write(), FakeSite(root / "away", seed=3, num_stays=90, prefix="t").write()


@pytest.fixture(scope="module")
def config(fakes):
    names = ("here", "away")
    return AnalyzeConfig(
        output_dir="unused",
        timelines_dir={name: str(fake.timelines) for name, fake in zip(names, fakes, strict=True)},
        representations_dir={name: str(fake.representations) for name, fake in zip(names, fakes, strict=True)},
        baseline=BaselineConfig(c=PENALTIES, probes=["logistic_regression", "light_gbm"]),
        show_progress=False,
    )


@pytest.fixture(scope="module")
def sites(config):
    return read_sites(config)


@pytest.fixture(scope="module")
def inputs(config):
    return read_inputs(read_stay_inputs, config)


def count_dense(fake):
    """Return log(1 + count) of every stay by id, by a loop."""
    counts = {}
    for split in artifacts.SPLITS:
        for subject_id, tokens, times in artifacts.read_table("timelines", fake.timelines, split).iter_rows():
            seen = [token for token, time in zip(tokens, times, strict=True) if time.hour + 24 * (time.day - 1) < 24]
            counts[subject_id] = np.log1p(np.bincount(seen, minlength=100))
    return counts


def test_logistic_regression_equals_scikit_learn_on_dense_standardized_counts(fakes, sites, inputs, config):
    dense = [count_dense(fake) for fake in fakes]
    data = {}
    for index, site in enumerate(sites):
        for split in artifacts.SPLITS:
            stays = site.select_labelled(OUTCOME, split)
            data[index, split] = np.array([dense[index][one] for one in stays.subject_ids]), stays.labels
    train, labels = data[0, "train"]
    used = train.any(axis=0)
    mean, deviation = train[:, used].mean(axis=0), train[:, used].std(axis=0)
    deviation[deviation == 0] = 1
    losses, models = [], []
    for c in PENALTIES:
        model = LogisticRegression(C=c, tol=1e-10, max_iter=10_000)
        models.append(model.fit((train[:, used] - mean) / deviation, labels))
        values, truth = data[0, "val"]
        losses.append(log_loss(truth, model.predict_proba((values[:, used] - mean) / deviation)[:, 1]))
    best = models[int(np.argmin(losses))]
    predicted = predict_baselines(sites, [OUTCOME], inputs, config)
    for index, site in enumerate(sites):
        values, truth = data[index, "test"]
        expected = best.predict_proba((values[:, used] - mean) / deviation)[:, 1]
        wanted = ("token counts", "logistic_regression", site.name)
        (found,) = [one for one in predicted if (one.model, one.probe, one.site) == wanted]
        np.testing.assert_allclose(found.probabilities, expected, atol=2e-4)
        np.testing.assert_array_equal(found.labels, truth)
        assert roc_auc_score(truth, found.probabilities) > 0.6, "the fake timelines carry the risk"


def test_the_penalty_is_chosen_by_val_and_not_by_train(sites, inputs, config):
    fit = fit_baseline(sites[0], inputs["here"], OUTCOME, "event_counts", "logistic_regression", config, 0)[0]
    assert fit.c > min(PENALTIES)
    flipped = (pl.col("split") == "val") ^ pl.col("label")
    site = replace(sites[0], outcomes=sites[0].outcomes.with_columns(label=flipped))
    fit = fit_baseline(site, inputs["here"], OUTCOME, "event_counts", "logistic_regression", config, 0)[0]
    assert fit.c == min(PENALTIES), "of models that are all wrong on val, the least certain loses least"


def test_without_labels_in_val_the_strongest_penalty_is_taken(sites, inputs, config, caplog):
    no_val = sites[0].outcomes.with_columns(label=pl.when(pl.col("split") != "val").then("label"))
    site = replace(sites[0], outcomes=no_val)
    fit = fit_baseline(site, inputs["here"], OUTCOME, "event_counts", "logistic_regression", config, 0)[0]
    assert fit.c == min(PENALTIES)
    assert "val has no labelled stay" in caplog.text


def test_one_class_in_train_is_a_reason_and_no_number(sites, inputs, config):
    site = replace(sites[0], outcomes=sites[0].outcomes.with_columns(label=pl.lit(False)))
    predicted = predict_baselines([site, sites[1]], [OUTCOME], inputs, config)
    assert {one.reason for one in predicted} == {"not fitted: no stay with the event in train"}
    assert all(one.probabilities is None for one in predicted)


def test_test_stays_change_nothing_that_is_fitted(sites, inputs, config):
    flipped = (pl.col("split") == "test") ^ pl.col("label")
    site = replace(sites[0], outcomes=sites[0].outcomes.with_columns(label=flipped))
    one, other = (predict_baselines([first, sites[1]], [OUTCOME], inputs, config) for first in (sites[0], site))
    for before, after in zip(one, other, strict=True):
        np.testing.assert_array_equal(before.probabilities, after.probabilities)


def test_they_stand_beside_the_probes_in_the_scores(fakes, tmp_path):
    here, away = fakes
    flags = [*here.flags("here"), *away.flags("away")]
    out = run_main(tmp_path / "one", *flags, "--baselines=[event_counts,last_values]", f"--outcomes=[{OUTCOME}]")
    scores = artifacts.read_table("scores", out).filter(metric="auroc", subgroup="all")
    assert scores.select("site", "model", "probe").rows() == [
        (site, *model)
        for site in ("here", "away")
        for model in [
            ("classifier", "none"),
            ("backbone layer 2 mean", "logistic_regression"),
            ("token counts", "logistic_regression"),
            ("last values", "logistic_regression"),
        ]
    ]
    again = run_main(tmp_path / "two", *flags, "--baselines=[event_counts,last_values]", f"--outcomes=[{OUTCOME}]")
    assert (again / "scores.parquet").read_bytes() == (out / "scores.parquet").read_bytes()


def test_nothing_is_read_where_nothing_needs_it_and_unknown_models_are_refused(config):
    none = replace(config, baselines=[], sections=["cohort"])
    assert read_inputs(lambda *_: pytest.fail("it was read"), none) == {}
    assert set(read_inputs(read_stay_inputs, replace(none, sections=["cohort_by_anomaly"]))) == {"here", "away"}
    wrong = replace(config, baseline=BaselineConfig(probes=["forest"]))
    with pytest.raises(InputError, match=r"unknown baseline.probes 'forest'; known: light_gbm"):
        read_inputs(read_stay_inputs, wrong)
