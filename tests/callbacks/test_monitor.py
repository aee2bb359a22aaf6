"""The curve of f against length, and the registry of metrics."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lambda_grpo_pl.callbacks import monitor
from lambda_grpo_pl.callbacks.loggers import RunDescription
from lambda_grpo_pl.callbacks.metric_names import METRICS, find_metric, labels, sections, titles
from lambda_grpo_pl.callbacks.metrics_file import read_rows, rows_before, write_rows
from lambda_grpo_pl.callbacks.monitor import curve_of


def test_the_curve_bins_responses_by_length_relative_to_their_group() -> None:
    lengths = torch.tensor([[10, 20, 30, 40], [1, 2, 3, 4]])
    weights = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    curve = torch.tensor(curve_of(lengths, weights, 4))
    torch.testing.assert_close(curve, torch.tensor([[0.4, 4.0], [0.8, 3.0], [1.2, 2.0], [1.6, 1.0]]))


def test_more_bins_than_responses_leave_no_empty_bin() -> None:
    assert len(curve_of(torch.tensor([[1, 2]]), torch.ones(1, 2), 12)) == 2


def test_sections_hold_every_metric_once_and_come_in_order() -> None:
    grouped = sections()
    assert sorted(name for names in grouped.values() for name in names) == sorted(METRICS)
    assert list(grouped) == sorted(grouped)
    assert grouped["1 learning"][0] == "reward/mean"


def test_what_the_bar_and_the_picture_show() -> None:
    assert labels() == {
        "reward/mean": "reward",
        "reward/accuracy": "accuracy",
        "response/length": "length",
        "preference/lambda": "λ",
        "train/tokens_per_second": "tokens/s",
    }
    assert list(titles()) == ["reward/mean", "reward/accuracy", "response/length", "preference/lambda"]


@pytest.mark.parametrize(
    ("name", "entry"), [("reward/mean", "reward/mean"), ("reward/math", "reward/*"), ("val/gsm8k/accuracy", "val/*")]
)
def test_an_exact_name_comes_before_a_pattern(name: str, entry: str) -> None:
    assert find_metric(name) is METRICS[entry]


def test_an_unknown_name_has_no_entry() -> None:
    assert find_metric("policy/unknown") is None


def test_rows_of_later_updates_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    assert read_rows(path) == []
    write_rows(path, ["update", "f"], [{"update": update, "f": 0.5} for update in (1, 2.0, 3)])
    assert [row["update"] for row in rows_before(path, 3)] == ["1", "2.0"]
    assert not list(tmp_path.glob("*.partial"))


class Started:
    """A logger that notes whether its run was started as a resumed one."""

    def __init__(self) -> None:
        self.resumed: list[bool] = []

    def start_run(self, run: RunDescription) -> None:
        self.resumed.append(run.resumed)


@pytest.mark.parametrize("sanity_check", [True, False])
@pytest.mark.parametrize("ckpt_path", ["last.ckpt", None])
@pytest.mark.parametrize("restores_after_setup", [True, False], ids=["sharded", "whole"])
def test_a_resumed_run_continues_its_logs_whenever_the_state_is_restored(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    restores_after_setup: bool,
    ckpt_path: str | None,
    sanity_check: bool,
) -> None:
    """With sharded weights, Lightning knows of the checkpoint only after `on_fit_start`."""

    def describe(trainer: Any, pl_module: Any) -> RunDescription:
        return RunDescription("", "", (), {}, resumed=trainer.ckpt_path is not None)

    monkeypatch.setattr(monitor, "describe_run", describe)
    logger, callback = Started(), monitor.PreferenceMonitor()
    for _ in range(2):  # a second fit of the same trainer
        trainer: Any = SimpleNamespace(
            is_global_zero=True,
            loggers=[logger],
            default_root_dir=str(tmp_path),
            strategy=SimpleNamespace(restore_checkpoint_after_setup=restores_after_setup),
            ckpt_path=None if restores_after_setup else ckpt_path,
        )
        callback.on_fit_start(trainer, None)  # type: ignore[arg-type]
        trainer.ckpt_path = ckpt_path
        if sanity_check:
            callback.on_sanity_check_start(trainer, None)  # type: ignore[arg-type]
        callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert logger.resumed == [ckpt_path is not None] * 2
