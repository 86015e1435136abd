"""Predictions over time: against loops, by hand, and joined by id whatever the order of rows."""

from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from clinrep import artifacts
from clinrep.analysis.bootstrap import draw_patient_counts, find_patients_with_event
from clinrep.analysis.config import RiskFigureConfig
from clinrep.analysis.risk_curves import (
    MICROSECONDS,
    Followed,
    FollowedStays,
    summarize_by_hours,
    summarize_by_tokens,
)
from clinrep.analysis.risk_figure import _tell, choose_stays, draw_risk
from clinrep.config import InputError
from clinrep.distributed import derive_seed
from clinrep.modality import resolve
from tests.analysis.fake_runs import EPOCH, FakeSite
from tests.analysis.test_risk import write_states

FAST = [
    "--min_cell_count=0",
    "--num_bootstraps=50",
    "--layers=[2]",
    "--poolings=[random_token]",
    "--sections=[risk_over_time]",
]
OUTCOME = "icu_admission"


def make_followed(num_stays: int = 60, seed: int = 0) -> tuple[Followed, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, num_stays)
    times = [np.sort(rng.integers(-2, 24, length)) * MICROSECONDS for length in lengths]
    offsets = np.concatenate([[0], lengths.cumsum()])
    ends = np.full(num_stays, 24 * MICROSECONDS)
    return Followed(offsets, np.concatenate(times), rng.random(offsets[-1]), ends), rng.random(num_stays) < 0.4


def test_curves_by_tokens_equal_a_loop():
    followed, labels = make_followed()
    table = summarize_by_tokens(followed, labels, np.arange(labels.size))
    num_rows = 0
    for is_event in (False, True):
        for count in range(1, 30):
            values = [
                followed.probabilities[start + count - 1]
                for start, end, label in zip(followed.offsets[:-1], followed.offsets[1:], labels, strict=True)
                if label == is_event and end - start >= count
            ]
            row = table.filter((pl.col("label") == is_event) & (pl.col("at") == count))
            if not values:
                assert row.is_empty()
                continue
            num_rows += 1
            expected = (np.mean(values), np.quantile(values, 0.025), np.quantile(values, 0.975), len(values))
            assert row.select("mean", "low", "high", "num_stays").row(0) == pytest.approx(expected)
    assert num_rows == table.height


def test_curves_by_hours_equal_a_loop():
    followed, labels = make_followed(seed=1)
    hours = np.array([0, 0.5, 3, 12, 23.75, 24, 25])
    table = summarize_by_hours(followed, labels, np.arange(labels.size), hours)
    for is_event in (False, True):
        for hour in hours:
            values = []
            for row in np.flatnonzero(labels == is_event):
                mine = slice(followed.offsets[row], followed.offsets[row + 1])
                known = followed.times[mine] <= hour * MICROSECONDS
                if known.any() and hour <= 24:
                    values.append(followed.probabilities[mine][known][-1])
            found = table.filter((pl.col("label") == is_event) & (pl.col("at") == hour))
            if hour > 24:
                assert found.is_empty()
                continue
            expected = (np.mean(values), np.quantile(values, 0.025), np.quantile(values, 0.975), len(values))
            assert found.select("mean", "low", "high", "num_stays").row(0) == pytest.approx(expected)


def test_three_rows_by_hand():
    """Before the first token nothing; at a token's own instant it; between tokens and after the last what was said."""
    hour = MICROSECONDS
    times = np.array([-3 * hour, 2 * hour, 2 * hour, 5 * hour, 6 * hour])
    followed = Followed(
        np.array([0, 3, 4, 5]), times, np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([24, 24, 7]) * hour
    )
    found = followed.at_hours(np.array([0, 2 - 1e-6, 2, 5, 6.5, 24]))
    nan = np.nan
    expected = [[0.1, 0.1, 0.3, 0.3, 0.3, 0.3], [nan, nan, nan, 0.4, 0.4, 0.4], [nan, nan, nan, nan, 0.5, nan]]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        followed.at_tokens(np.array([1, 3, 4])), [[0.1, 0.3, nan], [0.4, nan, nan], [0.5, nan, nan]]
    )
    taken = followed.take(np.array([0, 2]))
    np.testing.assert_array_equal(taken.at_hours(np.array([0.0, 6.5])), [[0.1, 0.3], [nan, 0.5]])


