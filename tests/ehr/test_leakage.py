"""The leakage audit: every planted leak is found, and a clean run is silent."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr.compatibility import check_model_fits
from clinrep.ehr.leakage import __main__ as command
from clinrep.ehr.leakage import statistics
from clinrep.ehr.leakage.audit import audit_outputs, audit_site, audit_sites
from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.leakage.findings import Finding, make_table
from clinrep.ehr.leakage.input_counts import MAX_COUNT, InputCounts, count_inputs
from clinrep.ehr.leakage.outputs import check_outputs
from clinrep.ehr.leakage.relearn import check_by_learning_anew
from clinrep.ehr.leakage.single_tokens import compute_aurocs
from clinrep.ehr.leakage.timing import check_sources
from clinrep.ehr.simulate import __main__ as simulator
from clinrep.run import RunError

ROOT = Path(__file__).parents[2]
Leaks = set[tuple[str, str]]


@pytest.fixture(scope="module")
def clif_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hospital") / "clif"
    simulator.main(["--num_stays", "400", "--seed", "3", "--output_dir", str(directory)])
    return directory


def run_stage_00(clif_dir: Path, directory: Path, *flags: str) -> Path:
    config = str(ROOT / "configs" / "ehr" / "00_tokenize.yaml")
    stage = importlib.import_module("00_tokenize")
    stage.main(["--config", config, "--clif_dir", str(clif_dir), "--output_dir", str(directory), "--seed", "1", *flags])
    return directory


@pytest.fixture(scope="module")
def clean(clif_dir: Path) -> Path:
    return run_stage_00(clif_dir, clif_dir.parent / "clean")


@pytest.fixture
def site(clean: Path, tmp_path: Path) -> Path:
    """A copy of a clean stage-00 directory, to plant a leak in."""
    return Path(shutil.copytree(clean, tmp_path / "site"))


def change(site: Path, name: str, edit: Callable[[pl.DataFrame], pl.DataFrame], split: str = "") -> None:
    """Rewrite a table; of several parts, all."""
    for path in artifacts.find_parts(name, site, split):
        edit(pl.read_parquet(path)).write_parquet(path)


def swap_splits(site: Path) -> None:
    """Make train what was test, and the other way round."""
    swap = {"train": "test", "test": "train", "val": "val"}
    change(site, "splits", lambda rows: rows.with_columns(pl.col("split").replace(swap)))


def change_settings(site: Path, edit: Callable[[dict], None]) -> None:
    settings = yaml.safe_load((site / "config.yaml").read_text())
    edit(settings)
    (site / "config.yaml").write_text(yaml.safe_dump(settings))


def audit(site: Path, source_dir: Path | None = None) -> Leaks:
    found, _ = audit_site(site, None if source_dir is None else str(source_dir))
    return {(finding.severity, finding.check) for finding in found}


def token_id(site: Path, token: str) -> int:
    return int(pl.read_parquet(site / "vocabulary.parquet").filter(pl.col("token") == token)["token_id"][0])


def insert_token(rows: pl.DataFrame, token: int, chosen: pl.Series, num_before: int = 1) -> pl.DataFrame:
    """Return timelines with `token` after so many others, at the time of the first, in the chosen stays."""

    def put(column: str, value: pl.Expr) -> pl.Expr:
        longer = pl.concat_list(pl.col(column).list.head(num_before), value, pl.col(column).list.slice(num_before))
        return (
            pl.when(pl.col("subject_id").is_in(chosen.implode())).then(longer).otherwise(pl.col(column)).alias(column)
        )

    return rows.with_columns(put("token_ids", pl.lit(token, pl.UInt32)), put("times", pl.col("times").list.first()))


def find_labelled(site: Path, outcome: str, label: bool | None = None) -> pl.Series:
    rows = pl.read_parquet(site / "outcomes.parquet").filter(
        (pl.col("outcome") == outcome) & ~pl.col("label").is_null()
    )
    return rows.filter(True if label is None else pl.col("label") == label)["subject_id"]


def test_a_clean_run_is_silent(clean: Path) -> None:
    assert audit(clean) == set()
    assert pl.read_csv(clean / "leakage.csv").height == 0
    tokens = pl.read_csv(clean / "leakage_tokens.csv")
    assert tokens.height > 100
    assert tokens["num_patients"].min() >= 11


def test_counts_equal_those_of_a_loop_over_stays(clean: Path) -> None:
    site = Tokenized(clean)
    counts = count_inputs(site)
    outcome = counts.outcomes.index("long_length_of_stay")
    histogram = np.zeros_like(counts.histogram[outcome])
    labels = {row["subject_id"]: row for row in site.outcomes.filter(outcome="long_length_of_stay").to_dicts()}
    for _, path in site.find_timelines():
        for stay in pl.read_parquet(path).to_dicts():
            row = labels[stay["subject_id"]]
            if row["label"] is None:
                continue
            num_static = len(site.settings["static_tokens"])
            seen = [
                token
                for place, (token, time) in enumerate(zip(stay["token_ids"], stay["times"], strict=True))
                if place < num_static or time < row["index_time"]
            ]
            for token in set(seen):
                histogram[token, min(seen.count(token), MAX_COUNT), int(row["label"])] += 1
    assert np.array_equal(histogram, counts.histogram[outcome])


def test_aurocs_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    occurrences, label = rng.poisson(1.0, (3, 200)), rng.random(200) < 0.3
    histogram = np.zeros((1, 3, MAX_COUNT + 1, 2), dtype=np.int32)
    for token in range(3):
        for number, is_event in zip(occurrences[token], label, strict=True):
            histogram[0, token, number, int(is_event)] += number > 0
    none = np.zeros((1, 3), dtype=np.int64)
    num = np.array([[(~label).sum(), label.sum()]])
    counts = InputCounts(["one"], num, histogram, np.zeros((1, 3, 2)), none, none, none, none, none)
    expected = [roc_auc_score(label, occurrences[token]) for token in range(3)]
    assert compute_aurocs(counts)[0] == pytest.approx(expected, abs=1e-12)


def test_an_event_before_index_time_with_a_label_is_found(site: Path) -> None:
    early = pl.col("index_time") - timedelta(hours=20)
    is_one = (pl.col("outcome") == "icu_admission") & pl.col("label").fill_null(False)
    change(
        site, "outcomes", lambda rows: rows.with_columns(event_time=pl.when(is_one).then(early).otherwise("event_time"))
    )
    assert audit(site) == {("certain", "event before index_time"), ("certain", "at or after the event")}


def test_a_token_of_the_event_itself_is_found(site: Path) -> None:
    one = find_labelled(site, "icu_admission").head(1)
    split = pl.read_parquet(site / "splits.parquet").filter(subject_id=one[0])["split"][0]
    change(site, "timelines", lambda rows: insert_token(rows, token_id(site, "ADT_icu"), one), split)
    assert ("certain", "the event itself") in audit(site)


def test_a_token_of_the_discharge_is_found(site: Path) -> None:
    def pull(rows: pl.DataFrame) -> pl.DataFrame:  # all times of a stay at its admission
        first = pl.col("times").list.first()
        return rows.with_columns(times=first.repeat_by(pl.col("times").list.len()))

    change(site, "timelines", pull, "test")
    assert ("certain", "of the discharge") in audit(site)
    make_bare(site)  # the place tells, whatever sources may write
    assert ("certain", "of the discharge") in audit(site)


def make_bare(site: Path) -> None:
    """Let a source write any word, as the manuscript's edition does."""
    change_settings(site, lambda settings: settings["sources"][0].update(token="{category}"))


