"""The lab's page in a real browser: it asks for nothing, and can be read in the dark and on a telephone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.lab.contrasts import CONFIRM
from benchmarks.lab.experiments import overhead, simulate
from benchmarks.lab.export import RESULTS
from benchmarks.lab.report.page import write_page

pytest.importorskip("websockets", reason="the browser test needs websockets: pip install websockets")
from tests.reporting.browser import Page, find_browser, open_browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium found: apt-get install chromium"),
]
COLORS = (
    "[...document.querySelectorAll('p, code, caption, a, td, th, figcaption, svg text')].map((each) => {"
    "const style = getComputedStyle(each); return each.closest('svg') ? style.fill : style.color})"
)
GROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, figures and the longest labels: the confirmation's and the overhead's committed results."""
    home = tmp_path_factory.mktemp("lab")
    summary = json.loads((RESULTS / "confirm.json").read_text(encoding="utf-8"))
    sections = overhead.build_sections()
    for optimizer, regimes in summary["optimizers"].items():
        sections += simulate.compare_regimes(optimizer, regimes, 100, "python -m benchmarks.lab", home, CONFIRM)
    return write_page(home / "report.html", "The lab", "Summary.", sections)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    program = find_browser()
    assert program is not None
    with open_browser(program, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Page, report: Path) -> Iterator[Page]:
    """The page in a window; nothing may be reported or requested."""
    width, scheme = request.param
    browser.problems.clear()
    browser.requests.clear()
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 500)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(report)
    yield browser
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [report.as_uri()]


def test_what_is_wide_scrolls_in_its_own_box(page: Page) -> None:
    assert page.read("document.documentElement.scrollWidth === innerWidth")
    boxes = page.read("[...document.querySelectorAll('.scroll')].map((each) => [each.scrollWidth, each.clientWidth])")
    assert len(boxes) >= 10
    if page.read("innerWidth") < 500:
        assert any(inside > outside for inside, outside in boxes)


def test_the_names_that_stay_in_place_leave_room_for_the_numbers(page: Page) -> None:
    shares = page.read(
        "[...document.querySelectorAll('tbody tr > :first-child')].map((each) => "
        "each.getBoundingClientRect().width / each.closest('.scroll').clientWidth)"
    )
    assert len(shares) > 50
    assert max(shares) <= 0.5


def test_no_text_is_too_small_or_too_pale(page: Page) -> None:
    heights = page.read("[...document.querySelectorAll('svg text')].map((each) => each.getBoundingClientRect().height)")
    assert len(heights) > 50
    assert min(heights) >= 9
    ground = page.read(GROUND)
    on_cells = {"rgb(0, 0, 0)", "rgb(255, 255, 255)"}  # the numbers of a heat map, on its colors
    for color in set(page.read(COLORS)) - on_cells:
        assert contrast(color, ground) >= 4.5, color


def contrast(one: str, other: str) -> float:
    """Return the ratio of WCAG 2."""
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    red, green, blue = (int(value) / 255 for value in re.findall(r"\d+", color)[:3])
    parts = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in (red, green, blue)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
