"""The callbacks of a run, in the order of their hooks: for the command line and for Python.

`RolloutCallback` samples, `RewardCallback` scores, `DynamicSampling` replaces groups without a signal,
`HeldoutRollout` adds a held-out batch, and `OneStepOff` begins the next rollout once all others have been sampled.
`BenchmarkEvaluation` acts between steps. All others only read: `PhaseTimer` starts the clock of the training phase,
`RunSummary` reads what the others counted, and `LatestCheckpoint` saves the state of all (Lightning itself puts
checkpoint callbacks last).
"""

from __future__ import annotations

import lightning as L

from lambda_grpo_pl.callbacks.checkpoint import LatestCheckpoint
from lambda_grpo_pl.callbacks.completions import CompletionsTable
from lambda_grpo_pl.callbacks.evaluation import BenchmarkEvaluation
from lambda_grpo_pl.callbacks.export import HuggingFaceExport
from lambda_grpo_pl.callbacks.guards import Guards
from lambda_grpo_pl.callbacks.monitor import PreferenceMonitor
from lambda_grpo_pl.callbacks.one_step_off import OneStepOff
from lambda_grpo_pl.callbacks.predictions import PredictionWriter
from lambda_grpo_pl.callbacks.recording import RolloutRecorder
from lambda_grpo_pl.callbacks.rehearsal import Rehearsal
from lambda_grpo_pl.callbacks.resampling import DynamicSampling, HeldoutRollout
from lambda_grpo_pl.callbacks.reward import RewardCallback
from lambda_grpo_pl.callbacks.rollout import RolloutCallback
from lambda_grpo_pl.callbacks.startup import StartupPlan
from lambda_grpo_pl.callbacks.summary import RunSummary
from lambda_grpo_pl.callbacks.timing import PhaseTimer
from lambda_grpo_pl.callbacks.watchdog import Watchdog

SECTIONS: dict[str, type[L.Callback]] = {
    "rollout": RolloutCallback,
    "reward": RewardCallback,
    "dynamic_sampling": DynamicSampling,
    "heldout": HeldoutRollout,
    "one_step_off": OneStepOff,
    "evaluation": BenchmarkEvaluation,
    "monitor": PreferenceMonitor,
    "table": CompletionsTable,
    "record": RolloutRecorder,
    "guards": Guards,
    "predictions": PredictionWriter,
    "export": HuggingFaceExport,
    "plan": StartupPlan,
    "rehearsal": Rehearsal,
    "timer": PhaseTimer,
    "watchdog": Watchdog,
    "summary": RunSummary,
    "checkpoint": LatestCheckpoint,
}
"""Section of the configuration → its callback, in hook order."""


def default_callbacks(
    *,
    rollout: RolloutCallback | None = None,
    reward: RewardCallback | None = None,
    dynamic_sampling: DynamicSampling | None = None,
    heldout: HeldoutRollout | None = None,
    one_step_off: OneStepOff | None = None,
    evaluation: BenchmarkEvaluation | None = None,
    monitor: PreferenceMonitor | None = None,
    table: CompletionsTable | None = None,
    record: RolloutRecorder | None = None,
    guards: Guards | None = None,
    predictions: PredictionWriter | None = None,
    export: HuggingFaceExport | None = None,
    plan: StartupPlan | None = None,
    rehearsal: Rehearsal | None = None,
    timer: PhaseTimer | None = None,
    watchdog: Watchdog | None = None,
    summary: RunSummary | None = None,
    checkpoint: LatestCheckpoint | None = None,
) -> list[L.Callback]:
    """Return all callbacks in hook order: those given, and the others with their default settings.

    Arguments are the sections of the configuration.

    Example:
        >>> L.Trainer(callbacks=default_callbacks(reward=RewardCallback([RewardSpec(name="math")])), …)
    """
    given: dict[str, L.Callback | None] = dict(locals())  # exactly the arguments, whose names are the sections
    return [given[section] or callback() for section, callback in SECTIONS.items()]