@pytest.mark.parametrize("outcome", ["long_length_of_stay", "hospice_discharge"])
def test_a_word_of_the_discharge_among_the_events_is_doubtful_where_a_source_can_write_it(
    site: Path, outcome: str
) -> None:
    test = pl.read_parquet(site / "splits.parquet").filter(split="test")["subject_id"]
    labelled = find_labelled(site, outcome)
    one = labelled.filter(labelled.is_in(test.implode())).head(1)
    words = pl.read_parquet(site / "vocabulary.parquet").filter(kind="discharge")["token"]
    hospice = next(word for word in words if "hospice" in word.lower())
    num_static = len(Tokenized(site).settings["static_tokens"])
    change(site, "timelines", lambda rows: insert_token(rows, token_id(site, hospice), one, num_static), "test")
    assert ("certain", "of the discharge") in audit(site)
    make_bare(site)
    assert audit(site) == {("doubtful", "of the discharge")}


def test_an_input_longer_than_the_window_is_found(site: Path) -> None:
    change(site, "outcomes", lambda rows: rows.with_columns(index_time=pl.col("index_time") + timedelta(minutes=1)))
    assert ("certain", "window") in audit(site)


@pytest.mark.parametrize(("share", "is_found"), [(1.0, True), (0.5, True), (0.0, False)])
def test_a_token_that_predicts_an_outcome_nearly_perfectly_is_named(site: Path, share: float, is_found: bool) -> None:
    outcome = "long_length_of_stay"
    long = find_labelled(site, outcome, True)
    told = long.head(int(share * len(long)))
    events = ~pl.col("kind").is_in(["special", "bin", "static", "discharge", "time"])
    rare = pl.read_parquet(site / "vocabulary.parquet").filter(events).sort("train_count", "token")["token"][0]
    change(site, "timelines", lambda rows: insert_token(rows, token_id(site, rare), told))
    found, _ = audit_site(site, None)
    named = [finding for finding in found if finding.check == "telling token"]
    assert [finding.token for finding in named if finding.outcome == outcome] == [rare] * is_found
    assert all(finding.severity == "doubtful" for finding in named)


