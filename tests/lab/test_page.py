"""The page: whole in one file, with everything from data escaped, and its pictures in the page's colors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lab.markdown import EVIDENCE, refresh, tabulate
from benchmarks.lab.report.figures import INK, bands, draw, save
from benchmarks.lab.report.page import Section, write_page


@pytest.fixture
def page(tmp_path: Path) -> str:
    section = Section("What <λ> does")
    section.add_text("<script>alert(1)</script>")
    section.add_table(["method", "<b>"], [["<i>GRPO</i>", "▲ +1.0"], ["DAPO", "▼ −1.0"]], 'a "table"')
    section.add_command("python -m benchmarks.lab <x>")
    for name in ("first", "second"):
        figure, (axes,) = draw()
        bands(axes, [1, 2, 3], {"GRPO": np.arange(12.0).reshape(4, 3)})
        section.add_figure(save(figure, tmp_path, name), "a <picture>")
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    return write_page(tmp_path / "report.html", "Lab & more", "Summary", [section]).read_text(encoding="utf-8")


def test_nothing_from_data_becomes_markup(page: str) -> None:
    assert "<script" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page
    assert 'aria-label="a &quot;table&quot;"' in page


def test_it_asks_the_network_for_nothing(page: str) -> None:
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not re.search(r"@import|url\((?!#)", page)


def test_identifiers_are_unique_and_references_have_a_target(page: str) -> None:
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(identifiers)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(identifiers)


def test_a_pictures_name_becomes_one_of_a_file_and_of_identifiers(tmp_path: Path) -> None:
    figure, (axes,) = draw()
    bands(axes, [1, 2, 3], {"GRPO": np.arange(12.0).reshape(4, 3)})
    svg = save(figure, tmp_path, "accuracy_sgd, confirmed")
    assert [path.name for path in tmp_path.iterdir()] == ["accuracy_sgd-confirmed.png"]
    identifiers = re.findall(r'\bid="([^"]+)"', svg)
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
    assert references
    assert set(references) <= set(identifiers)
    assert all(re.fullmatch(r"accuracy_sgd-confirmed-[\w.-]+", each) for each in identifiers)


def test_pictures_take_the_pages_color(page: str) -> None:
    assert "currentColor" in page
    assert INK not in page


def test_better_and_worse_are_marked(page: str) -> None:
    assert '<td class="better">▲ +1.0</td>' in page
    assert '<td class="worse">▼ −1.0</td>' in page


def test_a_column_of_sentences_is_one_whatever_the_length_of_each() -> None:
    section = Section("Regimes")
    section.add_table(["regime", "CV", "what happens"], [["a", "0.5", "word " * 12], ["b", "0.4", "short"]], "")
    assert '<th scope="col">CV</th><th scope="col" class="text">what happens</th>' in section.blocks[0]
    assert '<td>0.4</td><td class="text">short</td>' in section.blocks[0]


def test_tables_between_markers_are_written_anew() -> None:
    page = "before\n<!-- table: regimes -->\nold\n<!-- end -->\nafter"
    measured = {
        "accuracy_start": 0.1, "accuracy_end": 0.5, "length_right": 9.0, "length_wrong": 45.0, "cv": 0.9,
        "truncated": 0.1, "truncated_end": 0.2, "correlation_start": -0.5, "correlation_late": -0.9,
        "length_matters": True,
    }  # fmt: skip
    found = refresh(page, {"optimizers": {"sgd": {"stuck": {"measured": measured}}}})
    assert "| stuck | 0.10 → 0.50 | 9 / 45 | 0.90 | 10 → 20 % | -0.50 → -0.90 | yes |" in found
    assert "old" not in found
    assert found.startswith("before\n")
    assert found.endswith("\nafter")
    assert refresh(found, {"optimizers": {"sgd": {"stuck": {"measured": measured}}}}) == found


def test_a_table_that_no_experiment_writes_is_refused() -> None:
    for name in ("acuracy-sgd", "conferm-accuracy-sgd", "accuracy sgd"):
        with pytest.raises(KeyError, match=f"'{name}'"):
            refresh(f"<!-- table: {name} -->\nold\n<!-- end -->", {"optimizers": {}})


def test_tables_of_another_experiment_stay_as_they_are() -> None:
    page = "<!-- table: confirm-accuracy-sgd -->\nold\n<!-- end -->"
    assert refresh(page, {"optimizers": {}}) == page
    assert "old" not in refresh(page, {"optimizers": {}}, "confirm")
    with pytest.raises(KeyError, match="conferm"):
        refresh(page, {"optimizers": {}}, "conferm")


def test_the_language_models_tables_have_a_column_for_each_regime() -> None:
    finding = {"arm": "grpo", "baseline": "dapo", "difference": -0.01, "low": -0.02, "high": -0.001}
    methods = {
        name: {"factor": 8.0, "end": [0.9, 0.7], "over_the_run": [0.5, 0.6], "equal_tokens": [0.4]}
        for name in ("grpo", "dapo")
    }
    findings = {"end": [finding | {"verdict": "worse"}], "over_the_run": [finding | {"verdict": "undecided"}]}
    findings["equal_tokens"] = findings["end"]
    summary = {
        "regimes": {
            "ledger": {"methods": methods, "findings": findings},
            "switch": {
                "methods": {"dapo": methods["dapo"]},
                "findings": {"end": [], "over_the_run": [], "equal_tokens": []},
            },
        }
    }
    names = ("model-scores", "model-end", "model-over-the-run", "model-equal-tokens")
    page = refresh("".join(f"<!-- table: {name} --><!-- end -->" for name in names), summary, "model")
    assert "| `grpo` | 80.0 / 55.0 / 40.0 (× 8) |  |" in page
    assert "| `dapo` | 80.0 / 55.0 / 40.0 (× 8) | 80.0 / 55.0 / 40.0 (× 8) |" in page
    assert "| `grpo` − `dapo` | **-1.0 [-2.0, -0.1]** |  |" in page
    assert "| `grpo` − `dapo` | -1.0 [-2.0, -0.1] |  |" in page


def test_all_tables_of_the_page_are_known() -> None:
    refresh(EVIDENCE.read_text(encoding="utf-8"), {"optimizers": {}}, "confirm")


def test_a_table_is_markdown() -> None:
    assert tabulate(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | --: |\n| x | 1 |"
