"""The page of single stays as a person uses it, in chromium."""

import json
from pathlib import Path

import pytest

from clinrep.modality import resolve
from tests.analysis.fake_timeline_runs import TimelineSite

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def timelines(tmp_path_factory):
    site = TimelineSite(tmp_path_factory.mktemp("site")).write()
    out = tmp_path_factory.mktemp("run") / "out"
    flags = ["--num_bootstraps=20", "--sections=[timelines]", f"--output_dir={out}"]
    resolve("04_analyze:main")([*flags, *site.flags()])
    return out / "timelines.html"


def read_content(page):
    return json.loads(page.locator("#content").text_content())


def read_tip(page):
    names, values = (page.locator(f"#tip {tag}").all_text_contents() for tag in ("dt", "dd"))
    return page.locator("#tip b").text_content(), dict(zip(names, values, strict=True))


def longest(content):
    return max(range(len(content["stays"])), key=lambda number: len(content["stays"][number]["tokens"]))


def test_the_report_leads_there_and_back(watched, timelines):
    page = watched.open(timelines.with_name("report.html"))
    page.get_by_role("link", name="Open the timelines").click()
    assert page.title() == "Single stays, token by token"
    page.get_by_role("link", name="Back to the report").click()
    assert page.title().endswith("report")


def test_another_stay_is_drawn_when_chosen(watched, timelines):
    page = watched.open(timelines)
    content = read_content(page)
    assert page.locator("#stay-name").text_content() == "Stay 1"
    assert page.locator("#before").is_disabled()
    page.locator("#stay").select_option("3")
    assert page.locator("#stay-name").text_content() == "Stay 4"
    assert page.locator("#list tbody tr").count() == len(content["stays"][3]["tokens"])
    page.locator("#after").click()
    assert page.locator("#stay-name").text_content() == "Stay 5"
    num_bits = sum(value is not None for value in content["stays"][4]["bits"])
    assert page.locator("#chart .stem:not(.jump)").count() == page.locator("#chart .jump").count() == num_bits


def test_pointing_at_an_event_shows_its_numbers(watched, timelines):
    page = watched.open(timelines)
    content = read_content(page)
    number = longest(content)
    page.locator("#stay").select_option(str(number))
    stay = content["stays"][number]
    dots = page.locator("#chart circle.mark")
    assert dots.count() > 5
    for index in range(dots.count()):
        dots.nth(index).hover(force=True)
        title, facts = read_tip(page)
        place = int(facts["Token"].split()[0]) - 1
        word, binned = content["tokens"][stay["tokens"][place]], content["tokens"][stay["tokens"][place + 1]]
        assert title.startswith(f"{word} {binned}")
        assert float(facts["Hour"]) == pytest.approx(stay["hours"][place], abs=0.006)
        for name, lane in (("Bits", "bits"), ("Jump", "jumps")):
            shown = [float(value) for value in facts[name].split(" + ")]
            assert shown == pytest.approx(stay[lane][place : place + 2], rel=0.005)
        for risk in stay["risks"]:
            assert float(facts[risk["outcome"]]) == pytest.approx(risk["values"][place + 1], rel=0.005, abs=1e-6)
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()


def test_keys_move_from_token_to_token_and_say_so(watched, timelines):
    page = watched.open(timelines)
    page.locator("#chart").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert read_tip(page)[1]["Token"].startswith("3 of")
    assert page.locator("#spoken").text_content().startswith(read_tip(page)[0])
    page.keyboard.press("End")
    total = len(read_content(page)["stays"][0]["tokens"])
    assert str(total) in read_tip(page)[1]["Token"]
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_by_token_no_two_marks_of_a_lane_share_a_place(watched, timelines):
    page = watched.open(timelines)
    page.locator("#stay").select_option(str(longest(read_content(page))))
    places = "[...document.querySelectorAll('#chart .jump')].map((line) => line.getAttribute('x1'))"
    by_hour = page.evaluate(places)
    page.get_by_role("button", name="By token").click()
    by_token = page.evaluate(places)
    assert len(set(by_hour)) < len(by_hour)
    assert len(set(by_token)) == len(by_token)
    assert page.get_by_role("button", name="By token").get_attribute("aria-pressed") == "true"


def test_kinds_of_events_can_be_left_out(watched, timelines):
    page = watched.open(timelines)
    rows = page.locator("#chart rect.row").count()
    page.locator("#kinds input").nth(1).uncheck()
    assert 0 < page.locator("#chart rect.row").count() < rows


def test_dark_is_legible_and_paper_has_no_controls(watched, timelines):
    page = watched.open(timelines)
    script = Path(__file__).with_name("contrast.js").read_text()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(script) >= 4.5, scheme
    page.emulate_media(media="print")
    assert page.locator(".control:visible").count() == 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#list tbody tr:visible").count() > 0
    assert page.pdf(format="A4", landscape=True).startswith(b"%PDF")


def test_narrow_screens_keep_the_page_inside(watched, timelines):
    page = watched.open(timelines)
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
