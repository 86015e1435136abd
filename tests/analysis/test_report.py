"""The report page: nothing may run or load but what is in it, repeated keys are whole, figures fit."""

import base64
import hashlib
import io
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinrep.analysis import images, report
from clinrep.analysis.images import embed_image, embed_images
from clinrep.analysis.page import embed_json, render_page
from clinrep.analysis.performance import FEW_EVENTS_COVERAGE
from tests.analysis.fake_runs import FakeSite, run_main


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    site = FakeSite(tmp_path_factory.mktemp("site")).write()
    out = run_main(tmp_path_factory.mktemp("run") / "out", *site.flags("demo"), "--min_cell_count=0")
    return (out / "report.html").read_text()


def test_policy_lets_run_the_page_s_own_styles_and_script_and_nothing_else(page):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for name, kind in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}';" in policy
    assert not re.search(r"<[^>]+\s(style|on\w+)=", page), "the policy would block it"


def test_every_row_holds_its_keys(page):
    table = re.search(r'<table class="sortable" id="table-scores".*?</table>', page, re.DOTALL)[0]
    rows = re.findall(r"<tr[^>]*>(<td.*?)</tr>", table)
    first = [re.search(r"<span>(.*?)</span>", row)[1] for row in rows]
    assert set(first) == {"Icu admission", "Imv event", "In hospital death"}
    assert len(rows) > len(set(first))
    assert sum("again" in row.split("</td>")[0] for row in rows) == len(rows) - 3


def test_each_table_says_its_command_and_its_inputs_alone(page):
    of_cohort, of_scores = (
        re.search(rf'id="table-{name}".*?<details class="source">(.*?)</details>', page, re.DOTALL)[1]
        for name in ("cohort", "scores")
    )
    assert "--sections &#34;[cohort]&#34;" in of_cohort or '--sections "[cohort]"' in of_cohort
    assert "timelines_dir.demo" in of_cohort
    assert "predictions_dir" not in of_cohort
    assert "predictions_dir.demo" in of_scores


def test_the_score_table_says_what_its_intervals_are_worth_as_the_docs_do(page):
    """Both from `benchmarks/coverage.py`."""
    docs = (Path(__file__).parents[2] / "docs" / "comparisons.md").read_text()
    rows = [[float(cell) for cell in row] for row in re.findall(r"\| ([124]0) \| (0\.\d+) \| (0\.\d+) \|", docs)]
    assert [row[0] for row in rows] == [10, 20, 40]
    held, above = ([f"{100 * row[column]:.0f}" for row in rows] for column in (1, 2))
    assert f"in {held[0]}, {held[1]} and {held[2]} % of samples" in FEW_EVENTS_COVERAGE
    assert f"in {above[0]}, {above[1]} and {above[2]} %." in FEW_EVENTS_COVERAGE
    assert FEW_EVENTS_COVERAGE in page
    assert "begins at 0 unless the ECE exceeds" in page


def test_ids_of_stays_are_in_neither_the_command_nor_the_settings(tmp_path):
    command = "04_analyze.py --timelines.subject_ids '[s1, s2]' --timelines.subject_ids=[s3] --seed 4"
    assert (
        report.hide_ids(command) == "04_analyze.py --timelines.subject_ids [...] --timelines.subject_ids=[...] --seed 4"
    )
    for given in (
        ["--timelines.subject_ids", "['s1', 's2']", "--seed", "4"],
        ["--timelines.subject_ids+=s1", "--timelines.subject_ids+", "s2", "--seed", "4"],
        ["--timelines", '{"subject_ids": ["s1"]}', "--seed", "4"],
    ):
        shown = report.hide_ids(" ".join(report.hide_arguments(["04_analyze.py", *given])))
        assert "s1" not in shown
        assert "s2" not in shown
        assert shown.endswith("--seed 4")
    settings = "timelines:\n  num_stays: 3\n  subject_ids:\n  - s1\n  - s2\n  site: null\nseed: 4\n"
    assert report.hide_ids(settings) == "timelines:\n  num_stays: 3\n  subject_ids: [...]\n  site: null\nseed: 4\n"
    assert report.hide_ids("  subject_ids: [s1, s2]\n  site: a") == "  subject_ids: [...]\n  site: a"
    assert report.hide_ids("  subject_ids: null\n") == "  subject_ids: null\n"


def test_json_cannot_leave_its_element():
    text = embed_json({"a": "</script><b>&"})
    assert "<" not in text
    assert text == r'{"a":"\u003c/script\u003e\u003cb\u003e\u0026"}'


def test_values_of_a_page_are_escaped(page):
    text = render_page(
        "timelines.html.j2", ["page.css"], ["page.js"], title="<b>", num_stays=1, lanes=[], notice="", content="<i>"
    )
    assert "<b>" not in text.split("<body>")[0]
    assert "&lt;i&gt;" in text


def draw(path, size=(400, 300), num_colors=2):
    rng = np.random.default_rng(0)
    colors = np.concatenate([[[255, 255, 255]], rng.integers(0, 250, (num_colors - 1, 3))]).astype(np.uint8)
    pixels = colors[rng.integers(0, num_colors, size[::-1])]
    Image.fromarray(pixels).save(path)
    return pixels


def read(image):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.content))).convert("RGB"))


def test_few_colours_are_kept_exactly_and_in_fewer_bytes(tmp_path):
    pixels = draw(tmp_path / "a.png", num_colors=5)
    image = embed_image(tmp_path / "a.png")
    assert np.array_equal(read(image), pixels)
    assert (image.width, image.height) == (200, 150)
    assert len(base64.b64decode(image.content)) < (tmp_path / "a.png").stat().st_size


def test_many_colours_keep_white_and_stay_close(tmp_path):
    ramp = np.linspace(0, 255, 700)
    pixels = np.stack([np.tile(ramp, (40, 1)), np.tile(ramp[::-1], (40, 1)), np.full((40, 700), 80.0)], axis=2)
    pixels[:20] = 255
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    found = read(embed_image(tmp_path / "a.png")).astype(int)
    assert (found[:20] == 255).all()
    assert np.abs(found - pixels.astype(np.uint8)).max() < 20


def test_transparent_figures_lie_on_white(tmp_path):
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "a.png")
    found = np.asarray(images._lay_on_white(Image.open(tmp_path / "a.png")))
    assert (found == 255).all()


def test_many_figures_lose_pixels_until_they_fit(tmp_path, caplog):
    paths = {f"figure{number}": tmp_path / f"{number}.png" for number in range(8)}
    for number, path in enumerate(paths.values()):
        draw(path, num_colors=200 + number)
    whole = sum(len(embed_image(path).content) for path in paths.values())
    with caplog.at_level(logging.INFO, "clinrep"):
        found = embed_images(paths, int(0.7 * whole))
    assert sum(len(image.content) for image in found.values()) <= 0.7 * whole
    assert {(image.width, image.height) for image in found.values()} == {(200, 150)}, "shown as large as before"
    assert "of their resolution" in caplog.text


def test_a_page_too_large_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(report, "MAX_PAGE_BYTES", 10_000)
    site = FakeSite(tmp_path / "site").write()
    run_main(tmp_path / "out", *site.flags("demo"), "--sections=[curves]")
    assert "more than the 0.0 MB it should have" in caplog.text
