"""The start-up plan: what one step consists of, so that batch semantics need no guessing."""

from __future__ import annotations

from typing import Any

import lightning as L
from rich.console import Console
from rich.table import Table

from lambda_grpo_pl.callbacks.context import engine


class StartupPlan(L.Callback):
    """Prints prompts × G × updates, micro-batches, tokens and memory before the first step."""

    def __init__(self, show: bool = True) -> None:
        """Keep the setting.

        Args:
            show: Print the plan.
        """
        self.show = show

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print it on the first rank."""
        if not self.show or not trainer.is_global_zero:
            return
        table = Table(show_header=False, title="plan", title_justify="left")
        data = trainer.datamodule  # type: ignore[attr-defined]
        for row in describe_plan(trainer, pl_module, data, engine(trainer)):
            table.add_row(*row)
        Console().print(table)


def describe_plan(trainer: Any, module: Any, data: Any, rollout: Any) -> list[tuple[str, str]]:
    """Rows (what, how much) that say what one step is, so that batch semantics need no guessing."""
    group, limit = rollout.sampling.num_samples, rollout.sampling.max_tokens
    prompts, updates = data.batch_size, module.updates
    num_parameters = sum(parameter.numel() for parameter in module.policy.parameters())
    trainable = sum(parameter.numel() for parameter in module.policy.parameters() if parameter.requires_grad)
    budget = module.token_budget
    bytes_of_state = 4 * num_parameters + 12 * trainable
    responses = prompts * group
    return [
        ("prompts × G", f"{prompts} × {group} = {responses} responses a step, on {trainer.world_size} rank(s)"),
        (
            "updates",
            f"{updates.num_epochs} epoch(s) × {updates.num_minibatches} mini-batch(es) = {updates.per_rollout} a step, "
            f"{responses // updates.num_minibatches} responses each; {trainer.max_steps} in all",
        ),
        ("tokens", f"at most {limit} a response, {responses * limit:,} a step; {budget:,} a micro-batch"),
        ("rollouts", _rollouts(rollout, module)),
        ("objective", _objective(module)),
        ("parameters", f"{trainable:,} trainable of {num_parameters:,}, and {_num_preference(module)} for λ"),
        (
            "memory",
            f"{bytes_of_state / 2**20:,.0f} MiB of weights, gradients and optimizer states over all ranks, "
            "activations aside",
        ),
    ]


def _rollouts(rollout: Any, module: Any) -> str:
    surrogate = module.objective.surrogate
    if rollout.sampler.placement is None:
        return f"on-policy, sampler {rollout.sampler.name} in this process"
    return (
        f"one step ahead, sampler {rollout.sampler.name} in a process of its own; importance weights "
        f"{surrogate.is_correction} at {surrogate.is_cap:g}"
    )


def _objective(module: Any) -> str:
    preference, surrogate = module.preference.config, module.objective.surrogate
    clip = f"{1 - surrogate.clip_low:g}…{1 + surrogate.clip_high:g}"
    count = module.objective.token_count
    return f"{preference.family}, λ {preference.learn}, Z {count}, clip {clip}, β {surrogate.kl_coef:g}"


def _num_preference(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.preference.parameters() if parameter.requires_grad)