def write_risk(site: FakeSite, outcome: str = OUTCOME, is_urt: bool = False, without: int = 0) -> pl.DataFrame:
    """Write a classifier's risk of labelled test stays, in mixed order, that sharpens with every token."""
    rng = np.random.default_rng(3 + is_urt)
    labelled = site.outcomes.filter(outcome=outcome).drop_nulls("label").join(site.stays, on="subject_id")
    labelled = labelled.filter(split="test").sort("subject_id")[without:]
    rows = []
    for subject_id, label in labelled.select("subject_id", "label").iter_rows():
        length = int(rng.integers(3, 25))
        hours = np.sort(rng.uniform(0, 23.9, length))
        logits = np.linspace(0, 1 if label else -1, length) + rng.normal(scale=0.7, size=length)
        times = [EPOCH + timedelta(hours=float(hour)) for hour in hours]
        rows.append((subject_id, "test", times, (1 / (1 + np.exp(-logits))).tolist()))
    schema = {"subject_id": pl.String, "split": pl.String, "times": pl.List(pl.Datetime("us")),
              "probability": pl.List(pl.Float32)}  # fmt: skip
    table = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        model=pl.lit("classifier_urt" if is_urt else "classifier"), outcome=pl.lit(outcome)
    )
    directory = site.predictions / (outcome + "_urt" * is_urt)
    if is_urt:
        predictions = artifacts.read_table("predictions", site.predictions / outcome)
        artifacts.write_table("predictions", predictions, directory)
        artifacts.write_text(directory / "config.yaml", f"outcome: {outcome}\nrandom_truncation: true\n")
        artifacts.write_done(directory, "02_finetune", {}, {})
    artifacts.write_table("risk_over_time", table[rng.permutation(table.height)], directory)
    return table


def run(output, *flags):
    resolve("04_analyze:main")([*FAST, f"--output_dir={output}", *flags])
    return output


def make_site(root) -> FakeSite:
    return FakeSite(root / "site", poolings=("random_token",), num_stays=200).write()


def test_auroc_by_hours_and_tokens_equals_scikit_learn_on_the_stays_that_reach_them(tmp_path):
    site = make_site(tmp_path)
    table = write_risk(site)
    write_risk(site, is_urt=True)
    settings = ["--risk_figure.hours=[2,12]", "--risk_figure.num_tokens=[4,10]", f"--outcomes=[{OUTCOME}]"]
    out = run(tmp_path / "out", *site.flags("demo"), *settings)
    rows = table.join(site.outcomes.filter(outcome=OUTCOME), on="subject_id")
    found = pl.read_csv(out / "tables" / "risk_auroc_by_tokens.csv").filter(model="Fine-tuned", at=10)
    other = pl.read_csv(out / "tables" / "risk_auroc_by_tokens.csv").filter(model="Fine-tuned, URT", at=10)
    assert found["num_subjects"].item() == other["num_subjects"].item() < rows.filter(
        pl.col("probability").list.len() >= 10).height  # fmt: skip
    by_hours = pl.read_csv(out / "tables" / "risk_auroc_by_hours.csv")
    assert by_hours["model"].unique(maintain_order=True).to_list() == ["Fine-tuned", "Fine-tuned, URT"]
    alone = FakeSite(tmp_path / "alone", poolings=("random_token",), num_stays=200).write()
    write_risk(alone)
    out = run(tmp_path / "out_alone", *alone.flags("demo"), *settings)
    for hour in (2, 12):
        labels, risks = [], []
        for times, probability, label in rows.select("times", "probability", "label").iter_rows():
            known = [
                risk for time, risk in zip(times, probability, strict=True) if time <= EPOCH + timedelta(hours=hour)
            ]
            if known:
                labels.append(label)
                risks.append(known[-1])
        row = pl.read_csv(out / "tables" / "risk_auroc_by_hours.csv").filter(at=hour).row(0, named=True)
        assert (row["num_subjects"], row["num_events"]) == (len(labels), sum(labels))
        assert row["estimate"] == pytest.approx(roc_auc_score(labels, risks))
        assert row["low"] < row["estimate"] < row["high"]
    long = rows.filter(pl.col("probability").list.len() >= 10)
    row = pl.read_csv(out / "tables" / "risk_auroc_by_tokens.csv").filter(at=10).row(0, named=True)
    assert row["estimate"] == pytest.approx(roc_auc_score(long["label"], long["probability"].list.get(9)))


