"""The curve of f against length, and the picture of a run."""

from pathlib import Path

import torch

from lambda_grpo_pl.callbacks.figure import draw_run
from lambda_grpo_pl.callbacks.monitor import PANELS, curve_of


def test_the_curve_bins_responses_by_length_relative_to_their_group() -> None:
    lengths = torch.tensor([[10, 20, 30, 40], [1, 2, 3, 4]])
    weights = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    curve = torch.tensor(curve_of(lengths, weights, 4))
    torch.testing.assert_close(curve, torch.tensor([[0.4, 4.0], [0.8, 3.0], [1.2, 2.0], [1.6, 1.0]]))


def test_more_bins_than_responses_leave_no_empty_bin() -> None:
    assert len(curve_of(torch.tensor([[1, 2]]), torch.ones(1, 2), 12)) == 2


def test_a_metric_stands_in_one_panel_only() -> None:
    names = [name for panel in PANELS.values() for name in panel]
    assert len(names) == len(set(names))


def test_the_picture_is_written_even_for_a_run_without_updates(tmp_path: Path) -> None:
    draw_run({}, [], tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
