"""The report as a person uses it, in chromium."""

import http.server
import re
import threading
import time
from pathlib import Path

import polars as pl
import pytest

from tests.analysis.fake_runs import FakeSite, run_main

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """A report with a long table: 12 layers."""
    layers = tuple(range(12))
    site = FakeSite(tmp_path_factory.mktemp("site"), layers=layers).write()
    flags = ["--poolings=[mean,last_token]", f"--layers={list(layers)}", "--num_bootstraps=20", "--min_cell_count=0"]
    out = run_main(tmp_path_factory.mktemp("run") / "out", *site.flags("demo"), *flags,
                   "--sections=[cohort,flow,exclusions,outcomes,performance,curves,timelines]")  # fmt: skip
    return out / "report.html"


def cells(page, table, column):
    """Return what is seen of a column, row by row."""
    rows = page.locator(f"#{table} tbody tr:not(.off)")
    return [row.strip() for row in rows.locator(f"td:nth-child({column})").all_text_contents()]


def wait(page, condition):
    """Wait until a condition holds on the page, whose policy forbids playwright's own way of waiting."""
    deadline = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def test_opens_without_a_word_and_without_a_request(watched, report):
    page = watched.open(report)
    assert page.title() == "Clinical representations: analysis report"
    assert page.locator("h1").is_visible()
    assert page.evaluate("document.images.length") == page.evaluate(
        "[...document.images].filter((image) => image.complete && image.naturalWidth > 0 && image.alt).length"
    )
    assert {url.split(":")[0] for url in watched.requests} <= {"file", "data"}


def test_the_policy_stops_what_a_table_might_smuggle_in(chromium, report, tmp_path):
    hits = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    smuggled = f'<script>document.title = "taken"</script><img src="{url}/img"><iframe src="{url}/frame"></iframe>'
    for name, policy in (("with", True), ("without", False)):
        text = report.read_text().replace("</main>", f"{smuggled}</main>")
        if not policy:
            text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        (tmp_path / f"{name}.html").write_text(text)
        page = chromium.new_page()
        page.goto((tmp_path / f"{name}.html").as_uri())
        page.wait_for_timeout(300)
        assert (page.title() == "taken") != policy
        assert bool(hits) != policy, "without the policy the same page does ask"
        page.close()
    server.shutdown()


def test_a_table_sorts_both_ways_and_back(watched, report):
    page = watched.open(report)
    heading = page.locator("#table-scores thead th", has_text="AUROC")
    column = 1 + [text.startswith("AUROC") for text in page.locator("#table-scores th").all_text_contents()].index(True)
    page.get_by_role("button", name=re.compile("^Show all")).last.click()
    printed = cells(page, "table-scores", column)
    numbers = [float(cell.split()[0].rstrip(",")) for cell in printed if cell[0].isdigit()]
    words = [cell for cell in printed if not cell[0].isdigit()]
    assert numbers != sorted(numbers)
    assert words
    assert heading.get_attribute("aria-sort") == "none"
    for expected, direction in ((sorted(numbers), "ascending"), (sorted(numbers, reverse=True), "descending")):
        heading.locator("button").focus()
        page.keyboard.press("Enter")
        found = cells(page, "table-scores", column)
        assert [float(cell.split()[0].rstrip(",")) for cell in found[: len(numbers)]] == expected
        assert sorted(found[len(numbers) :]) == sorted(words), "words stay last"
        assert heading.get_attribute("aria-sort") == direction
        assert page.locator("#table-scores td.again").count() == 0, "sorted by others, each row says its keys"
    heading.locator("button").click()
    assert cells(page, "table-scores", column) == printed
    assert page.locator("#table-scores td.again").count() > 0


def test_sorting_by_a_key_that_is_printed_once_sorts_every_row(watched, report):
    page = watched.open(report)
    page.locator("#table-outcomes th button").first.click()
    keys = cells(page, "table-outcomes", 1)
    assert len(keys) == 9
    assert keys == sorted(keys)
    assert "" not in keys


