"""The page in a real browser: it asks for nothing, executes nothing of a response, and answers to the keyboard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lambda_grpo_pl.reporting.command import write_report
from tests.reporting.conftest import leave_run

pytest.importorskip("websockets", reason="the browser test needs websockets: pip install websockets")
from tests.reporting.browser import Page, find_browser, open_browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium found: apt-get install chromium"),
]

HOSTILE = [
    "</script><script>window.attacked = 1; alert(1)</script>",
    "<img src='https://example.org/x.png' onerror='window.attacked = 1'><svg onload='window.attacked = 1'>",
    "<iframe srcdoc='<script>parent.attacked = 1</script>'></iframe><style>body { display: none }</style>",
    "javascript:window.attacked=1 \x00\x1b[31m \u202egnp.exe",
]
PAIR = "DATA.runs.map((run, index) => document.querySelector(`#preference path.run-${index}`).getAttribute('d')).join()"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with hostile responses and a hostile name."""
    home = tmp_path_factory.mktemp("runs")
    texts = [[text, f"plain {index}"] for index, text in enumerate(HOSTILE * 8)]
    runs = [leave_run(home / name, texts, slope) for name, slope in (("<b>one", 0.01), ("two", 0.02))]
    write_report(runs, home / "report.html")
    return home / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    program = find_browser()
    assert program is not None
    with open_browser(program, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, report: Path) -> Iterator[Page]:
    """The page newly opened; afterwards nothing may have been reported or requested."""
    browser.problems.clear()
    browser.requests.clear()
    browser.open(report)
    yield browser
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith("data:,")] == [report.as_uri()]


def count(page: Page) -> str:
    return str(page.read("document.getElementById('count').textContent"))


def choose(page: Page, field: str, value: str) -> None:
    page.read(
        f"{{const field = document.getElementById('{field}'); field.value = '{value}';"
        "field.dispatchEvent(new Event('input', {bubbles: true}))}"
    )


def test_no_response_is_executed_and_all_of_them_are_shown_as_text(page: Page) -> None:
    for _ in range(7):
        page.read("[...document.querySelectorAll('.pages button')][1].click()")
    assert page.read("window.attacked") is None
    assert page.read("document.querySelectorAll('main img, iframe, main style, main script, b').length") == 0
    choose(page, "filter-text", "onerror")
    shown = page.read("document.querySelector('#list pre').textContent")
    assert shown == HOSTILE[1]
    choose(page, "filter-text", "gnp.exe")
    assert "⟨U+0000⟩⟨U+001B⟩[31m ⟨U+202E⟩gnp.exe" in page.read("document.querySelector('#list pre').textContent")
    assert page.read("document.querySelector('thead').textContent") == " <b>one two"


def test_the_slider_changes_the_curves_from_the_keyboard(page: Page) -> None:
    page.read("document.getElementById('update').focus()")
    shown, curves = [], []
    for key in ("ArrowLeft", "ArrowLeft", "ArrowRight"):
        page.press(key)
        shown.append(page.read("document.getElementById('update-shown').textContent"))
        curves.append(page.read(PAIR))
    assert shown == ["update 11", "update 1", "update 11"]
    assert curves[0] == curves[2] != curves[1]


def test_filters_change_what_is_listed(page: Page) -> None:
    assert count(page) == "1–20 of 256 matching responses"
    choose(page, "filter-verdict", "correct")
    assert count(page) == "1–20 of 128 matching responses"
    choose(page, "filter-run", "1")
    choose(page, "filter-step", "30")
    assert count(page) == "1–20 of 32 matching responses"
    choose(page, "filter-longest", "60")
    assert count(page) == "1–16 of 16 matching responses"
    page.read("document.getElementById('filter-text').focus()")
    page.type("no such text")
    assert count(page) == "0 matching responses"
    assert page.read("document.querySelectorAll('#list article').length") == 0


def test_pages_turn_from_the_keyboard(page: Page) -> None:
    page.read("document.querySelectorAll('.pages button')[1].focus()")
    first = page.read("document.querySelector('#list article').textContent")
    page.press(" ")
    assert count(page) == "21–40 of 256 matching responses"
    assert page.read("document.querySelector('#list article').textContent") != first


def test_a_run_can_be_taken_out_of_all_charts(page: Page) -> None:
    paths = "document.querySelectorAll('#charts path.run-0, #preference path.run-0, #evaluation path.run-0').length"
    assert page.read(paths) >= 5
    page.read("document.querySelector('[name=run-0]').focus()")
    page.press(" ")
    assert page.read(paths) == 0
    assert page.read("document.querySelectorAll('#charts path.run-1').length") >= 3


def test_a_chart_reads_its_values_to_the_keyboard(page: Page) -> None:
    page.read("document.querySelector('#charts figure svg').focus()")
    page.press("Home")
    page.press("ArrowRight")
    readout = page.read("document.querySelector('#charts figure .readout').textContent")
    assert readout == "update 2<b>one 0.02two 0.02"


def test_every_section_opens_and_draws(page: Page) -> None:
    page.read("document.querySelectorAll('details.metrics > summary').forEach((summary) => summary.click())")
    page.read("new Promise((done) => setTimeout(done, 200))")
    charts = "[...document.querySelectorAll('details.metrics figure > svg')]"
    assert page.read(f"{charts}.map((svg) => Boolean(svg.querySelector('path')))") == [True] * 5


def test_every_control_has_a_name_and_shows_its_focus(page: Page) -> None:
    names = page.read(
        "[...document.querySelectorAll('input, select, button, summary, [tabindex=\"0\"]')].map((control) =>"
        "control.labels?.[0]?.textContent || control.getAttribute('aria-label') || control.textContent)"
    )
    assert len(names) > 20
    assert all(name.strip() for name in names)
    reached = set()
    for _ in range(12):
        page.press("Tab")
        reached.add(page.read("document.activeElement.outerHTML.slice(0, 80)"))
        style: Any = page.read("getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid"
    assert len(reached) == 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window(page: Page, width: int, scheme: str, tmp_path: Path) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 500)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.read("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    page.read("new Promise((done) => setTimeout(done, 200))")
    assert page.read("document.documentElement.scrollWidth") == width
    ground = page.read("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 5000
    page.call("Emulation.clearDeviceMetricsOverride")
    page.call("Emulation.setEmulatedMedia", features=[])
