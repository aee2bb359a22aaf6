"""What one update costs in things that can be counted exactly: tokens, passes, logits, decoded tokens. No clock.

    python benchmarks/counts.py

Writes benchmarks/results/counts.json, which a test compares with the present code: a change that makes an update
process more is seen on any machine, however slow or busy. Rerun and commit the file when a count changes for a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch.callbacks import LambdaCallback
from report import table, write
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from workload import make_model, make_prompts, make_trainer, quiet, save_model, scored_rollout

from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.objective import PreferenceConfig, SurrogateConfig
from lambda_grpo_pl.policy import MicroBatch, Policy, PolicyConfig
from lambda_grpo_pl.sampling import SamplingSettings, TransformersSampler
from lambda_grpo_pl.training.config import ObjectiveConfig, UpdateConfig
from lambda_grpo_pl.training.module import LambdaGRPO

TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY |= {"num_key_value_heads": 1}
CHUNK = 256
Counts = dict[str, int]

WITH_KL = ObjectiveConfig(surrogate=SurrogateConfig(kl_coef=0.04))
EVERY_GROUP = ObjectiveConfig(skip_zero_advantage=False)
CASES: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "every group": {"objective": EVERY_GROUP},
    "every group, packed": {"objective": EVERY_GROUP, "packing": "packed"},
    "every group, padded": {"objective": EVERY_GROUP, "packing": "padded"},
    "two epochs": {"updates": UpdateConfig(num_epochs=2)},
    "KL": {"objective": WITH_KL},
    "KL, two epochs": {"objective": WITH_KL, "updates": UpdateConfig(num_epochs=2)},
    "GRPO": {"preference": PreferenceConfig(family="grpo", learn="fixed")},
}
"""What differs from the defaults."""


class LargestLogits(TorchDispatchMode):
    """Bytes of the largest tensor whose last axis is the vocabulary, weights and their gradients aside."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.num_bytes = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.ndim >= 2 and tensor.shape[-1] == self.vocabulary:
                self.num_bytes = max(self.num_bytes, tensor.numel() * tensor.element_size())
        return result


def update_counts(folder: Path, case: dict[str, Any]) -> Counts:
    """Counts of all updates of one rollout, 32 prompts × 8."""
    sections = dict(case)
    config = PolicyConfig(
        path=str(folder), tokens_per_micro_batch=4096, head_chunk=CHUNK, packing=sections.pop("packing", "auto")
    )
    module = LambdaGRPO(config, **sections)
    forget_loading = LambdaCallback(on_train_start=lambda *_: passes.clear())
    trainer = make_trainer(module.updates.per_rollout, [forget_loading])
    with policy_passes() as passes, LargestLogits(len(character_tokenizer())) as logits:
        trainer.fit(module, DataLoader([scored_rollout()], batch_size=None))
    without_gradient = [num_tokens for trains, num_tokens in passes if not trains]
    with_gradient = [num_tokens for trains, num_tokens in passes if trains]
    return {
        "updates": trainer.global_step,
        "training_passes": len(with_gradient),
        "training_tokens": sum(with_gradient),
        "scoring_passes": len(without_gradient),
        "scoring_tokens": sum(without_gradient),
        "largest_logits_bytes": logits.num_bytes,
        "trained_parameters": sum(weight.numel() for weight in module.parameters() if weight.requires_grad),
    }


def decoding_counts() -> Counts:
    """Tokens that the transformers sampler puts through the model, and those that come out of it."""
    model = make_model(**TINY)
    processed: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, inputs: processed.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    sampler = TransformersSampler([model.config.eos_token_id], model.config.pad_token_id)
    sampler.sync(model)
    prompts = make_prompts(character_tokenizer())
    completions = sampler.generate(prompts, SamplingSettings(max_tokens=64, num_samples=8), seed=0)
    return {
        "prefilled": processed[0],
        "decoded": sum(processed[1:]),
        "needed": int((completions.lengths - 1).sum()),
        "padding_of_generate": completions.ids.numel() - int(completions.lengths.sum()),
    }


def count_everything() -> dict[str, Counts]:
    """All updates by case, and decoding."""
    with TemporaryDirectory() as name:
        folder = save_model(Path(name), **TINY)
        counts = {label: update_counts(folder, case) for label, case in CASES.items()}
    return counts | {"decoding": decoding_counts()}


@contextmanager
def policy_passes() -> Iterator[list[tuple[bool, int]]]:
    """Notes (with gradient?, tokens) of each pass through any policy, the reference included."""
    passes: list[tuple[bool, int]] = []
    forward = Policy.forward

    def counting(policy: Policy, batch: MicroBatch, *args: Any) -> Any:
        passes.append((torch.is_grad_enabled(), batch.num_tokens))
        return forward(policy, batch, *args)

    Policy.forward = counting  # type: ignore[method-assign]
    try:
        yield passes
    finally:
        Policy.forward = forward  # type: ignore[method-assign]


def main() -> None:
    quiet()
    counts = count_everything()
    decoding = counts["decoding"]
    names = list(counts["as shipped"])
    table(["one rollout, 32 × 8", *names], [[label, *(counts[label][name] for name in names)] for label in CASES])
    print()
    table(["decoding", *decoding], [["32 × 8, ≤ 64 tokens", *decoding.values()]])
    write("counts", {"counts": counts})


if __name__ == "__main__":
    main()
