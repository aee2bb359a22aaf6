"""Settings that a resumed run cannot change: its state was made under them, so another value would be ignored or wrong.

A checkpoint brings back weights, λ, both optimizers with their learning rates, and the place in the data. What is not
listed here is taken from the new configuration: sampling, rewards, evaluation, trainer, clipping.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lambda_grpo_pl.errors import UserError

FIXED = (
    "model.policy.path",
    "model.policy.lora",
    "model.preference.family",
    "model.preference.learn",
    "model.preference.contextual",
    "model.preference.r",
    "model.preference.lr",
    "model.optimizer.lr",
    "model.optimizer.betas",
    "model.optimizer.eps",
    "model.optimizer.weight_decay",
    "model.optimizer.warmup_steps",
    "model.optimizer.schedule",
    "model.optimizer.states",
    "model.updates",
    "data.train",
    "data.heldout",
    "data.batch_size",
    "data.shuffle",
    "seed_everything",
)


def find_run_config(checkpoint: str) -> dict[str, Any] | None:
    """Return the configuration of the run that wrote `<root>/checkpoints/<checkpoint>`, or None if it is not there."""
    file = Path(checkpoint).resolve().parents[1] / "config.yaml"
    if not file.is_file():
        return None
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else None


def check_same_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare two resolved configurations. Raises `UserError` that lists every fixed setting which differs."""
    changed = [
        f"{key} {_show(old)} (now {_show(new)})"
        for name in FIXED
        for key, old, new in _differences(name, _find(before, name), _find(now, name))
    ]
    if changed:
        raise UserError(
            f"The checkpoint was trained with {', '.join(changed)}. A resumed run cannot change that: set it back, or "
            "start a new run from the exported policy (model.policy.path: <run>/policy)."
        )


def _find(config: Mapping[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _differences(name: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [each for key in keys for each in _differences(f"{name}.{key}", old.get(key), new.get(key))]
    if name.endswith(".path") and isinstance(old, str) and isinstance(new, str):
        old, new = _name(old), _name(new)  # a folder may have moved
    return [] if old == new else [(name, old, new)]


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_show(each)}" for key, each in value.items() if each is not None) + "}"
    return "null" if value is None else str(value)
