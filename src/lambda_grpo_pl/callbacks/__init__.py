"""Callbacks: sampling, scoring, evaluation, and those that only read. Each fills at most one slot of the batch.

The names below are imported on first use: what reads the logs of a run needs neither torch nor Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lambda_grpo_pl.callbacks.checkpoint import LatestCheckpoint
    from lambda_grpo_pl.callbacks.completions import CompletionsTable
    from lambda_grpo_pl.callbacks.evaluation import BenchmarkEvaluation
    from lambda_grpo_pl.callbacks.evaluation_settings import EvaluationSettings
    from lambda_grpo_pl.callbacks.export import HuggingFaceExport
    from lambda_grpo_pl.callbacks.guards import Guards
    from lambda_grpo_pl.callbacks.loggers import RunCSVLogger, RunWandbLogger
    from lambda_grpo_pl.callbacks.monitor import PreferenceMonitor
    from lambda_grpo_pl.callbacks.one_step_off import OneStepOff
    from lambda_grpo_pl.callbacks.order import default_callbacks
    from lambda_grpo_pl.callbacks.order_check import check_order
    from lambda_grpo_pl.callbacks.predictions import PredictionWriter
    from lambda_grpo_pl.callbacks.progress import RolloutProgressBar
    from lambda_grpo_pl.callbacks.recording import RolloutRecorder
    from lambda_grpo_pl.callbacks.rehearsal import Rehearsal
    from lambda_grpo_pl.callbacks.resampling import DynamicSampling, HeldoutRollout
    from lambda_grpo_pl.callbacks.reward import RewardCallback
    from lambda_grpo_pl.callbacks.rollout import RolloutCallback
    from lambda_grpo_pl.callbacks.run_config import RunConfig
    from lambda_grpo_pl.callbacks.startup import StartupPlan
    from lambda_grpo_pl.callbacks.summary import RunSummary
    from lambda_grpo_pl.callbacks.timing import PhaseTimer
    from lambda_grpo_pl.callbacks.watchdog import Watchdog

_HOMES = {
    "BenchmarkEvaluation": "evaluation",
    "CompletionsTable": "completions",
    "DynamicSampling": "resampling",
    "EvaluationSettings": "evaluation_settings",
    "Guards": "guards",
    "HeldoutRollout": "resampling",
    "HuggingFaceExport": "export",
    "LatestCheckpoint": "checkpoint",
    "OneStepOff": "one_step_off",
    "PhaseTimer": "timing",
    "PredictionWriter": "predictions",
    "PreferenceMonitor": "monitor",
    "Rehearsal": "rehearsal",
    "RewardCallback": "reward",
    "RolloutCallback": "rollout",
    "RolloutProgressBar": "progress",
    "RolloutRecorder": "recording",
    "RunCSVLogger": "loggers",
    "RunConfig": "run_config",
    "RunSummary": "summary",
    "RunWandbLogger": "loggers",
    "StartupPlan": "startup",
    "Watchdog": "watchdog",
    "check_order": "order_check",
    "default_callbacks": "order",
}
"""Public name → module that defines it."""

__all__ = [
    "BenchmarkEvaluation",
    "CompletionsTable",
    "DynamicSampling",
    "EvaluationSettings",
    "Guards",
    "HeldoutRollout",
    "HuggingFaceExport",
    "LatestCheckpoint",
    "OneStepOff",
    "PhaseTimer",
    "PredictionWriter",
    "PreferenceMonitor",
    "Rehearsal",
    "RewardCallback",
    "RolloutCallback",
    "RolloutProgressBar",
    "RolloutRecorder",
    "RunCSVLogger",
    "RunConfig",
    "RunSummary",
    "RunWandbLogger",
    "StartupPlan",
    "Watchdog",
    "check_order",
    "default_callbacks",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
