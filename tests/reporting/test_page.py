"""The page holds what the runs hold, within its bounds, and nothing in it can run or leave its place."""

import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lambda_grpo_pl.cli.entry import main as run_command
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.reporting import responses as bounds
from lambda_grpo_pl.reporting.command import main, write_report
from lambda_grpo_pl.reporting.contents import MAX_POINTS, collect, thin
from lambda_grpo_pl.reporting.page import as_json, render
from lambda_grpo_pl.reporting.responses import MAX_CHARACTERS, choose_responses
from lambda_grpo_pl.reporting.runs import read_runs
from lambda_grpo_pl.reporting.tables import Series
from tests.reporting.conftest import MakeRun

HOSTILE = "</script><script>alert(1)</script><!--<script>&lt;\u2028\x00\x1b[31m"


class Elements(HTMLParser):
    """Every element of a page, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.scripts and self.found[-1][0] == "script":
            self.scripts[-1] += data


def read_back(page: str) -> Any:
    return json.loads(Elements(page).scripts[0])


def test_a_hostile_response_stays_text(make_run: MakeRun) -> None:
    contents = collect(read_runs([make_run("a", [[HOSTILE, "no"]])]))
    page = render(contents)
    elements = Elements(page)
    assert [dict(attrs) for tag, attrs in elements.found if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    assert read_back(page)["responses"]["items"][0]["text"] == HOSTILE
    data = elements.scripts[0].rstrip("\n")  # what follows the element
    assert not re.search("[<>&\u2028\x00-\x1f]", data)


@pytest.mark.parametrize(
    "text", ["\ud800", "a\udfffb", "\ud83d\ude00", "😀 λ 数", "\x7f\x85\u202e", "{{SCRIPT}}", "\\u003c\\"]
)
def test_any_text_survives_the_page(text: str) -> None:
    page = render({"text": text}).encode()  # lone surrogates have no encoding
    assert read_back(page.decode())["text"] in (
        text,
        text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass"),
    )


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"value": float("nan")})


def test_the_policy_allows_the_page_its_own_scripts_and_no_request(make_run: MakeRun) -> None:
    page = render(collect(read_runs([make_run("a")])))
    policy = next(attrs["content"] for tag, attrs in Elements(page).found if attrs.get("http-equiv"))
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/=]+'", rules["script-src"])
    assert re.fullmatch(r"'sha256-[\w+/=]+'", rules["style-src"])
    links = [value for _, attrs in Elements(page).found for name, value in attrs.items() if name in ("src", "href")]
    assert all(value and value.startswith(("#", "data:,")) for value in links)


def test_scripts_never_write_html() -> None:
    for file in (files("lambda_grpo_pl.reporting") / "page").iterdir():
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", file.read_text()
        )


def test_a_long_text_is_cut_and_says_by_how_much(make_run: MakeRun) -> None:
    run = make_run("a", [["x" * 1_000_000, "short"]])
    (first, second, *_) = choose_responses(read_runs([run])).items
    assert (len(first["text"]), first["leftOut"]) == (MAX_CHARACTERS, 1_000_000 - MAX_CHARACTERS)
    assert second["leftOut"] == 0


def test_responses_are_bounded_and_the_runs_answer_the_same_questions(make_run: MakeRun) -> None:
    texts = [[str(index), "b"] for index in range(40)]
    runs = read_runs([make_run("a", texts), make_run("b", texts)])
    found = choose_responses(runs, 32)
    assert found.num_total == 2 * 2 * 40 * 2
    assert len(found.items) == 32
    asked: dict[tuple[int, int], set[int]] = {}
    for item in found.items:
        asked.setdefault((item["run"], item["step"]), set()).add(item["question"])
    assert len(asked) == 4
    assert all(one == other for one, other in pairwise(asked.values()))
    assert len(found.questions) == 4
    assert choose_responses(runs, 0).items == []


def test_all_text_is_bounded(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = read_runs([make_run("a", [["x" * 1000, "y" * 1000]] * 10)])
    monkeypatch.setattr(bounds, "MAX_TOTAL_CHARACTERS", 9000)
    found = choose_responses(runs)
    assert len(found.items) == 8
    assert found.num_total == 40


def test_a_long_series_is_averaged() -> None:
    series = Series(list(range(1, 2502)), [1.0, 2.0, 3.0] * 834)[:2]
    thinned, size = thin(Series(series[0], series[1][:2501]))
    assert size == 3
    assert len(thinned.values) <= MAX_POINTS
    assert set(thinned.values[:-1]) == {2.0}
    assert thinned.updates[-1] == 2501


def test_settings_that_differ_are_marked_and_places_are_not_shown(make_run: MakeRun) -> None:
    settings = {
        row["key"]: row for row in collect(read_runs([make_run("a"), make_run("b", learn="fixed")]))["settings"]
    }
    assert settings["model.preference.learn"] == {
        "key": "model.preference.learn",
        "values": ["surrogate", "fixed"],
        "differs": True,
        "isKey": True,
    }
    assert not settings["trainer.max_steps"]["differs"]
    assert "trainer.default_root_dir" not in settings
    assert "seed_everything" not in settings


def test_metrics_have_the_registrys_sections_and_meanings(make_run: MakeRun) -> None:
    sections = {each["name"]: each["metrics"] for each in collect(read_runs([make_run("a")]))["sections"]}
    assert list(sections) == ["1 learning", "2 length preference", "6 lens"]
    assert sections["6 lens"][0]["name"] == "lens/own/prefix_bias"
    assert "net push" in sections["6 lens"][0]["meaning"]
    assert all(metric["meaning"] for metrics in sections.values() for metric in metrics)


def test_the_command_writes_the_page_and_says_what_it_holds(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    out.write_text("old")
    assert main([str(make_run("a")), str(make_run("b")), "--out", str(out), "--responses", "8"]) == 0
    assert "2 runs, 8 of 48 responses" in capsys.readouterr().out
    assert [run["name"] for run in read_back(out.read_text(encoding="utf-8"))["runs"]] == ["a", "b"]


def test_mistakes_end_with_a_sentence(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("a")
    with pytest.raises(UserError, match="is in a folder that does not exist"):
        write_report([run], tmp_path / "no" / "page.html")
    with pytest.raises(UserError, match="is a folder: name a file"):
        write_report([run], tmp_path)
    with pytest.raises(UserError, match="--responses is -1"):
        write_report([run], tmp_path / "page.html", -1)
    monkeypatch.setattr("sys.argv", ["lambda-grpo", "report", str(tmp_path / "nothing")])
    assert run_command() == 2
    assert "is not a folder" in capsys.readouterr().err


def luminance(color: str) -> float:
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.2."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_have_enough_contrast(scheme: str) -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for lines and the edges of controls."""
    style = (files("lambda_grpo_pl.reporting") / "page" / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    color = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[scheme == "dark"]))
    for name in ("text", "quiet", "link", "good", "bad"):
        assert min(contrast(color[name], color[ground]) for ground in ("page", "panel")) >= 4.5, name
    assert contrast(color["text"], color["marked"]) >= 4.5
    for name in ("control", *(f"run-{index}" for index in range(8))):
        assert contrast(color[name], color["page"]) >= 3, name