def test_settings_that_place_values_before_they_were_known_are_found() -> None:
    settings = {
        "static_tokens": [{"token": "SEX_{category}", "column": "sex_category"}, {"token": "START", "column": None}],
        "sources": [{"name": "labs", "table": "labs", "token": "LAB_{category}", "time_column": "lab_result_dttm"}],
    }
    assert check_sources(settings) == []
    settings["static_tokens"].append({"token": "END_{category}", "column": "discharge_category"})
    settings["sources"][0]["time_column"] = "lab_collect_dttm"
    settings["sources"].append({"name": "d", "table": "hospital_diagnosis", "token": "D", "time_column": "some_dttm"})
    assert [(one.severity, one.check) for one in check_sources(settings)] == [
        ("certain", "of the discharge"),
        ("doubtful", "known later"),
        ("doubtful", "known later"),
    ]


def test_a_patient_in_two_splits_is_found(site: Path) -> None:
    several = pl.read_parquet(site / "splits.parquet").filter(pl.len().over("patient_id") > 1)
    one = several["subject_id"][0]
    other = "test" if several["split"][0] != "test" else "train"
    is_one = pl.col("subject_id") == one
    change(site, "splits", lambda rows: rows.with_columns(split=pl.when(is_one).then(pl.lit(other)).otherwise("split")))
    assert {("certain", "patient in two splits")} <= audit(site)


def test_a_timeline_in_the_folder_of_another_split_is_found(site: Path) -> None:
    shutil.copy(site / "timelines/test/part-00000.parquet", site / "timelines/val/part-00000.parquet")
    assert ("certain", "timeline in the wrong split") in audit(site)


