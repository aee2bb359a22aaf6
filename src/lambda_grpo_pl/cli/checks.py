"""Checks that involve several sections of the configuration and no model; they run before anything is built."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from lambda_grpo_pl.callbacks.agreement import check_group
from lambda_grpo_pl.callbacks.resampling import check_heldout
from lambda_grpo_pl.cli.planned_run import sampling_requests
from lambda_grpo_pl.data.batching import share_prompts
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling import check_context, engine_settings, uses_vllm
from lambda_grpo_pl.training.config import UpdateConfig, check_precision


def check_plan(config: Any) -> None:
    """Refuse settings that fit their own section but not each other. `config` is the parsed configuration.

    Raises `UserError` with a sentence that names the keys to change.
    """
    check_group(config.rollout.sampling, config.model.objective.advantage)
    _check_trainer(config.trainer)
    _check_model(config.model.policy.path)
    _check_root(Path(config.trainer.default_root_dir or "."))
    methods = list(config.model.lens.methods)
    check_heldout(config.heldout.every, config.data.heldout is not None, config.model.preference.learn, methods)


def check_machine(config: Any) -> None:
    """Refuse what this machine lacks. Raises `UserError`."""
    uses_vllm(config.rollout.sampler)  # raises if that vLLM cannot be used
    if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator is {config.trainer.accelerator}, but torch {torch.__version__} finds no working "
            "CUDA device: check nvidia-smi and that this torch is a CUDA build, or set trainer.accelerator to cpu."
        )


def check_seed(seed: int) -> None:
    """Refuse a seed that numpy does not take. Raises `UserError`."""
    if not 0 <= seed < 2**32:
        raise UserError(f"seed_everything is {seed}: set it between 0 and {2**32 - 1}.")


def check_lengths(parts: Any, num_positions: int | None) -> None:
    """Refuse limits on prompts and responses, of training and of every validation set, beyond the model or engine.

    A run itself is checked with the prompts that it has read (`callbacks.lengths`); `plan` reads none.

    `parts` is the instantiated configuration; `num_positions` is how many tokens the model reads, None if not known.
    Raises `UserError`.
    """
    engine = engine_settings(parts.rollout.sampler_name, parts.rollout.vllm)
    for request in sampling_requests(parts, num_ranks=1):
        is_training = request.name == "training"
        key = "rollout.sampling.max_tokens" if is_training else f"evaluation.benchmarks.{request.name}.max_tokens"
        check_context(request.prompt_tokens, request.response_tokens, engine, num_positions, response_key=key)


def check_shares(batch_size: int, updates: UpdateConfig, num_ranks: int) -> None:
    """Refuse prompts that ranks, or a rank's mini-batches, can't share evenly. Raises `UserError`."""
    updates.check(share_prompts(batch_size, num_ranks))


def _check_trainer(trainer: Any) -> None:
    """Refuse what Lightning's trainer offers and manual optimization does not do, naming the key that does."""
    check_precision(str(trainer.precision))
    accelerators = ("auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators()))
    if isinstance(trainer.accelerator, str) and trainer.accelerator not in accelerators:
        raise UserError(f"trainer.accelerator is {trainer.accelerator}: use one of {', '.join(accelerators)}.")
    strategies = ("auto", *StrategyRegistry.available_strategies())
    if isinstance(trainer.strategy, str) and trainer.strategy not in strategies:
        raise UserError(
            f"trainer.strategy is {trainer.strategy}: use auto (one device), ddp, or ModelParallelStrategy (FSDP2, see "
            "configs/strategy/fsdp2.yaml)."
        )
    if trainer.accumulate_grad_batches != 1:
        raise UserError(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}: leave it at 1. A rollout is always "
            "split into micro-batches that fit; model.policy.tokens_per_micro_batch sets their size, and "
            "data.batch_size the prompts of an update."
        )
    if trainer.gradient_clip_val is not None:
        raise UserError(
            f"trainer.gradient_clip_val is {trainer.gradient_clip_val}: leave it out, and set "
            "model.optimizer.max_grad_norm instead."
        )
    if trainer.max_steps < -1:
        raise UserError(f"trainer.max_steps is {trainer.max_steps}: set it to the number of policy updates.")


def _check_model(path: str) -> None:
    """Refuse a folder that does not exist or holds no model; a hub id is looked up when it is loaded."""
    folder = Path(path).expanduser()
    if path.startswith(("/", ".", "~")) and not folder.is_dir():
        raise UserError(
            f"model.policy.path is {path}, but that folder does not exist: fix the path or give a Hugging Face model "
            "id."
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(
            f"model.policy.path is {path}, a folder without config.json: name a folder that save_pretrained wrote, "
            "such as <run>/policy."
        )


def _check_root(root: Path) -> None:
    """Refuse a run's folder that cannot be written, before anything is loaded."""
    parent = next(each for each in (root, *root.absolute().parents) if each.exists())
    try:
        TemporaryFile(dir=parent).close()
    except OSError as error:
        raise UserError(
            f"trainer.default_root_dir is {root}, but {parent} cannot be written ({error.strerror}): set it to a "
            "folder of yours."
        ) from error
