"""λ-GRPO (arXiv 2510.06870) on PyTorch Lightning: GRPO, DAPO and Dr. GRPO as one objective with a learned length
preference.

The names below are the Python API; docs/python.md shows them at work. They are imported on first use, so that importing
the package, or `lambda_grpo_pl.objective` alone, stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lambda_grpo_pl.callbacks import RewardCallback, RolloutCallback, RolloutProgressBar
    from lambda_grpo_pl.callbacks.order import default_callbacks
    from lambda_grpo_pl.data.module import PromptDataModule
    from lambda_grpo_pl.data.sources import PromptSource
    from lambda_grpo_pl.errors import UserError
    from lambda_grpo_pl.objective import PreferenceConfig
    from lambda_grpo_pl.policy import PolicyConfig
    from lambda_grpo_pl.rewards import RewardSpec, Verdict, register
    from lambda_grpo_pl.sampling import SamplingSettings
    from lambda_grpo_pl.training.config import ObjectiveConfig, OptimizerConfig, UpdateConfig
    from lambda_grpo_pl.training.module import LambdaGRPO

__version__ = "0.1.0"

_HOMES = {
    "LambdaGRPO": "training.module",
    "ObjectiveConfig": "training.config",
    "OptimizerConfig": "training.config",
    "PolicyConfig": "policy",
    "PreferenceConfig": "objective",
    "PromptDataModule": "data.module",
    "PromptSource": "data.sources",
    "RewardCallback": "callbacks",
    "RewardSpec": "rewards",
    "RolloutCallback": "callbacks",
    "RolloutProgressBar": "callbacks",
    "SamplingSettings": "sampling",
    "UpdateConfig": "training.config",
    "UserError": "errors",
    "Verdict": "rewards",
    "default_callbacks": "callbacks.order",
    "register": "rewards",
}
"""Public name → module that defines it."""

__all__ = [
    "LambdaGRPO",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PolicyConfig",
    "PreferenceConfig",
    "PromptDataModule",
    "PromptSource",
    "RewardCallback",
    "RewardSpec",
    "RolloutCallback",
    "RolloutProgressBar",
    "SamplingSettings",
    "UpdateConfig",
    "UserError",
    "Verdict",
    "default_callbacks",
    "register",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
