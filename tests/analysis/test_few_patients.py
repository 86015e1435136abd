"""A class of 15 stays of 6 patients: enough stays to show, too few people."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from clinrep import artifacts
from clinrep.analysis import maps
from clinrep.analysis.auroc import score_auroc
from clinrep.analysis.calibration import draw_calibration_panel
from clinrep.analysis.comparisons import _count_common_patients
from clinrep.analysis.curves import select_shown
from clinrep.analysis.risk_curves import MICROSECONDS, Followed, FollowedStays
from clinrep.analysis.risk_figure import draw_risk
from clinrep.analysis.style import LINES
from clinrep.analysis.suppression import round_counts
from tests.analysis.comparing import make_config, make_predicted
from tests.analysis.fake_runs import FakeSite, run_main
from tests.analysis.test_trajectory_models import write_trajectories

FEW, MANY = "in_hospital_death", "icu_admission"
SECTIONS = "[performance,subgroups,transfer_table,recalibration,trajectories,published,model_card]"


def few_patients(num_stays: int = 100, num_events: int = 15, num_patients: int = 6):
    """Return labels and patients of stays whose first so many have the event, of so few patients."""
    numbers = np.arange(num_stays)
    return numbers < num_events, np.where(numbers < num_events, numbers % num_patients, numbers)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A run on a site with 15 test stays of 6 patients with one outcome, as many as it takes with another."""
    site = FakeSite(tmp_path_factory.mktemp("site"), num_stays=600)
    tested = site.outcomes.filter(outcome=FEW).join(site.stays.filter(split="test"), on="subject_id")
    chosen = tested.sort("subject_id")["subject_id"][:15]
    patients = dict(zip(chosen, [f"few{number % 6}" for number in range(15)], strict=True))
    given = pl.col("subject_id").replace(patients)
    is_chosen = pl.col("subject_id").is_in(chosen.implode())
    site.stays = site.stays.with_columns(patient_id=pl.when(is_chosen).then(given).otherwise("patient_id"))
    is_few = (pl.col("outcome") == FEW) & pl.col("subject_id").is_in(tested["subject_id"].implode())
    label = pl.when(is_few).then(is_chosen).otherwise(pl.col("label").fill_null(False))  # few excluded would hide more
    site.outcomes = site.outcomes.with_columns(label=label, excluded_reason=pl.lit(None, pl.String))
    write_trajectories(site.write())
    flags = [
        "--subgroups=[sex]",
        f"--sections={SECTIONS}",
        f"--outcomes=[{FEW},{MANY}]",
        "--published_sites.mimic=demo",
    ]
    return run_main(tmp_path_factory.mktemp("run") / "out", *site.flags("demo"), *flags)


def read(out, name: str) -> pl.DataFrame:
    return pl.read_csv(out / "tables" / f"{name}.csv", infer_schema_length=None)


def test_the_class_is_planted(out):
    scores = artifacts.read_table("scores", out).filter(outcome=FEW, subgroup="all")
    assert scores["num_events"].unique().to_list() == [15]
    patients = artifacts.read_table("class_patients", out)
    assert patients.filter(outcome=FEW, subgroup="all")["num_event_patients"].item() == 6
    assert patients.filter(outcome=MANY, subgroup="all")["num_event_patients"].item() > 11


@pytest.mark.parametrize(
    "name", ["scores", "scores_by_subgroup", "transfer_classifiers", "transfer_representations", "recalibration"]
)
def test_numbers_are_rounded_and_counts_hidden_in_every_table(out, name):
    rows = read(out, name).drop_nulls("estimate")
    for column in ("estimate", "low", "high"):
        few = rows.filter(outcome=FEW)[column].drop_nulls()
        assert few.len() > 0
        assert few.equals(few.round(3))
        many = rows.filter(outcome=MANY)[column].drop_nulls()
        assert not many.equals(many.round(3))
    if "num_events" in rows.columns:
        assert rows.filter(outcome=FEW)["num_events"].null_count() == rows.filter(outcome=FEW).height
    if "note" in rows.columns:
        assert set(rows.filter(outcome=FEW)["note"]) == {"events of fewer than 11 patients"}
    assert not {"num_event_patients", "num_other_patients"} & set(rows.columns)


def test_no_regression_is_fitted_to_them(out):
    rows = read(out, "trajectory_logits")
    words = "no fit: too few patients with the event (fewer than 11)"
    assert rows.filter(outcome=FEW)["reason"].unique().to_list() == [words]
    assert rows.filter(outcome=FEW)["coefficient"].null_count() == 4
    assert rows.filter(outcome=MANY)["coefficient"].null_count() == 0
    ours = read(out, "published").filter(model="regression", quantity="max_jump")
    assert dict(ours.select("outcome", "reason").iter_rows())[FEW] == words


