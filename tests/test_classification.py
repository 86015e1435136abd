from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from clinrep import artifacts, batches, classification
from clinrep.batches import IGNORED, pad_left
from clinrep.config import InputError
from clinrep.ehr.configs.finetune import FinetuneConfig
from clinrep.ehr.models import LlamaClassifier, load_classifier
from clinrep.ehr.sequences import load_sequences
from clinrep.patient_shares import choose_patients
from clinrep.sequences import Sequences, iterate_batches
from tests.ehr.fake_models import write_fake_backbone_run
from tests.ehr.fake_timelines import write_fake_tokenizer_run


@pytest.fixture(scope="module")
def dirs(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    timelines = write_fake_tokenizer_run(root / "00", num_subjects=30, seed=1)
    return timelines, write_fake_backbone_run(root / "01", timelines)


def make_config(dirs: tuple[Path, Path], **changes) -> FinetuneConfig:
    settings = {
        "timelines_dir": str(dirs[0]),
        "backbone_dir": str(dirs[1]),
        "outcome": "imv_event",
        "output_dir": "unused",
        "max_length": 64,
    }
    return FinetuneConfig(**(settings | changes))


@pytest.fixture(scope="module")
def model(dirs) -> LlamaClassifier:
    return load_classifier(make_config(dirs)).eval()


@pytest.fixture(scope="module")
def labelled(dirs) -> Sequences:
    return load_sequences(str(dirs[0]), 64, "imv_event")


def make_data(dirs: tuple[Path, Path], data: Sequences, **changes) -> classification.Classification:
    return classification.Classification(data, make_config(dirs, metric_for_best="loss", **changes))


def predict_alone(model: LlamaClassifier, data: Sequences) -> np.ndarray:
    """Return logits (N, 2), each sequence by itself and unpadded."""
    with torch.no_grad():
        rows = [model(torch.from_numpy(data.get(row).astype(np.int64))[None]).logits[0] for row in range(len(data))]
    return torch.stack(rows).numpy()


def test_a_left_padded_batch_has_the_logits_of_each_sequence_alone(model, labelled):
    alone = predict_alone(model, labelled)
    batch = pad_left([labelled.get(row) for row in range(len(labelled))], labelled.pad_token_id)
    assert len(set(labelled.lengths)) > 5
    with torch.no_grad():
        together = model(**batch).logits.numpy()
        unmasked = model(batch["input_ids"]).logits.numpy()
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(unmasked - alone).max() > 0.01, "the mask would not matter, so this test shows nothing"


def test_left_padding_by_hand():
    batch = pad_left([np.array([5, 6, 7]), np.array([8])], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]


def test_right_padding_by_hand():
    assert batches.pad_right([np.array([5, 6, 7]), np.array([8])], 0).tolist() == [[5, 6, 7], [8, 0, 0]]


def test_predictions_stand_beside_their_ids_whatever_the_batches(dirs, model, labelled):
    expected = torch.from_numpy(predict_alone(model, labelled)).double().softmax(-1)[:, 1].numpy()
    for batch_size in (1, 7, 100):
        table = make_data(dirs, labelled, prediction_batch_size=batch_size).predict(model)
        assert table["subject_id"].to_list() == labelled.subjects["subject_id"].to_list()
        assert np.abs(table["probability"].to_numpy() - expected).max() < 1e-5
    assert set(table["split"]) == {"train", "val", "test"}
    shuffled = labelled.take(np.random.default_rng(0).permutation(len(labelled)))
    again = make_data(dirs, shuffled, prediction_batch_size=7).predict(model).sort("subject_id")
    assert np.abs(again["probability"].to_numpy() - table.sort("subject_id")["probability"].to_numpy()).max() < 1e-5


def test_the_loss_counts_labelled_items_once(model, labelled):
    items = batches.LabelledItems(labelled)
    collate = classification.LeftPaddedCollator(labelled.pad_token_id)
    chosen = [items[0], items[1], items[2]]
    batch = collate(chosen)
    logits = predict_alone(model, labelled)[:3]
    true = torch.nn.functional.cross_entropy(torch.from_numpy(logits), batch["labels"], reduction="none")
    filled = collate([*chosen, items.make_filler()])
    assert filled["labels"].tolist()[-1] == IGNORED
    with torch.no_grad():
        assert model(**batch).loss.item() == pytest.approx(true.mean().item(), abs=1e-5)
        assert model(**filled).loss.item() == pytest.approx(true.mean().item(), abs=1e-5)
        assert model(**batch, num_items_in_batch=12).loss.item() == pytest.approx(true.sum().item() / 12, abs=1e-5)


def test_counts_leave_out_padding_and_filler():
    """Two documents of 2 and 3 tokens (3 and 6 pairs), and one that only fills the batch."""
    tokens = np.array([5, 6, 7, 8])
    collate = classification.LeftPaddedCollator(0)
    items = [{"tokens": tokens[:2], "label": 0}, {"tokens": tokens[:3], "label": 1}]
    batch = collate([*items, {"tokens": tokens, "label": IGNORED}])
    assert (batch["num_tokens"], batch["attention_pairs"]) == (5, 9)


def test_items_are_divided_by_tokens_with_their_padding() -> None:
    items = [{"tokens": np.ones(length, np.uint32), "label": length % 2} for length in (3, 9, 2, 20, 4, 2)]
    groups = [[len(item["tokens"]) for item in group] for group in classification.divide_items(items, 12)]
    assert groups == [[20], [9], [4, 3, 2], [2]]
    batch = classification.LeftPaddedCollator(0, 12)(items)
    assert [tuple(one["input_ids"].shape) for one in batch["passes"]] == [(1, 20), (1, 9), (3, 4), (1, 2)]
    assert batch["passes"][2]["labels"].tolist() == [0, 1, 0]
    assert (batch["num_tokens"], len(batch["labels"])) == (40, 6)


def test_validation_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.2
    probabilities = np.round(rng.random(200), 2)  # ties
    probabilities = np.clip(probabilities, 0.01, 0.99)
    scores = classification.score_validation(labels, probabilities)
    assert scores["eval_loss"] == pytest.approx(log_loss(labels, probabilities))
    assert scores["eval_auroc"] == pytest.approx(roc_auc_score(labels, probabilities))
    assert scores["eval_auprc"] == pytest.approx(average_precision_score(labels, probabilities))


def test_one_class_has_a_loss_only():
    scores = classification.score_validation(np.array([False, False]), np.array([0.5, 0.0]))
    assert scores == {"eval_loss": pytest.approx(np.log(2) / 2)}
    assert np.isfinite(classification.score_validation(np.array([True]), np.array([0.0]))["eval_loss"])


def test_batches_cover_every_sequence_once_within_the_limits():
    lengths = np.random.default_rng(1).integers(1, 50, size=101)
    batches = list(iterate_batches(lengths, batch_tokens=100))
    assert sorted(np.concatenate(batches)) == list(range(101))
    assert all(lengths[rows].max() * len(rows) <= 100 for rows in batches)
    alone = list(iterate_batches(np.array([500, 1]), batch_tokens=100))
    assert [rows.tolist() for rows in alone] == [[0], [1]]


@pytest.mark.parametrize(
    ("train", "val", "metric", "message"),
    [
        ([0, 0], [0, 1], "loss", "the train split has 0 of 2 stays with the event; no classifier can learn"),
        ([1, 1], [0, 1], "loss", "the train split has 2 of 2"),
        ([0, 1], [0, 0], "auroc", "the val split has 0 of 2 stays with the event; auroc is undefined"),
        ([0, 1], [], "loss", "the val split has no labelled stay"),
    ],
)
def test_classes_nothing_can_be_learned_from_are_refused(labelled, train, val, metric, message):
    labels = [bool(label) for label in train + val]
    subjects = pl.DataFrame(
        {"subject_id": [str(i) for i in range(len(labels))], "split": ["train"] * len(train) + ["val"] * len(val)}
    ).with_columns(label=pl.Series(labels, dtype=pl.Boolean))
    offsets = np.arange(len(labels) + 1)
    data = Sequences(
        subjects, labelled.tokens[: len(labels)], labelled.times[: len(labels)], offsets, 0, labelled.vocabulary_path
    )
    with pytest.raises(InputError, match=message):
        classification.check_classes(data.select("train"), data.select("val"), "imv_event", metric)


def test_one_class_in_validation_is_fine_for_the_loss(labelled):
    subjects = pl.DataFrame({"subject_id": ["a", "b", "c"], "split": ["train", "train", "val"]})
    subjects = subjects.with_columns(label=pl.Series([True, False, False]))
    data = Sequences(subjects, labelled.tokens[:3], labelled.times[:3], np.arange(4), 0, labelled.vocabulary_path)
    classification.check_classes(data.select("train"), data.select("val"), "imv_event", "loss")


def test_a_backbone_of_another_vocabulary_is_refused(dirs, tmp_path):
    other = write_fake_tokenizer_run(tmp_path / "00", num_subjects=10)
    vocabulary = artifacts.read_table("vocabulary", other)
    renamed = vocabulary.with_columns(token=pl.col("token").str.replace("LAB_lactate", "LAB_lactat"))
    artifacts.write_table("vocabulary", renamed, other)
    with pytest.raises(InputError, match=r"vocabulary\.parquet of the model .* differs"):
        load_classifier(make_config((other, dirs[1])))


def test_a_backbone_of_other_bins_is_refused(dirs, tmp_path):
    """The same words with other edges would mean other values."""
    other = write_fake_tokenizer_run(tmp_path / "00", num_subjects=10)
    quantiles = artifacts.read_table("quantiles", other)
    artifacts.write_table("quantiles", quantiles.with_columns(pl.col("edges").list.eval(pl.element() + 1)), other)
    with pytest.raises(InputError, match=r"quantiles\.parquet of the model .* differs"):
        load_classifier(make_config((other, dirs[1])))


def test_test_stays_the_backbone_trained_on_are_refused(dirs, tmp_path):
    load_classifier(make_config(dirs))
    other = write_fake_tokenizer_run(tmp_path / "00", num_subjects=30, seed=1)
    splits = artifacts.read_table("splits", other)
    moved = pl.when(pl.col("patient_id").is_in(["P0000", "P0001"])).then(pl.lit("test")).otherwise("split")
    artifacts.write_table("splits", splits.with_columns(split=moved), other)
    artifacts.write_done(other, "00_tokenize", {}, {})
    with pytest.raises(InputError, match="2 stays of val or test are in train or val of"):
        load_classifier(make_config((other, dirs[1])))


def test_more_tokens_than_positions_are_refused(dirs):
    with pytest.raises(InputError, match=r"max_length is 1000 but .* accepts at most 256"):
        load_classifier(make_config(dirs, max_length=1000))


def test_the_head_follows_the_seed_and_the_backbone_does_not(dirs):
    one, same, other = (load_classifier(make_config(dirs, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one.score.weight, same.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    assert torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)


@pytest.mark.parametrize("given", [{"backbone_dir": None}, {"classifier_dir": "x"}])
def test_exactly_one_start_is_asked_for(dirs, given):
    with pytest.raises(ValueError, match="give one of the two"):
        make_config(dirs, **given)


def test_the_risk_after_every_token_is_that_of_every_prefix(dirs, model, labelled):
    table = make_data(dirs, labelled, risk_over_time=["val", "test"], prediction_batch_size=1).predict_over_time(model)
    rows = {row["subject_id"]: row for row in table.iter_rows(named=True)}
    assert set(table["model"]) == {"classifier"}
    assert set(table["outcome"]) == {"imv_event"}
    expected = labelled.subjects.with_row_index("row").filter(pl.col("split") != "train")
    assert sorted(rows) == sorted(expected["subject_id"])
    for row, subject_id, split in expected.select("row", "subject_id", "split").iter_rows():
        tokens = labelled.get(row).astype(np.int64)
        assert rows[subject_id]["times"] == labelled.get_times(row).tolist()
        assert rows[subject_id]["split"] == split
        prefixes = pad_left([tokens[: end + 1] for end in range(len(tokens))], labelled.pad_token_id)
        with torch.no_grad():
            alone = model(**prefixes).logits.double().softmax(-1)[:, 1].numpy()
        assert len(rows[subject_id]["probability"]) == len(tokens)
        assert np.abs(np.array(rows[subject_id]["probability"]) - alone).max() < 1e-5


def test_truncation_is_drawn_anew_each_epoch_over_all_lengths_and_from_the_seed_alone(labelled):
    whole = batches.LabelledItems(labelled)
    assert all(np.array_equal(whole[row]["tokens"], labelled.get(row)) for row in range(len(labelled)))
    items, same, other = (batches.LabelledItems(labelled, seed) for seed in (1, 1, 2))
    drawn = []
    for epoch in range(400):
        items.set_epoch(epoch)
        for row in (0, len(labelled) - 1):
            tokens = items[row]["tokens"]
            assert np.array_equal(tokens, labelled.get(row)[: len(tokens)])
        drawn.append(items.lengths)
    drawn = np.array(drawn)
    assert (drawn.min(axis=0) >= 1).all()
    # uniform on 1..T: every stay is seen nearly whole and nearly empty, and half on average
    assert np.abs((drawn.mean(axis=0) - 0.5) / labelled.lengths - 0.5).max() < 0.08
    shortest = int(np.argmin(labelled.lengths))
    counts = np.bincount(drawn[:, shortest], minlength=labelled.lengths[shortest] + 1)[1:]
    assert counts.min() > 0
    same.set_epoch(399)
    other.set_epoch(399)
    assert np.array_equal(same.lengths, drawn[-1])
    assert not np.array_equal(other.lengths, drawn[-1])
    assert len(np.unique(drawn, axis=0)) == 400


def test_under_bf16_the_head_is_exact_and_risks_are_not_rounded_to_few_values(dirs, labelled):
    classifier = load_classifier(make_config(dirs)).eval()
    states = torch.randn(20_000, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier.score(states)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, states @ classifier.score.weight.T)
    ids = torch.from_numpy(labelled.get(0).astype(np.int64))[None]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert classifier(ids).logits.dtype == torch.float32


def test_only_train_is_truncated(dirs, model, labelled):
    plain, cut = (make_data(dirs, labelled, random_truncation=is_cut) for is_cut in (False, True))
    assert (cut.train_items.lengths < plain.train_items.lengths).any()
    assert plain.predict(model).equals(cut.predict(model))
    assert plain.validate(model) == cut.validate(model)
    over_time = make_data(dirs, labelled, random_truncation=True, risk_over_time=["test"]).predict_over_time(model)
    assert set(over_time["model"]) == {"classifier_urt"}


def test_fractions_are_of_patients_and_nested():
    rng = np.random.default_rng(0)
    patients = np.sort(rng.integers(0, 400, 1000))
    subjects = pl.DataFrame({"subject_id": [f"H{i}" for i in range(1000)], "patient_id": [f"P{p}" for p in patients]})
    tokens = np.arange(1000, dtype=np.uint32)
    times = np.zeros(1000, dtype="datetime64[us]")
    data = Sequences(subjects, tokens, times, np.arange(1001), 0, Path("vocabulary.parquet"))
    num_patients = subjects["patient_id"].n_unique()
    before: set[str] = set()
    for fraction in (0.0001, 0.05, 0.25, 0.6, 1.0):
        taken = classification.take_fraction(data, fraction, seed=3)
        chosen = set(taken.subjects["patient_id"])
        assert len(chosen) == int(np.ceil(fraction * num_patients))
        assert before <= chosen
        assert taken.subjects.height == subjects.filter(pl.col("patient_id").is_in(list(chosen))).height
        assert [f"H{token}" for token in taken.tokens] == taken.subjects["subject_id"].to_list()
        before = chosen
    assert choose_patients(pl.Series([f"P{i}" for i in range(100)]), 0.07, 1).len() == 7
    small, shuffled = classification.take_fraction(data, 0.3, 3), data.take(rng.permutation(1000))
    again = classification.take_fraction(shuffled, 0.3, 3)
    assert set(again.subjects["subject_id"]) == set(small.subjects["subject_id"]), "told by ids, not by row order"
    assert set(classification.take_fraction(data, 0.3, 4).subjects["patient_id"]) != set(small.subjects["patient_id"])


def test_a_fraction_of_one_class_is_refused(dirs, labelled):
    """What is learned from must hold both classes, whatever the whole split holds."""
    with pytest.raises(InputError, match=r"the train split has . of 1 stays with the event"):
        make_data(dirs, labelled, training_fraction=1e-6)


def test_a_classifier_of_another_outcome_is_named(dirs, model, tmp_path, caplog):
    model.save_pretrained(tmp_path / "run" / "classifier")
    for name in ("vocabulary.parquet", "quantiles.parquet"):
        (tmp_path / "run" / "classifier" / name).write_bytes((dirs[0] / name).read_bytes())
    (tmp_path / "run" / "config.yaml").write_text(f"outcome: imv_event\ntimelines_dir: {dirs[0]}\n")
    artifacts.write_done(tmp_path / "run", "02_finetune", {}, {"timelines_dir": artifacts.fingerprint(dirs[0])})
    start = {"backbone_dir": None, "classifier_dir": str(tmp_path / "run")}
    for outcome, is_named in (("imv_event", False), ("icu_admission", True)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            again = load_classifier(make_config(dirs, outcome=outcome, **start))
        assert ("was trained on imv_event" in caplog.text) == is_named
        assert torch.equal(again.score.weight, model.score.weight)