def test_figure_has_every_model_and_the_probe_and_row_order_changes_nothing(tmp_path):
    files = []
    for shuffle in (0, 1):
        site = FakeSite(tmp_path / f"site{shuffle}", shuffle=shuffle, poolings=("random_token",)).write()
        write_risk(site)
        write_risk(site, is_urt=True)
        write_states(site, num_stays=60)
        out = run(tmp_path / f"out{shuffle}", *site.flags("demo"), "--risk_over_time=true", f"--outcomes=[{OUTCOME}]")
        files.append((out / "figures" / f"risk_over_time_demo_{OUTCOME}.png").read_bytes())
        models = pl.read_csv(out / "tables" / "risk_auroc_by_hours.csv")["model"].unique(maintain_order=True).to_list()
        assert models == ["Fine-tuned", "Fine-tuned, URT", "Logistic regression, URT"]
        assert "No risk over time" not in (out / "report.html").read_text()
    assert files[0] == files[1]


def test_missing_stays_are_refused_with_their_number(tmp_path):
    site = make_site(tmp_path)
    table = write_risk(site, without=2)
    with pytest.raises(InputError, match=rf"2 of {table.height + 2} stays of the labelled test stays .* missing"):
        run(tmp_path / "out", *site.flags("demo"))


def test_without_tables_the_section_names_the_commands(tmp_path):
    out = run(tmp_path / "out", *make_site(tmp_path).flags("demo"))
    page = (out / "report.html").read_text()
    assert "02_finetune.py --risk_over_time" in page
    assert "03_extract_reps.py --hidden_states true" in page
    assert not (out / "figures").exists()


def test_curves_of_few_stays_are_not_drawn(tmp_path):
    site = make_site(tmp_path)
    write_risk(site)
    out = run(tmp_path / "out", *site.flags("demo"), "--risk_figure.min_stays=60")
    assert "is not drawn: fewer than 60 stays" in (out / "report.html").read_text()


def test_stays_to_draw_are_so_many_of_each_group_and_the_same_for_a_seed():
    labels = np.arange(50) % 5 == 0
    config = SimpleNamespace(risk_figure=RiskFigureConfig(num_with_event=4, num_without_event=100))
    rows = choose_stays(labels, config, 1)
    assert (np.diff(rows) > 0).all()
    assert labels[rows].sum() == 4
    assert (~labels[rows]).sum() == 40
    assert (rows == choose_stays(labels, config, 1)).all()
    assert set(rows[labels[rows]]) != set(choose_stays(labels, config, 2)) & set(np.flatnonzero(labels))


def test_first_event_as_origin_shifts_the_hours(tmp_path):
    site = make_site(tmp_path)
    table = write_risk(site)
    out = run(tmp_path / "out", *site.flags("demo"), f"--outcomes=[{OUTCOME}]", "--risk_figure.hours=[1]",
              "--risk_figure.origin=first_event")  # fmt: skip
    assert pl.read_csv(out / "tables" / "risk_auroc_by_hours.csv")["num_subjects"].item() == table.height
    away = run(tmp_path / "away", *site.flags("demo"), f"--outcomes=[{OUTCOME}]", "--risk_figure.hours=[1]")
    known = table.filter(pl.col("times").list.min() <= EPOCH + timedelta(hours=1)).height
    assert pl.read_csv(away / "tables" / "risk_auroc_by_hours.csv")["num_subjects"].item() == known < table.height