def test_stays_that_the_source_trained_on_are_found(site: Path, clean: Path) -> None:
    assert audit(clean, source_dir=site) == set()  # the same hospital with the same splits: nothing was trained on
    swap_splits(site)
    assert audit(clean, source_dir=site) == {("certain", "trained on at the source")}
    found, _ = audit_site(clean, str(site))
    kept = pl.read_parquet(clean / "subjects.parquet")["subject_id"]
    splits = pl.read_parquet(clean / "splits.parquet").filter(pl.col("subject_id").is_in(kept.implode()))
    assert next(one.num_subjects for one in found) == splits.filter(split="test").height  # all of theirs is our train
    later = [pl.col(name) + timedelta(days=1000) for name in ("start", "end")]
    change(site, "subjects", lambda rows: rows.with_columns(later))  # another hospital with the same ids
    assert audit(clean, source_dir=site) == {("doubtful", "trained on at the source")}
    change(site, "subjects", lambda rows: rows.with_columns(pl.col("patient_id") + "x", pl.col("subject_id") + "x"))
    change(site, "splits", lambda rows: rows.with_columns(pl.col("patient_id") + "x", pl.col("subject_id") + "x"))
    assert audit(clean, source_dir=site) == set()
    earlier = [pl.col(name) - timedelta(days=1000) for name in ("start", "end")]
    change(site, "subjects", lambda rows: rows.with_columns(earlier))  # the same stays under other ids
    assert audit(clean, source_dir=site) == {("doubtful", "trained on at the source")}


def test_counts_of_more_than_train_are_found(site: Path) -> None:
    change(site, "vocabulary", lambda rows: rows.with_columns(pl.col("train_count") + (pl.col("token_id") == 9)))
    assert audit(site) == {("certain", statistics.CHECK)}


