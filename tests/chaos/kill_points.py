"""Where a run can be killed: phases of a step, each a function that is entered; and the timer that kills inside it."""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

PHASES = {
    "sample": "lambda_grpo_pl.sampling.transformers_sampler.TransformersSampler.generate",
    "score": "lambda_grpo_pl.rollout.engine.RolloutEngine.score",
    "sync": "lambda_grpo_pl.rollout.policy_sampler.PolicySampler.sync",
    "backward": "lambda_grpo_pl.training.module.accumulate_gradient",
    "policy step": "lambda_grpo_pl.training.module.LambdaGRPO._step_policy",
    "λ step": "lambda_grpo_pl.training.module.LambdaGRPO._step_preference",
    "evaluate": "lambda_grpo_pl.rollout.engine.RolloutEngine.answer",
    "tables": "lambda_grpo_pl.callbacks.evaluation.write_tables",
    "write checkpoint": "lambda_grpo_pl.callbacks.checkpoint_io.DurableCheckpointIO.save_checkpoint",
    "rename checkpoint": "lambda_grpo_pl.callbacks.checkpoint.LatestCheckpoint._rotate",
    "record": "lambda_grpo_pl.replay.store.RolloutStore.write",
    "log": "lambda_grpo_pl.callbacks.metrics_file.MetricsFile.log_metrics",
}
"""Phase → the function that is it."""
VARIABLE = "CHAOS_KILL"
"""Environment variable with a `Kill` as JSON; another value is the file that measurements go to."""


class Kill(NamedTuple):
    """When a run dies."""

    phase: str
    call: int
    """Which call of the phase's function, from 1."""
    delay: float
    """Seconds into that call."""
    rank: int = 0
    """Which process."""


class Measured(NamedTuple):
    """What an undisturbed run spends in a phase."""

    calls: int
    seconds: float
    """Mean over the calls."""


def plant_from_environment() -> None:
    """Prepare this process for what the environment says."""
    content = os.environ.get(VARIABLE)
    if content is None:
        return
    if content.startswith("["):
        kill = Kill(*json.loads(content))
        if kill.rank == int(os.environ.get("LOCAL_RANK", "0")):
            plant(kill)
    elif os.environ.get("LOCAL_RANK", "0") == "0":
        measure(Path(content))


def plant(kill: Kill) -> None:
    """Let this process die in one call of one phase."""
    calls = 0

    def around(original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == kill.call:
            timer = threading.Timer(kill.delay, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        return original(*arguments, **named)

    _wrap(kill.phase, around)


def measure(out: Path) -> None:
    """Count the calls of every phase and their time, and write both after each call."""
    spent: dict[str, list[float]] = {}

    def around(phase: str, original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = original(*arguments, **named)
        spent.setdefault(phase, []).append(time.perf_counter() - start)
        out.write_text(json.dumps({name: [len(each), sum(each) / len(each)] for name, each in spent.items()}))
        return result

    for phase in PHASES:
        _wrap(phase, functools.partial(around, phase))


def read_measured(path: Path) -> dict[str, Measured]:
    """Return what `measure` wrote."""
    return {name: Measured(*values) for name, values in json.loads(path.read_text()).items()}


def _wrap(phase: str, around: Callable[..., Any]) -> None:
    owner, name = _find(PHASES[phase])
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        return around(original, *arguments, **named)

    setattr(owner, name, wrapped)


def _find(path: str) -> tuple[Any, str]:
    """The module or class that holds a dotted name, and the name in it."""
    home, name = path.rsplit(".", 1)
    try:
        return importlib.import_module(home), name
    except ModuleNotFoundError:
        module, kind = home.rsplit(".", 1)
        return getattr(importlib.import_module(module), kind), name
