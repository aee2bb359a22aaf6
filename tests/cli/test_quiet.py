"""What the terminal shows at the start is ours."""

import logging
import warnings

import pytest

from lambda_grpo_pl.cli.quiet import _is_worth_reading, quieten_libraries


def test_a_warning_is_one_sentence_without_source_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with warnings.catch_warnings():
        quieten_libraries()
        text = warnings.formatwarning("9% of the\n responses", UserWarning, "rollout.py", 142, "rank_zero_warn(")
    assert text == "warning: 9% of the responses\n"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("LightningCLI's args parameter is intended to run from within Python like if it were from the command", False),
        ("You defined a `validation_step` but have no `val_dataloader`. Skipping val loop.", False),
        ("Couldn't infer the batch indices fetched from your dataloader: `ValBatches`", False),
        ("12% of the responses were truncated", True),
    ],
)
def test_what_lightning_warns_of_without_a_remedy_is_silenced(message: str, shown: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quieten_libraries()
        warnings.warn(message, stacklevel=1)
    assert bool(caught) is shown


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("Seed set to 0", False),
        ("`weights_only` was not set, defaulting to `False`.", False),
        ("GPU available: False, used: False", False),
        ("Resuming from runs/a/checkpoints/last.ckpt.", True),
        ("`Trainer.fit` stopped: `max_epochs=1` reached.", True),
    ],
)
def test_notices_that_need_no_action_are_dropped(message: str, kept: bool) -> None:
    record = logging.LogRecord("lightning", logging.INFO, "file", 1, message, None, None)
    assert _is_worth_reading(record) is kept
