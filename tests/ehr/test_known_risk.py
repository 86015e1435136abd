"""The known-risk report on a small simulated hospital, with models whose answers follow from the truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from clinrep import artifacts
from clinrep.analysis.inputs import Labelled
from clinrep.config import InputError
from clinrep.ehr.known_risk.__main__ import main
from clinrep.ehr.known_risk.inputs import join_truth, read_zero_shot
from clinrep.ehr.known_risk.questions import ask_of_some
from clinrep.ehr.known_risk.scores import ORACLE, Question, score
from clinrep.ehr.simulate.__main__ import main as simulate
from clinrep.modality import resolve

ROOT = Path(__file__).parents[2]
OUTCOMES = ("in_hospital_death", "long_length_of_stay")
NUM_SAMPLES = 8
CONFIG = str(ROOT / "configs/ehr/known_risk/report.yaml")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Simulated tables, their timelines, and stages 02 and 03 made from the truth itself; row orders are shuffled."""
    root = tmp_path_factory.mktemp("study")
    simulate(["--num_stays=1000", f"--output_dir={root / 'simulate'}"])
    tokenize = resolve("00_tokenize:main")
    tokenize([
        f"--config={ROOT / 'configs/ehr/known_risk/00_tokenize.yaml'}", "--val_fraction=0.1",
        f"--clif_dir={root / 'simulate'}", f"--output_dir={root / '00'}",
    ])  # fmt: skip
    splits = artifacts.read_table("splits", root / "00").select("subject_id", "split")
    rows = pl.read_parquet(root / "simulate/truth.parquet").drop_nulls("label").join(splits, on="subject_id")
    rows = rows.filter(pl.col("outcome").is_in(OUTCOMES)).sample(fraction=1, shuffle=True, seed=1)
    write_predictions(root / "02", rows)
    write_representations(root / "03", rows)
    return SimpleNamespace(root=root, rows=rows.filter(pl.col("split") == "test"))


def write_predictions(directory: Path, rows: pl.DataFrame) -> None:
    """Length of stay as the oracle has it, death twice as certain."""
    for outcome, factor in zip(OUTCOMES, (2, 1), strict=True):
        risk = pl.col("probability_given_tables")
        logit = (risk / (1 - risk)).log() * factor
        frame = rows.filter(pl.col("outcome") == outcome).with_columns(
            probability=(1 / (1 + (-logit).exp())).cast(pl.Float32)
        )
        artifacts.write_table("predictions", frame, directory / outcome)
        (directory / outcome / "config.yaml").write_text(f"outcome: {outcome}\n")
        (directory / outcome / "provenance.json").write_text('{"started": "2026-01-01T00:00:00+00:00"}')
        artifacts.write_done(directory / outcome, "02_finetune", {}, {})


def write_representations(directory: Path, rows: pl.DataFrame) -> None:
    """The oracle's two logits as vectors; zero-shot: draws from the oracle's probability, of four stays in five."""
    rng = np.random.default_rng(0)
    risk = pl.col("probability_given_tables")
    vectors = rows.pivot(on="outcome", index=["subject_id", "split"], values="probability_given_tables").select(
        "subject_id", "split", layer=pl.lit(2, pl.Int16), pooling=pl.lit("mean"),
        representation=pl.concat_list([(pl.col(name) / (1 - pl.col(name))).log() for name in OUTCOMES])
        .cast(pl.List(pl.Float32)).list.to_array(2),
    )  # fmt: skip
    # two poolings, each with one of the two: only a probe of both knows all
    mean, last = (
        vectors.with_columns(
            pooling=pl.lit(pooling), representation=(pl.col("representation").arr.to_list() * keep).list.to_array(2)
        )
        for pooling, keep in (
            ("mean", pl.lit([0.0, 1.0], pl.List(pl.Float32))),
            ("last_token", pl.lit([1.0, 0.0], pl.List(pl.Float32))),
        )
    )
    for split in artifacts.SPLITS:
        both = pl.concat([mean, last]).filter(pl.col("split") == split)
        artifacts.write_table("representations", both, directory, split)
    embeddings = {"token_id": [0], "token": ["TL_START"], "kind": ["special"], "embedding": [[0.0, 1.0]]}
    schema = {"token_id": pl.UInt32, "token": pl.String, "kind": pl.String, "embedding": pl.Array(pl.Float32, 2)}
    artifacts.write_table("token_embeddings", pl.DataFrame(embeddings, schema=schema), directory)
    asked = rows.filter((pl.col("split") == "test") & (pl.col("subject_id").hash(3) % 5 > 0))
    shares = rng.binomial(NUM_SAMPLES, asked.select(risk).to_series().to_numpy()) / NUM_SAMPLES
    zero_shot = asked.with_columns(
        probability=pl.Series(shares, dtype=pl.Float32),
        standard_error=pl.lit(0.1, pl.Float32), unfinished=pl.lit(0.0, pl.Float32),
    )  # fmt: skip
    artifacts.write_table("zero_shot", zero_shot, directory, "test")
    (directory / "config.yaml").write_text(f"zero_shot: {{num_samples: {NUM_SAMPLES}}}\n")
    (directory / "provenance.json").write_text('{"started": "2026-01-01T00:00:00+00:00"}')
    artifacts.write_done(directory, "03_extract_reps", {}, {})


