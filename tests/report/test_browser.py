"""The report in a real browser: it works, asks for nothing, takes names for names, and is there for everybody.

Needs Chromium or Chrome on the machine (or its path in RAY_SYNTH_BROWSER); nothing is downloaded.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_synth.report.html import SECTIONS, write_report
from ray_synth.runs import RunFolder
from ray_synth.sweep.ledger import best_trial

from .example import NAMES, estimate, example, trials

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[test]'")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS, THEMES = (360, 1440), ("light", "dark")


def found_browser() -> str | None:
    given = os.environ.get("RAY_SYNTH_BROWSER")
    return given or next((found for name in BROWSERS if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = found_browser()
    if program is None:
        pytest.skip("no browser on this machine: apt-get install chromium, or give its path in RAY_SYNTH_BROWSER")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_report(RunFolder(folder), example())
    return folder / "report.html"


class Watched:
    """A page, with what it said and asked for."""

    def __init__(self, browser: Any, file: Path, width: int = 1440, theme: str = "light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())


@pytest.fixture
def watched(browser: Any, report: Path) -> Iterator[Watched]:
    """Nothing may be said or asked for, whatever a test does."""
    found = Watched(browser, report)
    yield found
    asked = [url for url in found.asked if not url.startswith(("data:", "blob:"))]
    found.context.close()
    assert found.said == []
    assert asked == [report.as_uri()]


def says(page: Any, name: str) -> str:
    return str(page.inner_text(f"[data-say={name}]"))


def test_every_section_is_there_under_headings_in_order(watched: Watched) -> None:
    page = watched.page
    assert page.eval_on_selector_all("main > section", "all => all.map(e => e.id)") == list(SECTIONS)
    links = page.eval_on_selector_all("nav a", "all => all.map(e => e.getAttribute('href'))")
    assert links == [f"#{name}" for name in SECTIONS]
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.inner_text("#decision h2").startswith(
        "Use about 6 synthetic images per real image (3 to 9): +10.0 points"
    )


def test_the_page_is_small_and_its_policy_allows_no_request(watched: Watched, report: Path) -> None:
    assert report.stat().st_size < 5_000_000
    policy = watched.page.get_attribute("meta[http-equiv=Content-Security-Policy]", "content")
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "script-src 'sha256-" in policy


def test_names_are_text_in_page_table_markdown_and_sheet(watched: Watched) -> None:
    page = watched.page
    assert page.locator("img[src=x]").count() == 0
    assert page.evaluate("document.scripts.length") == 2  # the data of the curve, and the one script
    rows = page.eval_on_selector_all("#predicted_classes td:first-child", "all => all.map(e => e.textContent)")
    assert set(rows) == set(NAMES)
    shown = page.eval_on_selector_all("#class-shown option", "all => all.map(e => e.textContent)")
    assert shown[1:] == list(NAMES)
    with page.expect_download() as download:
        page.click("#predicted_classes .tools button:has-text('CSV')")
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    read = list(csv.reader(io.StringIO(text)))
    assert {row[0].removeprefix("'") for row in read[1:]} == set(NAMES)
    cells = [cell for row in read for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@") and not cell[1:2].isdigit()]
    assert "'=1+1" in cells
    watched.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#predicted_classes .tools button:has-text('Markdown')")
    page.wait_for_selector("#predicted_classes .tools button:has-text('Copied')")
    markdown = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert markdown[1].startswith("| --- | ---: |")
    assert len(markdown) == 2 + len(NAMES)
    assert any("\\<script\\>alert(1)" in line for line in markdown)


def test_the_slider_moves_the_numbers_as_the_estimate_has_them(watched: Watched) -> None:
    page, found = watched.page, estimate()
    assert says(page, "ratio").startswith(("6", "5.9"))
    before = {name: says(page, name) for name in ("accuracy", "gain", "images", "cost")}
    page.focus("#ratio")
    for key in ("End", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    ratio = float(says(page, "ratio"))
    assert 15 < ratio < 16
    after = {name: says(page, name) for name in before}
    assert not set(before.values()) & set(after.values())
    accuracy = 100 * (1 - found.error_at(ratio))
    assert float(after["accuracy"].split(" %")[0]) == pytest.approx(accuracy, abs=0.06)
    images = int(after["images"].replace(",", ""))
    assert images == pytest.approx(60 * ratio, abs=3)  # the ratio is said in three digits
    assert float(after["cost"].split()[0]) == pytest.approx(0.1 * images + 5, abs=0.6)
    spoken = page.get_attribute("#ratio", "aria-valuetext")
    assert all(part in spoken for part in (after["accuracy"], after["images"], after["cost"]))


def test_the_cheapest_ratio_is_that_of_python(watched: Watched) -> None:
    page, found = watched.page, set()
    for points in (0, 0.5, 1, 5, 50):
        page.fill("#tolerance", str(points))
        cheapest = estimate().cheapest(tolerance=points / 100, cost_per_image=1.0)
        found.add(cheapest["ratio"])
        assert says(page, "cheapest").startswith(f"ratio {cheapest['ratio']:.3g},")
        page.click("#take")
        assert float(says(page, "ratio")) == pytest.approx(cheapest["ratio"], abs=0.2)
    assert len(found) > 2


def test_tables_are_sorted_by_their_heads(watched: Watched) -> None:
    page, head = watched.page, "#trial-table th:has-text('validation accuracy')"
    column = "all => all.map(row => row.cells[row.cells.length - 3].textContent)"
    for direction in ("ascending", "descending"):
        page.focus(f"{head} button")
        page.keyboard.press("Enter")
        values = [float(value) for value in page.eval_on_selector_all("#trial-table tr[data-trial]", column)]
        assert values == sorted(values, reverse=direction == "descending")
        assert page.get_attribute(head, "aria-sort") == direction
    assert page.locator("#trial-table th[aria-sort]").count() == 1


def test_brushing_keeps_the_trials_between(watched: Watched) -> None:
    page = watched.page
    complete = [trial for trial in trials() if trial.status == "complete"]
    assert page.locator("#parallel polyline").count() == len(complete)
    from_, to = (page.locator(f'#parallel [role=slider][aria-label="ratio, {end}"]') for end in ("from", "to"))
    from_.focus()
    for _ in range(4):
        page.keyboard.press("ArrowUp")
    low = sorted(trial.setting.synthetic_ratio for trial in complete)[4]
    kept = [trial for trial in complete if trial.setting.synthetic_ratio >= low]
    assert float(from_.get_attribute("aria-valuetext")) == pytest.approx(low, rel=1e-3)
    shown = page.eval_on_selector_all(
        "#trial-table tr[data-trial]:not([hidden])", "all => all.map(e => e.dataset.trial)"
    )
    assert sorted(shown) == sorted(trial.trial_id for trial in kept)
    best = best_trial(kept).accuracy
    assert page.inner_text("#brushed") == f"{len(kept)} of {len(complete)} complete trials, best accuracy {best:.4g}"
    page.click("#unbrush")
    assert page.locator("#trial-table tr[hidden]").count() == 0
    assert from_.get_attribute("aria-valuenow") == "0"
    page.locator("#parallel").scroll_into_view_if_needed()
    box = page.locator("#parallel .hit").first.bounding_box()
    middle = box["x"] + box["width"] / 2
    page.mouse.move(middle, box["y"] + 0.25 * box["height"])
    page.mouse.down()
    page.mouse.move(middle, box["y"] + 0.75 * box["height"], steps=4)
    page.mouse.up()
    assert 0 < page.locator("#trial-table tr[data-trial]:not([hidden])").count() < len(kept)
    assert to.get_attribute("aria-valuenow") != to.get_attribute("aria-valuemax")


def test_one_class_of_the_plane_is_shown_alone(watched: Watched) -> None:
    page = watched.page
    page.select_option("#class-shown", label=NAMES[0])
    assert page.locator("#embedding circle:not(.out)").count() == 10
    page.select_option("#class-shown", label="all")
    assert page.locator("#embedding circle.out").count() == 0


def test_what_lies_under_the_pointer_is_said(watched: Watched) -> None:
    watched.page.locator("#prediction .dot[data-tip]").first.hover(force=True)
    assert "error" in watched.page.inner_text("#tip")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_does_not_scroll_sideways(browser: Any, report: Path, width: int) -> None:
    seen = Watched(browser, report, width=width)
    seen.page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert seen.page.evaluate("document.documentElement.scrollWidth") == width
    assert seen.page.locator("#decision h2").bounding_box()["y"] < 450  # first of all
    seen.context.close()


@pytest.mark.slow
def test_both_themes_by_the_system_and_by_hand(browser: Any, report: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    colors = {}
    for theme in THEMES:
        seen = Watched(browser, report, theme=theme)
        colors[theme] = seen.page.evaluate(paper)
        for named in ("light", "dark"):
            seen.page.focus("#theme")
            seen.page.keyboard.press("Enter")
            assert seen.page.inner_text("#theme") == f"Theme: {named}"
            colors[named + theme] = seen.page.evaluate(paper)
        seen.context.close()
    assert colors["light"] != colors["dark"]
    assert colors["light"] == colors["lightlight"] == colors["lightdark"]
    assert colors["dark"] == colors["darklight"] == colors["darkdark"]


@pytest.mark.slow
def test_the_keyboard_reaches_everything(watched: Watched) -> None:
    page = watched.page
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    wanted = page.evaluate(
        """() => {
            const all = [...document.querySelectorAll('a, button, input, select, summary, [tabindex="0"]')];
            all.forEach((e, i) => e.dataset.place = i);
            return all.filter(e => e.checkVisibility()).length;
        }"""
    )
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.place"))
    assert len(reached - {None}) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_serious(browser: Any, report: Path, theme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    seen = Watched(browser, report, width=width, theme=theme)
    seen.page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    found = axe.run(seen.page, options={"resultTypes": ["violations"]}).response["violations"]
    seen.context.close()
    serious = [
        (each["id"], each["nodes"][0]["html"][:200], each["nodes"][0]["failureSummary"])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_on_paper_there_are_no_buttons_and_nothing_is_folded(watched: Watched) -> None:
    page = watched.page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator("nav").is_visible()
    assert not page.locator(".tools").first.is_visible()
    assert page.locator("details:not([open])").count() == 0


def test_without_its_script_the_page_says_all_the_same(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.inner_text("#decision h2").startswith("Use about 6")
    assert page.locator("#prediction svg .line").count() > 1
    assert not page.locator("#theme").is_visible()
    assert not page.locator("#ratio").is_visible()
    context.close()
