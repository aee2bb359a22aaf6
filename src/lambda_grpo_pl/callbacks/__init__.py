"""Callbacks: sampling, scoring, evaluation, and those that only read. Each fills at most one slot of the batch."""

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