def run(study, output: Path, *flags: str) -> pl.DataFrame:
    root = study.root
    main([
        f"--config={CONFIG}", f"--simulate_dir={root / 'simulate'}", f"--timelines_dir.simulated={root / '00'}",
        f"--predictions_dir.simulated={root / '02'}", f"--representations_dir.simulated={root / '03'}",
        f"--zero_shot_dir={root / '03'}", "--backbone_dir=null", f"--output_dir={output}", "--num_bootstraps=60",
        f"--outcomes=[{','.join(OUTCOMES)}]", *flags,
    ])  # fmt: skip
    return pl.read_csv(output / "scores.csv")


@pytest.fixture(scope="module")
def scores(study, tmp_path_factory):
    return run(study, tmp_path_factory.mktemp("report") / "report")


def find(scores: pl.DataFrame, metric: str, model: str, outcome: str = OUTCOMES[1], stays: str = "test") -> dict:
    found = scores.filter(metric=metric, model=model, outcome=outcome, stays=stays)
    assert found.height == 1
    return found.row(0, named=True)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_aurocs_are_scikit_learns_on_ids_joined_here(study, scores, outcome):
    rows = study.rows.filter(pl.col("outcome") == outcome)
    labels = rows["label"].to_numpy()
    for model, column in ((ORACLE, "probability_given_tables"), ("latent truth", "probability_given_state")):
        found = find(scores, "auroc", model, outcome)
        assert found["estimate"] == pytest.approx(roc_auc_score(labels, rows[column].to_numpy()), abs=1e-12)
        assert (found["num_subjects"], found["num_events"]) == (rows.height, labels.sum())
        assert found["low"] < found["estimate"] < found["high"]


def test_who_says_what_the_oracle_says_differs_by_nothing(scores):
    difference = find(scores, "auroc_difference", "fine-tuned")
    assert [abs(difference[name]) < 1e-3 for name in ("estimate", "low", "high")] == [True] * 3
    assert abs(find(scores, "bias", "fine-tuned")["estimate"]) < 1e-6
    assert find(scores, "mean_absolute_error", "fine-tuned")["estimate"] < 1e-6
    assert find(scores, "risk_slope", "fine-tuned")["estimate"] == pytest.approx(1, abs=1e-5)
    assert find(scores, "slope", "fine-tuned")["estimate"] == pytest.approx(
        find(scores, "slope", ORACLE)["estimate"], abs=1e-4
    )


def test_slope_is_that_of_unpenalized_logistic_regression(study, scores):
    rows = study.rows.filter(pl.col("outcome") == OUTCOMES[0])
    risk = rows["probability_given_tables"].to_numpy()
    logits = 2 * np.log(risk / (1 - risk))
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], rows["label"].to_numpy())
    found = find(scores, "slope", "fine-tuned", OUTCOMES[0])
    assert found["estimate"] == pytest.approx(model.coef_[0, 0], abs=1e-3)
    assert found["low"] < found["estimate"] < found["high"]
    assert found["estimate"] == pytest.approx(find(scores, "slope", ORACLE, OUTCOMES[0])["estimate"] / 2, abs=1e-3)


def test_the_probe_finds_what_its_vectors_hold_and_counts_know_less(scores):
    """The logit of the stay is in the mean, that of death in the last token; together both are there."""
    own, other = "probe, backbone layer 2 mean", "probe, backbone layer 2 last_token"
    for outcome in OUTCOMES:
        assert abs(find(scores, "auroc_difference", "probe, backbone all of these", outcome)["estimate"]) < 0.02
        own, other = other, own
        assert abs(find(scores, "auroc_difference", own, outcome)["estimate"]) < 0.002
        assert find(scores, "auroc_difference", other, outcome)["estimate"] < -0.03
    assert find(scores, "auroc_difference", "token counts")["estimate"] < 0
    assert find(scores, "mean_absolute_error", "token counts")["estimate"] > 0.02


def test_zero_shot_is_judged_on_its_own_stays(study, scores):
    zero_shot = artifacts.read_table("zero_shot", study.root / "03", "test").filter(pl.col("outcome") == OUTCOMES[1])
    found = find(scores, "auroc", "zero-shot", stays="zero-shot")
    assert found["num_subjects"] == zero_shot.height < find(scores, "auroc", ORACLE)["num_subjects"]
    labels, shares = zero_shot["label"].to_numpy(), zero_shot["probability"].to_numpy()
    assert found["estimate"] == pytest.approx(roc_auc_score(labels, shares), abs=1e-9)
    bias = find(scores, "bias", "zero-shot", stays="zero-shot")
    assert bias["low"] < 0 < bias["high"]
    assert find(scores, "slope", "zero-shot", stays="zero-shot")["estimate"] is None
    drawn = find(scores, "auroc", f"{ORACLE}, {NUM_SAMPLES} draws", stays="zero-shot")["estimate"]
    assert drawn < find(scores, "auroc", ORACLE, stays="zero-shot")["estimate"]


