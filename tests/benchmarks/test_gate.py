"""The gate of the lab's regimes: it reads a pilot's rows right, and lets nothing through that says nothing."""

import csv
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.lab import gate, regimes  # noqa: E402
from benchmarks.lab.gate import Measured, measure, read_metrics  # noqa: E402
from benchmarks.lab.regimes import REGIMES, Regime  # noqa: E402

GOOD = Measured(
    num_updates=100,
    start_accuracy=0.1,
    end_accuracy=0.5,
    signal=0.8,
    start_correlation=-0.5,
    end_correlation=-0.4,
    cv=1.0,
    right_length=11.0,
    wrong_length=45.0,
    truncated=0.05,
    end_truncated=0.1,
)


def row(update: int, accuracy: float, flat: float = 0.25, correlation: float = -0.5) -> dict[str, float]:
    return {
        "update": update,
        "reward/accuracy": accuracy,
        "reward/zero_variance_groups": flat,
        "preference/length_advantage_corr": correlation,
        "preference/length_correct": 10.0 + update,
        "preference/length_incorrect": 40.0,
        "response/length": 20.0,
        "response/length_std": 15.0,
        "response/truncated": 0.01 * update,
    }


def test_a_good_pilot_passes() -> None:
    assert GOOD.judge(is_null=False) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"start_accuracy": 0.01}, "start accuracy is 0.01"),
        ({"start_accuracy": 0.3}, "start accuracy is 0.30"),
        ({"end_accuracy": 0.2}, "end accuracy is 0.20"),
        ({"end_accuracy": 0.95}, "end accuracy is 0.95"),
        ({"signal": 0.4}, "40% of the groups have a signal"),
        ({"signal": float("nan")}, "nan% of the groups have a signal"),
        ({"start_accuracy": float("nan")}, "start accuracy is nan"),
        ({"start_correlation": -0.2}, "declare the regime a null"),
        ({"end_correlation": -0.2}, "declare the regime a null"),
        ({"end_correlation": 0.5}, "declare the regime a null"),
        ({"end_correlation": float("nan")}, "declare the regime a null"),
    ],
)
def test_each_fault_is_found_alone(change: dict[str, float], fault: str) -> None:
    faults = replace(GOOD, **change).judge(is_null=False)
    assert len(faults) == 1
    assert fault in faults[0]


def test_a_null_must_not_correlate_at_either_end() -> None:
    null = replace(GOOD, start_correlation=0.02, end_correlation=-0.05)
    assert null.judge(is_null=True) == []
    assert "is no null" in replace(null, start_correlation=-0.4).judge(is_null=True)[0]
    assert "is no null" in replace(null, end_correlation=0.4).judge(is_null=True)[0]
    assert "end accuracy" in replace(null, end_accuracy=0.9).judge(is_null=True)[0]


def test_start_and_end_are_means_of_five_updates_and_the_signal_of_all() -> None:
    rows = [row(update, accuracy=0.01 * update, flat=0.5 if update <= 10 else 0.1) for update in range(1, 21)]
    found = measure(rows)
    assert found.start_accuracy == pytest.approx(0.03)
    assert found.end_accuracy == pytest.approx(0.18)
    assert found.signal == pytest.approx(0.7)
    assert found.cv == pytest.approx(0.75)
    assert found.right_length == pytest.approx(13.0)
    assert (found.truncated, found.end_truncated) == pytest.approx((0.03, 0.18))
    assert found.num_updates == 20


def test_a_pilot_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="9 updates: the gate needs 10"):
        measure([row(update, 0.1) for update in range(1, 10)])


def test_rows_of_evaluations_are_left_out_and_updates_are_in_order(tmp_path: Path) -> None:
    rows = [{"update": 0, "val/average": 0.1}, row(2, 0.2), row(1, 0.1)]
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for each in rows for name in each)))
        writer.writeheader()
        writer.writerows(rows)
    assert [each["reward/accuracy"] for each in read_metrics(tmp_path / "metrics.csv")] == [0.1, 0.2]


@pytest.mark.parametrize("regime", REGIMES.values(), ids=lambda regime: regime.name)
def test_a_regime_names_a_model_and_a_task_that_exist(regime: Regime) -> None:
    from lambda_grpo_pl.builtin.models import MODELS
    from lambda_grpo_pl.builtin.tasks import read_task

    assert regime.model.removeprefix("builtin:") in MODELS
    traces = MODELS[regime.model.removeprefix("builtin:")].traces
    asked, learned = read_task(regime.task, "test", 1, "data.val")[0]["question"], traces.draw(Random(0), 1.0)[0]
    assert len(asked) == len(learned), "the model was made for questions of another length"


def test_a_regime_is_a_command_line_that_parses(parser: Any, tmp_path: Path) -> None:
    """One is enough: they differ in their values only."""
    regime = REGIMES["fail-fast"]
    config = parser.parse_args(regime.arguments("dapo", tmp_path, seed=3)).fit
    assert config.seed_everything == 3
    assert config.data.train.path == regime.task
    assert config.model.policy.path == regime.model
    assert config.model.preference.family == "uniform"
    assert config.rollout.sampling.max_tokens == regime.max_tokens


def test_a_line_of_the_table_says_what_the_gate_found() -> None:
    regime = REGIMES["ledger"]
    assert regimes.describe(regime, GOOD, 61.0).endswith("  passes")
    assert "declare the regime a null" in regimes.describe(regime, replace(GOOD, end_correlation=0.0), 61.0)
    null = replace(GOOD, start_correlation=0.0, end_correlation=0.0)
    assert regimes.describe(REGIMES["padding"], null, 61.0).endswith("  passes as a null")
    assert gate.WINDOW == 5