def test_numbers_are_read_as_people_mean_them(watched, report):
    page = watched.open(report)
    given = ["0.812 (0.700\u20130.900)", "12,345", "31 (12.5)", "<0.001", "0.001", "\u22120.5", "1e-5", "45 %",
             "0.858, no interval: too few events (3)"]  # fmt: skip
    values = page.evaluate("(cells) => cells.map((cell) => readNumber(cell)?.value ?? null)", given)
    assert values == [0.812, 12345, 31, 0.001, 0.001, -0.5, 1e-5, 45, 0.858]
    words = ["18\u201339", "too few events (1)", "12 hours", "2150-01-01", "", "e5", "."]
    assert page.evaluate("(cells) => cells.map((cell) => readNumber(cell))", words) == [None] * len(words)
    order = page.evaluate("""(texts) => texts.map((text) => ({ text, number: readNumber(text) }))
        .sort((one, other) => compareCells(one, other, 1)).map((cell) => cell.text)""",
        ["b 10", "", "0.001", "12,345", "b 9", "<0.001", "200"])  # fmt: skip
    assert order == ["<0.001", "0.001", "200", "12,345", "b 9", "b 10", ""]


def test_a_long_table_is_folded_and_filtered(watched, report):
    page = watched.open(report)
    total = page.locator("#table-scores tbody tr").count()
    assert total > 30
    visible = page.locator("#table-scores tbody tr:visible")
    assert visible.count() == 12
    block = page.locator(".block", has=page.locator("#table-scores"))
    block.get_by_role("searchbox").fill("icu  classifier fine-tuned")
    shown = visible.all_text_contents()
    assert 0 < len(shown) < 12
    assert all("icu" in text.lower() and "Fine-tuned" in text for text in shown)
    assert block.locator("output").text_content() == f"{len(shown)} of {total} rows"
    block.get_by_role("searchbox").fill("")
    block.locator(".more").click()
    assert visible.count() == total
    assert block.locator(".more").get_attribute("aria-expanded") == "true"


def test_light_and_dark_and_the_choice_is_kept(watched, report):
    page = watched.open(report)
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.locator("#theme").click()
    assert page.evaluate(background) == "rgb(21, 24, 28)"
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
    page.reload()
    assert page.evaluate(background) == "rgb(21, 24, 28)"
    page.locator("#theme").click()
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    page.evaluate("localStorage.clear()")
    page.emulate_media(color_scheme="dark")
    page.reload()
    assert page.evaluate(background) == "rgb(21, 24, 28)"


def test_words_stand_out_in_light_and_dark(watched, report):
    page = watched.open(report)
    script = Path(__file__).with_name("contrast.js").read_text()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(script) >= 4.5, scheme


def test_on_paper_nothing_is_folded_and_nothing_can_be_pressed(watched, report):
    page = watched.open(report)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator(".control:visible").count() == 0
    assert page.locator("#table-scores tbody tr:visible").count() == page.locator("#table-scores tbody tr").count()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_contents_lead_to_the_sections(watched, report):
    page = watched.open(report)
    nav = page.locator("nav.contents")
    links = nav.locator("a")
    assert links.count() == page.locator("section[id]").count()
    links.filter(has_text="Performance").click()
    wait(page, "Math.abs(document.getElementById('performance').getBoundingClientRect().top) < 40")
    wait(page, "document.querySelector('.contents a[aria-current]')?.hash === '#performance'")
    assert nav.bounding_box()["y"] >= 0, "stays in sight on a wide screen"


def test_what_helps_who_cannot_see(watched, report):
    page = watched.open(report)
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert page.locator("table:not(:has(caption))").count() == 0
    assert page.locator("img:not([alt])").count() == 0
    assert page.evaluate("document.documentElement.lang") == "en"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))


def test_narrow_screens_scroll_tables_not_the_page(watched, report):
    page = watched.open(report)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_numbers_on_the_page_are_those_of_the_table(watched, report):
    page = watched.open(report)
    table = pl.read_csv(report.parent / "tables" / "scores.csv").filter(metric="auroc").drop_nulls("estimate")
    best = table.group_by("outcome").agg(pl.col("estimate").max())
    shown = page.locator(".summary td:nth-child(4)").all_text_contents()
    assert {text.split()[0] for text in shown if text[0].isdigit()} == {f"{one:.3f}" for one in best["estimate"]}