def test_page_names_every_model_and_stage(study, scores, tmp_path, capsys):
    run(study, tmp_path / "report")
    page = capsys.readouterr().out
    assert page.strip() == (tmp_path / "report/report.md").read_text().strip()
    for word in (
        "fine-tuned",
        ORACLE,
        "token counts",
        "zero-shot",
        "02_finetune long_length_of_stay",
        "first start to last end",
    ):
        assert word in page


def test_tables_of_another_hospital_are_refused(study, tmp_path):
    simulate(["--num_stays=1000", "--seed=7", f"--output_dir={tmp_path / 'other'}"])
    with pytest.raises(InputError, match="made of other tables"):
        run(study, tmp_path / "report", f"--simulate_dir={tmp_path / 'other'}")


STAYS = Labelled(pl.Series("subject_id", ["a", "b", "c"]), np.array([True, False, True]), np.arange(3))
TRUTH = pl.DataFrame(
    {
        "subject_id": ["c", "a", "b", "a"],
        "outcome": [*["death"] * 3, "other"],
        "label": [True, True, False, False],
        "probability_given_state": [0.3, 0.1, 0.2, 0.9],
        "probability_given_tables": [0.6, 0.4, 0.5, 0.9],
    }
)


def test_truth_is_joined_by_id():
    found = join_truth(TRUTH, "death", STAYS)
    assert found["probability_given_tables"].tolist() == [0.4, 0.5, 0.6]
    assert found["probability_given_state"].tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (TRUTH[1:], "1 of 3 labelled test stays have no truth"),
        (TRUTH.with_columns(label=pl.lit(True)), "1 labels differ"),
        (TRUTH.with_columns(outcome=pl.lit("death")), "occur twice"),
        (TRUTH.with_columns(probability_given_tables=pl.lit(None, pl.Float64)), "3 of 3"),
    ],
)
def test_truth_of_other_stays_is_refused(truth, message):
    with pytest.raises(InputError, match=message):
        join_truth(truth, "death", STAYS)


def test_zero_shot_of_other_stays_is_refused(study, tmp_path):
    stays = Labelled(pl.Series("subject_id", ["a"]), np.array([True]), np.arange(1))
    with pytest.raises(InputError, match="no labelled test stays"):
        read_zero_shot(study.root / "03", OUTCOMES[0], stays)
    assert read_zero_shot(study.root / "03", "imv_event", stays) is None


def test_paired_interval_is_narrower_than_of_unpaired_and_covers_the_difference():
    """Two models that share most of their errors: the interval of the difference must know that."""
    rng = np.random.default_rng(3)
    risks = rng.beta(2, 5, 3000)
    noise = rng.normal(0, 0.6, 3000)
    models = {ORACLE: risks, "other": 1 / (1 + np.exp(-(np.log(risks / (1 - risks)) + noise)))}
    labels = rng.random(3000) < risks
    question = Question("death", "test", labels, np.arange(3000), models)
    table = score(question, 200, 0.95, seed=0)
    found = {(row["model"], row["metric"]): row for row in table.iter_rows(named=True)}
    width = {key: row["high"] - row["low"] for key, row in found.items()}
    truth = roc_auc_score(rng.random(3000) < risks, models["other"]) - roc_auc_score(labels, risks)
    difference = found["other", "auroc_difference"]
    assert difference["low"] - 0.02 < truth < difference["high"] + 0.02
    assert width["other", "auroc_difference"] < 0.8 * np.hypot(width["other", "auroc"], width[ORACLE, "auroc"])
    assert difference["high"] < 0
    one_patient = dataclasses.replace(question, patients=np.repeat(np.arange(1500), 2))
    assert score(one_patient, 200, 0.95, seed=0)["low"][0] != table["low"][0]


def test_some_stays_keep_their_patients_and_probabilities_together():
    models = {ORACLE: np.array([0.1, 0.2, 0.3, 0.4])}
    question = Question("death", "test", np.array([True, False, True, False]), np.array([0, 1, 1, 2]), models)
    some = ask_of_some(question, np.array([1, 2, 3]), np.array([0.5, 0.25, 0.75]), 4, seed=0)
    assert some.models[ORACLE].tolist() == [0.2, 0.3, 0.4]
    assert some.labels.tolist() == [False, True, False]
    assert some.patients.tolist() == [0, 0, 1]
    assert some.models["zero-shot"].tolist() == [0.5, 0.25, 0.75]
