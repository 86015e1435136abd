"""site_report.html and site_report.csv, opened."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from clinrep.ehr.site_report import compare_sites, write_site_report
from clinrep.ehr.site_report.page import draw_bars
from tests.ehr.fake_sites import make_plausible_sites


class Page(HTMLParser):
    """The text of a page, the tags that stay open, and everything it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.open, self.loads = "", [], []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loads += [v for k, v in attributes if k in ("src", "href") and v and not v.startswith(("#", "data:"))]
        self.loads += [tag] if tag in ("script", "iframe") else []
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Leave closed SVG paths alone."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame]:
    directory = tmp_path_factory.mktemp("site") / "run"
    report = compare_sites(**make_plausible_sites().get_arguments())
    names = {"tokenizer": "runs/a/00_tokenize", "site": "<b>/clif"}
    write_site_report(report, directory, **names, num_train_stays=7000, num_site_stays=2500)
    return directory, report


def test_the_page_says_it_all_and_loads_nothing(written: tuple[Path, pl.DataFrame]):
    directory, report = written
    assert sorted(path.name for path in directory.iterdir()) == ["site_report.csv", "site_report.html"]
    text = (directory / "site_report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert (page.open, page.loads) == ([], [])
    assert not re.search(r"url\(|@import|http", text)
    assert all(category in page.text for category in report["category"])
    assert all(note in page.text for note in report["note"])
    assert "<b>/clif" in page.text
    assert "RACE_<unknown" not in text
    assert text.count("<svg") == 2 + report.select(pl.any_horizontal(pl.col("^.*_shares$").is_not_null()).sum()).item()
    words = " ".join(page.text.split())
    assert "Categories missing at the site4 of 32 in train (1 too rare to judge); 1 new at the site" in words
    assert "Suspected unit mismatches4" in words
    assert "What needs your attention before training" in words


def test_the_csv_is_the_report(written: tuple[Path, pl.DataFrame]):
    directory, report = written
    flat = pl.read_csv(directory / "site_report.csv", infer_schema_length=None)
    assert flat.height == report.height
    for name in report.columns:
        if name.endswith("_shares"):
            columns = [f"{name.removesuffix('s')}_q{number}" for number in range(10)]
            lists = [None if row[0] is None else list(row) for row in flat.select(columns).iter_rows()]
            assert lists == report[name].to_list()
        else:
            expected = report[name].replace("", None) if name == "note" else report[name]
            found = flat[name].replace("", None) if name == "note" else flat[name]
            assert found.to_list() == expected.to_list(), name


def test_an_empty_report_is_still_a_page(tmp_path: Path):
    sites = make_plausible_sites().get_arguments()
    sites |= {name: sites[name].clear() for name in ("train", "site")}
    write_site_report(compare_sites(**sites), tmp_path, tokenizer="a", site="b", num_train_stays=0, num_site_stays=0)
    assert "Nothing: every category is known" in (tmp_path / "site_report.html").read_text(encoding="utf-8")


def test_bars_are_as_high_as_their_shares():
    svg = draw_bars([0.5, 0.5], [0.25, 0.75])
    heights = [float(height) for height in re.findall(r"v-([\d.]+)h", svg)]
    assert heights == [7.5, 22.5]  # of 30: the scale reaches twice an even share
    assert draw_bars(None, None) == ""