def test_a_tokenizer_learned_on_every_stay_is_found(
    clif_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clinrep.ehr import tokenize

    monkeypatch.setattr(tokenize, "_require_train", lambda cohort, source: np.ones(cohort.height, dtype=bool))
    with pytest.raises(RunError, match="learned from more than train"):
        run_stage_00(clif_dir, tmp_path / "leaky")
    assert not (tmp_path / "leaky" / "DONE").exists()
    table = pl.read_csv(tmp_path / "leaky" / "leakage.csv")
    assert set(table["severity"]) == {"certain"}


@pytest.mark.parametrize("is_leaky", [False, True])
def test_edges_of_other_values_than_trains_are_found(site: Path, is_leaky: bool) -> None:
    rng = np.random.default_rng(5)
    train, other = rng.normal(0, 1, 1000), rng.normal(0, 1, 400)
    edges = np.quantile(np.concatenate([train, other]) if is_leaky else train, np.arange(0.1, 1, 0.1)[:9])
    bins = np.bincount(np.digitize(train, edges), minlength=10)
    one = {"category": ["LAB_x"], "unit": [None], "train_count": [1000], "edges": [edges.tolist()]}
    change(site, "quantiles", lambda rows: pl.DataFrame(one, schema=rows.schema))
    row = {"source": "labs", "category": "LAB_x", "num_events": 1000, "num_missing": 0, "bin_counts": bins.tolist()}
    change(site, "categories", lambda rows: pl.concat([rows, pl.DataFrame([row], schema=rows.schema)]))
    assert [one.check for one in statistics._check_edges(Tokenized(site))] == [statistics.CHECK] * is_leaky


def test_a_frozen_tokenizer_that_is_not_the_sources_is_found(clif_dir: Path, site: Path, tmp_path: Path) -> None:
    applied = run_stage_00(clif_dir, tmp_path / "applied", "--tokenizer_dir", str(site))
    assert audit(applied, source_dir=site) == set()
    change(applied, "quantiles", lambda rows: rows.with_columns(pl.col("edges").list.eval(pl.element() + 1)))
    assert audit(applied, source_dir=site) == {("certain", statistics.CHECK)}
    shutil.rmtree(site)
    assert audit(applied) == {("doubtful", statistics.CHECK)}


def test_stage_04_tells_what_stage_00_found_and_refuses_test_stays_of_the_training_site(
    clean: Path, site: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Finding("doubtful", "telling token", "as 00 says", "imv_event", "RESP_x", 14, 11)
    few = Finding("doubtful", "telling token", "as 00 says", "imv_event", "RESP_y", 13, 10)  # 13 stays of 10 patients
    (site / "leakage.csv").write_text(make_table([told, few]).write_csv())
    config = SimpleNamespace(timelines_dir={"one": str(clean), "two": str(site)}, train_site="one", min_cell_count=11)
    run = SimpleNamespace(directory=tmp_path)
    table = audit_sites(run, config)
    assert table.select("site", "token", "num_subjects").rows() == [("two", "RESP_x", 14), ("two", "RESP_y", None)]
    assert "as 00 says" not in (tmp_path / "leakage.csv").read_text()
    swap_splits(site)
    with pytest.raises(RunError, match="trained on at the source"):
        audit_sites(run, config)
    (site / "leakage.csv").unlink()
    shutil.copy(clean / "splits.parquet", site)
    assert audit_sites(run, config)["check"].to_list() == ["not audited"]
    (site / "leakage.csv").write_text("severity,check\ndoubtful,window\n")  # of an older version
    assert audit_sites(run, config)["check"].to_list() == ["not audited"]
    assert "not as stage 00 writes it today; audit it by python -m clinrep.ehr.leakage" in caplog.text


def test_a_finding_that_both_stages_make_is_told_once(site: Path, clean: Path, tmp_path: Path) -> None:
    swap_splits(site)
    for one, other in (("train", "spare"), ("test", "train"), ("spare", "test")):
        (site / "timelines" / one).rename(site / "timelines" / other)
    later = [pl.col(name) + timedelta(days=1000) for name in ("start", "end")]
    change(site, "subjects", lambda rows: rows.with_columns(later))  # another hospital with the same ids
    found, _ = audit_site(clean, str(site))
    assert [one.severity for one in found] == ["doubtful"]
    shutil.copytree(clean, tmp_path / "second")
    (tmp_path / "second" / "leakage.csv").write_text(make_table(found).write_csv())
    config = SimpleNamespace(
        timelines_dir={"one": str(site), "two": str(tmp_path / "second")}, train_site="one", min_cell_count=11
    )
    assert audit_sites(SimpleNamespace(directory=tmp_path), config)["site"].to_list().count("two") == 1


@pytest.mark.parametrize(("share", "is_certain"), [(0.02, False), (0.9, True)])
def test_stays_and_patients_of_the_same_ids_are_certain_only_where_most_stays_of_an_id_agree(
    site: Path, clean: Path, share: float, is_certain: bool
) -> None:
    swap_splits(site)
    splits = pl.read_parquet(site / "splits.parquet")
    is_agreeing = pl.int_range(pl.len()).over("split") < share * pl.len().over("split")
    agree = splits.filter(is_agreeing)["subject_id"].implode()
    later = [
        pl.when(pl.col("subject_id").is_in(agree)).then(name).otherwise(pl.col(name) + timedelta(days=1)).alias(name)
        for name in ("start", "end")
    ]
    change(site, "subjects", lambda rows: rows.with_columns(later))
    found, _ = audit_site(clean, str(site))
    assert [one.severity for one in found] == 2 * ["certain" if is_certain else "doubtful"]
    assert ("are in train" if is_certain else "have the ids, start and end of some in train") in found[0].detail
    assert "have the patient_id of others in train" in found[1].detail


def test_settings_that_lack_what_the_audit_needs_are_refused(site: Path) -> None:
    change_settings(site, lambda settings: settings.pop("discharge_tokens"))
    with pytest.raises(InputError, match=r"config\.yaml: discharge_tokens is missing"):
        audit_site(site, None)


def test_learning_anew_from_train_patients_gives_the_same_tokenizer(site: Path) -> None:
    assert check_by_learning_anew(Tokenized(site), None) == []
    change(site, "quantiles", lambda rows: rows.with_columns(pl.col("edges").list.eval(pl.element() * 1.0001)))
    assert [one.severity for one in check_by_learning_anew(Tokenized(site), None)] == ["certain"]


def test_predictions_with_another_split_or_label_are_found(clean: Path, tmp_path: Path) -> None:
    site = Tokenized(clean)
    rows = site.outcomes.filter(outcome="in_hospital_death").drop_nulls("label").join(site.splits, on="subject_id")
    rows = rows.select("subject_id", "split", "outcome", "label", probability=pl.lit(0.5, pl.Float32))
    artifacts.write_table("predictions", rows, tmp_path)
    assert check_outputs(tmp_path, site) == []
    is_first = pl.int_range(pl.len()) == 0
    for column, other in (("split", pl.lit("none")), ("label", ~pl.col("label"))):
        wrong = rows.with_columns(pl.when(is_first).then(other).otherwise(column).alias(column))
        artifacts.write_table("predictions", wrong, tmp_path)
        assert [(one.severity, one.num_subjects) for one in check_outputs(tmp_path, site)] == [("certain", 1)]


def test_a_training_run_ends_with_an_error_where_a_patient_is_in_two_splits(site: Path, tmp_path: Path) -> None:
    run = SimpleNamespace(directory=tmp_path, is_stopped=False, is_main=True)
    config = SimpleNamespace(timelines_dir=str(site))
    audit_outputs(run, config)
    assert pl.read_csv(tmp_path / "leakage.csv").height == 0
    several = pl.read_parquet(site / "splits.parquet").filter(pl.len().over("patient_id") > 1)
    is_one = pl.col("subject_id") == several["subject_id"][0]
    other = "test" if several["split"][0] != "test" else "train"
    change(site, "splits", lambda rows: rows.with_columns(split=pl.when(is_one).then(pl.lit(other)).otherwise("split")))
    with pytest.raises(RunError, match="patient in two splits"):
        audit_outputs(run, config)


def test_the_command_ends_with_1_on_a_certain_leak(site: Path, clean: Path, tmp_path: Path, capsys) -> None:
    command.main(["--timelines_dir", str(clean), "--output_dir", str(tmp_path / "a")])
    assert "no certain leak; 0 doubtful" in capsys.readouterr().out
    shutil.copy(site / "timelines/test/part-00000.parquet", site / "timelines/val/part-00000.parquet")
    with pytest.raises(RunError, match="timeline in the wrong split"):
        command.main(["--timelines_dir", str(site), "--output_dir", str(tmp_path / "b")])
    assert pl.read_csv(tmp_path / "b" / "leakage.csv")["severity"].to_list() == ["certain"] * 2


def test_a_model_trained_on_the_test_stays_is_refused_at_the_start(site: Path, clean: Path, tmp_path: Path) -> None:
    """Also where not the model itself but the one that it began from was."""
    swap_splits(site)
    artifacts.write_done(site, "00_tokenize", {}, {})
    for name, timelines_dir, more in (
        ("first", site, {}),
        ("second", clean, {"backbone_dir": str(tmp_path / "first")}),
    ):
        folder = tmp_path / name / "backbone"
        folder.mkdir(parents=True)
        for table in ("vocabulary", "quantiles"):
            shutil.copy(clean / f"{table}.parquet", folder)
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump({"timelines_dir": str(timelines_dir), **more}))
        inputs = {"timelines_dir": artifacts.fingerprint(timelines_dir)}
        artifacts.write_done(tmp_path / name, "01_pretrain", {}, inputs)
    check_model_fits(tmp_path / "first" / "backbone", site)  # its own timelines
    for name in ("first", "second"):
        with pytest.raises(InputError, match=r"which the model learned from.*--splits_path"):
            check_model_fits(tmp_path / name / "backbone", clean)


def test_the_command_is_not_done_where_a_run_that_it_looked_at_is_another_now(clean: Path, tmp_path: Path) -> None:
    run = tmp_path / "02"
    artifacts.write_text(run / "metrics.jsonl", "")
    artifacts.write_done(run, "02_finetune", {}, {})
    words = ["--timelines_dir", str(clean), "--results_dir.one", str(run), "--output_dir", str(tmp_path / "a")]
    command.main(words)
    with pytest.raises(SystemExit):
        command.main(words)  # done
    site = Tokenized(clean)
    rows = site.outcomes.filter(outcome="in_hospital_death").drop_nulls("label").join(site.splits, on="subject_id")
    rows = rows.select("subject_id", "split", "outcome", ~pl.col("label"), probability=pl.lit(0.5, pl.Float32))
    artifacts.write_table("predictions", rows, run)
    artifacts.write_done(run, "02_finetune", {}, {})
    with pytest.raises(InputError, match=r"the content of results_dir\.one has changed"):
        command.main(words)