def test_intervals_are_those_of_a_loop_over_replicates_which_points_of_the_same_stays_share(tmp_path):
    site = make_site(tmp_path)
    rows = write_risk(site).join(site.outcomes.filter(outcome=OUTCOME), on="subject_id")
    rows = rows.join(site.stays.select("subject_id", "patient_id"), on="subject_id").sort("subject_id")
    settings = ["--risk_figure.hours=[4,22,24]", "--risk_figure.num_tokens=[1,12]", f"--outcomes=[{OUTCOME}]"]
    out = run(tmp_path / "out", *site.flags("demo"), *settings)
    tables = {axis: pl.read_csv(out / "tables" / f"risk_auroc_by_{axis}.csv") for axis in ("hours", "tokens")}
    # all stays have a token, and one by hour 22: hours 22 and 24 share the replicates of the first of them
    for axis, at, seed_of in (("hours", 4, "hours/4"), ("hours", 22, "hours/22"), ("hours", 24, "hours/22"),
                              ("tokens", 1, "hours/22"), ("tokens", 12, "num_tokens/12")):  # fmt: skip
        said = [
            risks[sum(one <= EPOCH + timedelta(hours=at) for one in times) - 1 if axis == "hours" else at - 1]
            for times, risks in rows.select("times", "probability").iter_rows()
            if (times[0] <= EPOCH + timedelta(hours=at) if axis == "hours" else len(times) >= at)
        ]
        is_reached = (pl.col("times").list.first() <= EPOCH + timedelta(hours=at) if axis == "hours"
                      else pl.col("times").list.len() >= at)  # fmt: skip
        reached = rows.filter(is_reached)
        labels = reached["label"].to_numpy()
        patients = np.unique(reached["patient_id"].to_numpy(), return_inverse=True)[1]
        seed = derive_seed(42, f"risk_over_time/demo/{OUTCOME}/{seed_of}")
        (counts,) = draw_patient_counts(find_patients_with_event(labels, patients), 50, seed, chunk_rows=50)
        values = [roc_auc_score(labels, said, sample_weight=count[patients]) for count in counts]
        row = tables[axis].filter(at=at).row(0, named=True)
        assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), rel=1e-9)
        assert row["estimate"] == pytest.approx(roc_auc_score(labels, said))


def test_aurocs_beside_rounded_counts_have_too_few_digits_to_tell_them(tmp_path):
    site = FakeSite(tmp_path / "site", poolings=("random_token",), num_stays=500).write()
    write_risk(site)
    settings = ["--risk_figure.hours=[4,12]", "--risk_figure.num_tokens=[4]", f"--outcomes=[{OUTCOME}]"]
    whole = run(tmp_path / "whole", *site.flags("demo"), *settings)
    out = run(tmp_path / "out", *site.flags("demo"), *settings, "--min_cell_count=11")
    for axis in ("hours", "tokens"):
        exact, told = (pl.read_csv(one / "tables" / f"risk_auroc_by_{axis}.csv") for one in (whole, out))
        for name in ("estimate", "low", "high"):
            assert told[name].null_count() == 0
            assert not exact[name].equals(exact[name].round(3))
            assert told[name].equals(told[name].round(3))
        assert (told["num_subjects"] % 11 == 0).all()


def test_counts_below_the_axes_are_rounded_as_in_the_tables():
    followed, labels = make_followed(num_stays=220, seed=3)
    stays = FollowedStays(labels, np.arange(labels.size), {"m": followed}, labels.size)
    words = [
        {text.get_text() for panel in draw_risk(stays, 11, least, "admission").axes for text in panel.texts}
        for least in (0, 11)
    ]
    exact, told = ([int(word) for word in some if word.isdigit()] for some in words)
    assert any(count % 11 for count in exact)
    assert told
    assert not any(count % 11 for count in told)


def test_how_many_stays_are_followed_does_not_tell_how_few_are_not():
    patients = np.arange(498)
    assert _tell(patients, 11, is_whole=False) == "at least 495"
    assert _tell(patients, 11, is_whole=True) == _tell(patients, 0, is_whole=False) == "498"
    assert _tell(np.zeros(498, int), 11, is_whole=True) == "fewer than 11"