def test_the_model_card_gives_no_number_of_them(out):
    card = (out / "model_card.md").read_text()
    lines = [line for line in card.splitlines() if line.startswith("- **In hospital death at demo")]
    assert len(lines) > 2
    assert all("not shown: fewer than 11 test patients" in line for line in lines)
    assert "- **Icu admission at demo: Fine-tuned classifier**: AUROC 0." in card


def test_published_regressions_are_those_of_the_section(out):
    ours = read(out, "published").filter(outcome=MANY, quantity="path_length")["estimate"].item()
    assert ours == read(out, "trajectory_logits").filter(outcome=MANY, term="path_length")["coefficient"].item()


def test_curves_of_them_are_not_drawn():
    labels, patients = few_patients()
    items = make_predicted(labels, {"m": np.linspace(1, 0, 100)}, patients)
    assert select_shown(items, 5, 11) == ([], "too few patients with the event (fewer than 11)")
    assert select_shown(make_predicted(labels, {"m": np.linspace(1, 0, 100)}), 5, 11)[1] == ""
    assert select_shown(items, 5, 0)[0] == items


def test_a_bar_of_many_stays_of_few_patients_is_left_out():
    labels, patients = few_patients()
    probabilities = np.where(labels, 0.9, 0.1)
    heights = []
    for of_whom in (patients, np.arange(100)):
        panel, histogram = Figure().subplots(1, 2)
        draw_calibration_panel(panel, histogram, [(labels, probabilities, LINES[0])], of_whom, 5, 11)
        heights.append(histogram.patches[0].get_data().values)
    assert not heights[0].any()  # 85 of 100 would tell the 15
    assert sorted(heights[1][heights[1] > 0]) == [15, 85]


def test_aurocs_of_them_are_rounded_and_counts_shown_as_none():
    labels, patients = few_patients()
    scores = {"m": np.random.default_rng(1).random(100)}
    config = make_config(min_cell_count=11)
    (few,), (many,) = (score_auroc(labels, of, scores, config, 0) for of in (patients, np.arange(100)))
    assert few["estimate"] == round(many["estimate"], 3) != many["estimate"]
    counts = pl.DataFrame([few, many]).select("num_events", "num_event_patients")
    assert counts.rows() == [(15, 6), (15, 15)]
    assert round_counts(counts, {"num_events": "num_event_patients"}, 11).rows() == [(0,), (11,)]
    assert round_counts(counts, {"num_events": "num_event_patients"}, 0).rows() == [(15,), (15,)]


def test_risk_over_time_ends_where_few_patients_contribute():
    labels, patients = few_patients(40, 15)
    offsets = np.arange(0, 41)
    followed = Followed(offsets, np.zeros(40, np.int64), np.full(40, 0.5), np.full(40, MICROSECONDS))
    drawn = []
    for of_whom in (patients, np.arange(40)):
        figure = draw_risk(FollowedStays(labels, of_whom, {"m": followed}, 40), 11, 11, "admission")
        drawn.append([np.isfinite(line.get_ydata()).any() for line in figure.axes[0].lines])
        assert ("<11" in {text.get_text() for text in figure.axes[0].texts}) == (of_whom is patients)
    assert drawn == [[True, False], [True, True]]


def test_a_map_does_not_colour_them(monkeypatch):
    labels, patients = few_patients()
    stays = pl.DataFrame({"site": "a", "died": labels, "is_outlier": ~labels, "patient_id": patients})
    study = SimpleNamespace(outcomes=["died"], sites=[None], config=make_config(min_cell_count=11))
    drawn = []
    monkeypatch.setattr(maps, "_draw_panel", lambda axis, points, values, levels, words, is_two: drawn.append(words))
    for one in (stays, stays.with_columns(patient_id=pl.int_range(pl.len()))):
        maps._draw_panels(maps.Projection(np.zeros((100, 2)), ("x", "y"), ""), one, study)
    assert drawn == [["too few to colour"]] * 2 + [["without", "with"], ["inlier", "outlier"]]


def test_stays_that_two_sites_share_are_counted_as_people():
    _, patients = few_patients(15)
    stays = pl.DataFrame({"subject_id": range(15), "patient_id": patients, "split": "test", "start": 0, "end": 1})
    assert _count_common_patients(SimpleNamespace(stays=stays), SimpleNamespace(stays=stays)) == 6
