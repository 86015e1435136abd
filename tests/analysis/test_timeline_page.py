"""timelines.html against the tables it is drawn from, without who the stays are of."""

import json
import re
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import yaml

from clinrep import artifacts
from clinrep.analysis.inputs import read_sites
from clinrep.analysis.timeline_data import read_stays
from clinrep.config import InputError
from clinrep.modality import load_stage, resolve
from tests.analysis.fake_runs import finish_again
from tests.analysis.fake_timeline_runs import CUT, OUTCOMES, TimelineSite


def run(site, out, *flags):
    quick = ["--num_bootstraps=20", "--sections=[timelines]", f"--output_dir={out}"]
    resolve("04_analyze:main")([*quick, *site.flags(), *flags])
    return out


def read(site, tmp_path, *flags):
    """Read the stays alone: nothing is fitted."""
    _, config = load_stage("04_analyze", "", [f"--output_dir={tmp_path / 'out'}", *site.flags(), *flags])
    sites = read_sites(config)
    study = SimpleNamespace(config=config, directory=tmp_path / "out", sites=sites, outcomes=list(OUTCOMES))
    return read_stays(study, sites[0])


def read_content(out):
    page = (out / "timelines.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = TimelineSite(tmp_path_factory.mktemp("site")).write()
    subjects = artifacts.read_table("subjects", site.timelines)
    ages = pl.Series("age", np.linspace(70, 96, subjects.height))
    artifacts.write_table("subjects", subjects.with_columns(ages), site.timelines)
    finish_again(site.timelines)
    return site


@pytest.fixture(scope="module")
def output(site, tmp_path_factory):
    return run(site, tmp_path_factory.mktemp("run") / "out")


def find_subject(site, stay):
    """Return the id of a shown stay by its jumps: no two places of the fake site have the same."""
    table = artifacts.read_table("trajectories", site.representations)
    jumps = np.array(stay["jumps"][1:], dtype=np.float32)
    found = [row["subject_id"] for row in table.iter_rows(named=True)
             if len(row["jumps"]) == len(jumps) and np.allclose(row["jumps"], jumps, rtol=1e-4)]  # fmt: skip
    assert len(found) == 1
    return found[0]


def test_every_token_has_its_own_hour_bits_jump_and_risk(site, output):
    content = read_content(output)
    words = dict(artifacts.read_table("vocabulary", site.timelines).select("token_id", "token").iter_rows())
    starts = dict(artifacts.read_table("subjects", site.timelines).select("subject_id", "start").iter_rows())
    information = artifacts.read_table("information", site.representations)
    checked = 0
    for stay in content["stays"]:
        subject = find_subject(site, stay)
        row = information.row(by_predicate=pl.col("subject_id") == subject, named=True)
        assert [content["tokens"][token] for token in stay["tokens"]] == [words[one] for one in row["token_ids"]]
        hours = [(time - starts[subject]) / timedelta(hours=1) for time in row["times"]]
        assert stay["hours"] == pytest.approx(hours, abs=1e-4)
        assert stay["bits"][0] is stay["jumps"][0] is None
        assert stay["bits"][1:] == pytest.approx(row["bits"], rel=1e-4)
        for outcome in OUTCOMES:
            table = artifacts.read_table("risk_over_time", site.predictions / outcome).filter(subject_id=subject)
            label = outcome.replace("_", " ").capitalize()
            shown = [risk["values"] for risk in stay["risks"] if risk["outcome"] == label]
            assert len(shown) == table.height
            for values in shown:
                assert values == pytest.approx(table["probability"][0].to_list(), rel=1e-4, abs=1e-6)
                checked += 1
    assert checked > len(content["stays"])


def test_stays_are_of_test_and_cut_as_stage_03_cut_them(site, output):
    content = read_content(output)
    of_test = artifacts.read_table("splits", site.timelines).filter(split="test")["subject_id"].to_list()
    subjects = [find_subject(site, stay) for stay in content["stays"]]
    assert len(set(subjects)) == 12
    assert set(subjects) <= set(of_test)
    assert max(len(stay["tokens"]) for stay in content["stays"]) <= CUT["max_length"]
    assert subjects != sorted(subjects)


def test_the_page_names_nobody_and_no_date(site, output):
    for page in ((output / "timelines.html").read_text(), (output / "report.html").read_text()):
        for table in ("splits",):
            frame = artifacts.read_table(table, site.timelines)
            for name in [*frame["subject_id"], *frame["patient_id"]]:
                assert name not in page
    page = (output / "timelines.html").read_text()
    assert not re.search(r"\b(19|20|21)\d\d-\d\d|\d\d:\d\d:\d\d|\b2150\b", page)


def test_ages_over_89_are_one_class(site, output):
    ages = {dict(map(tuple, stay["about"]))["Age"] for stay in read_content(output)["stays"]}
    assert "90+" in ages
    assert all(age == "90+" or int(age) <= 89 for age in ages)


def test_chosen_stays_of_any_split_and_no_id_in_the_report(site, tmp_path):
    chosen = artifacts.read_table("splits", site.timelines).filter(split="train")["subject_id"].sort()[:3].to_list()
    out = run(site, tmp_path / "out", f"--timelines.subject_ids=[{','.join(chosen)}]")
    content = read_content(out)
    assert {find_subject(site, stay) for stay in content["stays"]} == set(chosen)
    pages = (out / "timelines.html").read_text() + (out / "report.html").read_text()
    assert not any(one in pages for one in chosen)
    assert "subject_ids: [...]" in pages


def test_what_is_missing_is_left_out_with_the_command_that_makes_it(tmp_path):
    site = TimelineSite(tmp_path / "site", without=("information", "trajectories", "risk_over_time")).write()
    out = run(site, tmp_path / "out")
    content = read_content(out)
    assert all(stay["bits"] is stay["jumps"] is None and stay["risks"] == [] for stay in content["stays"])
    page = (out / "timelines.html").read_text()
    for command in ("--information true", "--trajectories true", "--risk_over_time [test]"):
        assert command in page


def test_no_page_where_none_is_asked_for(site, tmp_path):
    out = run(site, tmp_path / "out", "--timelines.num_stays=0")
    assert not (out / "timelines.html").exists()
    assert "timelines.num_stays is 0" in (out / "report.html").read_text()


def change(site, name, **columns):
    """Write a table of stage 03 with other columns."""
    splits = artifacts.SPLITS if name == "information" else ("",)
    for split in splits:
        table = artifacts.read_table(name, site.representations, split)
        artifacts.write_table(name, table.with_columns(**columns), site.representations, split)
    finish_again(site.representations)


def flip(values):
    """Return lists with their first two items exchanged."""
    return pl.concat_list(values.list.slice(0, 2).list.reverse(), values.list.slice(2))


OTHER = "(bits|jumps) of a stay|has other (times|tokens)"
REFUSED = {
    "another max_length": (lambda site: write_cut(site, max_length=20), OTHER),
    "another truncation": (lambda site: write_cut(site, truncation="keep_earliest"), OTHER),
    "a jump too few": (lambda site: change(site, "trajectories", jumps=pl.col("jumps").list.slice(1)),
                       "'jumps' is not as long as"),
    "a bit too many": (lambda site: change(site, "information", bits=pl.concat_list("bits", pl.lit(1.0, pl.Float32))),
                       "'bits' is not as long as"),
    "other tokens": (lambda site: change(site, "information", token_ids=flip(pl.col("token_ids"))), "has other tokens"),
    "other times": (lambda site: change(site, "trajectories", times=flip(pl.col("times").list.eval(
        pl.element() + pl.duration(microseconds=pl.int_range(pl.len()))))), "has other times"),
    "no settings": (lambda site: (site.representations / "config.yaml").unlink(), "does not say how stage 03 cut"),
}  # fmt: skip


def write_cut(site, **changes):
    (site.representations / "config.yaml").write_text(yaml.safe_dump(CUT | changes))


@pytest.mark.parametrize("name", REFUSED)
def test_other_tokens_are_refused_never_shifted(name, tmp_path):
    spoil, message = REFUSED[name]
    site = TimelineSite(tmp_path / "site", num_stays=40).write()
    spoil(site)
    with pytest.raises(InputError, match=message):
        read(site, tmp_path)


def test_a_risk_of_other_tokens_is_left_out_and_counted(tmp_path):
    site = TimelineSite(tmp_path / "site", num_stays=40).write()
    directory = site.predictions / OUTCOMES[0]
    table = artifacts.read_table("risk_over_time", directory)
    shorter = {name: pl.col(name).list.slice(1) for name in ("times", "probability")}
    artifacts.write_table("risk_over_time", table.with_columns(**shorter), directory)
    finish_again(directory)
    out = run(site, tmp_path / "out")
    shown = {risk["outcome"] for stay in read_content(out)["stays"] for risk in stay["risks"]}
    assert shown == {"Icu admission"}
    num = min(table.height, 12)
    assert f"{num} left out: of a model that saw other tokens" in (out / "timelines.html").read_text()


def test_an_id_without_a_timeline_is_refused_without_naming_it(site, tmp_path):
    with pytest.raises(InputError, match="1 of 1 ids have no timeline at site demo") as raised:
        read(site, tmp_path, "--timelines.subject_ids=[nobody]")
    assert "nobody" not in str(raised.value)


def test_a_site_that_is_none_is_refused(site, tmp_path):
    with pytest.raises(InputError, match=r"timelines.site is 'x' but must be a site of timelines_dir \(demo\)"):
        read(site, tmp_path, "--timelines.site=x")
