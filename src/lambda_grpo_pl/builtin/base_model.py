"""The built-in base model: a tiny Qwen2 that a minute of supervised warm-up makes deliberately imperfect.

It reads worked arithmetic in four styles of very different length, some with a slip that runs through to the answer.
It therefore knows the method, slips about as often as its teacher did, and chooses its verbosity at random: groups of
responses differ in both length and correctness, which is what a policy gradient and a length preference need.

`resolve_model_path("builtin:arithmetic-tiny")` makes the model once and returns its folder from then on; every other
name passes through, so it can stand wherever a model path is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from lambda_grpo_pl.builtin.arithmetic import STYLES, draw_problem, solve
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer

log = logging.getLogger(__name__)

CACHE_VARIABLE = "LAMBDA_GRPO_CACHE"
PREFIX = "builtin:"
IGNORED = -100  # the label that transformers leaves out of its loss


@dataclass(kw_only=True)
class BaseModelConfig:
    """Size of the built-in model and what its warm-up reads."""

    hidden_size: int = 96
    """Width; heads are 32 wide, which vLLM's CPU attention needs."""
    num_layers: int = 3
    """Transformer layers."""
    max_digits: int = 3
    """Digits of the largest operand."""
    style_weights: tuple[float, ...] = (0.2, 0.5, 0.12, 0.18)
    """Share of each style of worked solution: answer, columns, checked, written."""
    slip_rate: float = 0.12
    """Probability that a column of a warm-up solution is wrong, once slips begin."""
    clean_share: float = 0.75
    """Share of the warm-up before slips begin: the method is learnt first, and the slips after it."""
    num_steps: int = 1200
    """Optimizer steps of the warm-up."""
    batch_size: int = 32
    """Solutions a step."""
    learning_rate: float = 3e-3
    """Peak of AdamW's cosine schedule; Muon's is five times as high."""
    seed: int = 0
    """Seeds weights and warm-up data."""

    def __post_init__(self) -> None:
        if self.hidden_size % 32:
            raise ValueError(f"hidden_size is {self.hidden_size}: use a multiple of 32, the width of a head.")
        if len(self.style_weights) != len(STYLES):
            raise ValueError(f"style_weights has {len(self.style_weights)} entries: give one for each of {STYLES}.")


BUILTIN = {"arithmetic-tiny": BaseModelConfig()}


def resolve_model_path(name: str) -> str:
    """Return the folder of a built-in model, made on first use (about a minute), or any other name unchanged.

    Raises `ValueError` for a `builtin:` name that doesn't exist.
    """
    if not name.startswith(PREFIX):
        return name
    config = BUILTIN.get(name.removeprefix(PREFIX))
    if config is None:
        known = ", ".join(PREFIX + known for known in BUILTIN)
        raise ValueError(f"There is no built-in model {name!r}: use one of {known}, a folder, or a hub id.")
    return str(make_base_model(cache_folder() / f"{name.removeprefix(PREFIX)}-{_fingerprint(config)}", config))


def cache_folder() -> Path:
    """Where built-in models are kept: $LAMBDA_GRPO_CACHE, else `lambda_grpo_pl` in the user's cache folder."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lambda_grpo_pl"


def make_base_model(path: str | Path, config: BaseModelConfig) -> Path:
    """Warm up a model and write it, with its tokenizer, as a Hugging Face folder; an existing folder is kept.

    Several processes may call this at once: one works and the others wait. The folder appears complete or not at all.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists():
            return path
        log.info("Making the built-in base model at %s: about a minute of supervised warm-up.", path)
        tokenizer = character_tokenizer()
        model = warm_up(config, tokenizer)
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(path)
    return path


def warm_up(config: BaseModelConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """Train a fresh model on worked solutions by next-token prediction; a pure function of `config` on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _untrained(config, tokenizer).train()
    optimizers = _optimizers(model, config)
    schedules = [LambdaLR(optimizer, lambda step: _cosine(step, config.num_steps)) for optimizer in optimizers]
    num_items = 24 * config.batch_size
    for input_ids, labels in _batches(config, tokenizer):
        # A constant divisor: a mean over each batch's own tokens would weigh short solutions up, as batches are sorted.
        loss = model(input_ids=input_ids, labels=labels, use_cache=False, num_items_in_batch=num_items).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model.eval()


def _untrained(config: BaseModelConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=2 * config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.hidden_size // 32,
            num_key_value_heads=1,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            initializer_range=config.hidden_size**-0.5,  # the default of 0.02 is for far wider models and learns slowly
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _optimizers(model: Qwen2ForCausalLM, config: BaseModelConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and AdamW for the rest, which learns more from the same minute than AdamW alone."""
    matrices = {
        name: parameter for name, parameter in model.named_parameters() if parameter.ndim == 2 and "embed" not in name
    }
    rest = [parameter for name, parameter in model.named_parameters() if name not in matrices]
    return [
        torch.optim.Muon(matrices.values(), lr=5 * config.learning_rate, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _cosine(step: int, num_steps: int) -> float:
    """Rise over the first twentieth, then fall along a cosine to a tenth of the peak."""
    return min(1.0, 20 * (step + 1) / num_steps) * (0.55 + 0.45 * math.cos(math.pi * step / num_steps))


def _batches(config: BaseModelConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield right-padded input ids and labels, both [batch_size, T] int64; prompts and padding carry no loss.

    Eight batches' worth of solutions are sorted by length and dealt out, so that little of a batch is padding.
    """
    rng = random.Random(f"{config.seed}/warm-up")
    for first in range(0, config.num_steps, 8):
        slip_rate = config.slip_rate if first >= config.clean_share * config.num_steps else 0.0
        pairs = [_example(config, rng, slip_rate) for _ in range(8 * config.batch_size)]
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        batches = [pairs[start : start + config.batch_size] for start in range(0, len(pairs), config.batch_size)]
        rng.shuffle(batches)
        for batch in batches[: config.num_steps - first]:
            yield _collate(batch, tokenizer)


def _example(config: BaseModelConfig, rng: random.Random, slip_rate: float) -> tuple[str, str]:
    problem = draw_problem(rng, "train", config.max_digits)
    style = rng.choices(STYLES, config.style_weights)[0]
    return problem.question, solve(problem, style, rng, slip_rate)


def _collate(pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    prompts = [tokenizer.encode(question) for question, _ in pairs]
    solutions = [[*tokenizer.encode(solution), tokenizer.eos_token_id] for _, solution in pairs]
    width = max(len(prompt) + len(solution) for prompt, solution in zip(prompts, solutions, strict=True))
    input_ids = torch.full((len(pairs), width), tokenizer.pad_token_id)
    labels = torch.full((len(pairs), width), IGNORED)
    for row, (prompt, solution) in enumerate(zip(prompts, solutions, strict=True)):
        end = len(prompt) + len(solution)
        input_ids[row, :end] = torch.tensor(prompt + solution)
        labels[row, len(prompt) : end] = torch.tensor(solution)
    return input_ids, labels


def _fingerprint(config: BaseModelConfig) -> str:
    """Hash what decides the weights: the configuration and the source of the files that make them."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name in ("arithmetic.py", "tokenizer.py", "base_model.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:12]
