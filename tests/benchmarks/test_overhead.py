"""The overhead of a model that exists: pairs are kept apart, and the file says what was trained."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OTHER_PAIRS = 15
"""Enough for a median that one step beside other tests, on a busy machine, does not move."""


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The benchmark, which writes nothing over the committed results and leaves the log's levels alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import overhead

        patch.setattr(overhead, "quiet", lambda: None)
        yield overhead
    for name in ("overhead", "report", "workload"):
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def result(script: ModuleType, policy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `--model` writes for a tiny model."""
    folder = tmp_path_factory.mktemp("results")
    threads = str(torch.get_num_threads())
    counts = ["--pairs", "2", "--other-pairs", str(OTHER_PAIRS)]
    arguments = ["--model", str(policy), *counts, "--threads", threads]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["report"], "RESULTS", folder)
        patch.setattr("sys.argv", ["benchmarks/overhead.py", *arguments])
        script.main()
    found: dict[str, Any] = json.loads((folder / "overhead_real.json").read_text(encoding="utf-8"))
    return found


def test_a_model_that_exists_is_compared_under_the_methods_that_matter(
    script: ModuleType, result: dict[str, Any], policy: Path
) -> None:
    assert result["workload"]["model"] == str(policy)
    assert (result["workload"]["prompts"], result["workload"]["group_size"]) == (4, 8)
    assert ["GRPO", *result["rows"]] == list(script.REAL)
    assert {name: row["pairs"] for name, row in result["rows"].items()} == {
        name: 2 if name in script.OFTEN else OTHER_PAIRS for name in script.REAL[1:]
    }


def test_what_a_method_costs_is_what_it_does(result: dict[str, Any]) -> None:
    rows = result["rows"]
    assert {name: row["parameters_over_grpo"] for name, row in rows.items() if row["parameters_over_grpo"]} == {
        "λ-GRPO": 1,
        "λ validation": 1,
    }
    assert {row["peak_bytes_over_grpo"] for name, row in rows.items() if name != "λ validation"} == {0}
    assert rows["λ validation"]["time_ratio"] > 1.3, "it learns from a rollout more, and passes over this one again"


def test_a_pair_is_two_steps_that_follow_each_other_in_alternating_order(script: ModuleType) -> None:
    pairs = script.make_schedule(list(script.REAL), 4, 2)
    assert len(pairs) == 2 * 4 + 3 * 2
    assert all("GRPO" in pair and pair[0] != pair[1] for pair in pairs)
    assert pairs.count(("GRPO", "λ-GRPO")) == pairs.count(("λ-GRPO", "GRPO")) == 2
