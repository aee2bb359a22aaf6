"""The supervised warm-up that makes a tiny Qwen2 a deliberately imperfect base model of a built-in task.

It reads worked solutions of very different length, some with an error that leads to a wrong answer. The model therefore
knows the method, errs about as often as its teacher did, and varies its verbosity at random: groups of responses differ
in both length and correctness, which is what a policy gradient and a length preference need.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from lambda_grpo_pl.errors import UserError

IGNORED = -100  # the label that transformers ignores in its loss


class Traces(Protocol):
    """Worked solutions of one task, right and wrong; a dataclass, whose fields decide the weights."""

    source: ClassVar[str]
    """File beside this one that defines the task."""

    def draw(self, rng: random.Random, progress: float) -> tuple[str, str]:
        """Return a question of the training split and a solution; `progress` of the warm-up runs from 0 to 1."""
        ...


@dataclass(kw_only=True)
class WarmUpConfig:
    """Size of a built-in model and what its warm-up reads."""

    traces: Traces
    """Worked solutions of the task."""
    hidden_size: int = 96
    """Width; heads are 32 wide, which vLLM's CPU attention needs."""
    num_layers: int = 3
    """Transformer layers."""
    num_steps: int = 1200
    """Optimizer steps of the warm-up."""
    batch_size: int = 32
    """Solutions per step."""
    learning_rate: float = 3e-3
    """Peak of AdamW's cosine schedule; Muon's is five times as high."""
    seed: int = 0
    """Seeds weights and warm-up data."""

    def __post_init__(self) -> None:
        if self.hidden_size % 32:
            raise UserError(f"hidden_size is {self.hidden_size}: use a multiple of 32, the width of a head.")


def warm_up(config: WarmUpConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """Train a fresh model on worked solutions by next-token prediction; a pure function of `config` on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Qwen2ForCausalLM(model_config(config, tokenizer)).train()
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


def model_config(config: WarmUpConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen2Config:
    """Return the shape of the model that `warm_up` trains."""
    return Qwen2Config(
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


def _optimizers(model: Qwen2ForCausalLM, config: WarmUpConfig) -> list[torch.optim.Optimizer]:
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


def _batches(config: WarmUpConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield right-padded input ids and labels, both [batch_size, T] int64; prompts and padding carry no loss.

    Eight batches' worth of solutions are sorted by length and dealt out, so that little of a batch is padding.
    """
    rng = random.Random(f"{config.seed}/warm-up")
    for first in range(0, config.num_steps, 8):
        progress = first / config.num_steps
        pairs = [config.traces.draw(rng, progress) for _ in range(8 * config.batch_size)]
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        batches = [pairs[start : start + config.batch_size] for start in range(0, len(pairs), config.batch_size)]
        rng.shuffle(batches)
        for batch in batches[: config.num_steps - first]:
            encoded = [
                (tokenizer.encode(question), [*tokenizer.encode(solution), tokenizer.eos_token_id])
                for question, solution in batch
            ]
            yield collate(encoded, tokenizer.pad_token_id)


def collate(pairs: list[tuple[list[int], list[int]]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Return right-padded input ids and labels, both [B, T] int64, of (prompt, solution) ids; prompts carry no loss."""
    width = max(len(prompt) + len(solution) for prompt, solution in pairs)
    input_ids = torch.full((len(pairs), width), pad_token_id)
    labels = torch.full((len(pairs), width), IGNORED)
    for row, (prompt, solution) in enumerate(pairs):
        end = len(prompt) + len(solution)
        input_ids[row, :end] = torch.tensor(prompt + solution)
        labels[row, len(prompt) : end] = torch.tensor(solution)
    return input_ids, labels
