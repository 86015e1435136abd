"""Differences between models and sites: against scikit-learn on resampled patients, under the null, and as printed."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from clinrep.analysis.bootstrap import draw_patient_counts, find_patients_with_event
from clinrep.analysis.comparisons import format_difference, format_p
from clinrep.analysis.differences import (
    COMPARED,
    MODEL_SCHEMA,
    adjust_p,
    check_reference,
    choose_reference,
    compare_models,
    compare_sites,
    evaluate_group,
)
from clinrep.analysis.replicates import group_models
from clinrep.config import InputError
from clinrep.distributed import derive_seed
from tests.analysis.comparing import make_config, make_predicted
from tests.analysis.fake_runs import FakeSite, run_main

METRICS = (roc_auc_score, average_precision_score, brier_score_loss)


def simulate(rng, num_patients=60, shift=0.0):
    """Return labels, patients and the probabilities of two models that are equally good, two stays a patient."""
    severity = np.repeat(rng.normal(size=num_patients), 2) + shift
    labels = severity + rng.normal(size=severity.size) > 0.4
    models = {name: 1 / (1 + np.exp(-severity - rng.normal(size=severity.size))) for name in ("classifier", "other")}
    return labels, np.repeat(np.arange(num_patients), 2), models


def evaluate(predicted, config):
    (group,) = group_models(predicted, config)
    return evaluate_group(group, config)


def test_intervals_are_of_scikit_learn_on_the_same_resampled_patients():
    labels, patients, models = simulate(np.random.default_rng(0))
    config = make_config(num_bootstraps=30)
    rows = compare_models(evaluate(make_predicted(labels, models, patients), config), config)
    seed = derive_seed(config.seed, "bootstrap/here/died")
    (counts,) = draw_patient_counts(find_patients_with_event(labels, patients), 30, seed, chunk_rows=30)
    for row, metric in zip(rows, METRICS, strict=True):
        differences = [
            metric(labels, models["other"], sample_weight=weights)
            - metric(labels, models["classifier"], sample_weight=weights)
            for weights in counts[:, patients]
        ]
        expected = metric(labels, models["other"]) - metric(labels, models["classifier"])
        assert (row["model"], row["reference_model"]) == ("other", "classifier")
        assert row["difference"] == pytest.approx(expected, abs=1e-12)
        assert (row["low"], row["high"]) == pytest.approx(np.quantile(differences, [0.025, 0.975]))
    assert [row["test"] for row in rows] == ["DeLong", "bootstrap", "bootstrap"]


def test_paired_intervals_cover_and_p_values_are_uniform_where_models_are_equally_good():
    """200 samples: about 5 % of p-values are below 0.05, and half below 0.5; 95 % of intervals hold 0."""
    rng = np.random.default_rng(1)
    p_values = {metric: [] for metric in COMPARED}
    covered = dict.fromkeys(COMPARED, 0)
    for sample in range(200):
        labels, patients, models = simulate(rng)
        config = make_config(seed=sample, num_bootstraps=150)
        for row in compare_models(evaluate(make_predicted(labels, models, patients), config), config):
            p_values[row["metric"]].append(row["p"])
            covered[row["metric"]] += row["low"] <= 0 <= row["high"]
    for metric in COMPARED:
        values = np.array(p_values[metric])
        assert 0.01 <= (values < 0.05).mean() <= 0.11
        assert 0.4 <= (values < 0.5).mean() <= 0.62
        assert 0.89 <= covered[metric] / 200 <= 0.99


def test_pairing_narrows_the_interval():
    """Two models that err alike: the interval of their difference is much narrower than that of either."""
    labels, patients, models = simulate(np.random.default_rng(2))
    models["other"] = np.clip(models["classifier"] + 0.01 * np.random.default_rng(3).normal(size=labels.size), 0, 1)
    config = make_config()
    evaluated = evaluate(make_predicted(labels, models, patients), config)
    row = compare_models(evaluated, config)[0]
    low, high = np.quantile(evaluated.replicates[0, 0], [0.025, 0.975])
    assert row["high"] - row["low"] < 0.3 * (high - low)


def test_sites_differ_by_independent_draws_and_added_variances():
    """150 pairs of sites of like patients: about 95 % of intervals hold 0, about 5 % of p-values are below 0.05."""
    rng = np.random.default_rng(4)
    covered, p_values = 0, []
    for sample in range(150):
        config = make_config(seed=sample, num_bootstraps=150)
        sides = []
        for site in ("here", "there"):
            labels, patients, models = simulate(rng)
            sides.append(evaluate(make_predicted(labels, models, patients, site), config))
        row = compare_sites(*sides, config)[0]
        covered += row["low"] <= 0 <= row["high"]
        p_values.append(row["p"])
    assert 0.89 <= covered / 150 <= 0.99
    assert 0.01 <= (np.array(p_values) < 0.05).mean() <= 0.11


def test_the_same_model_at_one_site_under_two_names_does_not_differ():
    labels, patients, models = simulate(np.random.default_rng(5))
    models["other"] = models["classifier"]
    config = make_config()
    for row in compare_models(evaluate(make_predicted(labels, models, patients), config), config):
        assert (row["difference"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)


def test_all_pairs_are_there_and_those_with_the_reference_are_printed():
    labels, patients, models = simulate(np.random.default_rng(6))
    models |= {"third": models["other"][::-1], "unfitted": None}
    config = make_config()
    rows = pl.DataFrame(
        compare_models(evaluate(make_predicted(labels, models, patients), config), config), schema=MODEL_SCHEMA
    )
    area = rows.filter(metric="auroc")
    assert area.select("model", "reference_model", "is_printed").rows() == [
        ("other", "classifier", True),
        ("third", "classifier", True),
        ("unfitted", "classifier", True),
        ("third", "other", False),
        ("unfitted", "other", False),
        ("unfitted", "third", False),
    ]
    unfitted = rows.filter(model="unfitted")
    assert unfitted.select("difference", "low", "p").null_count().row(0) == (9, 9, 9)
    assert unfitted["reason"].unique().to_list() == ["not fitted: no stay with the event in train"]
    one, other, both = area["difference"][0], area["difference"][1], area["difference"][3]
    assert both == pytest.approx(other - one)


def test_holm_is_within_a_family_and_of_the_chosen_rows():
    frame = pl.DataFrame({"family": ["a", "a", "a", "b"], "p": [0.01, 0.02, None, 0.02]})
    chosen = pl.Series([True, False, True, True])
    assert adjust_p(frame, ["family"], "all")["all"].to_list() == [0.02, 0.02, None, 0.02]
    assert adjust_p(frame, ["family"], "some", chosen)["some"].to_list() == [0.01, None, None, 0.02]


def test_reference_is_the_classifier_else_the_first_probe_or_the_one_named():
    labels = [True, False, True, False]
    config = make_config()
    probes = make_predicted(labels, {"backbone layer 1 mean": labels, "backbone layer 2 mean": labels}, probe="knn")
    others = make_predicted(labels, {"zero-shot": labels, "classifier": labels})
    assert choose_reference([*others, *probes], config) == 1
    assert choose_reference([others[0], *probes], config) == 1
    assert choose_reference([make_predicted(labels, {"classifier": None})[0], *probes], config) == 1
    named = make_config(comparison_reference="knn on backbone layer 2 mean")
    check_reference([*others, *probes], named)
    assert choose_reference([*others, *probes], named) == 3
    assert choose_reference(others, named) is None
    with pytest.raises(InputError, match=r"unknown model .*'knn on backbone layer 2'; known: classifier, knn on"):
        check_reference([*others, *probes], make_config(comparison_reference="knn on backbone layer 2"))


def test_models_of_different_stays_are_refused():
    labels, patients, models = simulate(np.random.default_rng(7))
    one, other = make_predicted(labels, models, patients)
    turned = make_predicted(labels, models, patients)[1]
    object.__setattr__(turned, "subject_ids", turned.subject_ids.reverse())
    with pytest.raises(InputError, match="predict the same test split"):
        group_models([one, turned], make_config())
    other.probabilities[3] = np.nan
    with pytest.raises(InputError, match="1 of 120 stays have no probability"):
        group_models([one, other], make_config())


def test_too_few_events_give_words():
    labels, patients, models = simulate(np.random.default_rng(8))
    config = make_config(min_events_for_interval=1000)
    row = compare_models(evaluate(make_predicted(labels, models, patients), config), config)[0]
    assert row["difference"] is not None
    assert (row["low"], row["p"]) == (None, None)
    assert "no interval: too few events" in format_difference(row)
    config = make_config(min_events_for_estimate=1000)
    row = compare_models(evaluate(make_predicted(labels, models, patients), config), config)[0]
    assert row["difference"] is None
    assert format_difference(row).startswith("too few events")


def test_numbers_as_words():
    row = {"difference": -0.0123, "low": -0.0301, "high": 0.0001, "reason": None}
    assert format_difference(row) == "\N{MINUS SIGN}0.012 (\N{MINUS SIGN}0.030 to 0.000)"
    assert (format_p(0.0004), format_p(0.0214), format_p(1.0)) == ("<0.001", "0.021", "1.000")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """One run of two sites, of which one has no classifier of its own, with all three sections."""
    root = tmp_path_factory.mktemp("sites")
    here, there = FakeSite(root / "here").write(), FakeSite(root / "there", seed=3, prefix="t").write()
    sections = ["--sections=[comparisons,alarms,decision_curves]", "--poolings=[mean,last_token]", "--min_cell_count=0"]
    return run_main(root / "out", *here.flags("here"), *there.flags("there")[:2], *sections)


def test_tables_of_a_run_of_two_sites(output):
    table = pl.read_csv(output / "tables" / "comparisons.csv")
    here = table.filter(site="here", outcome="icu_admission", metric="auroc")
    assert here["reference_model"].to_list()[:2] == ["classifier"] * 2
    assert table.filter(site="there")["reference_model"].unique().to_list() == ["backbone layer 2 last_token"]
    family = table.filter(site="here", metric="auroc").filter(pl.col("is_printed"))
    tested = family.drop_nulls("p")
    assert tested["outcome"].n_unique() == 2  # the family goes over the outcomes
    assert tested["p_holm"].min() == pytest.approx(min(1, tested.height * tested["p"].min()))
    assert family.filter(outcome="imv_event")["reason"].str.contains("too few").all()
    sites = pl.read_csv(output / "tables" / "site_comparisons.csv")
    assert sites["model"].unique().sort().to_list() == ["backbone layer 2 last_token", "backbone layer 2 mean"]
    assert sites.select("site", "reference_site").unique().rows() == [("there", "here")]
    scores = pl.read_parquet(output / "scores.parquet").filter(outcome="icu_admission", metric="auroc")
    estimates = {row["site"]: row["estimate"] for row in scores.filter(model="backbone layer 2 mean").to_dicts()}
    row = sites.filter(outcome="icu_admission", metric="auroc", model="backbone layer 2 mean")
    assert row["difference"].item() == pytest.approx(estimates["there"] - estimates["here"])


def test_latex_and_page_have_the_tables(output):
    page = (output / "report.html").read_text()
    for name in ("comparisons", "site_comparisons", "alarms", "decision_curves"):
        assert f'id="table-{name}"' in page
        assert "$-$" in (output / "tables" / f"{name}.tex").read_text() or name == "alarms"
    for site in ("here", "there"):
        assert f'id="figure-decision_curves_{site}"' in page


def test_sites_with_the_same_stays_are_not_compared(tmp_path):
    site = FakeSite(tmp_path / "site").write()
    out = run_main(tmp_path / "out", *site.flags("one"), *site.flags("two"), "--sections=[comparisons]")
    assert not (out / "tables" / "site_comparisons.csv").exists()
    assert "the test needs independent patients" in (out / "report.html").read_text()


def test_an_unknown_reference_is_refused(tmp_path):
    site = FakeSite(tmp_path / "site").write()
    with pytest.raises(InputError, match="known: classifier, logistic_regression on backbone layer 2 mean"):
        run_main(tmp_path / "out", *site.flags("one"), "--comparison_reference=clasifier")
