"""The supervised warm-up that teaches a pretrained chat model the form of a built-in task's solutions.

Afterwards a group of responses holds right and wrong ones, short and long ones: what a policy gradient and a length
preference need. The warm-up is short, so the model still errs a lot.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lambda_grpo_pl.builtin.warm_up import Traces, collate


@dataclass(kw_only=True)
class FineTuningConfig:
    """What a warm-up of a pretrained model reads."""

    traces: Traces
    """Worked solutions of the task."""
    num_steps: int = 40
    """Optimizer steps."""
    batch_size: int = 16
    """Solutions per step."""
    learning_rate: float = 2e-4
    """Peak of AdamW's schedule: five steps up, then linearly to 0."""
    seed: int = 0
    """Seeds the data."""


def fine_tune(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: FineTuningConfig) -> None:
    """Train `model` in place on worked solutions, as answers to a user's question in the tokenizer's chat template.

    Only the solution's tokens and the end-of-sequence token carry a loss. The result is a function of `config` and the
    weights on one machine.
    """
    rng = random.Random(f"{config.seed}/fine-tuning")
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    was_training = model.training
    model.train()
    for step in range(config.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min((step + 1) / 5, 1 - step / config.num_steps)
        input_ids, labels = collate(
            [_encode(*config.traces.draw(rng, step / config.num_steps), tokenizer) for _ in range(config.batch_size)],
            tokenizer.pad_token_id,
        )
        model(input_ids=input_ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.train(was_training)


def _encode(question: str, solution: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    return prompt, [*tokenizer.encode(solution, add_special_tokens=False), tokenizer.eos_token_id]
