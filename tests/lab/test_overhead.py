"""The report shows what is committed about overhead, with the commands that make it again, and measures nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab.__main__ import main
from benchmarks.lab.experiments import overhead


def row(ratio: float, **changes: Any) -> dict[str, Any]:
    return {
        "pairs": 4,
        "time_ratio": ratio,
        "time_interval": [ratio - 0.01, ratio + 0.02],
        "peak_bytes": 3 * 2**20,
        "peak_bytes_over_grpo": 0,
        "parameters_over_grpo": 0,
        "ratios": [ratio] * 4,
    } | changes


def result(model: str) -> dict[str, Any]:
    return {
        "workload": {
            "model": model,
            "parameters": 3_000_000,
            "prompts": 4,
            "group_size": 8,
            "max_response_tokens": 64,
        },
        "rows": {
            "λ-GRPO": row(1.002, parameters_over_grpo=1),
            "GRPO again": row(0.997),
            "λ validation": row(2.298, peak_bytes=3 * 2**20 + 1536, peak_bytes_over_grpo=1536, parameters_over_grpo=1),
        },
        "hardware": {"processor": "a processor", "cores": 2, "threads": 1, "load_1min": 3.25},
        "revision": "0123456789abcdef",
        "command": f"python benchmarks/overhead.py --of {model}",
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, model in zip(overhead.FILES, ("random", "<builtin>:smollm2-135m"), strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(result(model)), encoding="utf-8")
    return tmp_path


def test_ratios_memory_and_parameters_have_their_intervals_and_commands(folder: Path) -> None:
    (section,) = overhead.build_sections(folder)
    page = "".join(section.blocks)
    assert '<th scope="row">λ-GRPO</th><td>1.002</td><td>[0.992, 1.022]</td><td>4</td><td>0</td><td>+1</td>' in page
    assert "<td>2.298</td><td>[2.288, 2.318]</td><td>4</td><td>+1.5 KiB</td><td>+1</td>" in page
    assert "GRPO&#x27;s peak is 3 MiB. Measured with 1 of 2 cores (a processor), load 3.25 at the end" in page
    assert "<builtin>" not in page
    for model in ("random", "&lt;builtin&gt;:smollm2-135m"):
        assert f"{model}, 3 M parameters, 4 prompts × 8 responses of at most 64 tokens" in page
        assert f"<code>python benchmarks/overhead.py --of {model}</code>" in page


def test_one_result_alone_is_shown(folder: Path) -> None:
    (folder / "overhead_real.json").unlink()
    (section,) = overhead.build_sections(folder)
    assert sum("<table>" in block for block in section.blocks) == 1


def test_the_page_of_all_shows_the_committed_results_though_nothing_has_run(tmp_path: Path) -> None:
    committed = overhead.read()
    assert [each["against"] for each in committed] == ["GRPO", "GRPO"]
    assert main(["report", "--runs", str(tmp_path)]) == 0
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("<section ") == 1
    for each in committed:
        assert each["command"] in page
