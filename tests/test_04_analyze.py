"""04_analyze.py as people run it, on fake directories of the earlier stages."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from clinrep import artifacts
from clinrep.config import InputError
from tests.analysis.fake_runs import FakeSite, run_main

ROOT = Path(__file__).parents[1]


def run_script(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "04_analyze.py", *flags], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def select(output: Path, **wanted: str) -> pl.DataFrame:
    return artifacts.read_table("scores", output).filter(**wanted)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One site; a test that changes tables makes its own."""
    return FakeSite(tmp_path_factory.mktemp("site")).write()


@pytest.fixture(scope="module")
def output(site, tmp_path_factory):
    """One whole run on it."""
    return run_main(tmp_path_factory.mktemp("run") / "out", *site.flags("demo"), is_drawn=True)


def test_script_prints_the_report_last_and_never_imports_torch(site, tmp_path):
    flags = [
        *site.flags("demo"),
        f"--output_dir={tmp_path / 'out'}",
        "--num_bootstraps=20",
        "--outcomes=[in_hospital_death]",
    ]
    code = f"""
import runpy, sys
sys.argv = ["04_analyze.py", *{flags!r}]
try:
    runpy.run_path("04_analyze.py", run_name="__main__")
finally:
    assert not {{"torch", "transformers"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out" / "report.html")
    assert (tmp_path / "out" / "DONE").is_file()


def test_probe_scores_equal_scikit_learn_on_tables_joined_by_id(site, output):
    rows = site.outcomes.filter(outcome="icu_admission").drop_nulls("label").join(site.stays, on="subject_id")
    vectors = artifacts.read_table("representations", site.representations).filter(layer=2, pooling="mean")
    rows = rows.join(vectors.select("subject_id", "representation"), on="subject_id")
    train, test = rows.filter(split="train"), rows.filter(split="test")
    scaler = StandardScaler().fit(train["representation"].to_numpy())
    probe = LogisticRegression(C=1.0, tol=1e-8).fit(
        scaler.transform(train["representation"].to_numpy()), train["label"]
    )
    probabilities = probe.predict_proba(scaler.transform(test["representation"].to_numpy()))[:, 1]
    scores = select(output, outcome="icu_admission", model="backbone layer 2 mean", probe="logistic_regression")
    found = dict(scores.select("metric", "estimate").iter_rows())
    assert found["auroc"] == pytest.approx(roc_auc_score(test["label"], probabilities))
    assert found["auprc"] == pytest.approx(average_precision_score(test["label"], probabilities))
    assert found["brier"] == pytest.approx(np.mean((probabilities - test["label"].to_numpy()) ** 2), abs=1e-5)
    assert (scores["num_subjects"] == test.height).all()
    assert (scores["num_events"] == test["label"].sum()).all()
    assert (scores["low"] < scores["estimate"]).all()
    assert (scores["estimate"] <= scores["high"]).all()


def test_classifier_scores_equal_scikit_learn(site, output):
    rows = artifacts.read_table("predictions", site.predictions / "in_hospital_death").filter(split="test")
    scores = select(output, model="classifier", probe="none", outcome="in_hospital_death", metric="auroc")
    assert scores["estimate"].item() == pytest.approx(roc_auc_score(rows["label"], rows["probability"]))


def test_row_order_changes_nothing_and_scores_are_equal_to_the_byte(output, tmp_path):
    other = FakeSite(tmp_path / "site", shuffle=1).write()
    again = run_main(tmp_path / "out", *other.flags("demo"), is_drawn=True)
    assert (again / "scores.parquet").read_bytes() == (output / "scores.parquet").read_bytes()
    for path in sorted((output / "figures").iterdir()):
        assert (again / "figures" / path.name).read_bytes() == path.read_bytes(), path.name


def test_null_labels_are_excluded_and_counted_and_small_counts_hidden_unless_asked_for(site, output, tmp_path):
    rows = site.outcomes.filter(outcome="icu_admission").join(site.stays, on="subject_id").filter(split="test")
    num_null = rows["label"].null_count()
    assert num_null > 0
    assert select(output, outcome="icu_admission")["num_subjects"].unique().item() == rows.height - num_null
    counts = pl.read_csv(output / "tables" / "outcomes.csv").filter(outcome="icu_admission", split="test")
    assert 0 < num_null < 11  # a small cell
    assert counts["num_excluded"].item() is None
    assert counts["excluded_because"].item() == "event before index_time (*)"
    shown = run_main(tmp_path / "out", *site.flags("demo"), "--min_cell_count=0")
    counts = pl.read_csv(shown / "tables" / "outcomes.csv").filter(outcome="icu_admission", split="test")
    assert counts["num_excluded"].item() == num_null
    assert counts["excluded_because"].item() == f"event before index_time ({num_null})"
    assert (shown / "scores.parquet").read_bytes() == (output / "scores.parquet").read_bytes()


def test_too_few_events_give_null_and_words(output):
    scores = select(output, outcome="imv_event")
    assert scores["num_events"].unique().item() == 1
    assert scores.select("estimate", "low", "high").null_count().row(0) == (scores.height,) * 3
    assert (pl.read_csv(output / "tables" / "scores.csv").filter(outcome="imv_event")["reason"]
            == "too few events (fewer than 11)").all()  # fmt: skip
    assert "too few events (fewer than 11)" in (output / "report.html").read_text()
    assert "too few events (fewer than 11)" in (output / "tables" / "scores.tex").read_text()


def test_few_events_give_an_estimate_without_interval(site, tmp_path):
    outcomes = "--outcomes=[in_hospital_death]"
    out = run_main(tmp_path / "out", *site.flags("demo"), outcomes, "--min_events_for_interval=40")
    scores = select(out)
    assert scores["estimate"].null_count() == 0
    assert scores["low"].null_count() == scores.height
    assert 11 <= scores["num_events"][0] < 40  # said as a bound: a table may hide the number
    assert "no interval: too few events (fewer than 40)" in (out / "report.html").read_text()


def test_a_probe_without_two_classes_in_train_says_so_and_the_run_goes_on(tmp_path):
    site = FakeSite(tmp_path / "site")
    of_train = site.stays.filter(split="train")["subject_id"].implode()
    is_changed = (
        (pl.col("outcome") == "icu_admission") & pl.col("subject_id").is_in(of_train) & pl.col("label").is_not_null()
    )
    site.outcomes = site.outcomes.with_columns(label=pl.when(is_changed).then(False).otherwise("label"))
    out = run_main(tmp_path / "out", *site.write().flags("demo"))
    probe = select(out, outcome="icu_admission", probe="logistic_regression")
    assert probe["estimate"].null_count() == probe.height == 6
    assert select(out, outcome="icu_admission", probe="none")["estimate"].null_count() == 0
    assert select(out, outcome="in_hospital_death")["estimate"].null_count() == 0
    assert "not fitted: no stay with the event in train" in (out / "report.html").read_text()


def test_report_is_self_contained_and_has_every_figure(output):
    page = (output / "report.html").read_text()
    loads = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page) + re.findall(r"url\(([^)]*)\)|@import", page)
    others = {"timelines.html"}  # a link, not loaded
    assert all(target in others or target.startswith(("data:", "#")) for target in loads), [t[:60] for t in loads]
    assert "http://" not in page
    assert "https://" not in page
    stems = {path.stem for path in (output / "figures").glob("*.png")}
    assert stems == {"roc_demo", "calibration_demo", "token_embeddings"}
    assert stems == {path.stem for path in (output / "figures").glob("*.pdf")}
    assert all(f'id="figure-{stem}"' in page for stem in stems)
    assert page.count("data:image/png;base64,") == len(stems)
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page
    stems = {path.stem for path in (output / "tables").glob("*.csv")}
    assert stems == {path.stem for path in (output / "tables").glob("*.tex")}
    assert stems == {"cohort", "exclusions", "outcomes", "scores"}
    assert all(f'id="table-{stem}"' in page for stem in stems)


def test_fonts_are_embedded_as_truetype(output):
    for path in (output / "figures").glob("*.pdf"):
        content = path.read_bytes()
        assert b"/FontFile2" in content
        assert b"/Type3" not in content


def test_cohort_table_counts(site, output):
    table = pl.read_csv(output / "tables" / "cohort.csv", infer_schema=False)
    train = site.stays.filter(split="train")
    cells = dict(table.select("characteristic", "train").iter_rows())
    assert cells["Stays"] == str(train.height)
    assert cells["Patients"] == str(train["patient_id"].n_unique())
    assert cells["Age at admission in years, mean (SD)"] == f"{train['age'].mean():.1f} ({train['age'].std():.1f})"
    num_female = (train["sex"] == "female").sum()
    assert cells["Sex: female, n (%)"] == f"{num_female} ({100 * num_female / train.height:.1f})"
    assert cells["Ethnicity: not recorded, n (%)"] == f"{train.height} (100.0)"
    steps = pl.read_csv(output / "tables" / "exclusions.csv")
    # 1 and 1 of the hospitalizations and 10 rows of labs are few; steps of one chain tell of each other
    assert steps["left_out"].to_list() == [None, None, None, None]
    assert steps["table"].to_list() == ["hospitalization"] * 3 + ["labs"]


def test_two_sites_probe_goes_from_the_train_site_to_the_other(site, output, tmp_path):
    other = FakeSite(tmp_path / "other", seed=3, prefix="t").write()
    out = run_main(tmp_path / "out", *site.flags("demo"), *other.flags("away"), "--sections=[performance,curves]")
    assert select(out, site="demo").equals(artifacts.read_table("scores", output))
    away = select(out, site="away", probe="logistic_regression", outcome="icu_admission")
    assert away["estimate"].null_count() == 0
    turned = run_main(tmp_path / "turned", *site.flags("demo"), *other.flags("away"), "--train_site=away")
    assert not select(turned, site="demo").equals(select(out, site="demo"))
    assert {path.name for path in (out / "figures").glob("roc*.png")} == {"roc_demo.png", "roc_away.png"}


@pytest.mark.parametrize("stage", ["timelines", "representations", "predictions"])
def test_an_unfinished_input_is_one_line_and_exit_code_2(stage, tmp_path):
    site = FakeSite(tmp_path / "site").write()
    directory = getattr(site, stage)
    (directory / "icu_admission" / "DONE" if stage == "predictions" else directory / "DONE").unlink()
    if stage != "timelines":  # one process is enough to see the exit code
        with pytest.raises(InputError, match="holds no DONE") as refusal:
            run_main(tmp_path / "out", *site.flags("demo"))
        assert "\n" not in str(refusal.value)
        assert not (tmp_path / "out").exists()
        return
    done = run_script(*site.flags("demo"), f"--output_dir={tmp_path / 'out'}")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if " I 04_analyze" not in line]
    assert len(errors) == 1
    assert errors[0].startswith("04_analyze.py: error:")
    assert "holds no DONE" in errors[0]
    assert not (tmp_path / "out").exists()


def test_one_prediction_directory_serves_as_well_as_a_folder_of_them(site, output, tmp_path):
    flags = [*site.flags("demo")[:2], f"--predictions_dir.demo={site.predictions / 'icu_admission'}"]
    out = run_main(tmp_path / "out", *flags)
    assert select(out, probe="none").equals(select(output, probe="none", outcome="icu_admission"))


def test_saved_config_reruns_the_run(output, tmp_path):
    out = tmp_path / "out"
    run_main(out, f"--config={output / 'config.yaml'}", f"--output_dir={out}")  # later wins
    assert (out / "scores.parquet").read_bytes() == (output / "scores.parquet").read_bytes()


def test_same_command_again_says_done(site, output):
    with pytest.raises(SystemExit) as stop:
        run_main(output, *site.flags("demo"), is_drawn=True)
    assert stop.value.code == 0


def test_outcomes_keep_the_order_asked_for_whoever_predicts_them(site, tmp_path):
    wanted = ["icu_admission", "in_hospital_death"]
    only_second = f"--predictions_dir.demo={site.predictions / wanted[1]}"
    out = run_main(tmp_path / "out", *site.flags("demo")[:2], only_second, f"--outcomes=[{','.join(wanted)}]")
    assert select(out)["outcome"].unique(maintain_order=True).to_list() == wanted
