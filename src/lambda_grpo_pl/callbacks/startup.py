"""The start-up plan: data, batch, sampler, objective and memory of a run, before it starts."""

from __future__ import annotations

import importlib.metadata

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from lambda_grpo_pl.callbacks.context import datamodule, engine, trained
from lambda_grpo_pl.callbacks.module_view import TrainedModule
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.data.sources import PromptSource
from lambda_grpo_pl.rollout.engine import RolloutEngine
from lambda_grpo_pl.sampling import VllmSettings, installed_vllm

GIB, MIB = 2**30, 2**20


class StartupPlan(L.Callback):
    """Prints what a run consists of before the first step, so that batch semantics need no guessing."""

    def __init__(self, show: bool = True) -> None:
        """Keep the setting.

        Args:
            show: Print the plan.
        """
        self.show = show

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print it on the first rank."""
        if not self.show or not trainer.is_global_zero:
            return
        table = Table(show_header=False, title="plan", title_justify="left")
        for row in describe_plan(trainer, pl_module):
            table.add_row(*row)
        Console().print(table)


def describe_plan(trainer: L.Trainer, pl_module: L.LightningModule) -> list[tuple[str, str]]:
    """Return rows (what, how much) that say what the run consists of."""
    module, data, rollouts = trained(pl_module), datamodule(trainer), engine(trainer)
    return [
        ("training data", _describe_source(data.train_source, data)),
        ("validation", _validation(trainer, data)),
        ("rewards", " + ".join(f"{spec.weight:g} × {spec.label}" for spec in rollouts.suites.training.specs)),
        *_batch_rows(trainer, module, data, rollouts),
        ("sampler", _sampler(rollouts)),
        ("rollouts", _staleness(rollouts, module)),
        ("objective", _objective(module)),
        ("optimizer", _optimizer(module)),
        ("memory", _memory(module, rollouts)),
    ]


def _describe_source(source: PromptSource, data: PromptDataModule) -> str:
    size = len(data.read_rows())
    number = f"{size:,} prompts" if size else "an endless stream"
    return f"{source.path or source.name}, {number}, template {source.prompt_template.label!r}"


def _validation(trainer: L.Trainer, data: PromptDataModule) -> str:
    if not data.val_names:
        return "none: set data.val to questions that are not trained on"
    return f"{', '.join(data.val_names)}; every {trainer.val_check_interval} rollouts"


def _batch_rows(
    trainer: L.Trainer, module: TrainedModule, data: PromptDataModule, rollouts: RolloutEngine
) -> list[tuple[str, str]]:
    group, limit = rollouts.sampling.num_samples, rollouts.sampling.max_tokens
    responses, updates = data.batch_size * group, module.updates
    return [
        (
            "prompts × G",
            f"{data.batch_size} × {group} = {responses} responses per rollout, on {trainer.world_size} rank(s)",
        ),
        (
            "updates",
            f"{updates.num_epochs} epoch(s) × {updates.num_minibatches} mini-batch(es) = {updates.per_rollout} per "
            f"rollout, {responses // updates.num_minibatches} responses each; {trainer.max_steps} in all",
        ),
        (
            "tokens",
            f"at most {limit} per response, {responses * limit:,} per rollout; {module.token_budget:,} per micro-batch",
        ),
    ]


def _uses_vllm(rollouts: RolloutEngine) -> bool:
    name = rollouts.sampler.name
    return name == "vllm" or (name == "auto" and installed_vllm() is not None)


def _sampler(rollouts: RolloutEngine) -> str:
    if _uses_vllm(rollouts):
        chosen = f"vLLM {installed_vllm()} in {str(rollouts.sampler.vllm.torch_dtype).removeprefix('torch.')}"
    else:
        chosen = f"transformers {importlib.metadata.version('transformers')}"
    return chosen + ", chosen by rollout.sampler: auto" * (rollouts.sampler.name == "auto")


def _staleness(rollouts: RolloutEngine, module: TrainedModule) -> str:
    surrogate = module.objective.surrogate
    if rollouts.sampler.placement is None:
        return "on-policy, sampled in this process"
    return (
        "one step ahead, sampled in a separate process; importance weights "
        f"{surrogate.is_correction} at {surrogate.is_cap:g}"
    )


def _objective(module: TrainedModule) -> str:
    preference, surrogate = module.preference.config, module.objective.surrogate
    clip = f"{1 - surrogate.clip_low:g}…{1 + surrogate.clip_high:g}"
    count = module.objective.token_count
    return f"{preference.family}, λ {preference.learn}, Z {count}, clip {clip}, β {surrogate.kl_coef:g}"


def _optimizer(module: TrainedModule) -> str:
    config, preference = module.optimizer_config, module.preference.config
    warmup = f" after {config.warmup_steps} warm-up updates" if config.warmup_steps else ""
    rate = f"AdamW, learning rate {config.lr:g}{warmup}, {config.schedule}"
    return f"{rate}; λ: SGD, learning rate {preference.lr:g}" if preference.has_gradient else rate


def _memory(module: TrainedModule, rollouts: RolloutEngine) -> str:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.policy.parameters()]
    total, trainable = sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
    num_preference = sum(parameter.numel() for parameter in module.preference.parameters() if parameter.requires_grad)
    engine_part = f"; sampler: {_engine_memory(rollouts.sampler.vllm, total)}" if _uses_vllm(rollouts) else ""
    return (
        f"{trainable:,} trainable of {total:,} parameters, and {num_preference} for λ: "
        f"{(4 * total + 12 * trainable) / MIB:,.0f} MiB of weights, gradients and optimizer states over all ranks, "
        f"without activations{engine_part}"
    )


def _engine_memory(settings: VllmSettings, num_parameters: int) -> str:
    if settings.kv_cache_gib is None and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / GIB
        return f"{settings.gpu_memory_utilization * total:.1f} GiB of each GPU ({settings.gpu_memory_utilization:.0%})"
    weights = num_parameters * settings.torch_dtype.itemsize / MIB
    return f"{weights:,.0f} MiB of weights and {settings.kv_cache_gib or 1:g} GiB of key-value cache"
